"""Measurements of pictures: five operators for pictures of 8 x 8 pixels in [-1, 1], and the noise of each."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.guidance import measurements
from diffusion.guidance.measurements import Measurement

SHAPE = (8, 8, 1)


class Task(NamedTuple):
    """A measurement y = A(x_0) + sigma_y n.

    Attributes:
        forward: operator A: x `[B, ...]` -> `[B, ...]`.
        noise_std: standard deviation sigma_y of the noise.
        linear: the operator with its inverse; None where it is not linear.
    """

    forward: Callable[[Array], Array]
    noise_std: float
    linear: Measurement | None


def magnitudes(x: Array) -> Array:
    """The magnitudes of the Fourier transform of pictures `[B, H, W, C]`, padded to twice their sides."""
    spectrum = jnp.fft.rfft2(x, s=(2 * x.shape[1], 2 * x.shape[2]), axes=(1, 2), norm="ortho")
    return jnp.sqrt(jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2 + 1e-8)  # with a derivative at 0


def linear(measurement: Measurement, noise_std: float) -> Task:
    """The task of a linear measurement."""
    return Task(measurement.forward, noise_std, measurement)


def tasks() -> dict[str, Task]:
    """The tasks by name."""
    dense = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32) / 8
    return {
        "inpainting": linear(measurements.masked(jnp.asarray(measurements.box(SHAPE, (2, 2), (4, 4)))), 0.05),
        "super-resolution": linear(measurements.pooled(2), 0.05),
        "deblurring": linear(measurements.blurred(1.0), 0.05),
        "compressed sensing": linear(measurements.matrix(dense), 0.05),
        "phase retrieval": Task(magnitudes, 0.05, None),
    }
