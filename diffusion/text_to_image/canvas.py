"""The pictures in a request: the canvas that is repainted, the images to edit, and the pictures of controls."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from diffusion.data.transforms import to_model
from diffusion.io import pictures
from diffusion.models.attachment import Attachment
from diffusion.published.pipeline_kinds import EditedPictures
from diffusion.text_to_image.picture_controls import Control


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
        """(height, width) of an image with its margins (top, bottom, left, right) in pixels.

        Raises:
            ValueError: without an image.
        """
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
        """Pictures [B, H, W, C] with the image wherever the mask is False, which is opaque if they have alpha."""
        if self.mask is None or self.image is None:
            return generated
        alpha = np.full((*self.image.shape[:2], generated.shape[-1] - self.image.shape[-1]), 255, np.uint8)
        return np.where(self.mask[..., None], generated, np.concatenate([self.image, alpha], axis=-1))


def edited_images(images: Sequence[np.ndarray], how: EditedPictures, multiple: int) -> tuple[np.ndarray, ...]:
    """The pictures that a denoiser sees as further tokens, and that the prompt edits or combines (FLUX.2).

    Where `how` has a divisor, every picture is scaled, see `scaled`. Otherwise a picture of more than `how.pixels`
    pixels is reduced to as many by Pillow's Lanczos filter. Then it is cropped to its middle, so that `multiple`
    divides the sides.

    Args:
        images: the pictures, uint8 [H, W, 3].
        how: how they are prepared.
        multiple: the number of pixels that must divide the sides.

    Returns:
        The pictures, uint8 [h, w, 3], each with its own sides.

    Raises:
        ValueError: for a picture that is too narrow.
    """
    if how.divisor:
        return tuple(scaled(image, how.pixels, how.divisor) for image in images)
    return tuple(_fitted(image, how.pixels, multiple) for image in images)


def scaled(picture: np.ndarray, pixels: int, divisor: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] at about its own ratio and number of pixels, by Pillow's Lanczos filter.

        w = sqrt(pixels W / H),   h = w H / W,   each rounded to a multiple of the divisor

    Args:
        picture: the picture.
        pixels: the number of pixels.
        divisor: the number that divides the sides of the result.

    Raises:
        ValueError: for a picture that is too narrow.
    """
    height, width = picture.shape[:2]
    wide = math.sqrt(pixels * (width / height))
    multiple = lambda side: round(side / divisor) * divisor
    sides = multiple(wide), multiple(wide / (width / height))
    if not all(sides):
        raise ValueError(
            f"one of the images has {height} x {width} pixels (height x width), which is too narrow to be scaled to "
            f"{pixels:,} pixels with sides of at least {divisor}"
        )
    return np.asarray(Image.fromarray(picture).resize(sides, Image.Resampling.LANCZOS))


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


class OpenedControl(NamedTuple):
    """A control whose picture has been read.

    Attributes:
        attachment: the attachment that the control names.
        picture: the picture as the attachment reads it, float32 [1, ...].
        control: the control.
        mask: the strength of the control over the picture, float32 [1, H, W]; None for 1 everywhere.
    """

    attachment: Attachment
    picture: np.ndarray
    control: Control
    mask: np.ndarray | None = None


def opened_controls(
    controls: Sequence[Control], attachments: Mapping[str, Attachment], size: tuple[int, int]
) -> tuple[OpenedControl, ...]:
    """Reads the pictures of controls.

    Args:
        controls: the controls of a request.
        attachments: the attachments of the model, by their names.
        size: (height, width) of the pictures that are made.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an attachment that the model does not have, or a picture that does not fit, which it names.
    """
    ready = []
    for control in controls:
        if control.attachment not in attachments:
            raise ValueError(
                f"the control {control.attachment!r} names no attachment of this model. Valid: "
                f"{', '.join(map(repr, attachments)) or 'none'}. Attachments are loaded with the model: "
                "text_to_image.load(.., attachments={'edges': FOLDER}), --attach=edges=FOLDER"
            )
        attachment = attachments[control.attachment]
        _check_mode(control, attachment)
        picture = control.picture
        picture = pictures.read(picture) if isinstance(picture, str) else picture
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(
                f"the picture of the control {control.attachment!r} must be uint8 [H, W, 3]; got {picture.dtype} "
                f"{list(picture.shape)}"
            )
        if attachment.inpaints and picture.shape[:2] == tuple(size):  # `read` refuses a picture of another size
            picture = np.dstack([picture, _painted(control, size)])
        try:
            array = attachment.read(picture, size)
        except ValueError as error:
            raise ValueError(f"the picture of the control {control.attachment!r} does not fit: {error}") from None
        ready.append(OpenedControl(attachment, array[None], control, _mask(control, attachment, size)))
    return tuple(ready)


def _check_mode(control: Control, attachment: Attachment) -> None:
    """Refuses a kind of control that is missing or unknown to the attachment; a ValueError names the control."""
    if (control.mode is None) != (attachment.modes == 0) or (control.mode or 0) >= max(attachment.modes, 1):
        valid = f"0 to {attachment.modes - 1}, one of the kinds that it knows" if attachment.modes else "None"
        raise ValueError(f"the control {control.attachment!r} has mode = {control.mode}. Valid: {valid}")


def _mask(control: Control, attachment: Attachment, size: tuple[int, int]) -> np.ndarray | None:
    """The checked mask of a control; a ValueError names the control and both sizes."""
    if control.mask is None or attachment.inpaints:
        return None
    if not attachment.masked:
        raise ValueError(
            f"the mask of the control {control.attachment!r} would have no effect, because this attachment acts on "
            "the whole picture; leave the mask out"
        )
    return _read_mask(control, size)[None].astype(np.float32)


def _painted(control: Control, size: tuple[int, int]) -> np.ndarray:
    """The mask of an inpainting control, uint8 [H, W], 255 where the picture is repainted."""
    if control.mask is None:
        raise ValueError(
            f"the control {control.attachment!r} has no mask, but this attachment inpaints. Valid: a mask, white "
            "where the picture is to be painted"
        )
    return 255 * _read_mask(control, size).astype(np.uint8)


def _read_mask(control: Control, size: tuple[int, int]) -> np.ndarray:
    """The mask of a control, Bool [H, W]."""
    mask = pictures.read_mask(control.mask, size) if isinstance(control.mask, str) else control.mask
    if mask is None or mask.shape != tuple(size) or mask.dtype != bool:
        actual = "none" if mask is None else f"{mask.dtype} {list(mask.shape)}"
        raise ValueError(
            f"the mask of the control {control.attachment!r} must be Bool with the size of the pictures {list(size)}; "
            f"got {actual}"
        )
    if not mask.any():
        raise ValueError(f"the mask of the control {control.attachment!r} is False everywhere, so it would do nothing")
    return mask
