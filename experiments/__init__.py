"""What one runs: train, sample, evaluate. The library under diffusion/ knows nothing of it."""
