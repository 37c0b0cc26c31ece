"""The losses of atoms and of distances, against loops over atoms, and where they act."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion.data.proteins import backbone
from diffusion.data.proteins.atom_losses import atoms_and_distances

RNG = np.random.default_rng(0)


def frames(n, spread):
    """Frames on a line, turned at random, moved off it by `spread` nanometres."""
    places = np.arange(n)[:, None] * np.array([0.38, 0, 0]) + spread * RNG.normal(size=(n, 3))
    return np.float32(np.concatenate([Rotation.random(n, RNG).as_matrix(), places[..., None]], -1))[None]


def test_the_loss_is_that_of_loops_over_atoms_and_near_pairs():
    x, guess = frames(5, 0.0), frames(5, 0.05)
    a, b = (0.1 * np.float64(backbone.atoms_of(each))[0].reshape(-1, 3) for each in (guess, x))
    off = [
        (np.linalg.norm(a[i] - a[j]) - np.linalg.norm(b[i] - b[j])) ** 2
        for i, j in itertools.permutations(range(15), 2)
        if np.linalg.norm(b[i] - b[j]) < 0.6
    ]
    assert 15 < len(off) < 15 * 14
    expected = 5 * 3.0 / 0.2**2 * (np.mean(np.sum((a - b) ** 2, -1)) + np.mean(off))
    np.testing.assert_allclose(atoms_and_distances(3.0)(guess, x, jnp.array([0.2])), [expected], rtol=1e-4)


@pytest.mark.extended
def test_it_acts_near_the_data_alone_and_a_common_shift_changes_no_distance():
    x = np.repeat(frames(3, 0.0), 4, 0)
    moved = x + np.float32([0, 0, 0, 1]) * np.float32([0.1, 0.2, 0.2])[:, None]
    t = jnp.array([0.5, 0.25, 0.2, 0.001])
    found = atoms_and_distances(until=0.25, least=0.1)(moved, x, t)
    np.testing.assert_allclose(found, [0, 0, 3 * 0.09 / 0.04, 3 * 0.09 / 0.01], rtol=1e-4, atol=1e-6)
    shifted = lambda by: atoms_and_distances()(x[:1] + jnp.pad(by[:, None], ((0, 0), (3, 0))), x[:1], t[2:3])[0]
    np.testing.assert_allclose(jax.grad(shifted)(jnp.array([0.1, 0.2, 0.2])), 3 * np.array([5, 10, 10]), rtol=1e-4)
    assert not np.any(atoms_and_distances(weight=0.0, until=1.0)(moved, x, t))


def test_numbers_out_of_range_are_refused():
    for name, value in (("until", 1.5), ("until", 0.0), ("weight", -0.1), ("near", 0.0), ("least", 0.0)):
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            atoms_and_distances(**{name: value})


def test_what_is_not_stated_is_of_the_first_paper():
    """Weight 1, pairs within 6 Angstrom, a quarter of the path, and a weight that no longer grows below a tenth."""
    x, guess = (np.repeat(frames(4, spread), 5, 0) for spread in (0.0, 0.05))
    t = jnp.array([0.001, 0.07, 0.15, 0.2499, 0.25])
    stated = atoms_and_distances(weight=1.0, until=0.25, near=6.0, least=0.1)(guess, x, t)
    found = np.asarray(atoms_and_distances()(guess, x, t))
    np.testing.assert_allclose(found, stated, rtol=1e-6)
    np.testing.assert_allclose(found[:4] / found[2], [2.25, 2.25, 1, (0.15 / 0.2499) ** 2], rtol=1e-5)
    assert found[4] == 0
