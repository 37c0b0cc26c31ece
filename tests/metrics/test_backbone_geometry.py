"""Figures of backbones against SciPy's superposition, hand geometry, and structures that are known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion.data.proteins import backbone
from diffusion.metrics import backbone_geometry

RNG = np.random.default_rng(0)


def chain(*torsions):
    """N, CA, C of residues with these phi and psi in degrees, `[n, 3, 3]`."""
    angles = np.array([(*pair, 180.0) for pair in torsions], np.float32)
    return np.asarray(backbone.from_torsions(np.radians(angles)), np.float64)


def test_the_rmsd_is_that_of_the_best_rotation():
    a, b = RNG.normal(size=(2, 5, 9, 3))
    b[2] = a[2] * [1, 1, -1]  # a reflection, which is no motion
    b[3] = a[3] @ Rotation.random(random_state=0).as_matrix().T + [3, -2, 1]
    found = backbone_geometry.rmsd(a, b)
    for i in range(5):
        _, distance = Rotation.align_vectors(a[i] - a[i].mean(0), b[i] - b[i].mean(0))
        assert found[i] == pytest.approx(distance / 3, abs=1e-6)  # SciPy's is the root of the sum over 9 points
    assert found[2] > 0.1 and found[3] < 1e-6


def test_the_nearest_chain_is_found():
    others = RNG.normal(size=(6, 9, 3))
    turned = others[[4, 1]] @ Rotation.random(random_state=2).as_matrix().T - 5
    distances, rows = backbone_geometry.nearest(turned, others)
    assert rows.tolist() == [4, 1] and distances.max() < 1e-6


def test_bonds_between_residues_are_those_of_the_atoms():
    atoms = np.zeros((2, 3, 3))
    atoms[0] = [[0, 1, 0], [0, 0, 0], [2, 0, 0]]
    atoms[1] = [[2, 3, 0], [6, 3, 0], [6, 5, 0]]
    found = backbone_geometry.between_residues(atoms)
    assert found["C-N"] == pytest.approx([3]) and found["CA-CA"] == pytest.approx([np.sqrt(45)])
    assert found["CA-C-N"] == pytest.approx([90]) and found["C-N-CA"] == pytest.approx([90])


def test_the_radius_of_gyration_of_a_rod():
    """n points in a row at distance d: d ((n^2 - 1) / 12)^(1/2)."""
    rod = np.arange(10)[:, None] * np.array([0.0, 3.0, 4.0])
    assert backbone_geometry.radius_of_gyration(rod) == pytest.approx(5 * np.sqrt(99 / 12))


@pytest.mark.extended
def test_secondary_structure_and_torsions_of_known_chains():
    helix, strand, loop = (-62.0, -43.0), (-119.0, 125.0), (-80.0, 70.0)
    both = chain(*[strand] * 8, *[loop] * 3, *[helix] * 12)
    found = backbone_geometry.secondary_structure(np.stack([both[:, 1], both[::-1, 1]]))
    assert (found[0, 1:5] == 2).all() and (found[0, 12:19] == 1).all()
    assert not (found[0, :11] == 1).any() and not (found[0, 12:] == 2).any()
    assert not (found[1] == 1).all()
    mirrored = backbone_geometry.secondary_structure(both[:, 1] * [1, 1, -1])
    assert (mirrored[12:19] == 1).all()  # by distances, which do not see the hand; torsions do
    basins = backbone_geometry.ramachandran(backbone.torsions_of(np.float32(both)))
    assert basins.tolist() == [2] * 7 + [0] * 3 + [1] * 11
    left = backbone_geometry.ramachandran(backbone.torsions_of(np.float32(both * [1, 1, -1])))
    assert not left.any()
    noise = backbone_geometry.secondary_structure(RNG.normal(size=(20, 30, 3)) * 10)
    assert (noise > 0).mean() < 0.05


def test_a_residue_of_a_helix_has_its_distances_from_the_one_before_it():
    """P-SEA: residue i has 4.8 .. 5.8 Angstrom from i - 1 to i + 2, and 5.8 .. 7 to i + 3; a run has five of them."""
    turn = np.radians(-100) * np.arange(9)  # left-handed, so that no angle fits; 1.5 Angstrom up per residue
    helix = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(9)], 1)
    rod = np.array([0.0, 0.0, 3.8]) * np.arange(1, 6)[:, None]
    ca = np.concatenate([helix[0] - rod[3::-1], helix, helix[-1] + rod])
    structure = backbone_geometry.secondary_structure(ca)
    assert np.flatnonzero(structure).tolist() == [5, 6, 7, 8, 9]  # the helix is 4 .. 12


@pytest.mark.parametrize(
    "structure, phi, psi", [(1, (-100, -30 - 1e-9), (-80, -5)), (2, (-180, -50), (90, 195 - 1e-9))]
)
def test_the_sides_of_a_box_belong_to_it(structure, phi, psi):
    """Where radians of such degrees exist: of -30 there are none. Psi goes on from 180 to -165."""

    def found(phi, psi):
        torsions = np.zeros((3, 3))
        torsions[1, :2] = np.radians([phi, psi - 360 if psi > 180 else psi])
        return backbone_geometry.ramachandran(torsions).item()

    assert all(np.degrees(np.radians(side)) == side for side in (-100.0, -80.0, -5.0, -180.0, -50.0, 90.0))
    middle = (sum(phi) / 2, sum(psi) / 2)
    assert all(found(end, middle[1]) == structure for end in phi) and found(middle[0], psi[0]) == structure
    assert found(middle[0], psi[1]) == structure
    for beyond in (phi[0] - 1, phi[1] + 2):
        assert found(beyond, middle[1]) != structure
    for beyond in (psi[0] - 1, psi[1] + 1):
        assert found(middle[0], beyond) != structure
