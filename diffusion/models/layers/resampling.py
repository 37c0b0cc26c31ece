"""The resampling of the field's U-Nets: images of half and of twice the side, through a separable low-pass filter.

With the taps (1, 1) it is the mean of four pixels, and each pixel four times.

Reference: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, whose filters Song et al.
(2021) and EDM (Karras et al., 2022) use.
"""

import jax
import jax.numpy as jnp
import numpy as np


def halve(x: jax.Array, taps: tuple[int, ...] = (1, 1), padded: bool = True) -> jax.Array:
    """Filters and keeps every second pixel: [B, H, W, C] -> [B, H / 2, W / 2, C].

    Args:
        x: H and W even; with the taps (1, 1) of any number of axes.
        taps: taps of the filter along each axis, an even number of them; scaled to the sum 1.
        padded: whether to pad with zeros, len(taps) / 2 - 1 on each side; False for an image that has this border.

    Returns:
        Half the side, of the dtype of x; without the border if not `padded`.
    """
    if _flat(taps):  # much faster than a convolution channel by channel
        pairs = [part for side in x.shape[1:-1] for part in (side // 2, 2)]
        return x.reshape(x.shape[0], *pairs, x.shape[-1]).mean(tuple(range(2, 2 * x.ndim - 2, 2)))
    border = len(taps) // 2 - 1 if padded else 0
    return _convolve(x, _filter(taps), border, strides=(2, 2))


def double(x: jax.Array, taps: tuple[int, ...] = (1, 1)) -> jax.Array:
    """Puts zeros between the pixels and filters, times four: [B, H, W, C] -> [B, 2 H, 2 W, C].

    Args:
        x: any height and width; with the taps (1, 1) of any number of axes.
        taps: taps of the filter along each axis, an even number of them; scaled to the sum 1.

    Returns:
        Twice the side, of the dtype of x.
    """
    if _flat(taps):
        for axis in range(1, x.ndim - 1):
            x = x.repeat(2, axis=axis)
        return x
    return _convolve(x, 4 * _filter(taps)[::-1, ::-1], len(taps) // 2, lhs_dilation=(2, 2))


def check_taps(taps: tuple[int, ...]) -> None:
    """Refuses filters whose centre does not lie between two pixels.

    Raises:
        ValueError: for an odd number of taps, or a sum of 0.
    """
    if not taps or len(taps) % 2 or sum(taps) == 0:
        raise ValueError(f"taps={taps}: a filter must have an even number of taps whose sum is not 0, such as (1, 1)")


def _flat(taps: tuple[int, ...]) -> bool:
    return len(taps) == 2 and taps[0] == taps[1]


def _filter(taps: tuple[int, ...]) -> np.ndarray:
    line = np.asarray(taps, np.float64) / sum(taps)
    return np.outer(line, line)


def _convolve(x: jax.Array, kernel: np.ndarray, border: int, **how) -> jax.Array:
    """Each channel on its own."""
    channels = x.shape[-1]
    kernels = jnp.broadcast_to(jnp.asarray(kernel, x.dtype)[:, :, None, None], (*kernel.shape, 1, channels))
    return jax.lax.conv_general_dilated(
        x,
        kernels,
        how.pop("strides", (1, 1)),
        [(border, border)] * 2,
        feature_group_count=channels,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **how,
    )
