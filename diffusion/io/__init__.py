"""Files: written whole, read within limits, without pickle, and by names that stay the same."""
