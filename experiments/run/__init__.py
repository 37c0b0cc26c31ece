"""The parts of a training run."""

# What projects outside of this library import.
__all__ = ["tuned_files"]
