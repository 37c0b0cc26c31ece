"""The parts of evaluation."""
