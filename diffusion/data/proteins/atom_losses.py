"""Losses of a backbone's atoms and of the distances between them, beside the loss of its frames."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffusion.data.proteins import backbone

SAME = 1e-8  # nm^2, added to squared distances, so that the root has a derivative


def atoms_and_distances(
    weight: float = 1.0, until: float = 0.25, near: float = 6.0, least: float = 0.1
) -> Callable[[Array, Array, Array], Array]:
    """The errors of atoms N, CA and C, and of the distances of pairs that are near in the data, close to the data.

        loss = n w [t < until] / max(t, least)^2 (mean_i |a_i - b_i|^2 + mean_ij (|a_i - a_j| - |b_i - b_j|)^2)

    over atoms a of the predicted frames and b of the data in nanometres, and pairs with |b_i - b_j| < near; times the n
    residues, since the loss of frames is a sum over them. Bonds between residues are such pairs.

    Facts:
        paper: Yim et al. 2023, "SE(3) diffusion model with application to protein backbone generation", with the
            weights of Yim et al. 2023, "Fast protein backbone generation with SE(3) flow matching"

    Args:
        weight: w, >= 0.
        until: share of noise in (0, 1] from which on it is zero; 0.25 in the first paper.
        near: Angstrom, > 0; 6 in the first paper.
        least: share of noise below which the weight no longer grows, > 0.

    Returns:
        (predicted frames `[B, n, 3, 4]`, the data's frames, t `[B]`) -> `[B]`, as
        `manifolds.conditional_flows.Auxiliary`.

    Raises:
        ValueError: for a number out of range.
    """
    if not (weight >= 0 and 0 < until <= 1 and near > 0 and least > 0):
        raise ValueError(
            f"atoms_and_distances: weight = {weight}, until = {until}, near = {near}, least = {least}. Valid: weight "
            "at least 0, until in (0, 1], near and least positive"
        )

    def loss(guess: Array, x_0: Array, t: Array) -> Array:
        a, b = (_atoms(frames) for frames in (guess, x_0))
        atoms = jnp.mean(jnp.sum((a - b) ** 2, -1), -1)
        guess_distances, data_distances = _distances(a), _distances(b)
        pairs = (data_distances < backbone.ANGSTROM * near) & ~jnp.eye(b.shape[-2], dtype=bool)
        between = jnp.sum(jnp.where(pairs, (guess_distances - data_distances) ** 2, 0), (-2, -1)) / jnp.sum(
            pairs, (-2, -1)
        )
        close = jnp.where(t < until, 1 / jnp.maximum(t, least) ** 2, 0)
        return weight * x_0.shape[-3] * close * (atoms + between)

    return loss


def _atoms(frames: Array) -> Array:
    """`[B, 3 n, 3]` in nanometres."""
    atoms = backbone.ANGSTROM * backbone.atoms_of(frames)
    return atoms.reshape(*atoms.shape[:-3], -1, 3)


def _distances(atoms: Array) -> Array:
    return jnp.sqrt(jnp.sum((atoms[..., :, None, :] - atoms[..., None, :, :]) ** 2, -1) + SAME)
