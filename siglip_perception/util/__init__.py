"""Helpers for devices, threads, files, packages and progress, which no room owns."""
