"""Backbones of proteins as frames: flow matching on SE(3)^N with invariant point attention.

    diffusion train --config=proteins/frames --workdir=runs/frames
    diffusion sample --workdir=runs/frames                           # PDB files, and a picture
    diffusion evaluate --workdir=runs/frames --metrics=backbone

See docs/proteins.md.
"""
