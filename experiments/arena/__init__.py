"""A page on which people choose the better of two pictures: `diffusion arena`, see docs/evaluation.md.

competitors.py opens the sets of pictures, comparisons.py draws the pairs, and votes.py stores the votes. server.py and
static/ make the page. scores.py computes the results.
"""
