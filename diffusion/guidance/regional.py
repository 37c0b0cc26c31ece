"""Conditions that hold in parts of the picture."""

import math
from collections.abc import Sequence

import numpy as np

from diffusion.guidance.branches import Branches, class_conditions, evaluate, with_conditions
from diffusion.guidance.prediction_changes import extrapolate
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser

Region = Sequence[float] | np.ndarray
"""A box (left, top, right, bottom) in parts of the sides, 0 .. 1, or weights `[H, W]` of the pixels, in 0 .. 1."""


@with_conditions(class_conditions)
def regional(branches: Branches, scale: Scale, regions: Sequence[Region], interval: Interval = None) -> Denoiser:
    """A condition for each region, and one for the rest: sum_k m_k cond_k, guided by w against the null condition.

        m_k = r_k / max(1, sum_j r_j) in region k,    m_0 = 1 - sum_k m_k in the rest

    Predictions are combined, and not the maps of attention: it holds for every network, is exact for linear ones, and
    the masks are followed to the pixel; the parts agree with each other through the network's view of all of x_t.

    Facts:
        nfe: 2 + the number of regions, branches a call
        neutral: w = 1 and a region that covers everything, its conditional denoiser exactly
        paper: Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", section 4,
            region-based generation

    Args:
        branches: evaluates (the condition of the rest, of region 1, ..., of region K, null condition); without the
            last, nothing is guided.
        scale: guidance scale w: a number, `[B]` or a function of t.
        regions: K boxes or masks; a mask has the sides of x.
        interval: (t_low, t_high) outside which w = 1; None for all times.

    Returns:
        A denoiser. The variance, where the network predicts one, is mixed as the predictions are.

    Raises:
        ValueError: if there is no region, a box or the interval is empty; when called, for a mask of another size than
            x, or another number of branches.
    """
    check_interval(interval)
    in_all = mixed(branches, regions)

    def denoise(x_t, t):
        cond, *null = in_all(x_t, t)
        return extrapolate(cond, null, [strength(scale, 1, interval, t, x_t)] * len(null))

    return denoise


def mixed(branches: Branches, regions: Sequence[Region]) -> Branches:
    """Branches (sum_k m_k cond_k, null condition) for any guidance, from the branches and with the m_k of `regional`.

    Args:
        branches: evaluates (the condition of the rest, of region 1, ..., of region K, null condition); the last may be
            missing.
        regions: K boxes or masks; a mask has the sides of x.

    Raises:
        ValueError: as `regional`.
    """
    for region in regions:
        _check(region)
    if not len(regions):
        raise ValueError("regional: regions is empty; give a box (left, top, right, bottom) or a mask for each")

    def evaluated(x_t, t):
        count = len(regions) + 1
        order = f"(rest, region 1, ..., region {len(regions)}, and by choice the null condition)"
        predictions = evaluate(branches, x_t, t, (count, count + 1), order)
        conds = predictions[:count]
        weights = shares(regions, x_t.shape[1:3])[..., None]
        combined = [
            None if parts[0] is None else sum(weight * part for weight, part in zip(weights, parts))
            for parts in zip(*conds)
        ]
        return conds[0]._make(combined), *predictions[count:]

    return evaluated


def shares(regions: Sequence[Region], sides: tuple[int, int]) -> np.ndarray:
    """Weights of the rest and of every region at each pixel: float32 `[1 + K, H, W]`, with sum 1 over the first axis.

    Raises:
        ValueError: for a mask of another size, with both sizes.
    """
    height, width = sides
    masks = np.zeros((len(regions), height, width))
    for mask, region in zip(masks, regions):
        if np.ndim(region) == 1:
            left, top, right, bottom = region
            mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
        elif np.shape(region) != (height, width):
            raise ValueError(
                f"regional: a mask has the shape {np.shape(region)}, but x has {(height, width)}, height and width; "
                "both must agree"
            )
        else:
            mask[:] = region
    masks /= np.maximum(masks.sum(0), 1)
    return np.concatenate([1 - masks.sum(0, keepdims=True), masks]).astype(np.float32)


def _check(region: Region) -> None:
    if np.ndim(region) == 2:
        if np.min(region) < 0 or np.max(region) > 1:
            raise ValueError(
                f"regional: a mask has weights from {np.min(region):g} to {np.max(region):g}. Valid: 0 .. 1"
            )
        return
    if np.shape(region) != (4,) or not all(math.isfinite(side) for side in region):
        raise ValueError(f"regional: region {region!r}. Valid: a box (left, top, right, bottom), or a mask [H, W]")
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"regional: the box {tuple(region)} must be (left, top, right, bottom) in fractions of the sides, with 0 "
            "<= left < right <= 1 and 0 <= top < bottom <= 1"
        )
