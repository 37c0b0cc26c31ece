"""Canvases larger than the network's pictures, by overlapping windows."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import belonging_to, process_of


def windows(denoise: Denoiser, size: Sequence[int], stride: Sequence[int]) -> Denoiser:
    """MultiDiffusion: the prediction at each position is the mean over the windows that contain it.

        x0[p] = sum_w x0_w[p] / #{w : p in w},    and eps in the same way

    The mean is the least-squares fit to the predictions of all windows. (The paper averages the samples after a step,
    which is equivalent for steps that are linear in the prediction.) The windows start at multiples of the stride, and
    the last window ends at the canvas's edge, so that every value is in at least one window. The compiled program
    contains the network once, for any number of windows.

    Facts:
        nfe: the number of windows, which are evaluated one after the other
        neutral: one window of the canvas's size, the denoiser exactly
        paper: Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", eq. 5

    Args:
        denoise: denoiser of windows `[B, *size, ...]`.
        size: size of a window along the first axes of x after the batch axis: (h, w) for images, (n,) for sequences.
        stride: distance from one window to the next along each of these axes, from 1 to the window's size there.

    Returns:
        A denoiser of canvases `[B, H, W, ...]`, H >= h, W >= w. Its t is `[]`, `[B]`, or `[B, H]` with a time for each
        index of the first axis, such as the frames of a video.

    Raises:
        ValueError: if a stride is out of range; when called, if a window is larger than the canvas or t has a wrong
            shape.
    """
    size = tuple(size)
    stride = tuple(stride)
    if len(size) != len(stride) or not all(1 <= step <= side for step, side in zip(stride, size, strict=True)):
        raise ValueError(
            f"windows: stride = {stride} must have a number in [1, size] for each axis of size = {size}; otherwise "
            "some values of the canvas would lie in no window"
        )

    process, denoise = process_of(denoise), checked(denoise)

    def guided(x_t, t):
        canvas = x_t.shape[1 : 1 + len(size)]
        if len(canvas) < len(size) or any(side > length for side, length in zip(size, canvas, strict=True)):
            raise ValueError(f"windows of size {size} do not fit a canvas of shape {x_t.shape}")
        if jnp.shape(t) not in ((), x_t.shape[:1], x_t.shape[:2]):
            raise ValueError(
                "windows take one time for all, one for each example, or one for each position along the first axis "
                f"of a canvas {x_t.shape}; got t of shape {jnp.shape(t)}"
            )
        times = lambda start: t if jnp.ndim(t) < 2 else jax.lax.dynamic_slice_in_dim(t, start[0], size[0], axis=1)
        starts = _starts(canvas, size, stride)
        if len(starts) == 1:
            return denoise(x_t, t)
        count = np.zeros(canvas, np.float32)
        for start in starts:
            count[tuple(slice(a, a + side) for a, side in zip(start, size, strict=True))] += 1
        rest = x_t.ndim - 1 - len(size)
        corner = lambda start: [jnp.zeros_like(start[0]), *start, *[jnp.zeros_like(start[0])] * rest]

        def add(sums, place):
            start = corner(place)
            window = jax.lax.dynamic_slice(x_t, start, (x_t.shape[0], *size, *x_t.shape[1 + len(size) :]))
            put = lambda total, part: jax.lax.dynamic_update_slice(
                total, jax.lax.dynamic_slice(total, start, part.shape) + part, start
            )
            return jax.tree.map(put, sums, denoise(window, times(place))), None

        like = jax.eval_shape(denoise, x_t[(slice(None), *(slice(side) for side in size))], times(np.zeros(1, int)))
        empty = jax.tree.map(lambda part: jnp.zeros(x_t.shape, part.dtype), like)
        sums, _ = jax.lax.scan(add, empty, jnp.asarray(starts))
        return jax.tree.map(lambda total: total / count.reshape((*canvas, *[1] * rest)).astype(total.dtype), sums)

    return belonging_to(process, guided)


def _starts(canvas, size, stride):
    """The first corners of all W windows, int32 `[W, axes]`."""
    axes = [
        np.unique(np.append(np.arange(0, length - side + 1, step), length - side))
        for length, side, step in zip(canvas, size, stride, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(size)).astype(np.int32)
