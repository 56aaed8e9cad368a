"""What torch accepts, refuses and returns: its argument checks, error texts, dtypes and memory formats.

You can understand convolution without reading this folder.
"""
