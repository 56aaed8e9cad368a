"""Kernels that compute the address of each pixel: for any memory format, any GPU, and weights that vary."""
