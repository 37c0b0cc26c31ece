"""Steering at equal compute: rewards by evaluations on an exact problem, and constants of standard densities."""
