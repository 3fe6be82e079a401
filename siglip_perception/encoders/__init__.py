"""SigLIP and DINOv2 in one pass: arithmetic, taps, and what a model is made of."""
