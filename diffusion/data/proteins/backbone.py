"""Backbones of proteins: the atoms N, CA, C and O of each residue, the residue's frame, and its torsions.

Atoms are in Angstrom, `[..., n, 3, 3]` for N, CA, C. Frames are `[..., n, 3, 4]`, as in `manifolds.frames`: three
columns for the rotation, and one for the position of CA, which is in nanometres, the usual scale for networks of
proteins. Torsions are in radians.

Bond lengths and angles are fixed to the values of Engh and Huber 1991, "Accurate bond and angle parameters for X-ray
protein structure refinement", so that frames, or torsions, determine a backbone.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

ATOMS = ("N", "CA", "C", "O")
ANGSTROM = 0.1  # in nanometres, the unit of frames
N_CA, CA_C, C_N, C_O = 1.458, 1.525, 1.329, 1.231  # Angstrom
N_CA_C, CA_C_N, C_N_CA, CA_C_O = (math.radians(angle) for angle in (111.2, 116.2, 121.7, 120.8))
CA_CA = 3.80  # Angstrom, of neighbours with a trans peptide bond
CLASH = 3.6574  # Angstrom: CA that are closer, and not neighbours, clash, as in benchmarks that follow arXiv:2409.06744
IDEAL = np.array([[N_CA * math.cos(N_CA_C), N_CA * math.sin(N_CA_C), 0], [0, 0, 0], [CA_C, 0, 0]])  # N, CA, C
LEAST = 0.1  # Angstrom between N and the line through CA and C; if it is less, the three atoms span no plane


def frames_of(atoms: ArrayLike) -> Array:
    """The frames of residues by Gram-Schmidt: the origin at CA, the axis x to C, and N in the plane of x and y.

        e_1 = (C - CA) / |C - CA|,    e_2 = u / |u|,  u = N - CA - e_1 (e_1 . (N - CA)),    e_3 = e_1 x e_2

    Jumper et al. 2021, "Highly accurate protein structure prediction with AlphaFold", supplementary algorithm 21.

    Args:
        atoms: positions of N, CA, C in Angstrom, `[..., n, 3, 3]`.

    Returns:
        The frames, `[..., n, 3, 4]`.

    Raises:
        ValueError: for another shape; outside of `jit` also for a residue whose atoms are missing (not finite) or lie
            on one line. The message has the residue's number, from 1.
    """
    atoms = jnp.asarray(atoms)
    if atoms.ndim < 3 or atoms.shape[-2:] != (3, 3):
        raise ValueError(f"atoms must have the shape [..., n, 3, 3], for N, CA and C; got {list(atoms.shape)}")
    n, ca, c = (atoms[..., i, :] for i in range(3))
    e_1 = _unit(c - ca)
    across = n - ca - e_1 * jnp.sum(e_1 * (n - ca), -1, keepdims=True)
    if not isinstance(across, Tracer):
        size = np.linalg.norm(np.asarray(across), axis=-1)
        if not np.all(size > LEAST):
            at = np.argwhere(~(size > LEAST))[0]
            raise ValueError(
                f"residue {int(at[-1]) + 1} has no frame, because its N, CA and C must exist and span a plane; got "
                f"{np.round(np.asarray(atoms[tuple(at)]), 3).tolist()}"
            )
    e_2 = _unit(across)
    return jnp.stack([e_1, e_2, jnp.cross(e_1, e_2), ANGSTROM * ca], -1)


def atoms_of(frames: ArrayLike) -> Array:
    """The atoms N, CA, C of frames, with ideal bonds within each residue: the inverse of `frames_of` on such atoms.

    Args:
        frames: frames of the residues, `[..., n, 3, 4]`.

    Returns:
        The positions in Angstrom, `[..., n, 3, 3]`.
    """
    frames = jnp.asarray(frames)
    ideal = jnp.asarray(IDEAL, frames.dtype)
    turned = jnp.einsum("...ij,aj->...ai", frames[..., :3], ideal, precision=jax.lax.Precision.HIGHEST)
    return turned + frames[..., None, :, 3] / ANGSTROM


def with_oxygen(atoms: ArrayLike) -> Array:
    """The atoms N, CA, C, O: each O lies in the plane of its peptide bond, opposite to the next residue's N.

    The torsion of O about the bond CA-C is psi + pi. The last residue has no next one, so it takes the psi of the
    residue before.

    Args:
        atoms: positions of N, CA, C in Angstrom, `[..., n, 3, 3]`, n >= 2.

    Returns:
        The positions in Angstrom, `[..., n, 4, 3]`.

    Raises:
        ValueError: for a chain of one residue.
    """
    atoms = jnp.asarray(atoms)
    if atoms.shape[-3] < 2:
        raise ValueError("the oxygen of a residue is placed from the next residue, so a chain needs at least two")
    n, ca, c = (atoms[..., i, :] for i in range(3))
    psi = dihedral(n[..., :-1, :], ca[..., :-1, :], c[..., :-1, :], n[..., 1:, :])
    psi = jnp.concatenate([psi, psi[..., -1:]], -1)
    o = placed(n, ca, c, C_O, CA_C_O, psi + math.pi)
    return jnp.concatenate([atoms, o[..., None, :]], -2)


def from_torsions(torsions: ArrayLike) -> Array:
    """The atoms N, CA, C of a chain with ideal bonds, placed one after the other.

    Parsons et al. 2005, "Practical conversion from torsion space to Cartesian space for in silico protein synthesis".

    Args:
        torsions: phi, psi, omega of each residue in radians, `[n, 3]`; omega turns about the bond to the next residue.
            The first phi and the last psi and omega have no effect.

    Returns:
        The positions in Angstrom, `[n, 3, 3]`, in the frame of the first residue: CA at 0, C on the x axis.
    """
    torsions = jnp.asarray(torsions)
    start = jnp.asarray(IDEAL, torsions.dtype)

    def step(residue, angles):
        psi, omega, phi = angles
        n, ca, c = residue
        n_1 = placed(n, ca, c, C_N, CA_C_N, psi)
        ca_1 = placed(ca, c, n_1, N_CA, C_N_CA, omega)
        c_1 = placed(c, n_1, ca_1, CA_C, N_CA_C, phi)
        residue = jnp.stack([n_1, ca_1, c_1])
        return residue, residue

    _, rest = jax.lax.scan(step, start, (torsions[:-1, 1], torsions[:-1, 2], torsions[1:, 0]))
    return jnp.concatenate([start[None], rest])


def torsions_of(atoms: ArrayLike) -> Array:
    """phi, psi, omega of each residue, `[..., n, 3]` in (-pi, pi]; NaN for the first phi and the last psi and omega.

    Args:
        atoms: positions of N, CA, C, `[..., n, 3, 3]`.
    """
    atoms = jnp.asarray(atoms)
    n, ca, c = (atoms[..., i, :] for i in range(3))
    before, after = (lambda a: a[..., :-1, :]), (lambda a: a[..., 1:, :])
    phi = dihedral(before(c), after(n), after(ca), after(c))
    psi = dihedral(before(n), before(ca), before(c), after(n))
    omega = dihedral(before(ca), before(c), after(n), after(ca))
    none = jnp.full((*phi.shape[:-1], 1), jnp.nan, phi.dtype)
    ends = lambda a: jnp.concatenate([a, none], -1)
    return jnp.stack([jnp.concatenate([none, phi], -1), ends(psi), ends(omega)], -1)


def clashes(ca: ArrayLike, least: float = CLASH) -> Array:
    """The number of pairs of CA that are closer than a distance, without neighbours in the chain, int `[...]`.

    Args:
        ca: positions of CA in Angstrom, `[..., n, 3]`.
        least: the least distance in Angstrom of a pair that does not clash.
    """
    ca = jnp.asarray(ca)
    squared = jnp.sum((ca[..., :, None, :] - ca[..., None, :, :]) ** 2, -1)
    apart = np.triu(np.ones((ca.shape[-2],) * 2, bool), 2)
    return jnp.sum((squared < least**2) & apart, (-2, -1))


def dihedral(a: Array | np.ndarray, b: Array | np.ndarray, c: Array | np.ndarray, d: Array | np.ndarray) -> Array:
    """The angle in radians of the bonds a-b and c-d about the axis b-c, `[...]` in (-pi, pi]: 0 for cis.

    Seen from b to c, the angle is positive if d lies clockwise from a: IUPAC-IUB 1970, "Abbreviations and symbols for
    the description of the conformation of polypeptide chains".

    Args:
        a, b, c, d: positions of four atoms, `[..., 3]` each.
    """
    axis = _unit(c - b)
    left, right = jnp.cross(b - a, axis), jnp.cross(axis, d - c)
    return jnp.arctan2(jnp.sum(jnp.cross(left, right) * axis, -1), jnp.sum(left * right, -1))


def placed(a: Array, b: Array, c: Array, length: float, angle: float, torsion: ArrayLike) -> Array:
    """The position d of an atom, `[..., 3]`, from three others, the bond c-d, the angle b-c-d and the dihedral a-b-c-d.

    Args:
        a, b, c: positions of the other atoms, `[..., 3]` each.
        length: the length of the bond c-d, in the unit of the positions.
        angle: the angle b-c-d, in radians.
        torsion: the dihedral a-b-c-d, `[...]` in radians.
    """
    along = _unit(c - b)
    normal = _unit(jnp.cross(b - a, along))
    torsion = jnp.asarray(torsion)[..., None]
    side = jnp.cos(torsion) * jnp.cross(normal, along) + jnp.sin(torsion) * normal
    return c + length * (math.sin(angle) * side - math.cos(angle) * along)


def _unit(v: Array | np.ndarray) -> Array:
    v = jnp.asarray(v)
    return v / jnp.sqrt(jnp.sum(v * v, -1, keepdims=True))
