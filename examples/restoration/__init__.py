"""Pictures from what was measured of them, by many methods, and beside exact posteriors."""
