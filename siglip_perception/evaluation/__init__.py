"""Evaluation of grounding and retrieval: metrics, baselines, samples, contact sheets."""
