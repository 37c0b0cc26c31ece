"""Frames that are given: they stay at the clean end of the process while the others are noised, trained or sampled."""

__all__ = ["frames_of", "given_frames", "held"]

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion.schedules import NoiseSchedule
from diffusion.timesteps.densities import Density
from diffusion.timesteps.plans import Plan


def frames_of(pattern: str) -> np.ndarray:
    """Bool `[F]`, True for the frames that are given, of a pattern with a character for each frame: "1..1".

    Facts:
        paper: none

    Args:
        pattern: "1" for a frame that is given, "." for one that is made.

    Raises:
        ValueError: for another character, no frame, or none that is made.
    """
    if not pattern or set(pattern) - set("1.") or "." not in pattern:
        raise ValueError(
            f"the pattern {pattern!r} has '1' for each frame that is given and '.' for each that is made, of which "
            "there is at least one: for example '1...', '1..1' or '1.1.1'"
        )
    return np.array([mark == "1" for mark in pattern])


def held(plan: Plan, given: ArrayLike, at: float | None = None) -> Plan:
    """The plan with the given frames at rest, for `samplers.per_frame`.

        t[i, f] = s[i, f] = at   for given f

    Facts:
        paper: Chen et al. 2024, "Diffusion Forcing", section 3

    Args:
        plan: with t and s `[N]` or `[N, F]`, without steps that renoise.
        given: Bool `[F]`.
        at: time of the given frames; None: the end of the plan, where they are clean. A little later tells the network
            that they may be wrong, as a rollout's own frames are.

    Raises:
        ValueError: for another shape of `given`, or a plan that renoises.
    """
    given = np.asarray(given, bool)
    t, s = (np.asarray(times) for times in (plan.t, plan.s))
    if given.ndim != 1 or (t.ndim == 2 and t.shape[1:] != given.shape):
        raise ValueError(f"given is Bool [F], one for each frame of the plan {t.shape}; got shape {given.shape}")
    if np.any(plan.renoise):
        raise ValueError("held: frames that rest take no plan with steps that renoise; use timesteps.plan(grid)")
    t, s = (np.broadcast_to(times.reshape(len(times), -1), (len(times), given.size)) for times in (t, s))
    rest = s[-1].min() if at is None else at
    return Plan(np.where(given, rest, t), np.where(given, rest, s), np.zeros(len(t), bool))


def given_frames(schedule: NoiseSchedule, density: Density, patterns: Sequence[str], share: float = 0.5) -> Density:
    """The density under which some examples have given frames, at t_min and without a loss.

        t[f] = t_min, importance[f] = 0   for the given frames of the pattern of an example

    A network with a time for each frame so learns E[x_0 | x_t] where these frames are known.

    Facts:
        range: that of the density, and t_min
        paper: Chen et al. 2024, "Diffusion Forcing"; Zheng et al. 2024, "Open-Sora" (masks of whole frames)

    Args:
        schedule: the process.
        density: of one time an example, or of one a frame (`per_frame`).
        patterns: see `frames_of`, of one length, the number of frames of the data; an example has one of them.
        share: of the examples that have given frames, in [0, 1].

    Raises:
        ValueError: for patterns of several lengths, none, or a share out of range.
    """
    masks = [frames_of(pattern) for pattern in patterns]
    if not masks or len({mask.size for mask in masks}) > 1 or not 0 <= share <= 1:
        raise ValueError(
            f"given_frames: patterns = {tuple(patterns)}, share = {share}: needs patterns of one length and a share in "
            "[0, 1]"
        )
    table = np.stack(masks)

    def sample(state, keys, index):
        density_keys, mask_keys, share_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        t, importance = density.sample(state, density_keys, index)
        t, importance = (
            jnp.broadcast_to(a.reshape(len(keys), -1), (len(keys), table.shape[1])) for a in (t, importance)
        )
        which = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(table)))(mask_keys)
        has = jax.vmap(lambda key: jax.random.uniform(key))(share_keys) < share
        given = jnp.asarray(table)[which] & has[:, None]
        return jnp.where(given, schedule.t_min, t), jnp.where(given, 0.0, importance)

    if jax.tree.leaves(density.init()):
        raise ValueError("given_frames: a density that adapts would learn from frames that are given; use another")
    return Density(density.init, sample, lambda state, t, losses: state)
