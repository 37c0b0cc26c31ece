"""A page on which people choose the better of two pictures: `diffusion arena`, see docs/evaluation.md.

competitors.py opens the sets of pictures, comparisons.py draws the pairs, votes.py keeps the votes; server.py and
static/ are the page, and scores.py is what follows from the votes.
"""
