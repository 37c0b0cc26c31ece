"""The parts of a plan: what a run needs of its devices."""
