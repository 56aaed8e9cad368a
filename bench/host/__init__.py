"""`python -m bench host`: compares the host's time of a call with torch's, on a fake GPU whose kernels do nothing."""
