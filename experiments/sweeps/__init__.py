"""Sweeps: many runs by naming what varies, and their figures in one table."""
