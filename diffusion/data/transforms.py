"""The steps of one image between the disk and the network: decoding, augmentation, and the change of range."""

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from diffusion.io import pictures

Augmentation = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""(random generator, image [H, W, C], or a clip [F, H, W, C]) -> image, or clip.

Its attribute `moves`, which data with masks need, says whether it moves what is in the image: True for one that the
mask follows, with the same draws, as `flip` and `crop`; False for one of the colours alone. An augmentation that is
faster for many images of one size at once has an attribute `of_batch` too: (a generator for each, images
[b, ..., H, W, C]) -> images of that shape, with the same result; a generator is to be used before the next is taken.
"""

MOST_SIDE = 1 << 14  # of a square of pixels
GREY = ("1", "L", "LA", "La")  # Pillow's modes of pictures without colours
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decodes an image of one of `pictures.FORMATS`.

    Args:
        data: the encoded image.
        shape: (H, W, channels) that it must have, with 1 (grey), 3 (red, green, blue) or 4 (with opacity) channels; an
            image of another kind is converted. The size is compared with the image's header before any pixel is
            decoded, so that a small file cannot ask for a large memory.

    Returns:
        uint8 [H, W, channels].

    Raises:
        OSError: the bytes are no complete image.
        ValueError: they are no image, or it has another size, or more than 8 bits a value.
    """
    height, width, channels = shape
    image = pictures.opened(data, "its image")
    if image.size != (width, height):
        raise ValueError(f"its image has the shape {(image.height, image.width, channels)}; expected {tuple(shape)}")
    pictures.require_eight_bits(image, "its image")
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    return np.asarray(image).reshape(shape)


def decode_any(data: bytes, channels: int, limit: int, viewed: bool = False) -> np.ndarray:
    """Decodes an image of any size, which it keeps.

    Args:
        data, channels, limit, viewed: the arguments of `decode_square`.

    Returns:
        uint8 [H, W, channels].

    Raises:
        OSError, ValueError: as in `decode_square`.
    """
    image = _opened(data, channels, limit, viewed)
    return np.asarray(image).reshape(image.height, image.width, channels)


def check_side(side: int) -> None:
    """Refuses a side that no square of pictures has; 0 leaves the pictures as they are.

    Raises:
        ValueError: naming the side.
    """
    if not 0 <= side <= MOST_SIDE:
        raise ValueError(f"side = {side}. Valid: 1 .. {MOST_SIDE} pixels, or 0 for pictures of one size.")


def decode_square(data: bytes, side: int, channels: int, limit: int, viewed: bool = False) -> np.ndarray:
    """Decodes an image of any size, and makes it a square: its shorter side is resized to `side`, its middle kept.

    It is halved by averaging while that leaves it large enough, then resized bicubically, as ADM's code and those after
    it (DiT, SiT, EDM2) prepare ImageNet: Dhariwal & Nichol (2021).

    Args:
        data: the encoded image.
        side: the side of the square in pixels, >= 1.
        channels: 1 (grey), 3 (red, green, blue) or 4 (with opacity); an image of another kind is converted.
        limit: the most bytes of a decoded image; compared with its header before any pixel is decoded.
        viewed: whether the image is read as a viewer shows it: turned as its EXIF data say, and white where it is
            transparent and `channels` has no opacity. False: its stored pixels, as the code of ADM reads them.

    Returns:
        uint8 [side, side, channels].

    Raises:
        OSError: the bytes are no complete image.
        ValueError: they are no image, it is larger than the limit, or has more than 8 bits a value; or, if `viewed`, it
            is in colour and `channels` is 1.
    """
    return np.asarray(square(_opened(data, channels, limit, viewed), side)).reshape(side, side, channels)


def square(image: Image.Image, side: int) -> Image.Image:
    """Makes an image a square as `decode_square` does: the shorter side is resized to `side`, the middle kept."""
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _opened(data: bytes, channels: int, limit: int, viewed: bool) -> Image.Image:
    """Opens an image of any size; only its header is read if it is too large."""
    image = pictures.opened(data, "its image")
    if image.width * image.height * channels > limit:
        raise ValueError(f"its image has {image.height} x {image.width} pixels, more than the limit of {limit:,} bytes")
    pictures.require_eight_bits(image, "its image")
    if not viewed:
        return image.convert(_MODES[channels])
    if channels == 1 and image.mode not in GREY:
        raise ValueError(
            f"its image is in colour ({image.mode}), but the first one is grey, and so are the examples. Valid: "
            "only grey images; or save the first one in colour, so that all are read in colour"
        )
    image.load()
    image = pictures.upright(image)
    return (pictures.on_white(image) if channels < 4 else image).convert(_MODES[channels])


def to_model(image):
    """Maps pixels to the range that networks see: x = image / 127.5 - 1.

    Args:
        image: uint8, any shape, NumPy or JAX (on the host, on a device or traced).

    Returns:
        float32 in [-1, 1], the same shape and kind of array.

    Raises:
        TypeError: the image is not uint8, so that its range is unknown.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"to_model takes uint8 pixels in 0..255, got {image.dtype}: convert to uint8 first.")
    return image.astype(np.float32) / 127.5 - 1


def to_uint8(x):
    """Maps model outputs back to pixels: floor(clip(127.5 x + 128, 0, 255)), the inverse of `to_model`.

    It rounds to the nearest pixel value, as the code of ADM (Dhariwal & Nichol 2021), DiT and EDM does.

    Args:
        x: floating, any shape, NumPy or JAX; values outside [-1, 1] are clipped.

    Returns:
        uint8, the same shape and kind of array.
    """
    # The cast drops the fraction, which is the floor of a number that is not negative.
    return (x.astype(np.float32) * 127.5 + 128).clip(0, 255).astype(np.uint8)


def flip() -> Augmentation:
    """Mirrors an image, or all frames of a clip, left to right, one time in two.

    Returns:
        Function (rng, image [..., H, W, C]) -> image of that shape.
    """

    def apply(rngs: Iterable[np.random.Generator], images: np.ndarray) -> np.ndarray:
        mirrored = images.copy()
        # Pixels are moved whole, which is three times as fast as byte by byte.
        pixels = mirrored.view(np.dtype((np.void, images.itemsize * images.shape[-1])))[..., 0]
        for row, rng in zip(pixels, rngs):
            if rng.random() < 0.5:
                row[:] = row[..., ::-1]
        return mirrored

    return _from_batch(apply)


def crop(padding: int = 4) -> Augmentation:
    """Shifts an image by up to `padding` pixels each way: a random window of its own size, cut from the padded image.

    All frames of a clip have the same window.

    The padding is the image's reflection, without its edge pixels. He et al. (2016, Section 4.2) pad with zeros, which
    serves a classifier; a generative model would learn to draw the black bars.

    Args:
        padding: the pixels added on every side, from 1 to the image's side - 1.

    Returns:
        Function (rng, image [..., H, W, C]) -> image of that shape.

    Raises:
        ValueError: `padding` is not positive, or (when applied) too wide for the image.
    """
    if padding < 1:
        raise ValueError(f"crop: padding must be at least 1 pixel, got {padding}; without padding, leave crop out.")

    def apply(rngs: Iterable[np.random.Generator], images: np.ndarray) -> np.ndarray:
        height, width = images.shape[-3:-1]
        if padding >= min(height, width):
            raise ValueError(
                f"crop: padding {padding} is too wide to reflect a {height}x{width} image. Valid: "
                f"1..{min(height, width) - 1}."
            )
        sides = (padding, padding)
        padded = np.pad(images, (*[(0, 0)] * (images.ndim - 3), sides, sides, (0, 0)), "reflect")
        cropped = np.empty_like(images)
        for rng, image, window in zip(rngs, padded, cropped):
            top = rng.integers(2 * padding, endpoint=True)
            left = rng.integers(2 * padding, endpoint=True)
            window[:] = image[..., top : top + height, left : left + width, :]
        return cropped

    return _from_batch(apply)


def _from_batch(apply: Callable[[Iterable[np.random.Generator], np.ndarray], np.ndarray]) -> Augmentation:
    """A geometric augmentation of one image or clip, from its function for a batch."""

    def checked(rngs: Iterable[np.random.Generator], images: np.ndarray) -> np.ndarray:
        if images.ndim not in (4, 5):
            raise ValueError(
                f"flip and crop move pixels, and an example has the shape {list(images.shape[1:])}. Valid: pictures "
                "[H, W, C] and clips [F, H, W, C]."
            )
        return apply(rngs, images)

    def augment(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        return checked([rng], image[None])[0]

    augment.moves = True
    augment.of_batch = checked
    return augment


# The names that a config may use; a new augmentation is a factory like these and a line here.
AUGMENTATIONS = {"flip": flip, "crop": crop}
