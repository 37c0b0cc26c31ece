"""PSNR and SSIM: the likeness of pictures to their originals, by pixels and by windows, as one number per picture.

Both functions take bytes, since published figures are computed from bytes; round a model's floats first.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.promotion import promoted

PEAK = 255.0  # the range of a byte
K1, K2 = 0.01, 0.03
WINDOW, DEVIATION = 11, 1.5


def psnr(pictures: Array, originals: Array) -> Array:
    """Peak signal-to-noise ratio in decibels.

        10 log10(255^2 / mean (x - y)^2),    the mean over pixels and channels

    For several pictures, papers usually report the mean of the decibels.

    Args:
        pictures: the pictures, uint8 [B, H, W, C].
        originals: the original pictures, uint8 [B, H, W, C].

    Returns:
        The decibels, float32 [B]; infinity for equal pictures.

    Raises:
        ValueError: if the arrays differ in shape, or are not uint8.
    """
    x, y = _floats(pictures, originals)
    return 20 * jnp.log10(PEAK) - 10 * jnp.log10(jnp.mean(jnp.square(x - y), axis=(1, 2, 3)))


def ssim(pictures: Array, originals: Array, window: int = WINDOW) -> Array:
    """Structural similarity.

        (2 mx my + (K1 L)^2) (2 sxy + (K2 L)^2) / ((mx^2 + my^2 + (K1 L)^2) (sx^2 + sy^2 + (K2 L)^2))

    is averaged over windows and channels. In each window of 11 x 11 pixels that lies completely within the picture, the
    means m, variances s^2 and covariances sxy are weighted by a Gaussian of standard deviation 1.5; L = 255, K1 = 0.01,
    K2 = 0.03. For grey pictures the authors' code gives the same value; here each channel counts as a grey picture.
    A smaller window, for smaller pictures, gives values that are not comparable. scikit-image agrees with
    gaussian_weights=True, sigma=1.5 and use_sample_covariance=False.

    Args:
        pictures: the pictures, uint8 [B, H, W, C], at least as high and wide as the window.
        originals: the original pictures, uint8 [B, H, W, C].
        window: side of a window in pixels, odd; 11 in published figures.

    Returns:
        The similarity, float32 [B] in [-1, 1]; 1 for equal pictures.

    Raises:
        ValueError: if the arrays differ in shape or are not uint8, the pictures are smaller than the window, or the
            window is not odd and positive.

    Reference: Wang, Bovik, Sheikh & Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", 2004, equation 13 and section III.C.
    """
    x, y = _floats(pictures, originals)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"ssim: window = {window} must be odd and positive")
    if min(x.shape[1:3]) < window:
        raise ValueError(f"ssim needs pictures of at least {window} x {window} pixels, got {x.shape[1]} x {x.shape[2]}")
    # The bytes are centred, since the variances are differences of squares, which lose digits if the squares are large.
    x = x - PEAK / 2
    y = y - PEAK / 2
    mx, my, xx, yy, xy = _windows(jnp.stack([x, y, x * x, y * y, x * y]), window)
    sx = xx - mx * mx
    sy = yy - my * my
    sxy = xy - mx * my
    mx = mx + PEAK / 2
    my = my + PEAK / 2
    c1 = (K1 * PEAK) ** 2
    c2 = (K2 * PEAK) ** 2
    similarity = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx * mx + my * my + c1) * (sx + sy + c2))
    return jnp.mean(similarity, axis=(1, 2, 3))


def _windows(x: Array, window: int) -> Array:
    """Gaussian means of every window: [K, B, H, W, C] -> [K, B, H - window + 1, W - window + 1, C]."""
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2 * DEVIATION**2))
    weights = jnp.asarray(weights / weights.sum(), x.dtype)
    for axis in (2, 3):  # a Gaussian in two dimensions is a product of two Gaussians
        size = x.shape[axis] - window + 1
        shifted = [weights[i] * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window)]
        x = functools.reduce(jnp.add, shifted)
    return x


def _floats(pictures: Array, originals: Array) -> tuple[Array, Array]:
    if pictures.shape != originals.shape or pictures.ndim != 4:
        raise ValueError(
            f"pictures and originals must have one shape [B, H, W, C]; got {pictures.shape} and {originals.shape}"
        )
    for array in (pictures, originals):
        if array.dtype != np.uint8:
            raise ValueError(f"pictures are compared as bytes. Valid: uint8 in 0..255; got {array.dtype}")
    kind = promoted(jnp.float32, jnp.result_type(float))
    return jnp.asarray(pictures, kind), jnp.asarray(originals, kind)
