"""Caches of the residual of a stack of blocks, reused while a cheap indicator says that it hardly changes."""

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
        sign: `[B, N, D]`, the first block's residual or input in an earlier evaluation, the indicator of change.
        residual: `[B, N, D]`, the sum of the skipped blocks' residuals in their last run.
        distance: float32 `[B]`, the change accumulated since then.
        steps: int32 `[]`, number of evaluations so far; a step that renoises does not reset it.
    """

    begun: Array
    sign: Array
    residual: Array
    distance: Array
    steps: Array


def first_block(threshold: float) -> Cache:
    """First-block cache: skips all blocks but the first if the first block's residual hardly changes.

        r = h_1 - h_0,    skip where  mean |r - r'| <= threshold mean |r'|:    h_L = h_1 + (h_L' - h_1')

    where ' marks values of the last full evaluation. The mean is over the tokens and features of a row, and a batch
    skips if all its rows agree. For a single picture this is the published rule, whose mean is over the whole batch.

    Facts:
        skips: all blocks but the first
        number: threshold, 0.05 to 0.2; 0 skips nothing
        paper: Cheng 2024, ParaAttention's first-block cache (no paper); diffusers, FirstBlockCache

    Args:
        threshold: largest relative change of the first block's residual at which the other blocks are skipped, >= 0.

    Raises:
        ValueError: if threshold is negative.
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
    """TeaCache: runs the blocks only when the accumulated, rescaled change of the first block's input is large.

        d <- d + p(mean |m - m'| / mean |m'|),    skip where  d < threshold:    h_L = h_0 + (h_L' - h_0')

    m is the first block's normalised, shifted and scaled input. ' marks the value of the last evaluation for m, and of
    the last full evaluation for h. p is a polynomial that is fitted to the changes of a model's output. d is reset to 0
    when the blocks run. The first and the last evaluation run all blocks. Each row of a batch has its own d; a batch
    skips if all rows agree.

    Facts:
        skips: all blocks
        number: threshold, 0.1 to 0.6 for Flux; 0 skips nothing
        paper: Liu et al. 2024, "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model";
            the rule is taken from the authors' code

    Args:
        threshold: threshold of the accumulated change, >= 0.
        coefficients: coefficients of p, the highest power first; (1, 0) is the unchanged change. They depend on the
            model: Flux-dev's are published as (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861),
            HunyuanVideo's as (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896); `caching.fitted` fits
            them.
        steps: number of evaluations in a trajectory, >= 1; the last runs all blocks. None for no such rule.

    Raises:
        ValueError: if threshold is negative, coefficients are missing or not finite, or steps is below 1.
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

            skips = kept.begun & jnp.logical_not(ends) & (distance < threshold).all()
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
    """MagCache: skips the blocks while the product of known ratios of their residual's norm stays near 1.

        g <- g ratio_i,    e <- e + |1 - g|,    skip where  e <= threshold, at most `longest` times in a row

    and h_L = h_0 + (h_L' - h_0'). When the blocks run, g is reset to 1 and e to 0. ratio_i is the mean over tokens of
    |residual of step i| / |residual of step i - 1|, measured once for a model (`caching.measured`). The rule does not
    depend on the picture, so a whole batch skips together.

    Facts:
        skips: all blocks
        number: threshold, 0.06 to 0.24 for Flux; 0 skips nothing
        paper: Ma et al. 2025, "MagCache: Fast Video Generation with Magnitude-Aware Cache"; the rule is
            taken from the authors' code

    Args:
        threshold: threshold of the accumulated error, >= 0.
        ratios: ratios of the steps of a full trajectory, in order; the first one, which has no earlier step, is not
            used.
        keep: share of a full trajectory's first steps that always run, in [0, 1].
        longest: largest number of consecutive steps that may be skipped, >= 0.
        whole: number of evaluations in a full trajectory; an evaluation uses the nearest ratio. None for one evaluation
            per ratio.
        at: positions of the evaluations in the full trajectory, in [0, whole - 1], for each part of the sampled
            trajectory between steps that renoise (`caching.evaluations`); the first evaluation of each part runs. None
            for all positions in order.

    Raises:
        ValueError: if threshold or longest is negative, ratios are missing or not finite, keep is not in [0, 1], whole
            is below 1, or positions lie outside of the full trajectory.
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
    """Bool [steps], whether the blocks run in each step; they always run where `always` [steps] is True."""
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
    """The memory after a step that renoises, which keeps only the number of evaluations."""
    return first._replace(steps=kept.steps)


def _kept(call: Call) -> Any:
    """The shapes of `Kept` for a network."""

    def through(blocks):
        h = blocks.features(blocks.start)
        shapes = Kept(jnp.bool_(False), h, h, jnp.zeros(h.shape[0], jnp.float32), jnp.int32(0))
        return h, shapes

    return call(through=through)[1]


def relative_change(new: Array, old: Array) -> Array:
    """float32 `[B]`, mean |new - old| / mean |old| for each row."""
    mean = lambda a: jnp.mean(jnp.abs(a.astype(jnp.float32)), axis=tuple(range(1, a.ndim)))
    return mean(new - old) / mean(old)


def _check_threshold(name: str, threshold: float) -> None:
    if not threshold >= 0:
        raise ValueError(f"{name}: threshold = {threshold} must be at least 0; 0 skips nothing")
