"""The parts of text-to-image runs and their reports."""
