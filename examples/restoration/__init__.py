"""Restores pictures from measurements with many methods, and compares the samples with exact posteriors."""
