"""What torch accepts, refuses and returns: its checks, words, dtypes and memory formats. A student may skip this."""
