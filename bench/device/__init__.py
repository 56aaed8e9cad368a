"""`python -m bench device`: checks the kernels and times the layers on a GPU that is there only for minutes."""
