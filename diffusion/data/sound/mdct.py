"""The modified discrete cosine transform of a clip: as many numbers as samples, orthonormal, with an exact inverse."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def sine_window(bins: int) -> np.ndarray:
    """The sine window of frames of 2 N samples, which overlap by half.

        w_n = sin(pi (n + 1/2) / (2 N)),   w_n^2 + w_(n + N)^2 = 1

    Args:
        bins: N, even.

    Returns:
        float64 `[2 N]`.

    Reference: Malvar, "Lapped Transforms for Efficient Transform/Subband Coding", 1990.
    """
    return np.sin(np.pi * (np.arange(2 * bins) + 0.5) / (2 * bins))


def kaiser_bessel_derived(bins: int, alpha: float = 4.0) -> np.ndarray:
    """The window that a Kaiser window k of N + 1 samples gives: narrower in frequency far from its centre.

        w_n^2 = (k_0 + .. + k_n) / (k_0 + .. + k_N),   n < N;   w_(2 N - 1 - n) = w_n

    Args:
        bins: N, even.
        alpha: the parameter of the Kaiser window, beta over pi; at least 0.

    Returns:
        float64 `[2 N]`.

    Reference: Fielder et al., "AC-2 and AC-3: Low-Complexity Transform-Based Audio Coding", 1996.
    """
    sums = np.cumsum(np.kaiser(bins + 1, np.pi * alpha))
    half = np.sqrt(sums[:-1] / sums[-1])
    return np.concatenate([half, half[::-1]])


def mdct(waveform: Any, window: np.ndarray) -> Any:
    """The MDCT of a clip, block by block.

        X_ik = sqrt(2 / N) sum_n w_n x_(i N - N / 2 + n) cos(pi / N (n + 1/2 + N / 2) (k + 1/2)),   n = 0 .. 2 N - 1

    The frames of neighbouring blocks overlap by N samples. Before the first block and after the last there is no
    neighbour: there the window ends at once, as if w were 1 inside and 0 outside. The transform of a whole clip is
    therefore an orthogonal matrix, and its inverse is its transpose.

    Args:
        waveform: the clip, `[..., L]`; N divides L.
        window: the window, `[2 N]`, N even, with w_n^2 + w_(n + N)^2 = 1 and w_(2 N - 1 - n) = w_n (Princen and
            Bradley).

    Returns:
        `[..., L / N, N]`: blocks, each of N coefficients from low to high frequency.

    Raises:
        ValueError: if N does not divide L, or the window does not meet the conditions.

    Reference: Princen and Bradley, "Analysis/Synthesis Filter Bank Design Based on Time Domain Aliasing Cancellation",
    1986; Malvar, "Lapped Transforms for Efficient Transform/Subband Coding", 1990.
    """
    bins, inside, outside, basis = _parts(window, waveform)
    if waveform.shape[-1] % bins or not waveform.shape[-1]:
        raise ValueError(
            f"{waveform.shape[-1]} samples are not a multiple of {bins}, the bins of a block. Valid: a multiple of "
            f"{bins}"
        )
    x = waveform.reshape(*waveform.shape[:-1], -1, bins)
    # At the boundary of two blocks, samples at equal distances are rotated; the cosine of the angle is w inside.
    before, after = x[..., :-1, : bins // 2 - 1 : -1], x[..., 1:, : bins // 2]
    turned = inside * before + outside * after, inside * after - outside * before
    with jax.default_matmul_precision("highest"):
        return _bounded(x, *turned) @ basis


def imdct(spectrum: Any, window: np.ndarray) -> Any:
    """The clip of an MDCT, the inverse of `mdct` up to rounding.

    Args:
        spectrum: the transform of a clip, `[..., F, N]`.
        window: the window of the transform, `[2 N]`.

    Returns:
        `[..., F N]`.

    Raises:
        ValueError: if the window is of another N, or does not meet the conditions.
    """
    bins, inside, outside, basis = _parts(window, spectrum)
    if spectrum.ndim < 2 or spectrum.shape[-1] != bins:
        raise ValueError(
            f"the spectrum has the shape {spectrum.shape}, which does not fit the window. Valid: [..., F, {bins}]"
        )
    with jax.default_matmul_precision("highest"):
        x = spectrum @ basis.T
    before, after = x[..., :-1, : bins // 2 - 1 : -1], x[..., 1:, : bins // 2]
    turned = inside * before - outside * after, inside * after + outside * before
    return _bounded(x, *turned).reshape(*spectrum.shape[:-2], -1)


def _bounded(x: Any, before: Any, after: Any) -> Any:
    """Blocks `[..., F, N]` with other halves beside the boundaries within the clip, `[..., F - 1, N / 2]`."""
    join = (jnp if isinstance(x, jax.Array) else np).concatenate
    half = x.shape[-1] // 2
    left = join([x[..., :1, :half], after], axis=-2)
    right = join([before[..., ::-1], x[..., -1:, half:]], axis=-2)
    return join([left, right], axis=-1)


def _parts(window: np.ndarray, of: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """(N, the window inside and outside of a boundary `[N / 2]`, the basis `[N, N]`), of the dtype of `of`."""
    window = np.asarray(window, np.float64)
    bins = len(window) // 2
    if window.shape != (2 * bins,) or bins % 2 or not bins:
        raise ValueError(f"the window has the shape {window.shape}. Valid: [2 N] with N even")
    halves = window[:bins], window[bins:]
    if np.abs(halves[0] ** 2 + halves[1] ** 2 - 1).max() > 1e-6 or np.abs(window - window[::-1]).max() > 1e-6:
        raise ValueError("the window must satisfy w_n^2 + w_(n + N)^2 = 1 and w_(2 N - 1 - n) = w_n")
    dtype = of.dtype if of.dtype.kind == "f" else np.float32
    inside, outside = window[bins // 2 : bins], window[: bins // 2][::-1]
    return bins, inside.astype(dtype), outside.astype(dtype), _basis(bins).astype(dtype)


@functools.cache
def _basis(bins: int) -> np.ndarray:
    """sqrt(2 / N) cos(pi / N (m + N + 1/2) (k + 1/2)), `[N, N]`: the cosines within one block, m its sample."""
    m, k = np.meshgrid(np.arange(bins), np.arange(bins), indexing="ij")
    return np.sqrt(2 / bins) * np.cos(np.pi / bins * (m + bins + 0.5) * (k + 0.5))
