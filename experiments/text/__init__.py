"""Text-to-image models as folders: of a run, and of a single file."""

# What projects outside of this library import.
__all__ = ["model"]
