"""Backbones: ideal bonds, frames, torsions and oxygens, by hand geometry and SciPy's rotations."""

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion.data.proteins import backbone

N = 12
TORSIONS = np.random.default_rng(0).uniform(-np.pi, np.pi, (N, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def chain():
    """`[N, 3, 3]`, of random torsions."""
    return np.asarray(backbone.from_torsions(TORSIONS), np.float64)


def angle(a, b, c):
    u, v = a - b, c - b
    return np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))


def test_a_chain_of_torsions_has_the_bonds_of_engh_and_huber(chain):
    n, ca, c = chain[:, 0], chain[:, 1], chain[:, 2]
    for i in range(N - 1):
        assert np.linalg.norm(ca[i] - n[i]) == pytest.approx(1.458, abs=1e-4)
        assert np.linalg.norm(c[i] - ca[i]) == pytest.approx(1.525, abs=1e-4)
        assert np.linalg.norm(n[i + 1] - c[i]) == pytest.approx(1.329, abs=1e-4)
        assert angle(n[i], ca[i], c[i]) == pytest.approx(111.2, abs=0.01)
        assert angle(ca[i], c[i], n[i + 1]) == pytest.approx(116.2, abs=0.01)
        assert angle(c[i], n[i + 1], ca[i + 1]) == pytest.approx(121.7, abs=0.01)


def test_torsions_come_back(chain):
    found = np.asarray(backbone.torsions_of(np.float32(chain)))
    meant = [(0, slice(1, None)), (1, slice(None, -1)), (2, slice(None, -1))]
    for column, rows in meant:
        off = np.angle(np.exp(1j * (found[rows, column] - TORSIONS[rows, column])))
        assert np.abs(off).max() < 1e-4
    assert np.isnan(found[0, 0]) and np.isnan(found[-1, 1:]).all()


@pytest.mark.parametrize("turn", (0, 40, 90, 180, -120))
def test_a_dihedral_is_the_turn_of_the_far_bond_about_the_axis_clockwise(turn):
    """Looking along b-c, d turns clockwise from cis: a rotation about the axis b-c by that angle."""
    a, b, c = np.array([0.3, 1.0, 0.2]), np.zeros(3), np.array([0.0, 0.0, 1.5])
    cis = c + a  # in the plane of a and the axis, on the same side
    d = Rotation.from_rotvec(np.radians(turn) * np.array([0, 0, 1.0])).apply(cis - c) + c
    off = np.degrees(float(backbone.dihedral(a, b, c, d))) - turn
    assert (off + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)


def test_frames_and_ideal_atoms_are_inverses_and_move_along(chain):
    frames = np.asarray(backbone.frames_of(np.float32(chain)))
    np.testing.assert_allclose(
        np.swapaxes(frames[..., :3], -1, -2) @ frames[..., :3], np.tile(np.eye(3), (N, 1, 1)), atol=1e-5
    )
    assert np.linalg.det(frames[..., :3]) == pytest.approx(np.ones(N), abs=1e-5)
    np.testing.assert_allclose(backbone.atoms_of(frames), chain, atol=1e-4)
    turn = Rotation.random(random_state=1).as_matrix()
    moved = np.asarray(backbone.frames_of(np.float32(chain @ turn.T + [1, -2, 3])))
    np.testing.assert_allclose(moved[..., :3], turn @ frames[..., :3], atol=1e-5)
    np.testing.assert_allclose(moved[..., 3], frames[..., 3] @ turn.T + [0.1, -0.2, 0.3], atol=1e-5)


def test_the_oxygen_lies_in_the_plane_of_its_peptide_bond(chain):
    o = np.asarray(backbone.with_oxygen(np.float32(chain)), np.float64)[:, 3]
    for i in range(N - 1):
        ca, c, n = chain[i, 1], chain[i, 2], chain[i + 1, 0]
        assert np.linalg.norm(o[i] - c) == pytest.approx(1.231, abs=1e-4)
        assert angle(ca, c, o[i]) == pytest.approx(120.8, abs=0.01)
        assert angle(o[i], c, n) == pytest.approx(123.0, abs=0.02)  # so Engh and Huber: the three add up to 360


def test_an_ideal_helix_and_strand_have_their_textbook_sizes():
    """Pauling's helix rises 1.5 Angstrom and turns 100 degrees a residue; a strand rises 3.3."""
    build = jax.jit(lambda angles: backbone.from_torsions(angles))
    helix, strand = (
        np.asarray(build(np.radians(np.tile(np.float32(t), (24, 1))))) for t in ((-57, -47, 180), (-119, 113, 180))
    )
    for atoms, rise, tolerance in ((helix, 1.5, 0.06), (strand, 3.3, 0.1)):
        ca = atoms[:, 1]
        motion, _ = Rotation.align_vectors(ca[1:] - ca[1:].mean(0), ca[:-1] - ca[:-1].mean(0))
        axis = motion.as_rotvec() / motion.magnitude()
        assert abs((ca[1:] - ca[:-1]).mean(0) @ axis) == pytest.approx(rise, abs=tolerance)
        if rise == 1.5:
            assert np.degrees(motion.magnitude()) == pytest.approx(100, abs=2)
    hydrogen_bonds = backbone.with_oxygen(helix)
    assert np.linalg.norm(hydrogen_bonds[:-4, 3] - hydrogen_bonds[4:, 0], axis=1) == pytest.approx(
        np.full(20, 3.0), abs=0.2
    )


def test_clashes_count_pairs_that_are_no_neighbours():
    ca = np.array([[0, 0, 0], [3.0, 0, 0], [6.6, 0, 0], [3.0, 3.0, 0], [6.6, 3.5, 0]])
    # 0-1 and others in a row are neighbours; 1-3 is 3.0 apart, 2-4 is 3.5, and 0-2 is 6.6
    assert int(backbone.clashes(ca)) == 2
    assert int(backbone.clashes(ca, least=3.2)) == 1
    assert int(backbone.clashes(ca, least=3.0)) == 0  # as far apart as the least distance


def test_what_is_no_chain_is_refused(chain):
    missing = np.float32(chain)
    missing[4, 2] = np.nan
    line = np.float32(chain)
    line[2] = [[-1.5, 0.09, 0], [0, 0, 0], [1.5, 0, 0]]
    for atoms, message in (
        (missing, "residue 5 has no frame"),
        (line, "residue 3 has no frame"),
        (chain[:, :2], r"got \[12, 2, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.frames_of(atoms)
    line[2, 0, 1] = 0.11  # 0.1 Angstrom from the line is enough for a plane
    assert np.isfinite(backbone.frames_of(line)).all()
    with pytest.raises(ValueError, match="needs at least two"):
        backbone.with_oxygen(chain[:1])


def test_two_residues_are_a_chain(chain):
    """The oxygen of the first lies where that of a longer chain does."""
    both, whole = (np.asarray(backbone.with_oxygen(np.float32(atoms))) for atoms in (chain[:2], chain))
    assert both.shape == (2, 4, 3)
    np.testing.assert_allclose(both[0], whole[0], atol=1e-5)
