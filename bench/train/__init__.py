"""Training end to end: images a second and peak memory of whole steps, and loss curves, torch beside tritonconv."""
