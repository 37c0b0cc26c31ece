"""The resizes of published Frechet distances; the same images get another score by each.

Each but `pillow` is separable and linear, so that it is a matrix [out, in] for the rows and one for the columns:

    out[i, j] = sum_kl rows[i, k] columns[j, l] image[k, l]

To add one: a function (in, out) -> matrix, and a line in RESIZES.
"""

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from diffusion.models.layers import bicubic


def bilinear_tf1(size: int, to: int) -> np.ndarray:
    """TensorFlow 1's `resize_bilinear`: output i is at i size / to, without antialiasing, with a repeated last pixel.

    Pixels lie at their corners (align_corners=False, half_pixel_centers=False), so that the image moves by half a pixel
    towards the origin. It is inside the graph of 2015-12-05, and so in ADM's evaluator and TF-GAN; torch-fidelity and
    the networks of StyleGAN and EDM imitate it.

    Args:
        size: pixels of a side before.
        to: pixels after.

    Returns:
        float32 [to, size], rows of sum 1.
    """
    return _bilinear(np.arange(to) * (size / to), size)


def bilinear_torch(size: int, to: int) -> np.ndarray:
    """PyTorch's `interpolate(mode="bilinear", align_corners=False)`: output i is at (i + 1/2) size / to - 1/2.

    Pixels lie at their centres; there is no antialiasing, and beyond the border the first and last pixels are repeated.
    pytorch-fid resizes so.

    Args:
        size: pixels of a side before.
        to: pixels after.

    Returns:
        float32 [to, size], rows of sum 1.
    """
    return _bilinear(np.maximum((np.arange(to) + 0.5) * (size / to) - 0.5, 0), size)


def bicubic_pil(size: int, to: int) -> np.ndarray:
    """Pillow's bicubic `resize` of a float image: pixels at their centres, antialiased where the image shrinks.

    Output i is the sum of pixels k with weights c((k - x) / s), of sum 1, where x = (i + 1/2) size / to - 1/2,
    s = max(size / to, 1), and c is Keys' cubic of slope -1/2 on (-2, 2). clean-fid resizes so, channel by channel and
    without rounding.

    Args:
        size: pixels of a side before.
        to: pixels after.

    Returns:
        float32 [to, size], rows of sum 1.
    """
    return bicubic.antialiased(size, to)


def none(size: int, to: int) -> np.ndarray:
    """No resize: the images must have the target size.

    Args:
        size: pixels of a side before.
        to: pixels after.

    Returns:
        The identity, float32 [to, to].

    Raises:
        ValueError: if the sizes differ.
    """
    if size != to:
        raise ValueError(f"images have sides of {size} pixels. Without a resize, the side must be {to}")
    return np.eye(to, dtype=np.float32)


RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    "bilinear_tf1": bilinear_tf1,
    "bilinear_torch": bilinear_torch,
    "bicubic_pil": bicubic_pil,
    "none": none,
}


@functools.lru_cache(maxsize=32)
def _matrix(name: str, size: int, to: int) -> np.ndarray:
    return RESIZES[name](size, to)


def resize(images: np.ndarray, name: str, to: int) -> np.ndarray:
    """Resizes images to squares, in float32, without rounding or clipping.

    Args:
        images: the images, [B, H, W, C], any real dtype.
        name: the name of the resize, one of RESIZES.
        to: pixels of a side after.

    Returns:
        float32 [B, to, to, C]; bicubic overshoots the range of the images.

    Raises:
        KeyError: if there is no such resize.
        ValueError: if it does not take images of this size.
    """
    batch, height, width, channels = images.shape
    rows = _matrix(name, height, to)
    columns = _matrix(name, width, to)
    wide = np.asarray(images, np.float32).transpose(0, 1, 3, 2).reshape(-1, width) @ columns.T
    wide = wide.reshape(batch, height, channels * to)
    return np.matmul(rows, wide).reshape(batch, to, channels, to).transpose(0, 1, 3, 2)


def pillow(images: np.ndarray, to: int) -> np.ndarray:
    """Pillow's bicubic `resize` of bytes to squares, as torchvision's Resize applies it to a picture: rounded twice.

    Args:
        images: uint8 [B, H, W, 3].
        to: pixels of a side after.

    Returns:
        uint8 [B, to, to, 3].
    """
    resized = (Image.fromarray(image).resize((to, to), Image.Resampling.BICUBIC) for image in images)
    return np.stack([np.asarray(image) for image in resized])


def _bilinear(position: np.ndarray, size: int) -> np.ndarray:
    """Weights of the two pixels around each position; at the border both are the same pixel."""
    low = np.minimum(np.floor(position).astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = (position - low).astype(np.float32)
    matrix = np.zeros((len(position), size), np.float32)
    out = np.arange(len(position))
    np.add.at(matrix, (out, low), 1 - share)
    np.add.at(matrix, (out, high), share)
    return matrix
