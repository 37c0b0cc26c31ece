"""Tree-Ring: rings in the Fourier transform of the initial noise."""

import functools

import jax.numpy as jnp
import numpy as np
import scipy  # reads its parts where they are first used
from jax import Array

from diffusion.sampling.watermarks import keyed
from diffusion.sampling.watermarks.watermark import Reading, Watermark, check_finite, check_whole


def tree_ring(key: str, radius: float = 10 / 64, channel: int = -1) -> Watermark:
    """The spectrum of one channel of the noise has the same value on each ring around frequency 0, up to a radius.

        F(z)_k <- g_r,    r = max(1, ceil |k|) <= radius * the shorter side,    g_r ~ N(0, 1) by the key

    F is unitary. The authors' rings are complex and the real part of the inverse transform is taken, which leaves the
    mean of g_r and its conjugate; here g_r is real, so that the noise is real and its spectrum exactly g. The noise is
    no longer N(0, 1): all pictures of a key have the same low frequencies.

    The score is the cosine between the spectrum that is read and g, over its independent real and imaginary parts, n
    numbers. For white noise of any scale, sqrt((n - 1) / (1 - r^2)) r has Student's distribution of n - 1 degrees of
    freedom exactly, which is the p-value. (The paper's non-central chi-squared takes the variance as known.) Noise
    that was inverted from a picture is not quite white: measure the rate of false positives (`diffusion watermark
    measure`).

    Facts:
        paper: Wen et al. 2023, "Tree-Ring Watermarks: Fingerprints for Diffusion Images that are Invisible and Robust",
            section 3; the radius is 10 of 64 in theirs, the channel the last one of four

    Args:
        key: 64 hexadecimal digits.
        radius: the radius of the largest ring, as a share of the shorter side, in (0, 0.5].
        channel: the number of the noise's channel that holds it.

    Raises:
        ValueError: if the radius is out of range, or the channel no whole number; from `embed` and `read`, for noise
            that is not `[B, h, w, C]`, has no such channel, or is so small that one ring has no two numbers; from
            `read`, for noise that is not finite.
    """
    if not 0 < radius <= 0.5:
        raise ValueError(f"tree_ring: radius = {radius} must be in (0, 0.5], a share of the shorter side")
    check_whole("tree_ring", -4096, 4095, channel=channel)
    keyed.secret(key)

    @functools.lru_cache(4)
    def rings(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(which frequencies have a ring, Bool `[h, w]`; their values), in the order of `fft2`."""
        rows = np.fft.fftfreq(height, 1 / height)[:, None]
        columns = np.fft.fftfreq(width, 1 / width)
        distance = np.maximum(np.ceil(np.hypot(rows, columns)), 1).astype(int)
        last = int(radius * min(height, width))
        values = keyed.normals(key, "rings", max(last, 1) + 1)
        return distance <= last, values[np.minimum(distance, last)]

    def checked(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        if len(shape) != 4 or not -shape[-1] <= channel < shape[-1]:
            raise ValueError(
                f"tree_ring: noise of shape {list(shape)} has no channel = {channel}. Valid: noise [B, h, w, C], and "
                "a channel below C"
            )
        mask, values = rings(*shape[1:3])
        if mask.sum() < 5:
            raise ValueError(
                f"tree_ring: radius = {radius} leaves no ring in {shape[1]} x {shape[2]} values. Valid: at least "
                f"{1 / min(shape[1:3]):.3g}"
            )
        return mask, values

    def embed(noise: Array, keys: Array) -> Array:
        mask, values = checked(noise.shape)
        spectrum = jnp.fft.fft2(noise[..., channel], norm="ortho")
        ringed = jnp.fft.ifft2(jnp.where(mask, values.astype(noise.dtype), spectrum), norm="ortho").real
        return noise.at[..., channel].set(ringed.astype(noise.dtype))

    def read(noise: np.ndarray) -> Reading:
        check_finite("tree_ring", noise)
        noise = np.asarray(noise, np.float64)
        mask, values = checked(noise.shape)
        read = _independent(np.fft.fft2(noise[..., channel], norm="ortho"), mask)
        target = _independent(values[None].astype(complex), mask)[0]
        length = np.linalg.norm(read, axis=1) * np.linalg.norm(target)
        cosine = read @ target / np.maximum(length, 1e-300)
        rest = np.maximum(1 - cosine**2, 1e-300)
        free = target.size - 1
        return Reading(cosine, scipy.special.stdtr(free, -cosine * np.sqrt(free / rest)))

    return Watermark("noise", embed, read)


def _independent(spectrum: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked spectrum of a real picture as `[B, n]` numbers that are independent N(0, 1) for white noise.

    k and -k are conjugates: one of the two is taken, its parts times sqrt(2); a frequency that is its own negative is
    real.
    """
    height, width = mask.shape
    index = np.arange(height * width).reshape(height, width)
    negative = np.roll(index[::-1, ::-1], 1, (0, 1))  # the place of -k for each k
    self_conjugate = mask & (index == negative)
    first = mask & (index < negative)
    pairs = np.sqrt(2) * spectrum[:, first]
    return np.concatenate([np.real(spectrum[:, self_conjugate]), np.real(pairs), np.imag(pairs)], axis=1)
