"""Sweeps, run by `python -m experiments.sweep --sweep=FILE`."""
