"""Caches of what a stack of blocks adds to its input, reused while a cheap sign says that it hardly changes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.sampling.caching.remembered_calls import Cache, Call


class Kept(NamedTuple):
    """The memory of a residual cache.

    Attributes:
        begun: Bool `[]`, whether there has been an evaluation.
        sign: `[B, N, D]`, the first block's residual or input in an earlier evaluation, by which change is judged.
        residual: `[B, N, D]`, the sum that the skipped blocks added when they ran last.
        distance: float32 `[B]`, change accumulated since then.
        steps: int32 `[]`, number of evaluations so far, also before a step that renoises.
    """

    begun: Array
    sign: Array
    residual: Array
    distance: Array
    steps: Array


def first_block(threshold: float) -> Cache:
    """First-block cache: the first block always runs, and the others while its residual changes by more than a share.

        r = h_1 - h_0,    skip where  mean |r - r'| <= threshold mean |r'|:    h_L = h_1 + (h_L' - h_1')

    with ' from the last evaluation that ran whole. The mean is over the tokens and features of a row, and a batch skips
    where all its rows agree; for one picture this is the published rule, whose mean is over the whole batch.

    Facts:
        skips: all blocks but the first
        number: threshold, 0.05 to 0.2; 0 skips nothing
        paper: Cheng 2024, ParaAttention's first-block cache (no paper); diffusers, FirstBlockCache

    Args:
        threshold: share of the change of the first block's residual below which the others are skipped.

    Raises:
        ValueError: if it is negative.
    """
    _check_threshold("first_block", threshold)

    def apply(kept: Kept, call: Call) -> tuple[Array, Kept, Array]:
        def through(blocks):
            first = blocks.run(blocks.start, 0, 1)
            h = blocks.features(first)
            sign = h - blocks.features(blocks.start)
            near = relative_change(sign, kept.sign) <= threshold

            def run_all():
                last = blocks.features(blocks.run(first, 1, blocks.length))
                return last, kept._replace(begun=jnp.bool_(True), sign=sign, residual=last - h)

            skips = kept.begun & near.all()
            last, new = jax.lax.cond(skips, lambda: (h + kept.residual, kept), run_all)
            return last, (new, jnp.where(skips, 1, blocks.length))

        output, (new, run) = call(through=through)
        return output, new._replace(steps=kept.steps + 1), run

    return Cache(_kept, apply, "blocks", idle=threshold == 0, again=_again)


def tea_cache(threshold: float, coefficients: Sequence[float] = (1.0, 0.0), steps: int | None = None) -> Cache:
    """TeaCache: the blocks run where the accumulated, rescaled change of what the first one reads is large.

        d <- d + p(mean |m - m'| / mean |m'|),    skip where  d < threshold:    h_L = h_0 + (h_L' - h_0')

    m is the first block's normalised, shifted and scaled input, ' from the last evaluation for m and from the last
    whole one for h; p is a polynomial, fitted to how much the output of a model changes. d is 0 again when the blocks
    run. The first evaluation and the last run whole. Each row of a batch has its d; a batch skips where all rows agree.

    Facts:
        skips: all blocks
        number: threshold, 0.1 to 0.6 for Flux; 0 skips nothing
        paper: Liu et al. 2024, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model";
            the rule is taken from the authors' code

    Args:
        threshold: threshold of the accumulated change.
        coefficients: coefficients of p, the highest power first; (1, 0) is the change itself. Each model has its own:
            Flux-dev's are published as (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861), HunyuanVideo's
            as (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896); `caching.fitted` fits them.
        steps: number of evaluations of a trajectory, the last of which runs whole; None: no rule for the last.

    Raises:
        ValueError: if the threshold is negative, there are no coefficients or one that is not finite, or no steps.
    """
    _check_threshold("tea_cache", threshold)
    if not len(coefficients) or not np.all(np.isfinite(coefficients)):
        raise ValueError(
            f"tea_cache: coefficients = {coefficients} must be the coefficients of a polynomial; (1, 0) leaves the "
            "change as it is"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"tea_cache: steps = {steps} must be at least 1")

    def apply(kept: Kept, call: Call) -> tuple[Array, Kept, Array]:
        def through(blocks):
            sign = blocks.attended()
            h = blocks.features(blocks.start)
            distance = kept.distance + jnp.polyval(
                jnp.asarray(coefficients, jnp.float32), relative_change(sign, kept.sign)
            )
            ends = False if steps is None else kept.steps == steps - 1

            def run_all():
                last = blocks.features(blocks.run(blocks.start, 0, blocks.length))
                return last, last - h, jnp.zeros_like(distance)

            skips = kept.begun & ~ends & (distance < threshold).all()
            last, residual, distance = jax.lax.cond(
                skips, lambda: (h + kept.residual, kept.residual, distance), run_all
            )
            new = Kept(jnp.bool_(True), sign, residual, distance, kept.steps + 1)
            return last, (new, jnp.where(skips, 0, blocks.length))

        output, (new, run) = call(through=through)
        return output, new, run

    def memory(call: Call) -> Any:
        return _kept(call)._replace(
            sign=call(through=lambda blocks: (blocks.features(blocks.start), blocks.attended()))[1]
        )

    return Cache(memory, apply, "blocks", idle=threshold == 0, again=_again)


def mag_cache(
    threshold: float,
    ratios: Sequence[float],
    keep: float = 0.2,
    longest: int = 3,
    whole: int | None = None,
    at: Sequence[Sequence[float]] | None = None,
) -> Cache:
    """MagCache: the blocks run where the product of the known ratios of their residual's length has left 1.

        g <- g ratio_i,    e <- e + |1 - g|,    skip where  e <= threshold, at most `longest` times in a row

    and h_L = h_0 + (h_L' - h_0'). When the blocks run, g = 1 and e = 0 again. ratio_i is the mean over the tokens of
    |residual of step i| / |residual of step i - 1|, measured once for a model (`caching.measured`). The rule knows no
    picture: all of a batch skip together.

    Facts:
        skips: all blocks
        number: threshold, 0.06 to 0.24 for Flux; 0 skips nothing
        paper: Ma et al. 2025, "MagCache: Fast Video Generation with Magnitude-Aware Cache"; the rule is
            taken from the authors' code

    Args:
        threshold: threshold of the accumulated error.
        ratios: ratios of the steps of a whole trajectory, in order; the first one is not read, for it has no step
            before.
        keep: share of the first steps of a whole trajectory that always run.
        longest: number of steps in a row that may be skipped.
        whole: number of evaluations of a whole trajectory; each takes the nearest ratio. None: one evaluation for each
            ratio.
        at: positions of the evaluations in the whole trajectory, from 0 to whole - 1, for each part of the trajectory
            between steps that renoise (`caching.evaluations`); the first one of each part runs. None: all of them, in
            order.

    Raises:
        ValueError: for a negative threshold, no ratios or one that is not finite, a share outside of [0, 1], or
            evaluations outside of the whole trajectory.
    """
    _check_threshold("mag_cache", threshold)
    if not len(ratios) or not np.all(np.isfinite(ratios)):
        raise ValueError(
            f"mag_cache: ratios = {ratios} must be finite, one for each step; measure them for the model and its "
            "number of steps"
        )
    if not 0 <= keep <= 1 or longest < 0:
        raise ValueError(f"mag_cache: keep = {keep} must be in [0, 1], and longest = {longest} at least 0")
    number = len(ratios) if whole is None else whole
    if number < 1:
        raise ValueError(f"mag_cache: whole = {whole} must be at least 1")
    parts = [np.asarray(part, np.float64) for part in ([range(number)] if at is None else at)]
    if not parts or any(not len(part) or part.min() < 0 or part.max() > number - 1 for part in parts):
        raise ValueError(f"mag_cache: at = {at} must be in [0, {number - 1}], and must leave no part empty")
    stretch = (len(ratios) - 1) / max(number - 1, 1)
    nearest = lambda part: np.asarray(ratios, np.float64)[np.round(part * stretch).astype(int)]
    always = int(keep * number + 0.5)
    whole_steps = np.concatenate([_runs(nearest(part), part < always, threshold, longest) for part in parts])

    def apply(kept: Kept, call: Call) -> tuple[Array, Kept, Array]:
        def through(blocks):
            h = blocks.features(blocks.start)

            def run_all():
                last = blocks.features(blocks.run(blocks.start, 0, blocks.length))
                return last, last - h

            runs = ~kept.begun | jnp.asarray(whole_steps)[jnp.minimum(kept.steps, len(whole_steps) - 1)]
            last, residual = jax.lax.cond(runs, run_all, lambda: (h + kept.residual, kept.residual))
            new = kept._replace(begun=jnp.bool_(True), residual=residual, steps=kept.steps + 1)
            return last, (new, jnp.where(runs, blocks.length, 0))

        output, (new, run) = call(through=through)
        return output, new, run

    return Cache(_kept, apply, "blocks", idle=threshold == 0, again=_again)


def _runs(ratios: np.ndarray, always: np.ndarray, threshold: float, longest: int) -> np.ndarray:
    """Bool [steps]: whether the blocks run; they run in the first steps, where `always` [steps] is True."""
    runs = np.ones(len(ratios), bool)
    product, error, skipped = 1.0, 0.0, 0
    for i in np.flatnonzero(~always):
        product *= ratios[i]
        error += abs(1 - product)
        skipped += 1
        runs[i] = i == 0 or error > threshold or skipped > longest
        if runs[i]:
            product, error, skipped = 1.0, 0.0, 0
    return runs


def _again(kept: Kept, first: Kept) -> Kept:
    """The memory after a step that renoises: only the number of evaluations stays."""
    return first._replace(steps=kept.steps)


def _kept(call: Call) -> Any:
    """The shapes of `Kept` for a network."""

    def through(blocks):
        h = blocks.features(blocks.start)
        shapes = Kept(jnp.bool_(False), h, h, jnp.zeros(h.shape[0]), jnp.int32(0))
        return h, shapes

    return call(through=through)[1]


def relative_change(new: Array, old: Array) -> Array:
    """float32 `[B]`: mean |new - old| / mean |old| of each row."""
    mean = lambda a: jnp.mean(jnp.abs(a.astype(jnp.float32)), axis=tuple(range(1, a.ndim)))
    return mean(new - old) / mean(old)


def _check_threshold(name: str, threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"{name}: threshold = {threshold} must be at least 0; 0 skips nothing")
