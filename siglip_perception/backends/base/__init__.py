"""What every backend stands on: cache, export, self-test, CUDA graphs, precisions."""
