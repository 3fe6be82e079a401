"""Scenes, drawn or rendered, as training samples."""
