"""How well a model grounds and retrieves: metrics, baselines, samples, sheets."""
