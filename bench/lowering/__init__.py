"""`python -m bench lowering`: what the compiler makes of every kernel, without a GPU."""
