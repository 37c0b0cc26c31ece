"""The size at which Qwen 2.5 VL sees a picture: a token's side divides both sides, and two bounds limit the area."""

import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffusion.io import limits, opener, schema
from diffusion.models.interchange.field_table import A_TABLE
from diffusion.models.text_encoders.clip import MEAN, STD
from diffusion.published.qwen_vl.network import QwenVL

STRIP = 200  # the largest ratio of a picture's sides
PIXELS = schema.integer(1, 2**31)


class Bounds(NamedTuple):
    """The bounds of a picture's area in pixels.

    Attributes:
        least: smallest area; a smaller picture is enlarged.
        most: largest area; a larger picture is reduced.
    """

    least: int = 56 * 56
    most: int = 28 * 28 * 1280


def seen_size(height: int, width: int, side: int, bounds: Bounds) -> tuple[int, int]:
    """The size at which a picture is seen; the ratio of height to width stays about the same.

    Args:
        height, width: the picture's sides in pixels.
        side: the side of a token in pixels.
        bounds: the bounds of the area.

    Returns:
        (height, width) in pixels, both multiples of `side`.

    Raises:
        ValueError: if the longer side is more than 200 times the shorter one.
    """
    if max(height, width) > STRIP * min(height, width):
        raise ValueError(
            f"a picture of {height} x {width} pixels (height x width) is too narrow. Valid: a longer side of at most "
            f"{STRIP} times the shorter one"
        )
    rounded = round(height / side) * side, round(width / side) * side
    if rounded[0] * rounded[1] > bounds.most:
        scale = math.sqrt(height * width / bounds.most)
        reduced = lambda length: max(side, math.floor(length / scale / side) * side)
        return reduced(height), reduced(width)
    if rounded[0] * rounded[1] < bounds.least:
        scale = math.sqrt(bounds.least / (height * width))
        enlarged = lambda length: math.ceil(length * scale / side) * side
        return enlarged(height), enlarged(width)
    return rounded


def resized(picture: np.ndarray, side: int, bounds: Bounds) -> np.ndarray:
    """A picture uint8 [H, W, 3] as Qwen 2.5 VL sees it, by Pillow's bicubic filter; arguments as in `seen_size`."""
    height, width = seen_size(picture.shape[0], picture.shape[1], side, bounds)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def read_bounds(folder: pathlib.Path) -> Bounds:
    """The bounds in a processor's folder, which holds preprocessor_config.json or processor_config.json.

    Raises:
        FileNotFoundError: if the folder holds neither file.
        limits.Refused: if the normalisation or the filter is not Qwen 2.5 VL's, or a bound is not a valid area.
    """
    files = [folder / f"{name}_config.json" for name in ("preprocessor", "processor")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has neither preprocessor_config.json nor processor_config.json")
    table = opener.read_table(file)
    schema.check({"image_processor": A_TABLE}, table, str(file))
    table = table.get("image_processor", table)
    schema.check({"size": schema.optional(A_TABLE)}, table, str(file))
    for name, value in (("image_mean", list(MEAN)), ("image_std", list(STD)), ("resample", 3)):
        if (stated := table.get(name, value)) != value:
            raise limits.Refused(f"{file}: {name} = {limits.short(stated)}. Valid: {value}, as Qwen 2.5 VL's")
    size = table.get("size") or {}
    bounds = []
    for old, name, default in zip(("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), Bounds()):
        area = next((area for area in (table.get(old), size.get(name)) if area is not None), default)
        if why := schema.objection("the area", area, PIXELS):
            raise limits.Refused(f"{file}: {why}")
        bounds.append(area)
    if bounds[0] > bounds[1]:
        raise limits.Refused(
            f"{file}: the smallest area, {bounds[0]} pixels, is above the largest, {bounds[1]} pixels."
        )
    return Bounds(*bounds)


def sight_of_pipeline(folder: pathlib.Path, encoder: QwenVL) -> Callable[[np.ndarray], np.ndarray]:
    """The function from a picture, uint8 [H, W, 3], to the picture as the text encoder of a pipeline sees it.

    Args:
        folder: the pipeline's folder, whose folder "processor" states the bounds.
        encoder: the text encoder.
    """
    bounds = read_bounds(folder / "processor")
    return lambda picture: resized(picture, encoder.vision.side, bounds)
