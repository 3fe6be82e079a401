"""Experiments on contrastive learning and on the two encoders, run by one command each."""
