"""DW-4: four particles in the plane with a double well between each pair, and the normaliser of its density."""

import functools
import itertools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from diffusion.objectives.unnormalised_targets import Target

PAIRS = tuple(zip(*itertools.combinations(range(4), 2)))


def well(d):
    """The energy of two particles at the distance d, 0.9 (d - 4)^4 - 4 (d - 4)^2, lowest at 2.5 and 5.5."""
    return 0.9 * (d - 4) ** 4 - 4 * (d - 4) ** 2


def dw4() -> Target:
    """DW-4: four particles x_1, ..., x_4 in the plane, with a double well between each pair.

        log gamma = -|2 m|^2 / 2 - sum over pairs of 0.9 (d - 4)^4 - 4 (d - 4)^2,    d = |x_i - x_j|

    m is the mean of the particles. The published energy does not depend on m, so that its density has no finite
    integral. Here the coordinates 2 m are standard normal, and x - m has the published distribution. A sample holds the
    numbers (x_1, y_1, x_2, y_2, ...). The log-normaliser is `log_integral(well)`.

    Facts:
        paper: Koehler et al. 2020, "Equivariant Flows: Exact Likelihood Generative Learning for Symmetric Densities",
            section 5; Akhound-Sadegh et al. 2024, "Iterated Denoising Energy Matching for Sampling from Boltzmann
            Densities", appendix
    """

    def log_density(x):
        particles = x.reshape(-1, 4, 2)
        first, second = (particles[:, which] for which in PAIRS)
        d = jnp.sqrt(jnp.sum((first - second) ** 2, -1) + 1e-12)  # 1e-12 keeps the gradient finite at d = 0
        return -2 * jnp.sum(particles.mean(1) ** 2, -1) - jnp.sum(well(d), -1)

    return Target(log_density, (8,), log_integral(well))


@functools.cache
def log_integral(energy: Callable[[np.ndarray], np.ndarray], points: int = 100, distances: int = 64) -> float:
    """The logarithm of the integral of exp(-|2 m|^2 / 2 - sum over pairs of energy(d)) over four particles.

        2 pi / 4 * integral over d of 2 pi d e(d) * integrals over p and q of g(p) e(|p - q|) g(q),
        e = exp(-energy),    g(p) = e(|p - u|) e(|p + u|),    u = (d / 2, 0)

    After a rotation, two particles are at -u and u; p and q are the positions of the others. The integrals over p and q
    are a convolution on a grid, and the integral over d is a Gauss-Legendre sum. Both converge exponentially for a
    smooth density. The result for DW-4 is 31.505109300, with 9 correct digits at the default numbers.

    Args:
        energy: distances -> energies, so large beyond a distance of 8 that the density is negligible there.
        points: number of points of each axis of the grid.
        distances: number of distances d.
    """
    reach = 8.0
    step = 2 * reach / points
    weight = lambda x, y: np.exp(-energy(np.hypot(x, y)))
    axis = step * (np.arange(points) - (points - 1) / 2)
    shift = step * np.fft.fftfreq(2 * points, 1 / (2 * points))
    kernel = np.fft.rfft2(weight(shift[:, None], shift))
    total = 0.0
    for node, share in zip(*np.polynomial.legendre.leggauss(distances)):
        d = reach / 2 * (node + 1)
        near = weight(axis[:, None] - d / 2, axis) * weight(axis[:, None] + d / 2, axis)
        blurred = np.fft.irfft2(np.fft.rfft2(near, kernel.shape[:1] * 2) * kernel, kernel.shape[:1] * 2)
        third_and_fourth = step**4 * np.sum(near * blurred[:points, :points])
        total += reach / 2 * share * 2 * math.pi * d * weight(d, 0) * third_and_fourth
    return math.log(2 * math.pi / 4 * total)
