"""The settings of `text_to_image.generate`, checked before anything is computed, and what is said of them.

`model` is a `text_to_image.TextToImage`.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion import editing
from diffusion.io.pictures import PIXELS
from diffusion.text_to_image.fields import RESAMPLINGS
from diffusion.timesteps import Plan

JUMPS = 4  # parts of a walk, each of which is walked as often as `resamplings` says


def strength(given: float | None, image: np.ndarray | None, mask: np.ndarray | None) -> float:
    """How much of an image is changed: what is given, or 0.8, and 1 where there is no image, or a part of it is kept.

    Raises:
        ValueError: for another than 1 without an image.
    """
    if given is None:
        given = 0.8 if image is not None and mask is None else 1.0
    if image is None and given != 1:
        raise ValueError(f"strength = {given}: it says how much of an image is changed; give the image")
    return given


def first_step(steps: int, strength: float) -> int:
    """The step at which a walk begins that changes a picture with this strength.

    Raises:
        ValueError: for a strength that is not in (0, 1], or leaves no step.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength = {strength} must be in (0, 1]: it is the part of the walk that is walked")
    walked = int(steps * strength)
    if not walked and steps > 0:
        raise ValueError(f"strength = {strength} of {steps} steps is less than one step; at least {1 / steps:.3g} is")
    return steps - walked


def walked(plan: Plan, first: int, resamplings: int) -> Plan:
    """The steps of a plan from one on, and those of RePaint, which walk each quarter of it but the last several times.

    Args:
        plan: of the whole walk.
        first: the step at which it begins.
        resamplings: how often each of these is walked.
    """
    grid = np.append(plan.t[first:], plan.s[-1])
    return editing.repaint(grid, max((len(grid) - 1) // JUMPS, 1), resamplings)


def resampled(resamplings: int, mask: np.ndarray | None, sees_mask: bool) -> None:
    """Checks how often each part of a walk is walked.

    Raises:
        ValueError: for less than once, too many times, or where nothing is kept that x is to agree with.
    """
    if resamplings < 1:
        raise ValueError(f"resamplings = {resamplings} must be at least 1: each part of the walk is walked once")
    if resamplings > RESAMPLINGS:
        raise ValueError(f"resamplings = {resamplings}: at most {RESAMPLINGS}; the published figures are of 10")
    if resamplings > 1 and mask is None:
        raise ValueError(
            f"resamplings = {resamplings}: what is painted comes to agree with what is kept; give a mask or margins"
        )
    if resamplings > 1 and sees_mask:
        raise ValueError(f"resamplings = {resamplings}: this model sees what is kept, and walks once; leave it at 1")


def rows(prompts: str | Sequence[str], seeds: int | Sequence[int]) -> tuple[list[str], list[int]]:
    """N prompts and N seeds."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = [seeds] if isinstance(seeds, (int, np.integer)) else [int(seed) for seed in seeds]
    number = max(len(prompts), len(seeds))
    if not prompts or len(prompts) not in (1, number) or len(seeds) not in (1, number):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: give as many of both, or one of either")
    if min(seeds) < 0 or max(seeds) >= 2**32:
        raise ValueError(f"seeds are whole numbers in 0 .. {2**32 - 1}; got {min(seeds)} .. {max(seeds)}")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("prompts are texts")
    if not all(prompt.strip() for prompt in prompts):
        warnings.warn("a prompt is empty: its picture is of anything that the model knows", stacklevel=3)
    return prompts * (number // len(prompts)), seeds * (number // len(seeds))


def guided(model: Any, scale: float, negative: str | None) -> bool:
    """Whether two branches are evaluated; says it where a negative prompt has no effect."""
    if not math.isfinite(scale):
        raise ValueError(f"guidance = {scale} must be a number; 1 is none")
    if model.distilled or scale <= 1:
        if negative:
            why = "this model has its guidance distilled in" if model.distilled else f"guidance = {scale:g} is none"
            warnings.warn(
                f"the negative prompt {negative[:30]!r} has no effect: {why}"
                f"{'' if model.distilled else '; it needs one above 1'}",
                stacklevel=3,
            )
        return False
    return True


def canvas(
    image: np.ndarray | None, mask: np.ndarray | None, margins: tuple[int, int, int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The picture with its margins, and the mask of what is painted."""
    if image is None:
        if mask is not None or any(margins):
            raise ValueError("a mask and margins belong to an image; give the image")
        return None, None
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"image is uint8 [H, W, 3]; got {image.dtype} {list(image.shape)} (pictures.read turns files "
            "with alpha or 16 bits into such)"
        )
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != image.shape[:2] or mask.dtype != bool:
            raise ValueError(
                f"mask is Bool of the image's size {list(image.shape[:2])}; got {mask.dtype} {list(mask.shape)}"
            )
        if not mask.any():
            raise ValueError("the mask marks nothing to be painted; True is what is painted anew")
    if min(margins) < 0:
        raise ValueError(f"margins = {tuple(margins)} (top, bottom, left, right) must not be negative")
    top, bottom, left, right = margins
    height = image.shape[0] + top + bottom
    width = image.shape[1] + left + right
    if height * width > PIXELS:
        raise ValueError(
            f"margins = {tuple(margins)} (top, bottom, left, right) make a picture of {height} x {width} "
            f"pixels, and at most {PIXELS:,} are made from one: choose smaller margins"
        )
    if any(margins):
        pad = ((top, bottom), (left, right))
        mask = np.pad(np.zeros(image.shape[:2], bool) if mask is None else mask, pad, constant_values=True)
        image = np.pad(image, (*pad, (0, 0)), mode="edge")
    return image, mask


def size(model: Any, height: int, width: int, image: np.ndarray | None) -> tuple[int, int]:
    """Height and width, checked."""
    if image is not None:
        if (height or image.shape[0], width or image.shape[1]) != image.shape[:2]:
            raise ValueError(
                f"height and width {height} x {width} are asked for, and the image with its margins has "
                f"{image.shape[0]} x {image.shape[1]}; leave them out, or scale the image"
            )
        height, width = image.shape[:2]
    height = height or model.side
    width = width or model.side
    for name, value in (("height", height), ("width", width)):
        if value % model.multiple or value < 1:
            low = max(value // model.multiple, 1) * model.multiple
            raise ValueError(
                f"{name} = {value}: {model.multiple} must divide it (the autoencoder's "
                f"{model.modules['vae'].factor} times the denoiser's "
                f"{model.kind.multiple(model.denoiser)}); near it are {low} and {low + model.multiple}"
            )
    if model.sees_mask and image is None:
        raise ValueError("this model was trained to paint what is masked: give an image and a mask")
    return height, width


def tile(model: Any, side: int) -> None:
    """Checks the side of the autoencoder's tiles.

    Raises:
        ValueError: if it is no multiple of the autoencoder's factor.
    """
    factor = model.modules["vae"].factor
    if side % factor or side < 0:
        raise ValueError(
            f"tile = {side}: the autoencoder's factor {factor} must divide it, for example "
            f"{max(side // factor, 1) * factor}; 0 is no tiles"
        )
