"""Runs: fine-tuning, the embedded model's recipe, checkpoints to resume from."""
