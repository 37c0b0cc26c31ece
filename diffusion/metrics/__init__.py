"""Measures of generated samples: Frechet distance, a digit classifier, nearest neighbours, bootstrap intervals."""
