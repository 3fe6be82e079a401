"""Fused SigLIP and DINOv2 tokens and grounded objects for vision-language-action policies."""

__version__ = "0.1.0"
