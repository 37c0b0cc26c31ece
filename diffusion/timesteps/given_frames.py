"""Known frames: they stay at the clean end of the process while the others are noised, trained or sampled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion.arrays.broadcasting import flattened
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.timesteps.densities import Density
from diffusion.timesteps.plans import Plan, require_plan
from diffusion.timesteps.valid_ranges import check_one_schedule


def clean_time(schedule: NoiseSchedule) -> float:
    """The time at which a network sees known frames: t_min + 2^-24 (t_max - t_min).

    No loss weight and no derivative of a prediction divides by zero there; they may at t_min, where sigma may be 0.

    Facts:
        paper: none
    """
    check_schedule(schedule)
    return schedule.t_min + 2.0**-24 * (schedule.t_max - schedule.t_min)


def given_pattern(pattern: str) -> np.ndarray:
    """Bool `[F]`, True for the known frames of a pattern with one character for each frame, such as "1..1".

    Facts:
        paper: none

    Args:
        pattern: one character for each frame: "1" for a known frame, "." for a frame that is generated.

    Raises:
        ValueError: if the pattern has another character, or no frame that is generated.
    """
    if set(pattern) - set("1.") or "." not in pattern:
        raise ValueError(
            f"the pattern {pattern!r} must have '1' for each known frame and '.' for each frame that is "
            "generated, at least one: for example '1...', '1..1' or '1.1.1'"
        )
    return np.array([mark == "1" for mark in pattern])


def held(plan: Plan, given: ArrayLike, at: float | None = None) -> Plan:
    """The plan in which the known frames keep their time, for `samplers.per_frame`.

        t[i, f] = s[i, f] = at   for given f

    Facts:
        paper: Chen et al. 2024, "Diffusion Forcing", section 3

    Args:
        plan: plan with t and s `[N]` or `[N, F]`, without steps that renoise.
        given: Bool `[F]`, True for the known frames.
        at: time of the known frames; None for the end of the plan, where frames are clean. A slightly later time tells
            the network that these frames may have errors, as generated ones do in a rollout.

    Raises:
        ValueError: if `given` has the wrong shape, or the plan renoises.
    """
    require_plan(plan)
    given = np.asarray(given, bool)
    t, s = (np.asarray(times) for times in (plan.t, plan.s))
    if given.ndim != 1 or (t.ndim == 2 and t.shape[1:] != given.shape):
        raise ValueError(f"given must be Bool [F], one for each frame of the plan {t.shape}; got shape {given.shape}")
    if np.any(plan.renoise):
        raise ValueError(
            "held: known frames keep their time, so no step of the plan may renoise. Use timesteps.plan(grid)"
        )
    t, s = (np.broadcast_to(times.reshape(len(times), -1), (len(times), given.size)) for times in (t, s))
    rest = s[-1].min() if at is None else at
    return Plan(np.where(given, rest, t), np.where(given, rest, s), np.zeros(len(t), bool))


def given_frames(
    schedule: NoiseSchedule, density: Density, patterns: Sequence[str], shares: Sequence[float] = ()
) -> Density:
    """A density of times t `[B, F]` under which the known frames of an example are clean and have no loss.

        t[f] = clean_time, importance[f] = 0                   for the given frames
        t[f], importance[f] = the density's, F / M             for the others, M frames

    Each example draws a pattern. A network with a time for each frame thus learns E[x_0 | x_t] given the known frames:
    "...." generates whole clips, "1..." continues a picture, "1..1" interpolates between two.

    Facts:
        paper: the noise level of each frame of Chen et al. 2024, "Diffusion Forcing: Next-token Prediction Meets
            Full-Sequence Diffusion"; frames without noise as in Ho et al. 2022, "Video Diffusion Models"
        range: the range of the density, and clean_time

    Args:
        schedule: the process.
        density: density of one time for each example, or of one for each frame (`per_frame`); it must not be adaptive.
        patterns: patterns as in `given_pattern`, each with one character for each frame of the data.
        shares: relative frequencies of the patterns; () for equal ones.

    Raises:
        ValueError: if there are no patterns, their lengths differ, there is not one share for each, or the density is
            adaptive.
    """
    check_one_schedule("given_frames", schedule)
    masks = [given_pattern(pattern) for pattern in patterns]
    shares = tuple(shares) or (1.0,) * len(masks)
    if len({mask.size for mask in masks}) != 1 or len(shares) != len(masks) or min(shares) < 0 or not sum(shares) > 0:
        raise ValueError(
            f"given_frames: patterns = {tuple(patterns)}, shares = {shares}. Valid: patterns of one length, and a "
            "positive share for each, or ()"
        )
    if jax.tree.leaves(density.init()):
        raise ValueError(
            "given_frames: an adaptive density would learn from known frames, which have no loss. Valid: a density "
            "that does not adapt"
        )
    table = np.stack(masks)
    weight = table.shape[1] / np.sum(~table, axis=1, keepdims=True)
    chances = np.array(shares) / sum(shares)
    clean = clean_time(schedule)

    def sample(state, keys, index):
        time_keys, pattern_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        t, importance = map(flattened, density.sample(state, time_keys, index))
        choose = lambda key: jax.random.choice(key, len(table), p=jnp.asarray(chances, t.dtype))
        which = jax.vmap(choose)(pattern_keys)
        given = jnp.asarray(table)[which]
        return jnp.where(given, clean, t), jnp.where(given, 0.0, importance * jnp.asarray(weight, t.dtype)[which])

    return Density(density.init, sample, lambda state, t, losses: state)
