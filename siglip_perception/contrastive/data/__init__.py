"""Image-text pairs as people have them -> batches."""
