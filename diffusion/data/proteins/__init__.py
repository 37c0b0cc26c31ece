"""Proteins: the geometry of backbones, ideal folds, and files of the Protein Data Bank's format."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.data.proteins import (
        atom_losses as atom_losses,
        backbone as backbone,
        fold_torsions as fold_torsions,
        folds as folds,
        pdb as pdb,
    )

public.declare(__name__)
