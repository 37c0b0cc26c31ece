"""Ideal folds of 32 residues, as torsions: helices, strands in ladders of hydrogen bonds, and the turns between them.

`tools/protein_folds.py` found the table of torsions. Chains of it have ideal bonds, and no clashes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.data.proteins import backbone
from diffusion.data.proteins.fold_torsions import FOLDS
from diffusion.manifolds.rotations import from_quaternion

CLASSES = tuple(FOLDS)
RESIDUES = 32
SPREADS = (1.0, 0.5, 0.2, 0.0)  # degrees of noise on torsions; the first that has no clash is taken
MOST = max(map(len, FOLDS.values()))
# Variants of each class, those of classes with fewer in turn: [classes, MOST, RESIDUES, 2] in radians.
TABLE = np.radians(np.array([[variants[i % len(variants)] for i in range(MOST)] for variants in FOLDS.values()]))
NUMBERS = np.array([len(variants) for variants in FOLDS.values()])
APART = 2.5  # Angstrom between atoms of residues that are no neighbours; hydrogen bonds are longer


def drawn(key: Array, fold: Array, first: Array, last: Array) -> Array:
    """The frames of one chain `[RESIDUES, 3, 4]`, centred, in a random orientation: a function of its arguments.

    Args:
        key: the random key of its variant, its noise and its orientation.
        fold: the fold, `[]`, a row of `CLASSES`.
        first: first variant of each class that may be drawn, int `[len(CLASSES)]`, from 0.
        last: variant of each class after the last one that may be drawn, int `[len(CLASSES)]`, up to `NUMBERS`.
    """
    variant_key, noise_key, turn_key = jax.random.split(key, 3)
    variant = jax.random.randint(variant_key, (), first[fold], last[fold])
    ideal = jnp.asarray(TABLE, jnp.float32)[fold, variant]
    noise = jnp.radians(jnp.asarray(SPREADS))[:, None, None] * jax.random.normal(noise_key, ideal.shape)
    angles = ideal + noise
    straight = jnp.full((*angles.shape[:-1], 1), math.pi, angles.dtype)
    chains = jax.vmap(backbone.from_torsions)(jnp.concatenate([angles, straight], -1))
    atoms = chains[jnp.argmin(jax.vmap(crowded)(chains))]
    atoms = atoms - atoms[:, 1].mean(0)
    turn = from_quaternion(jax.random.normal(turn_key, (4,)))  # uniform
    return backbone.frames_of(jnp.einsum("ij,naj->nai", turn, atoms, precision=jax.lax.Precision.HIGHEST))


def crowded(atoms: Array) -> Array:
    """`[]` whether a chain `[n, 3, 3]` has clashing CA, or other atoms too near, of residues that are no neighbours."""
    places = backbone.with_oxygen(atoms).reshape(-1, 3)
    residue = np.repeat(np.arange(len(atoms)), len(backbone.ATOMS))
    apart = np.abs(residue[:, None] - residue) > 1
    squared = jnp.sum((places[:, None] - places) ** 2, -1)
    near = jnp.any((squared < APART**2) & apart)
    return near | (backbone.clashes(atoms[:, 1]) > 0)
