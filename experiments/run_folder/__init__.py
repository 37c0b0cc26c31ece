"""The folder of a run, and where it may lie."""

# What projects outside of this library import.
__all__ = ["workdir"]
