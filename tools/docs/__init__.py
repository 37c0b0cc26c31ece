"""What builds the documentation: catalogues, galleries and pages."""
