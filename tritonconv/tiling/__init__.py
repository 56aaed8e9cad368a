"""Tiles: which there are, which fit a GPU, and which one runs a problem. `catalogue` lists the stages of the choice."""
