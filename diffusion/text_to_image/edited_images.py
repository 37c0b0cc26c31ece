"""Pictures that a denoiser sees as further tokens, several of any size, which the prompt edits or combines (FLUX.2)."""

__all__ = ["opened"]

from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffusion.text_to_image.canvas import Canvas


def opened(images: Sequence[str | np.ndarray], most: int, multiple: int) -> tuple[np.ndarray, ...]:
    """Pictures of a request, as the autoencoder takes them.

    A picture of more than `most` pixels is reduced to as many by Pillow's Lanczos filter. Then it is cropped to its
    middle, so that `multiple` divides the sides.

    Args:
        images: the pictures, paths or uint8 [H, W, 3].
        most: the largest number of pixels of a picture.
        multiple: the number of pixels that must divide the sides.

    Returns:
        The pictures, uint8 [h, w, 3], each with its own sides.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is no sound picture, an array of another type, or a picture that is too narrow.
    """
    return tuple(_fitted(np.asarray(Canvas.open(image, None).image), most, multiple) for image in images)


def _fitted(picture: np.ndarray, most: int, multiple: int) -> np.ndarray:
    height, width = picture.shape[:2]
    if height * width > most:
        scale = np.sqrt(most / (width * height))
        size = int(width * scale), int(height * scale)
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    sides = [side // multiple * multiple for side in picture.shape[:2]]
    if not all(sides):
        raise ValueError(
            f"one of the images has {height} x {width} pixels (height x width): valid are at least {multiple} at "
            f"either side, in pictures of at most {most:,} pixels"
        )
    top, left = ((side - rest) // 2 for side, rest in zip(picture.shape, sides))
    return picture[top : top + sides[0], left : left + sides[1]]
