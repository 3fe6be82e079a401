"""Tabletop scenes in three dimensions, rendered by MuJoCo, with exact masks and depth."""
