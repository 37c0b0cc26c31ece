"""Compares steering methods at equal compute, on a problem with an exact solution and on standard densities."""
