"""Training on one core: own kernels where torch's operators are slow, equal but for rounding."""
