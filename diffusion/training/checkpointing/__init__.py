"""Checkpoints: atomic, asynchronous, verified by checksums, validated before they are read."""
