"""What one runs: train, sample, evaluate."""
