"""Foundations of every backend: cache, export, self-test, CUDA graphs, precisions."""
