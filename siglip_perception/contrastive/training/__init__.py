"""Training runs: fine-tuning, the embedded model's recipe, and the state they resume from."""
