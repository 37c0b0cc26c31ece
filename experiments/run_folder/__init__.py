"""The folder of a run, and where it may be stored."""

# What projects outside of this library import.
__all__ = ["workdir"]
