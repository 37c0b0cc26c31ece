"""Ideal folds: no clashes, ideal bonds, each record from its row alone, and what each class holds."""

import functools

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from diffusion.data.proteins import backbone, folds
from diffusion.data.sources import ideal_folds
from diffusion.metrics import backbone_geometry

NUMBER = 120
LABELS = np.arange(NUMBER) % len(folds.CLASSES)


@functools.cache
def frames():
    source = ideal_folds(number=NUMBER)
    records = [source[row] for row in range(NUMBER)]
    assert [record["label"] for record in records] == LABELS.tolist()
    return np.stack([record["x"] for record in records])


@functools.cache
def atoms():
    """`[NUMBER, 32, 4, 3]`."""
    return np.asarray(backbone.with_oxygen(backbone.atoms_of(frames())), np.float64)


@functools.cache
def helices():
    """`[400, 32, 3, 4]`."""
    none = np.zeros_like(folds.NUMBERS)
    draw = jax.jit(jax.vmap(lambda key: folds.drawn(key, folds.CLASSES.index("helix"), none, folds.NUMBERS)))
    return np.asarray(draw(jax.random.split(jax.random.key(0), 400)))


@pytest.mark.extended
def test_no_atoms_clash():
    """Atoms of residues that are no neighbours: 2.5 Angstrom apart or more, and CA 3.66."""
    residue = np.repeat(np.arange(folds.RESIDUES), 4)
    apart = np.abs(residue[:, None] - residue) > 1
    for chain in atoms():
        distances = squareform(pdist(chain.reshape(-1, 3)))
        assert distances[apart].min() > 2.5
        of_ca = distances[1::4, 1::4][apart[1::4, 1::4]]
        assert of_ca.min() > 3.6574


def test_a_chain_is_centred_on_its_alpha_carbons():
    none = np.zeros_like(folds.NUMBERS)
    chain = jax.jit(folds.drawn)(jax.random.key(0), folds.CLASSES.index("helix"), none, folds.NUMBERS)
    assert np.abs(chain[..., 3].mean(0)).max() < 1e-6


@pytest.mark.extended
def test_bonds_are_ideal_and_chains_centred():
    between = backbone_geometry.between_residues(atoms()[:, :, :3])
    for name, value, tolerance in (
        ("C-N", 1.329, 1e-3),
        ("CA-CA", 3.80, 0.01),
        ("CA-C-N", 116.2, 0.05),
        ("C-N-CA", 121.7, 0.05),
    ):
        assert between[name] == pytest.approx(np.full_like(between[name], value), abs=tolerance)
    assert np.abs(frames()[..., 3].mean(1)).max() < 1e-5
    ideal = np.linalg.norm(atoms()[:, :, 0] - atoms()[:, :, 2], axis=-1)
    assert np.linalg.det(frames()[..., :3]) == pytest.approx(np.ones((NUMBER, 32)), abs=1e-4)
    assert ideal == pytest.approx(np.full_like(ideal, 2.4613), abs=2e-3)  # N to C by the law of cosines


@pytest.mark.extended
def test_records_follow_from_their_rows():
    assert ideal_folds(number=2).spec.classes == folds.CLASSES
    assert (ideal_folds(number=7)[5]["x"] == frames()[5]).all()
    assert np.abs(ideal_folds("test", number=6)[5]["x"] - frames()[5]).max() > 0.1


def variants(split, withheld):
    """`[120]` the variant of each chain, by its torsions, which are spread by at most one degree."""
    x = ideal_folds(split, number=NUMBER, withheld=withheld)
    angles = np.degrees(np.asarray(backbone.torsions_of(backbone.atoms_of(np.stack([r["x"] for r in x])))))
    apart = (angles[:, None, 1:-1, :2] - np.degrees(folds.TABLE)[LABELS][:, :, 1:-1] + 180) % 360 - 180
    return np.abs(apart).mean((2, 3)).argmin(1)


@pytest.mark.extended
@pytest.mark.parametrize("withheld", [1, 2])
def test_withheld_variants_are_drawn_by_the_test_split_alone(withheld):
    kept = folds.NUMBERS[LABELS] - withheld
    train, test = variants("train", withheld), variants("test", withheld)
    assert (train < kept).all() and (test >= kept).all() and (test < folds.NUMBERS[LABELS]).all()
    for label, number in enumerate(folds.NUMBERS):
        assert set(train[LABELS == label]) == set(range(number - withheld))


@pytest.mark.extended
def test_both_splits_draw_from_all_variants_unless_some_are_withheld():
    test = variants("test", 0)
    for label, number in enumerate(folds.NUMBERS):
        assert set(test[LABELS == label]) == set(range(number))
    assert (ideal_folds(number=7, withheld=0)[5]["x"] == frames()[5]).all()


@pytest.mark.extended
def test_classes_hold_their_secondary_structure():
    structure = backbone_geometry.secondary_structure(atoms()[:, :, 1])
    share = {
        name: [(structure[LABELS == label] == kind).mean() for kind in (1, 2)]
        for label, name in enumerate(folds.CLASSES)
    }
    assert share["helix"][0] > 0.85 and share["helix"][1] == 0
    assert share["helix_turn_helix"][0] > 0.65 and share["helix_turn_helix"][1] < 0.02
    for name in ("hairpin", "sheet"):
        assert share[name][1] > 0.6 and share[name][0] == 0
    for name in ("beta_alpha_beta", "beta_beta_alpha"):
        assert share[name][0] > 0.3 and share[name][1] > 0.2


def test_strands_are_paired_by_hydrogen_bonds_and_crossovers_are_right_handed():
    """Bonds of a hairpin of 15 + 2 + 15; and on which side of the sheet the helix lies."""
    ideal = np.radians([(*pair, 180) for pair in folds.FOLDS["hairpin"][0]]).astype(np.float32)
    hairpin = np.asarray(backbone.with_oxygen(backbone.from_torsions(ideal)))
    for i, j in ((14, 17), (12, 19), (8, 23)):
        assert 2.5 < np.linalg.norm(hairpin[i, 0] - hairpin[j, 3]) < 3.5
        assert 2.5 < np.linalg.norm(hairpin[i, 3] - hairpin[j, 0]) < 3.5
    ca = atoms()[LABELS == folds.CLASSES.index("beta_alpha_beta")][:, :, 1]
    first, last, helix = ca[:, :6], ca[:, 26:], ca[:, 10:22].mean(1)
    along = first[:, -1] - first[:, 0]
    across = last.mean(1) - first.mean(1)
    up = helix - (last.mean(1) + first.mean(1)) / 2
    assert (np.einsum("bi,bi->b", np.cross(across, along), up) > 0).all()


@pytest.mark.extended
def test_orientations_are_uniform():
    """The mean of uniform rotations is zero, each entry's variance 1 / 3."""
    rotations = helices()[:, 3, :, :3]
    assert np.abs(rotations.mean(0)).max() < 4.5 / np.sqrt(3 * 400)
    assert np.abs((rotations**2).mean(0) - 1 / 3).max() < 0.08


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"split": "validation"}, "Valid: train, test"),
        ({"number": 0}, "number = 0"),
        ({"withheld": -1}, "withheld = -1 must be from 0 to 2"),
        ({"withheld": 3}, "withheld = 3 must be from 0 to 2, as one class has 3 variants"),
    ],
)
def test_what_there_is_not_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ideal_folds(**arguments)


@pytest.mark.extended
def test_torsions_of_a_helix_are_spread_by_one_degree_about_a_variant():
    """Helices have room for the first spread; each chain's mean says its variant, to a fifth of a degree."""
    angles = np.degrees(np.asarray(backbone.torsions_of(backbone.atoms_of(helices())), np.float64))[:, 1:-1, :2]
    variants = np.array([variant[0] for variant in folds.FOLDS["helix"]], np.float64)
    nearest = np.linalg.norm(angles.mean(1)[:, None] - variants, axis=-1).argmin(1)
    assert set(nearest) == {0, 1, 2}
    apart = angles - variants[nearest][:, None]
    assert abs(apart.mean()) < 0.05 and apart.std() == pytest.approx(1, rel=0.03)
    assert np.abs(np.corrcoef(apart[..., 0].ravel(), apart[..., 1].ravel())[0, 1]) < 0.06


def test_only_alpha_carbons_clash_within_their_longer_distance():
    """Residues 0 and 2, whose nitrogens or alpha carbons are 3 Angstrom apart and all else farther than 2.5."""
    residue = np.float32([[0, 0, 0], [-1.46, 0, 0], [-2.0, 0, 1.43]])  # N, CA and C, N foremost
    away = np.float32([0, 0, 60])
    facing = lambda apart: np.stack([residue, residue + away, residue * [-1, 1, -1] + [apart, 0, 0]]).astype(np.float32)
    assert not folds.crowded(facing(3.0))
    assert folds.crowded(facing(2.4))
    turned = residue[:, [0, 2, 1]] - residue[1, [0, 2, 1]]  # CA foremost
    near = lambda apart: np.stack([turned, turned + away, turned * [1, -1, 1] + [0, 0, apart]]).astype(np.float32)
    assert folds.crowded(near(3.4)) and not folds.crowded(near(3.9))


def test_chains_are_spread_by_one_degree_or_by_the_largest_of_three_that_does_not_clash():
    """By a half, by a fifth of a degree, or not at all: of 60 torsions each, to four errors of their deviation."""
    angles = np.degrees(np.asarray(backbone.torsions_of(backbone.atoms_of(frames())), np.float64))[:, 1:-1, :2]
    apart = angles[:, None] - np.degrees(folds.TABLE)[LABELS][:, :, 1:-1]
    deviation = ((apart + 180) % 360 - 180).std((2, 3)).min(1)
    steps = np.array([1.0, 0.5, 0.2, 0.0])
    fits = np.abs(deviation[:, None] - steps) <= 4 * steps / np.sqrt(2 * 60) + 0.02
    assert fits.any(1).all() and fits.any(0).all()
