"""Runs on clips: a causal autoencoder of moving drawings, and a denoiser of their pixels.

    diffusion train --config=video/autoencoder --workdir=runs/video_autoencoder
    python -m examples.video.demo --config=video/drawings --workdir=runs/video

See docs/video.md and docs/video_demo.md.
"""
