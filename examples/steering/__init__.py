"""Steering at equal compute: rewards on a problem with an exact solution, and constants of standard densities."""
