"""Training objectives: each runs a model on a batch and adds up the gradient of its loss."""
