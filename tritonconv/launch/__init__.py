"""From a decision to started kernels: plan launches and memory, start them, keep plans, and recover from failures."""
