"""Measures of generated samples, a file each; most are functions of features `[N, D]` in any space."""
