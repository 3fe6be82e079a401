"""Load image-text pairs from folders, tables, shards, bags and scenes, and batch them."""
