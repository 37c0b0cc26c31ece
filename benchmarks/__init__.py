"""Timings as ratios to a limit that is measured in the same run. They are not tests."""
