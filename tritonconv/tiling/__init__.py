"""Block sizes: which there are, which fit a GPU, and which one runs a problem."""
