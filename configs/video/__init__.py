"""Runs on clips: a causal autoencoder of moving drawings.

    diffusion train --config=video/autoencoder --workdir=runs/video_autoencoder

docs/video.md has what they are for.
"""
