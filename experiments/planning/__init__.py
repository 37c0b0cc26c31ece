"""The parts of a plan: the memory, operations and time that a run needs on its devices."""
