"""The Triton kernels: each computes one of x, weight and y from the other two, given pointers and integers.

`gather/` and `tma/` are the two families of kernels. The modules here have what both share.
"""
