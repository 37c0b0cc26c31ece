"""Proteins: the geometry of backbones, ideal folds, and files of the Protein Data Bank's format."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.proteins import atom_losses, backbone, fold_torsions, folds, pdb

__all__ = ["atom_losses", "backbone", "fold_torsions", "folds", "pdb"]

public.declare(__name__)
