"""Measures of protein backbones: bonds and angles between residues, breaks, clashes, secondary structure, novelty.

All functions take NumPy arrays of positions in Angstrom, of CA or of N, CA and C. They do not depend on how a chain was
made.
"""

import itertools

import numpy as np

from diffusion.data.proteins import backbone

BREAK = 2.5  # Angstrom: a longer C-N bond is a break of the chain, as in DSSP (Kabsch and Sander 1983)
HELIX, STRAND = 1, 2
# (centre, half width) by Labesse et al. 1997: the distances d2, d3, d4 of CA i - 1 to i + 1, i + 2, i + 3, the angle at
# i, and the dihedral about the axis from i to i + 1; Angstrom and degrees.
RANGES = {
    HELIX: {"d3": (5.3, 0.5), "d4": (6.4, 0.6), "angle": (89, 12), "dihedral": (50, 20)},
    STRAND: {"d2": (6.7, 0.6), "d3": (9.9, 0.9), "d4": (12.4, 1.1), "angle": (124, 14), "dihedral": (-170, 45)},
}
DISTANCES = {HELIX: ("d3", "d4"), STRAND: ("d2", "d3", "d4")}
SHORTEST = {HELIX: 5, STRAND: 3}  # the least number of residues of a helix or a strand
BOXES = {HELIX: ((-100, -30), (-80, -5)), STRAND: ((-180, -50), (90, 195))}  # degrees of phi, psi; -165 <= psi < 195


def between_residues(atoms: np.ndarray) -> dict[str, np.ndarray]:
    """The geometry between neighbouring residues.

    Args:
        atoms: the positions of N, CA and C, `[..., n, 3, 3]`.

    Returns:
        The lengths "C-N" and "CA-CA" in Angstrom and the angles "CA-C-N" and "C-N-CA" in degrees, `[..., n - 1]` each.
    """
    n, ca, c = (np.asarray(atoms, np.float64)[..., i, :] for i in range(3))
    ca_0, c_0, n_1, ca_1 = ca[..., :-1, :], c[..., :-1, :], n[..., 1:, :], ca[..., 1:, :]
    return {
        "C-N": np.linalg.norm(n_1 - c_0, axis=-1),
        "CA-CA": np.linalg.norm(ca_1 - ca_0, axis=-1),
        "CA-C-N": _angle(ca_0, c_0, n_1),
        "C-N-CA": _angle(c_0, n_1, ca_1),
    }


def radius_of_gyration(ca: np.ndarray) -> np.ndarray:
    """The root of the mean squared distance of CA `[..., n, 3]` from their centre, `[...]`."""
    ca = np.asarray(ca, np.float64)
    return np.sqrt(np.mean(np.sum((ca - ca.mean(-2, keepdims=True)) ** 2, -1), -1))


def rmsd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The root-mean-square distance of points after the best rigid motion, without reflection; batches broadcast.

        rmsd^2 = (|a|^2 + |b|^2 - 2 (s_1 + s_2 + d s_3)) / n

    Here a and b are centred, s are the singular values of a^T b in descending order, and d is the sign of det(a^T b).

    Kabsch 1976, "A solution for the best rotation to relate two sets of vectors".

    Args:
        a: the points that are moved, `[..., n, 3]`.
        b: the points onto which they are moved, `[..., n, 3]`.

    Returns:
        The distances, float64 `[...]`.
    """
    a, b = (np.asarray(x, np.float64) - np.mean(x, -2, keepdims=True, dtype=np.float64) for x in (a, b))
    covariance = np.swapaxes(a, -1, -2) @ b
    s = np.linalg.svd(covariance, compute_uv=False)
    best = s[..., 0] + s[..., 1] + np.where(np.linalg.det(covariance) < 0, -1, 1) * s[..., 2]
    squared = np.sum(a**2, (-2, -1)) + np.sum(b**2, (-2, -1)) - 2 * best
    return np.sqrt(np.maximum(squared, 0) / a.shape[-2])


def nearest(chains: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The RMSD of each chain to the nearest other chain, and the row of that chain.

    Args:
        chains: the positions of CA, `[N, n, 3]`.
        others: the positions of CA of the chains to compare with, `[M, n, 3]`.

    Returns:
        (the RMSDs, float64 `[N]`; the rows, int `[N]`).
    """
    distances = [rmsd(chains[i : i + 1], others) for i in range(len(chains))]
    rows = np.array([np.argmin(row) for row in distances])
    return np.array([row[i] for row, i in zip(distances, rows)]), rows


def secondary_structure(ca: np.ndarray) -> np.ndarray:
    """The secondary structure of each residue, from distances and angles of CA alone.

    Labesse et al. 1997, "P-SEA: a new efficient assignment of secondary structure from C alpha trace of proteins",
    without its extension of ends and without contacts between strands. A helix has at least five residues, a strand at
    least three.

    Args:
        ca: the positions of CA, `[..., n, 3]`, n >= 5.

    Returns:
        1 in a helix, 2 in a strand, 0 in neither, int `[..., n]`.
    """
    ca = np.asarray(ca, np.float64)
    number = ca.shape[-2]
    at = lambda i: ca[..., 1 + i : number - 3 + i, :]  # the residues 1 .. n - 4, shifted by i
    measures = {f"d{k + 1}": np.linalg.norm(at(k) - at(-1), axis=-1) for k in (1, 2, 3)}
    measures["angle"] = _angle(at(-1), at(0), at(1))
    measures["dihedral"] = np.degrees(np.asarray(backbone.dihedral(at(-1), at(0), at(1), at(2))))
    structure = np.zeros(ca.shape[:-1], int)
    for kind, ranges in RANGES.items():
        inside = {
            name: np.abs((measures[name] - centre + 180) % 360 - 180) <= width
            if name == "dihedral"
            else np.abs(measures[name] - centre) <= width
            for name, (centre, width) in ranges.items()
        }
        by_distance = np.all([inside[name] for name in DISTANCES[kind]], axis=0)
        candidate = np.zeros(ca.shape[:-1], bool)
        candidate[..., 1:-3] = by_distance | (inside["angle"] & inside["dihedral"])
        for index in np.ndindex(candidate.shape[:-1]):
            first = 0
            for true, run in itertools.groupby(candidate[index]):
                last = first + len(list(run))
                if true and last - first >= SHORTEST[kind]:
                    structure[index][first:last] = kind
                first = last
    return structure


def ramachandran(torsions: np.ndarray) -> np.ndarray:
    """The region of the Ramachandran plot for each inner residue.

    The regions are two boxes of phi and psi, with round numbers, around the two large basins of the plot.

    Args:
        torsions: the torsions phi, psi and omega in radians, `[..., n, 3]`; see `backbone.torsions_of`.

    Returns:
        1 in the box of helices, 2 in the box of strands, 0 in neither, int `[..., n - 2]`.
    """
    phi, psi = (np.degrees(np.asarray(torsions, np.float64))[..., 1:-1, i] for i in (0, 1))
    structure = np.zeros(phi.shape, int)
    for kind, ((least, most), (low, high)) in BOXES.items():
        turned = (psi + 165) % 360 - 165
        structure[(phi >= least) & (phi <= most) & (turned >= low) & (turned <= high)] = kind
    return structure


def _angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The angle a-b-c in degrees, `[...]`."""
    u, v = a - b, c - b
    cosine = np.sum(u * v, -1) / np.sqrt(np.sum(u**2, -1) * np.sum(v**2, -1))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
