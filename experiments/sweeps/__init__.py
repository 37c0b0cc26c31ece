"""Sweeps: many runs from a list of what varies, with their results in one table."""
