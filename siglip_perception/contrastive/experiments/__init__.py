"""Why SigLIP, and why DINOv2 beside it: one module for each question, answered by measuring."""
