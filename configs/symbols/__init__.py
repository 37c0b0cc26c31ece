"""Diffusion of symbols: characters of prose that are replaced by masks, or by random characters.

    diffusion train --config=symbols/prose --workdir=runs/prose
    diffusion sample --workdir=runs/prose
    diffusion evaluate --workdir=runs/prose

See docs/discrete.md.
"""
