"""The Triton kernels: integers and pointers in, one factor of the trilinear form out."""
