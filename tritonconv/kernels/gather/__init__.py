"""The kernels that compute the address of each pixel: any memory layout, any GPU, and weights that vary."""
