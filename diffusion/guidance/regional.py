"""Guidance with another condition in each region of the picture."""

import math
from collections.abc import Sequence

import numpy as np

from diffusion.guidance.branches import Branches, class_conditions, evaluate, with_conditions
from diffusion.guidance.prediction_changes import extrapolate
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, process_of

Region = Sequence[float] | np.ndarray
"""A box (left, top, right, bottom) in fractions of the sides, or weights `[H, W]` of the pixels, all in [0, 1]."""


@with_conditions(class_conditions)
def regional(branches: Branches, scale: Scale, regions: Sequence[Region], interval: Interval = None) -> Denoiser:
    """A condition for each region, and one for the rest: sum_k m_k cond_k, with classifier-free guidance.

        m_k = r_k / max(1, sum_j r_j) in region k,    m_0 = 1 - sum_k m_k in the rest,

    where r_k `[H, W]` is the mask of region k. The predictions are combined, not the attention maps; this works with
    every network and follows the masks to the pixel. The regions agree with each other because the network sees all of
    x_t at each evaluation.

    Facts:
        nfe: 2 + the number of regions, branches per call
        neutral: w = 1 and a region that covers everything, its conditional denoiser exactly
        paper: Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", section 4,
            region-based generation

    Args:
        branches: evaluates the network under (condition of the rest, of region 1, ..., of region K, null condition);
            without the null condition there is no guidance.
        scale: guidance scale w: a number, `[B]` or a function of t.
        regions: K boxes or masks; a mask has the height and width of x `[B, H, W, C]`.
        interval: (t_low, t_high) outside which w = 1; None for all times.

    Returns:
        A denoiser. If the network predicts a variance, it is mixed like the predictions.

    Raises:
        ValueError: if there is no region, or a box or the interval is empty; when called, if a mask does not have the
            size of x, a region covers no pixel, or the number of branches is wrong.
    """
    check_interval(interval, process_of(branches))
    in_all = mixed(branches, regions)

    def denoise(x_t, t):
        cond, *null = in_all(x_t, t)
        return extrapolate(cond, null, [strength(scale, 1, interval, t, x_t)] * len(null))

    return belonging_to(process_of(branches), denoise)


def mixed(branches: Branches, regions: Sequence[Region]) -> Branches:
    """Branches (sum_k m_k cond_k, null condition) for any guidance, with the weights m_k of `regional`.

    Args:
        branches: evaluates the network under (condition of the rest, of region 1, ..., of region K, null condition);
            the null condition may be missing.
        regions: K boxes or masks; a mask has the height and width of x `[B, H, W, C]`.

    Raises:
        ValueError: if there is no region, or a box is empty; when called, if a mask does not have the size of x, a
            region covers no pixel, or the number of branches is wrong.
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

    return belonging_to(process_of(branches), evaluated)


def shares(regions: Sequence[Region], sides: tuple[int, int]) -> np.ndarray:
    """The weights of the rest and the regions at each pixel, float32 `[1 + K, H, W]`, with sum 1 over the first axis.

    Raises:
        ValueError: if a mask does not have the size `sides`, or a region covers no pixel; the message states the sizes.
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
        if not mask.any():
            what = f"the box {tuple(region)}" if np.ndim(region) == 1 else "a mask of zeros"
            raise ValueError(
                f"regional: {what} covers none of the {height} x {width} pixels, so that its condition would have no "
                "effect. Valid: a larger region, or none"
            )
    masks /= np.maximum(masks.sum(0), 1)
    return np.concatenate([1 - masks.sum(0, keepdims=True), masks]).astype(np.float32)


def _check(region: Region) -> None:
    if np.ndim(region) == 2:
        if not (np.min(region) >= 0 and np.max(region) <= 1):  # NaN too
            raise ValueError(
                f"regional: a mask has weights from {np.min(region):g} to {np.max(region):g}. Valid: 0 .. 1"
            )
        return
    if np.shape(region) != (4,) or not all(math.isfinite(side) for side in region):
        raise ValueError(f"regional: region {region!r}. Valid: a box (left, top, right, bottom), or a mask [H, W]")
    check_box("regional", region)


def check_box(function: str, box: Sequence[float] | np.ndarray) -> None:
    """Refuses a box that is empty or leaves the picture; the message names the function."""
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"{function}: the box {tuple(box)} must be (left, top, right, bottom) in fractions of the sides, with 0 "
            "<= left < right <= 1 and 0 <= top < bottom <= 1"
        )
