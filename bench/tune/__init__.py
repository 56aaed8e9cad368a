"""`python -m bench tune`: measures which tile is fastest for each layer on this GPU, and keeps the winners."""
