"""Common degradations of pictures: JPEG, resizing, crops, noise, blur. All take and return uint8 [B, H, W, C]."""

import functools
import io
from collections.abc import Callable, Mapping

import numpy as np
import scipy  # reads its parts where they are first used
from PIL import Image

from diffusion.io import pictures


def _each(pictures: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Applies a Pillow function to every picture; grey pictures have one channel before and after."""
    grey = pictures.shape[-1] == 1
    changed = [np.asarray(change(Image.fromarray(picture[..., 0] if grey else picture))) for picture in pictures]
    return np.stack([picture.reshape(*picture.shape[:2], -1) for picture in changed])


def jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    """Pictures after JPEG compression with a quality in 1 .. 95; others are refused by a ValueError."""
    if quality not in range(1, 96):
        raise ValueError(f"jpeg: quality = {quality}. Valid: 1 .. 95")

    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return pictures.opened(file.getvalue())

    return _each(images, change)


def resized(pictures: np.ndarray, factor: float) -> np.ndarray:
    """Pictures after scaling by a factor in (0, 16] and back (bicubic); others are refused by a ValueError."""
    if not 0 < factor <= 16:
        raise ValueError(f"resized: factor = {factor} must be in (0, 16]")
    height, width = pictures.shape[1:3]
    small = (max(round(width * factor), 1), max(round(height * factor), 1))
    bicubic = Image.Resampling.BICUBIC
    return _each(pictures, lambda picture: picture.resize(small, bicubic).resize((width, height), bicubic))


def cropped(pictures: np.ndarray, share: float) -> np.ndarray:
    """The central crop with a share of each side in (0, 1], scaled up to the picture's size (bicubic).

    Raises:
        ValueError: if the share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"cropped: share = {share} must be in (0, 1]")
    height, width = pictures.shape[1:3]
    top, left = (round(side * (1 - share) / 2) for side in (height, width))
    box = (left, top, width - left, height - top)
    return _each(pictures, lambda picture: picture.crop(box).resize((width, height), Image.Resampling.BICUBIC))


def noisy(pictures: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    """Pictures with Gaussian noise, whose standard deviation is a fraction of 255; a ValueError if it is negative."""
    if not deviation >= 0:
        raise ValueError(f"noisy: deviation = {deviation} must be at least 0")
    noise = np.random.default_rng(seed).normal(0, 255 * deviation, pictures.shape)
    return np.clip(np.rint(pictures + noise), 0, 255).astype(np.uint8)


def blurred(pictures: np.ndarray, deviation: float) -> np.ndarray:
    """Pictures after a Gaussian blur, whose standard deviation is in pixels; a ValueError if it is negative."""
    if not deviation >= 0:
        raise ValueError(f"blurred: deviation = {deviation} must be at least 0")
    blurry = scipy.ndimage.gaussian_filter(pictures.astype(np.float64), (0, deviation, deviation, 0))
    return np.rint(blurry).astype(np.uint8)


DEGRADATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda pictures: pictures,
    "jpeg 50": functools.partial(jpeg, quality=50),
    "jpeg 25": functools.partial(jpeg, quality=25),
    "resize 0.5": functools.partial(resized, factor=0.5),
    "crop 0.75": functools.partial(cropped, share=0.75),
    "noise 0.1": functools.partial(noisy, deviation=0.1),
    "blur 1": functools.partial(blurred, deviation=1.0),
}
"""The degradations under which watermarks are measured: uint8 [B, H, W, C] -> the same shape."""
