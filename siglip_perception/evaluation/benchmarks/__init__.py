"""Public benchmarks in their published layout, by the protocols of their papers."""
