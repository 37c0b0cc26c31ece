"""Points of exact mixtures: on their manifold, repeatable, and of the density that the source states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from diffusion import manifolds
from diffusion.data import sources
from diffusion.data.sources import manifold_points, protein_chains

NUMBER = 400
SOURCES = {
    "sphere_mixture": (manifolds.sphere(2), 1200),
    "torsion_mixture": (manifolds.torus(2), 4000),
    "rotation_mixture": (manifolds.so3(), 4000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_points_lie_on_the_manifold_and_the_density_integrates_to_one(name):
    manifold, uniform = SOURCES[name]
    source = getattr(sources, name)("test", number=NUMBER)
    points = np.stack([source[row]["x"] for row in range(NUMBER)])
    manifold.check(points)
    assert points.dtype == np.float32
    log_density = source.distribution.log_density
    # The mean of p over uniform points, times the volume, is its integral.
    everywhere = manifold.uniform(jax.random.key(0), (uniform,))
    density = np.exp(np.asarray(jax.jit(log_density)(everywhere), np.float64)) * manifold.volume
    assert abs(density.mean() - 1) < 5 * density.std() / np.sqrt(uniform)
    again = getattr(sources, name)("test", number=NUMBER)
    np.testing.assert_array_equal(again[5]["x"], points[5])


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="no split 'valid'"):
        sources.torsion_mixture("valid")
    with pytest.raises(ValueError, match="number = 0"):
        sources.torsion_mixture(number=0)


def test_torsions_lie_in_the_published_basins_and_splits_share_no_point():
    """Of each: its share of the points within three deviations of its angles, and their deviation."""
    number = 3000
    train, test = (sources.torsion_mixture(split, number=number) for split in ("train", "test"))
    points = np.degrees([train[row]["x"] for row in range(number)])
    assert not np.isin(np.degrees([test[row]["x"] for row in range(20)]), points).any()
    near_all = np.zeros(number, bool)
    for mean, deviation, share in [
        ((-63.0, -42.0), 12.0, 0.45), ((57.0, 45.0), 12.0, 0.05),  # helices
        ((-120.0, 130.0), 20.0, None), ((-70.0, 150.0), 15.0, None),  # which overlap
    ]:  # fmt: skip
        apart = (points - mean + 180) % 360 - 180
        near = (np.abs(apart) < 3.5 * deviation).all(1)
        near_all |= near
        if share is not None:
            assert abs(near.mean() - share) < 4 * np.sqrt(share * (1 - share) / number)
            np.testing.assert_allclose(apart[near].std(0), deviation, rtol=4 / np.sqrt(2 * near.sum()))
            np.testing.assert_allclose(apart[near].mean(0), 0, atol=4 * deviation / np.sqrt(near.sum()))
    assert near_all.mean() > 0.995


@pytest.fixture
def undrawn(monkeypatch):
    """The distributions in place of their sources, whose points take longer."""
    monkeypatch.setattr(manifold_points, "ExactRecords", lambda distribution, *_: distribution)


def test_the_density_on_the_sphere_is_that_of_the_stated_mixture(undrawn):
    """By SciPy."""
    x = np.float64(stats.uniform_direction(3).rvs(40, np.random.default_rng(0)))
    lobes = [((0, 0, 1), 40, 0.3), ((0.8, 0.6, 0), 15, 0.4), ((-0.6, 0, -0.8), 80, 0.2), ((-0.48, 0.64, 0.6), 25, 0.1)]
    x = np.concatenate([x, [mean for mean, *_ in lobes]])
    density = sum(weight * stats.vonmises_fisher(mean, kappa).pdf(x) for mean, kappa, weight in lobes)
    found = sources.sphere_mixture().log_density(np.float32(x))
    np.testing.assert_allclose(found, np.log(density), rtol=1e-4, atol=1e-4)


def test_the_density_of_torsions_is_that_of_the_stated_mixture(undrawn):
    """By sums over images."""
    basins = [((-63, -42), 12, 0.45), ((-120, 130), 20, 0.3), ((-70, 150), 15, 0.2), ((57, 45), 12, 0.05)]
    x = np.concatenate([np.random.default_rng(1).uniform(-180, 180, (40, 2)), [mean for mean, *_ in basins]])
    images = lambda apart, std: sum(stats.norm(0, std).pdf(apart + 360 * k) for k in (-2, -1, 0, 1, 2)).prod(1)
    density = sum(weight * images(x - mean, std) for mean, std, weight in basins) * (180 / np.pi) ** 2
    found = sources.torsion_mixture().log_density(np.float32(np.radians(x)))
    near = density > 1e-12
    np.testing.assert_allclose(np.asarray(found)[near], np.log(density)[near], rtol=1e-4, atol=1e-3)


def test_the_density_of_rotations_is_that_of_the_stated_mixture(undrawn):
    """By sums over characters."""
    turns = [((0, 0, 0), 0.05, 0.4), ((0, 2, 0), 0.1, 0.35), ((2, -1, 1.5), 0.03, 0.25)]
    x = Rotation.from_rotvec([mean for mean, *_ in turns]) * Rotation.from_rotvec(
        np.random.default_rng(2).normal(0, 0.2, (3, 3))
    )
    density = 0
    for mean, v, weight in turns:
        angle = (Rotation.from_rotvec(mean).inv() * x).magnitude()
        l = np.arange(200)[:, None]
        series = (2 * l + 1) * np.exp(-l * (l + 1) * v / 2) * np.sin((l + 0.5) * angle) / np.sin(angle / 2)
        density = density + weight * series.sum(0) / (8 * np.pi**2)
    found = sources.rotation_mixture().log_density(np.float32(x.as_matrix()))
    np.testing.assert_allclose(found, np.log(density), rtol=1e-4, atol=1e-3)


def test_withheld_variants_are_the_last_of_each_fold_and_those_of_the_test(monkeypatch):
    """With the class and the range of its variants in place of a chain, which takes long to compile."""
    drawn = lambda key, label, first, last: jnp.stack([label, first[label], last[label]])
    monkeypatch.setattr(protein_chains.folds, "drawn", drawn)
    numbers = protein_chains.folds.NUMBERS
    classes = np.arange(70) % len(numbers)
    for split, withheld, first, last in (
        ("train", 0, 0 * numbers, numbers), ("train", 1, 0 * numbers, numbers - 1),
        ("test", 0, 0 * numbers, numbers), ("test", 1, numbers - 1, numbers),
    ):  # fmt: skip
        chains = protein_chains.ProteinChains(split, 70, withheld)
        np.testing.assert_array_equal(chains.x, np.stack([classes, first[classes], last[classes]], 1))
        np.testing.assert_array_equal(chains.label, classes)


def test_what_a_config_leaves_out_keeps_its_number(monkeypatch):
    """Run folders name a source without its defaults: with another number of records they would go on with others."""
    monkeypatch.setattr(manifold_points, "ExactRecords", lambda *arguments: arguments[-2:])
    monkeypatch.setattr(protein_chains, "ChainRecords", lambda *arguments: arguments)
    for name, number in (("sphere_mixture", 20000), ("torsion_mixture", 20000), ("rotation_mixture", 20000)):
        assert getattr(sources, name)() == ("train", number)
        assert getattr(sources, name)("test", number=3) == ("test", 3)
    assert sources.ideal_folds() == ("train", 6000, 0)
    assert sources.ideal_folds("test", number=3, withheld=1) == ("test", 3, 1)
