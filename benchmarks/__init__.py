"""Timings, as ratios to a limit measured in the same run; never tests."""

import experiments  # noqa: F401  (its commands ask for huge pages, and so do these)
