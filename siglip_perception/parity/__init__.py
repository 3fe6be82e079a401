"""Ours against the reference's own models: tokens equal up to rounding."""
