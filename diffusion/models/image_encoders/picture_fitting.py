"""Resizing of pictures for published image encoders, and for the scores of prompts that read them.

Each is a function of a picture, uint8 [H, W, 1 or 3], and the side of the result; it returns bytes [side, side, 3], or
floats in about [-1, 1] where the published code does not round. They give the same picture other scores.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion.io import limits, opener
from diffusion.models.layers import bicubic

BICUBIC = Image.Resampling.BICUBIC
LONGEST = 20  # sides of its middle square that a strip is resized with, beyond what any filter reaches


def cropped(picture: np.ndarray, side: int, shorter: int | None = None) -> np.ndarray:
    """transformers' CLIPImageProcessor: the shorter side by Pillow's bicubic filter, then the middle, rounded down.

    Args:
        picture: the picture.
        side: the side of the result.
        shorter: the shorter side before the crop, at least `side`; None for `side`.
    """
    resized = _shorter(picture, shorter or side)
    top = (resized.shape[0] - side) // 2
    left = (resized.shape[1] - side) // 2
    return resized[top : top + side, left : left + side]


def cropped_evenly(picture: np.ndarray, side: int) -> np.ndarray:
    """torchvision's Resize and CenterCrop of a picture of Pillow's: as `cropped`, with halves rounded to even."""
    resized = _shorter(picture, side)
    top = round((resized.shape[0] - side) / 2)
    left = round((resized.shape[1] - side) / 2)
    return resized[top : top + side, left : left + side]


def padded(picture: np.ndarray, side: int) -> np.ndarray:
    """HPSv2's ResizeMaxSize: the longer side, in floats, bicubic with antialiasing; black beside the shorter one.

    torchvision antialiases floats from its version 0.17 on; see `padded_plain` for earlier ones.
    """
    return _padded(picture, side, bicubic.antialiased)


def padded_plain(picture: np.ndarray, side: int) -> np.ndarray:
    """Does as `padded` without antialiasing, with PyTorch's other bicubic filter: torchvision before 0.17."""
    return _padded(picture, side, bicubic.plain)


def squeezed(picture: np.ndarray, side: int) -> np.ndarray:
    """Both sides at once by Pillow's bicubic filter, whatever their ratio."""
    return np.asarray(_image(picture).resize((side, side), BICUBIC))


def squeezed_bilinear(picture: np.ndarray, side: int) -> np.ndarray:
    """Does as `squeezed`, with Pillow's bilinear filter."""
    return np.asarray(_image(picture).resize((side, side), Image.Resampling.BILINEAR))


FITTINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "shorter side by Pillow's bicubic filter, then the middle": cropped,
    "shorter side by Pillow's bicubic filter, then the middle, halves rounded to even": cropped_evenly,
    "longer side, bicubic with antialiasing in floats, black beside it": padded,
    "longer side, PyTorch's bicubic without antialiasing in floats, black beside it": padded_plain,
    "square by Pillow's bicubic filter": squeezed,
    "square by Pillow's bilinear filter": squeezed_bilinear,
}
"""By their words in reports."""
SQUARES = {2: "square by Pillow's bilinear filter", 3: "square by Pillow's bicubic filter"}  # by Pillow's numbers


def stated_square(folder: pathlib.Path, default: str) -> str:
    """The name in `FITTINGS` of the square whose filter a folder's preprocessor_config.json states.

    Args:
        folder: the folder of a published network.
        default: the name where it states none.

    Raises:
        limits.Refused: for another filter, or a file that is no table.
    """
    file = folder / "preprocessor_config.json"
    filter_ = opener.read_table(file).get("resample") if file.is_file() else None
    if filter_ is None:
        return default
    if type(filter_) is not int or filter_ not in SQUARES:
        raise limits.Refused(f"{file}: resample = {limits.short(filter_)}. Valid: 2 (bilinear) or 3 (bicubic).")
    return SQUARES[filter_]


def _image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def _shorter(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    short = min(height, width)
    above, before = (max(length - LONGEST * short, 0) // 2 for length in (height, width))
    picture = picture[above : height - above, before : width - before]
    height, width = picture.shape[:2]
    new = (side * width // short, side * height // short)
    return np.asarray(_image(picture).resize(new, BICUBIC))


def _padded(picture: np.ndarray, side: int, matrix: Callable[[int, int], np.ndarray]) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    new = [round(length * scale) for length in (height, width)]
    colour = np.broadcast_to(picture, (height, width, 3)).astype(np.float32) / 127.5 - 1
    if scale != 1:
        colour = np.einsum("ih,jw,hwc->ijc", matrix(height, new[0]), matrix(width, new[1]), colour, optimize=True)
    out = np.full((side, side, 3), -1, np.float32)
    top, left = ((side - length) // 2 for length in new)
    out[top : top + new[0], left : left + new[1]] = colour
    return out
