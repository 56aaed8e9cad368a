"""Throughput, side by side with what a user would pick instead, and the evidence it produced (`bench/results/`)."""
