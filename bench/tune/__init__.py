"""`python -m bench tune`: measures the tiles for layers on this GPU, and keeps the winners."""
