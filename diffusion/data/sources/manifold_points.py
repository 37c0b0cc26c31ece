"""Points of exact mixtures on manifolds, drawn when the source is opened, with their density."""

import math

import jax
import numpy as np

from diffusion.data.sources.sequences import SEEDS, Records, Rows, check_made
from diffusion.manifolds import heat_kernels, mixtures
from diffusion.manifolds.distributions import Distribution

LOBES = (  # the components of `sphere_mixture`: mean, concentration, weight
    ((0.0, 0.0, 1.0), 40.0, 0.3),
    ((0.8, 0.6, 0.0), 15.0, 0.4),
    ((-0.6, 0.0, -0.8), 80.0, 0.2),
    ((-0.48, 0.64, 0.6), 25.0, 0.1),
)
BASINS = (  # the components of `torsion_mixture`: phi and psi in degrees, standard deviation in degrees, weight
    ((-63.0, -42.0), 12.0, 0.45),  # right-handed helix
    ((-120.0, 130.0), 20.0, 0.30),  # strand
    ((-70.0, 150.0), 15.0, 0.20),  # polyproline II
    ((57.0, 45.0), 12.0, 0.05),  # left-handed helix
)
TURNS = (  # the components of `rotation_mixture`: rotation vector, variance, weight
    ((0.0, 0.0, 0.0), 0.05, 0.4),
    ((0.0, 2.0, 0.0), 0.1, 0.35),
    ((2.0, -1.0, 1.5), 0.03, 0.25),
)


class ManifoldPoints(Rows):
    """Records {"x": float32 `[*shape]`} that are drawn independently from a distribution of points of this shape."""

    def __init__(self, distribution: Distribution, split: str, number: int):
        check_made("these points", split, number)
        keys = jax.random.split(jax.random.key(SEEDS[split]), number)
        self.x = np.asarray(jax.jit(distribution.sample)(keys), np.float32)


class ExactRecords(Records):
    """Records of points, together with the distribution from which they are drawn.

    Attributes:
        distribution: the distribution, with its exact density.
    """

    def __init__(self, distribution: Distribution, split: str, number: int):
        super().__init__(ManifoldPoints(distribution, split, number), 0, split)
        self.distribution = distribution


def sphere_mixture(split: str = "train", *, number: int = 20_000) -> Records:
    """A mixture of four von Mises-Fisher distributions on the sphere S^2.

    Args:
        split: "train" or "test".
        number: how many points to draw, at least 1.

    Returns:
        Records {"x": float32 `[3]`} of unit vectors, with the exact `distribution`.

    Raises:
        ValueError: for another split, or a number out of range.
    """
    lobes = [mixtures.von_mises_fisher(np.array(mean, np.float32), concentration) for mean, concentration, _ in LOBES]
    return ExactRecords(mixtures.mixture(lobes, [weight for *_, weight in LOBES]), split, number)


def torsion_mixture(split: str = "train", *, number: int = 20_000) -> Records:
    """Simulated torsions (phi, psi) of a peptide on the torus: wrapped normals in the basins of a Ramachandran plot.

    Centres and widths are rounded textbook values of an alanine; they come from no measured structure.

    Args:
        split: "train" or "test".
        number: how many points to draw, at least 1.

    Returns:
        Records {"x": float32 `[2]`} of the angles (phi, psi) in radians, with the exact `distribution`.

    Raises:
        ValueError: for another split, or a number out of range.
    """
    kernel = heat_kernels.torus(2)
    basins = [mixtures.diffused(kernel, np.radians(mean), math.radians(std) ** 2) for mean, std, _ in BASINS]
    return ExactRecords(mixtures.mixture(basins, [weight for *_, weight in BASINS]), split, number)


def rotation_mixture(split: str = "train", *, number: int = 20_000) -> Records:
    """A mixture of three IGSO(3) distributions of rotations.

    Args:
        split: "train" or "test".
        number: how many rotations to draw, at least 1.

    Returns:
        Records {"x": float32 `[3, 3]`} of rotation matrices, with the exact `distribution`.

    Raises:
        ValueError: for another split, or a number out of range.
    """
    from scipy.spatial.transform import Rotation  # imported here: it takes long

    kernel = heat_kernels.so3()
    turns = [mixtures.diffused(kernel, Rotation.from_rotvec(mean).as_matrix(), v) for mean, v, _ in TURNS]
    return ExactRecords(mixtures.mixture(turns, [weight for *_, weight in TURNS]), split, number)
