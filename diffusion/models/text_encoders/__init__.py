"""Text encoders: CLIP and T5."""
