"""Kinds of sources that frames come from."""
