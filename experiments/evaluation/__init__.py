"""The parts of evaluation."""

# What projects outside of this library import.
__all__ = [
    "clip_pictures",
    "few_step_flags",
    "model_card",
    "plots",
    "real_images",
    "report",
    "sample_metrics",
    "sound_files",
]
