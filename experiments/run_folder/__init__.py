"""The folder of a run, and where it may lie."""
