"""Timings, as ratios to a limit measured in the same run; never tests."""
