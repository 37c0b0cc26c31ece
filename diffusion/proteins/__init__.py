"""Proteins: the geometry of backbones, ideal folds, and files of the Protein Data Bank's format."""

from diffusion import public

__all__ = ["backbone", "fold_torsions", "folds", "pdb"]

public.declare(__name__)
