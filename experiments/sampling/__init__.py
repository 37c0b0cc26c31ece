"""The parts of sampling from a run."""
