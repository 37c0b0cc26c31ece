"""The parts of sampling from a run."""

# What projects outside of this library import.
__all__ = ["autoencoder_folders", "clip_coding", "generate", "trained_run", "tuned_run"]
