"""`python -m bench report`: tables and pictures of results, and what changed since older results."""
