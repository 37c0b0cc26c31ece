"""Pytrees whose leaves follow different schedules, as one schedule for the flat vector of the pytree's numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.pytrees import is_shape, sizes_of
from diffusion.schedules.noise_schedule import NoiseSchedule, check_schedule


def per_leaf(schedules: Any, shape: Any) -> NoiseSchedule:
    """The process of a pytree with a schedule for each leaf, acting on the flat vector `[B, D]` of its numbers.

        x_t[d] = alpha_l(t) x_0[d] + sigma_l(t) eps[d],    l the leaf of the number d

    Its functions take a time for each number, t `[B, ..., D]`, or one for all, `[]` or `[B, ..., 1]`, and return `[...,
    D]`. They refuse times `[B]`, which would be ambiguous where B = D. Denoisers, objectives, samplers and likelihoods
    convert their t `[]` or `[B]` to this form.

    Facts:
        alpha: alpha of each leaf's schedule
        sigma: sigma of each leaf's schedule
        end: the ends of the leaves' schedules
        paper: none; Vignac et al. 2023, "MiDi: Mixed Graph and 3D Denoising Diffusion for Molecule Generation", has a
            schedule for each kind of a molecule's data

    Args:
        schedules: the pytree of the leaves' schedules, all with the same t_max.
        shape: the pytree of the leaves' shapes, without the batch.

    Raises:
        TypeError: if a leaf is not a schedule.
        ValueError: if the pytrees differ, the schedules end at different times, or one trains with the model.
    """
    sizes = sizes_of(shape)
    leaves, structure = jax.tree.flatten(schedules, is_leaf=lambda node: isinstance(node, NoiseSchedule))
    for leaf in leaves:
        check_schedule(leaf)
    expected = jax.tree.structure(shape, is_leaf=is_shape)
    if structure != expected:
        raise ValueError(
            f"per_leaf: the schedules have the structure {structure}, but the shapes {expected}; give one schedule "
            "for each leaf"
        )
    return joined(list(zip(sizes, leaves)))


def joined(members: Sequence[tuple[int, NoiseSchedule]]) -> NoiseSchedule:
    """The process of the concatenated leaves, from the number of values and the schedule of each; see `per_leaf`."""
    sizes, leaves = zip(*members)
    if any(leaf.trained is not None for leaf in leaves):
        raise ValueError(
            "per_leaf: a leaf has a schedule that trains with the model, which is not supported for pytrees. Valid: "
            "schedules without `trained`"
        )
    ends = sorted({leaf.t_max for leaf in leaves})
    if len(ends) > 1:
        raise ValueError(
            f"per_leaf: the schedules end at t = {ends[0]:g} and {ends[-1]:g}, but all leaves share one time. Valid: "
            f"schedules with the same t_max; lower the larger one by schedules.ending_at(schedule, {ends[0]:g})"
        )
    dims = sum(sizes)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def columns(field: str) -> Callable[..., Array]:
        """The schedule's function `field`, evaluated for the numbers of each leaf with the leaf's own schedule."""

        def on_columns(*t: ArrayLike) -> Array:
            # The two arguments of a norm have the shape of x; they are not times.
            times = [_of_each(one, dims, values=field == "norm") for one in t]
            parts = [
                getattr(leaf, field)(*(one[..., start : start + size] for one in times))
                for leaf, start, size in zip(leaves, starts, sizes)
            ]
            return jnp.concatenate(parts, axis=-1)

        return on_columns

    def prior(key, shape):
        draws = [leaf.prior(key, shape) for leaf in leaves]  # one key: the same numbers as from one schedule
        parts = [x[..., start : start + size] for x, start, size in zip(draws, starts, sizes)]
        return jnp.concatenate(parts, axis=-1)

    norms = {leaf.norm for leaf in leaves}
    return NoiseSchedule(
        alpha=columns("alpha"),
        sigma=columns("sigma"),
        log_snr=columns("log_snr"),
        inverse_log_snr=columns("inverse_log_snr"),
        drift=columns("drift"),
        diffusion=columns("diffusion"),
        t_min=max(leaf.t_min for leaf in leaves),
        t_max=leaves[0].t_max,
        prior=prior,
        norm=norms.pop() if len(norms) == 1 else columns("norm"),
        leaves=tuple(zip(sizes, leaves)),
    )


def _of_each(t: ArrayLike, dims: int, values: bool = False) -> Array:
    t = jnp.asarray(t)
    if t.ndim and (t.shape[-1] not in (1, dims) or (t.ndim == 1 and not values)):
        raise ValueError(
            f"a schedule of leaves takes a time for each of the {dims} numbers, t [B, {dims}], or one for all, [] or "
            f"[B, 1]; got {t.shape}. schedules.at_each turns times [B] into times for each number"
        )
    return jnp.broadcast_to(t, (*t.shape[:-1], dims))
