"""From a decision to started kernels: what to launch, in which memory, how it starts, and what if it fails."""
