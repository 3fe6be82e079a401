"""What a training step minimizes."""
