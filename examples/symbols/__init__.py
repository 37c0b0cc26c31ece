"""Masked diffusion of characters of English prose, from the documentation of installed packages."""
