"""`python -m bench lowering`: compiles every kernel without a GPU, and reports on its machine code."""
