"""Sweeps, run by `diffusion sweep --sweep=FILE`."""
