"""The pictures of a request: the canvas, an image with margins and a mask to repaint, and the edited images."""

__all__ = ["Canvas", "edited_images"]

from collections.abc import Sequence
from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from diffusion.data.transforms import to_model
from diffusion.io import pictures


class Canvas(NamedTuple):
    """An image that is changed.

    Attributes:
        image: the image, uint8 [H, W, 3] (or with as many channels as the model's pictures have), or None.
        mask: the part that is repainted, Bool [H, W], or None.
    """

    image: np.ndarray | None
    mask: np.ndarray | None

    @classmethod
    def open(cls, image: np.ndarray | str | None, mask: np.ndarray | str | None) -> Self:
        """The canvas of a request's image and mask, which are arrays, paths of pictures, or None.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is no sound picture, an array of another type, or a mask of another size.
        """
        if image is None:
            return cls(None, None)
        image = pictures.read(image) if isinstance(image, str) else image
        mask = pictures.read_mask(mask, image.shape[:2]) if isinstance(mask, str) else mask
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"image must be uint8 [H, W, 3]; got {image.dtype} {list(image.shape)} (pictures.read converts files "
                "with alpha or 16 bits)"
            )
        if mask is None:
            return cls(image, None)
        if mask.shape != image.shape[:2] or mask.dtype != bool:
            raise ValueError(
                f"mask must be Bool with the image's size {list(image.shape[:2])}; got {mask.dtype} {list(mask.shape)}"
            )
        if not mask.any():
            raise ValueError("the mask is False everywhere; set it to True where the image is to be painted")
        return cls(image, mask)

    def size_with(self, margins: tuple[int, int, int, int]) -> tuple[int, int]:
        """(height, width) of an image with its margins (top, bottom, left, right) in pixels."""
        if self.image is None:
            raise ValueError("margins extend an image; name the image")
        top, bottom, left, right = margins
        return self.image.shape[0] + top + bottom, self.image.shape[1] + left + right

    def extended(self, margins: tuple[int, int, int, int]) -> "Canvas":
        """The canvas with margins (top, bottom, left, right) in pixels, which are painted.

        Raises:
            ValueError: if it is too large.
        """
        if self.image is None:
            return self
        height, width = self.size_with(margins)
        if height * width > pictures.PIXELS:
            raise ValueError(
                f"margins = {tuple(margins)} (top, bottom, left, right) make a picture of {height} x {width} pixels. "
                f"Valid: at most {pictures.PIXELS:,} pixels; choose smaller margins"
            )
        if not any(margins):
            return self
        pad = (margins[:2], margins[2:])
        mask = np.zeros(self.image.shape[:2], bool) if self.mask is None else self.mask
        mask = np.pad(mask, pad, constant_values=True)
        return Canvas(np.pad(self.image, (*pad, (0, 0)), mode="edge"), mask)

    def arrays(self) -> tuple[Array | None, Array | None]:
        """The image [1, H, W, C] in the model's range and the mask Bool [1, H, W, 1], as programs take them."""
        image = None if self.image is None else jnp.asarray(to_model(self.image))[None]
        return image, None if self.mask is None else jnp.asarray(self.mask)[None, :, :, None]

    def with_original(self, generated: np.ndarray) -> np.ndarray:
        """Pictures [B, H, W, C] with the image wherever the mask is False."""
        if self.mask is None or self.image is None:
            return generated
        return np.where(self.mask[..., None], generated, self.image)


def edited_images(images: Sequence[str | np.ndarray], most: int, multiple: int) -> tuple[np.ndarray, ...]:
    """The pictures that a denoiser sees as further tokens, and that the prompt edits or combines (FLUX.2).

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
            f"one of the images has {height} x {width} pixels (height x width). Valid: sides of at least {multiple}, "
            f"and at most {most:,} pixels"
        )
    top, left = ((side - rest) // 2 for side, rest in zip(picture.shape, sides))
    return picture[top : top + sides[0], left : left + sides[1]]
