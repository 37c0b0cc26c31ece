"""Builds the documentation: catalogues, galleries and pages."""
