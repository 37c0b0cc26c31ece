"""Programs as evidence: what XLA makes of our train steps and samplers for devices that are not here."""
