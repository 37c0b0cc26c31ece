"""Characters of English prose as examples of masked diffusion, from the documentation of installed packages."""
