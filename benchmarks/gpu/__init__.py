"""Measures our networks on a GPU, in stages that resume, for a machine that is lent for minutes at a time."""
