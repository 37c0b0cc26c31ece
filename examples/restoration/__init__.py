"""Restores pictures from measurements with many methods, and compares them with exact posteriors."""
