"""Tree-Ring: rings in the Fourier transform of the initial noise."""

import functools

import jax.numpy as jnp
import numpy as np
import scipy  # imports its submodules on their first use
from jax import Array

from diffusion.sampling.watermarks import keyed
from diffusion.sampling.watermarks.watermark import Reading, Watermark, check_finite, check_whole


def tree_ring(key: str, radius: float = 10 / 64, channel: int = -1) -> Watermark:
    """Sets the spectrum of one noise channel to a constant on each ring around frequency 0, up to a radius.

        F(z)_k <- g_r,    r = max(1, ceil |k|) <= radius * the shorter side,    g_r ~ N(0, 1) by the key

    F is unitary. The authors' rings are complex, and they take the real part of the inverse transform, which leaves the
    mean of g_r and its conjugate. Here g_r is real, so the noise is real and its spectrum is exactly g. The noise no
    longer follows N(0, 1): all pictures of a key have the same low frequencies.

    The score r is the cosine between the read spectrum and g, over the n independent real and imaginary parts. For
    white noise of any scale, sqrt((n - 1) / (1 - r^2)) r exactly follows Student's t distribution with n - 1 degrees of
    freedom, which gives the p-value. (The paper's non-central chi-squared test assumes a known variance.) Noise that is
    inverted from a picture is not exactly white; measure the rate of false positives with `diffusion watermark
    measure`.

    Facts:
        paper: Wen et al. 2023, "Tree-Ring Watermarks: Fingerprints for Diffusion Images that are Invisible and Robust",
            section 3; there the radius is 10 of 64, and the channel is the last of four

    Args:
        key: 64 hexadecimal digits.
        radius: radius of the largest ring, as a share of the shorter side, in (0, 0.5].
        channel: index of the noise channel with the watermark, int; negative values count from the end.

    Raises:
        ValueError: if radius is out of range, or channel is not an integer; from `embed` and `read`, if the noise is
            not `[B, h, w, C]`, lacks the channel, or is too small for a ring; from `read`, if the noise is not finite.
    """
    if not 0 < radius <= 0.5:
        raise ValueError(f"tree_ring: radius = {radius} must be in (0, 0.5], a share of the shorter side")
    check_whole("tree_ring", -4096, 4095, channel=channel)
    keyed.secret(key)

    @functools.lru_cache(4)
    def rings(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(whether each frequency lies on a ring, bool `[h, w]`; the values of the rings), in the order of `fft2`."""
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
        ringed = jnp.fft.ifft2(jnp.where(mask, values.astype(spectrum.dtype), spectrum), norm="ortho").real
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

    The values at k and -k are conjugates: one of the two is used, with its parts multiplied by sqrt(2). The value at a
    frequency that equals its own negative is real.
    """
    height, width = mask.shape
    index = np.arange(height * width).reshape(height, width)
    negative = np.roll(index[::-1, ::-1], 1, (0, 1))  # the index of -k for each k
    self_conjugate = mask & (index == negative)
    first = mask & (index < negative)
    pairs = np.sqrt(2) * spectrum[:, first]
    return np.concatenate([np.real(spectrum[:, self_conjugate]), np.real(pairs), np.imag(pairs)], axis=1)
