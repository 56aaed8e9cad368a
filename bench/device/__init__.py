"""`python -m bench device`: the standing work for a GPU that is there only for minutes."""
