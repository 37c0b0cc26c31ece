"""Annealed importance sampling from one Gaussian to another, whose constant is known, and its moves one by one."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import steering
from diffusion.sampling.steering.annealed import hamiltonian, leapfrog, looker
from tests import recorded_keys
from tests.sampling.steering import groups

STD = 1.2
MEAN = np.array([0.7, -0.4], np.float32)
PRECISION = np.array([[4.0, 1.5], [1.5, 2.0]], np.float32)
COVARIANCE = np.linalg.inv(PRECISION)
LOG_CONSTANT = 0.3 + np.log(2 * np.pi) - np.linalg.slogdet(PRECISION)[1] / 2


def log_base(x):
    return -jnp.sum(x**2, -1) / (2 * STD**2) - x.shape[-1] * jnp.log(STD * jnp.sqrt(2 * jnp.pi))


def log_density(x):
    away = x - MEAN
    return 0.3 - jnp.einsum("bi,ij,bj->b", away, PRECISION, away) / 2


LADDER = (0.0, 0.1, 0.3, 0.3, 1.0)
SIZES = (1.0, 0.8, 0.7, 0.6, 0.5)
CASES = {  # particles of a group, leapfrogs, resampling
    "one particle": (1, 1, steering.where_uneven(steering.systematic)),
    "always": (2, 3, steering.multinomial),
    "uneven": (8, 1, steering.where_uneven(steering.systematic)),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_constants_are_unbiased_and_weighted_moments_are_the_target_s(name):
    """4,000 groups: E[Z], E[Z x] and E[Z (x - m)^2] within 4.5 standard errors of the closed forms."""
    number, leapfrogs, resample = CASES[name]
    keys, first = jax.random.split(jax.random.key(0), (2, 4000 * number))
    x = STD * jax.vmap(lambda key: jax.random.normal(key, (2,)))(first)
    run = jax.jit(
        lambda x, keys: steering.annealed(
            log_base,
            log_density,
            x,
            keys,
            LADDER,
            np.array(SIZES),
            number=number,
            leapfrogs=leapfrogs,
            resample=resample,
        )
    )
    particles = run(x, keys)
    assert particles.effective_sizes.shape == (4, 4000)
    assert number == 1 or np.ptp(particles.log_weights, axis=1).max() > 0.1  # the last weights are not resampled
    weights = np.exp(np.asarray(particles.log_weights, np.float64) - LOG_CONSTANT)[..., None]
    x = np.asarray(particles.x, np.float64).reshape(-1, number, 2)
    for value, truth in ((1, 1), (x, MEAN), ((x - MEAN) ** 2, np.diag(COVARIANCE))):
        values = np.mean(weights * value, axis=1)
        error = values.std(0, ddof=1) / len(values) ** 0.5
        assert error.max() < 0.05
        np.testing.assert_array_less(np.abs(values.mean(0) - truth), 4.5 * error)


def test_a_leapfrog_step_of_a_gaussian_is_a_rotation():
    """With unit precision x -> x cos a + p sin a / c, p -> p cos a - c x sin a; cos a = 1 - h^2/2, c^2 = 1 - h^2/4."""
    flat = lambda x: -jnp.sum(x**2, -1) / 2
    look = looker(lambda x: 3 * flat(x), flat)  # at b = 2/3: (1/3) 3 + 2/3 = 5/3, of which the step is 3/5 of the root
    h, number, precision = 0.6, 5, 1 / 3 * 3 + 2 / 3
    x, p = np.array([[0.4, -1.0]]), np.array([[0.8, 0.3]])
    after, pushed = leapfrog(look, look(jnp.asarray(x)), jnp.asarray(p), 2 / 3, h / precision**0.5, number)
    angle, c = number * np.arccos(1 - h**2 / 2), np.sqrt(1 - h**2 / 4)
    scaled = x * precision**0.5
    expected = scaled * np.cos(angle) + p * np.sin(angle) / c
    np.testing.assert_allclose(after.x * precision**0.5, expected, rtol=1e-5)
    np.testing.assert_allclose(pushed, p * np.cos(angle) - c * scaled * np.sin(angle), rtol=1e-5)


def test_a_move_is_accepted_where_the_energy_rises_by_less_than_a_draw():
    """A leapfrog step of N(0, 1)^(1 - b) N(1, 1/4)^b written out, for 4,096 particles, and the draw of each."""
    b, h = 0.4, 1.0
    x, keys = np.linspace(-1.5, 2.5, 4096)[:, None], jax.random.split(jax.random.key(0), 4096)
    look = looker(lambda x: -jnp.sum(x**2, -1) / 2, lambda x: 3 - 2 * jnp.sum((x - 1) ** 2, -1))
    run = jax.jit(lambda x, keys: hamiltonian(look, look(x), b, h, 1, keys))
    point, accepted = run(x.astype(np.float32), keys)
    momenta, draws = jax.vmap(jax.random.split, out_axes=1)(keys)
    p = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (1,)))(momenta), np.float64)
    u = np.asarray(jax.vmap(jax.random.uniform)(draws), np.float64)
    energy = lambda x: ((1 - b) * x**2 / 2 + b * 2 * (x - 1) ** 2)[:, 0]
    slope = lambda x: (1 - b) * x + b * 4 * (x - 1)
    half = p - h / 2 * slope(x)
    after = x + h * half
    pushed = half - h / 2 * slope(after)
    margin = energy(x) - energy(after) + ((p**2 - pushed**2) / 2)[:, 0] - np.log(u)
    clear = np.abs(margin) > 1e-4
    np.testing.assert_array_equal(np.asarray(accepted)[clear], margin[clear] > 0)
    np.testing.assert_allclose(point.x, np.where(np.asarray(accepted)[:, None], after, x), rtol=1e-4, atol=1e-5)
    assert 0.3 < np.mean(margin > 0) < 0.9


@pytest.mark.extended
@pytest.mark.parametrize("leapfrogs", [1, 2])
def test_a_move_leaves_its_rung_as_it_is_however_large_its_step(leapfrogs):
    """The rung between is a Gaussian of known precision; a third of the moves are refused, and moments stay."""
    b = 0.4
    precision = (1 - b) / STD**2 * np.eye(2) + b * PRECISION
    covariance = np.linalg.inv(precision)
    mean = covariance @ (b * PRECISION @ MEAN)
    first, keys = jax.random.split(jax.random.key(3), (2, 40_000))
    draws = jax.vmap(lambda key: jax.random.normal(key, (2,)))(first)
    x = mean + draws @ np.linalg.cholesky(covariance).T
    look = looker(log_base, log_density)
    point, accepted = jax.jit(lambda x, keys: hamiltonian(look, look(x), b, 1.1, leapfrogs, keys))(x, keys)
    assert 0.2 < accepted.mean() < 0.85
    moved = np.asarray(point.x, np.float64)
    assert (moved != np.asarray(x)).any(-1).mean() == pytest.approx(float(accepted.mean()))
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(moved.mean(0) - mean), 4.5 * std / 200)
    error = np.sqrt((np.outer(std, std) ** 2 + covariance**2) / len(moved))
    np.testing.assert_array_less(np.abs(np.cov(moved.T) - covariance), 4.5 * error)


def test_groups_are_resampled_after_every_step_but_the_last():
    """Of two densities that agree no step adds weight; a resampling that adds 1 shows how often it happens."""
    resample = lambda key, log_weights: (jnp.arange(2), log_weights + 1)
    x, keys = jnp.ones((2, 2)), jax.random.split(jax.random.key(0), 2)
    with jax.disable_jit():
        ladder = (0, 0.2, 0.5, 1)
        particles = steering.annealed(log_base, log_base, x, keys, ladder, 0.1, number=2, resample=resample)
    np.testing.assert_array_equal(particles.log_weights, [[2, 2]])


def test_the_pilot_of_two_equal_densities_needs_one_rung():
    """Its move is small, hence accepted, and the step size grows by exp(2 (1 - 0.65))."""
    with jax.disable_jit():
        ladder, sizes = steering.annealing_ladder(log_base, log_base, jnp.eye(4, 2), jax.random.key(0), 1e-4)
    np.testing.assert_array_equal(ladder, [0, 1])
    np.testing.assert_allclose(sizes, [1e-4, 1e-4 * np.exp(0.7)], rtol=1e-6)


@pytest.mark.extended
def test_a_rung_moves_by_the_step_size_of_its_own():
    keys, x = jax.random.split(jax.random.key(0), 4), jnp.ones((4, 2))
    run = lambda sizes: steering.annealed(log_base, log_density, x, keys, (0, 0.5, 1), np.array(sizes), number=1)
    np.testing.assert_allclose(run((0.5, 1e-6, 0.5)).x, x, atol=1e-4)
    assert np.abs(run((1e-6, 0.5, 1e-6)).x - x).max() > 0.1


@pytest.mark.extended
def test_the_pilot_s_rungs_have_the_share_and_its_moves_are_accepted():
    """Between Gaussians of one width s the weights are log-normal: exp(-(rise |m| / s)^2) is their share, so that all
    rises are s sqrt(-log share) / |m|, in any scale."""
    shift = np.array([3.0, -4.0], np.float32)
    share, draws = 0.7, jax.vmap(lambda key: jax.random.normal(key, (2,)))(jax.random.split(jax.random.key(1), 8192))
    rise = (-np.log(share)) ** 0.5 / 5
    base = lambda x: -jnp.sum(x**2, -1) / 2
    density = lambda x: base(x - shift) + 7
    ladder, sizes = steering.annealing_ladder(base, density, draws, jax.random.key(0), 0.3, share=share)
    assert ladder[0] == 0 and ladder[-1] == 1 and len(ladder) == len(sizes) == 1 + np.ceil(1 / rise)
    np.testing.assert_allclose(np.diff(ladder)[:-1], rise, rtol=0.1)
    look = looker(base, density)
    _, accepted = hamiltonian(look, look(draws), 0, sizes[-1], 1, jax.random.split(jax.random.key(5), 8192))
    assert abs(float(accepted.mean()) - 0.65) < 0.12


@pytest.mark.extended
def test_no_key_of_a_pilot_is_used_twice():
    """Over three rungs or more, each with a resampling and a move."""
    base = lambda x: -jnp.sum(x**2, -1) / 2
    with recorded_keys.recorded() as record:
        key, x = jax.random.key(0), np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
        ladder, _ = steering.annealing_ladder(base, lambda x: base(x - 3), x, key, 0.3, share=0.5)
    assert len(ladder) > 3 and record.drawn and max(record.drawn.values()) == 1
    assert not record.drawn.keys() & record.parents


@pytest.mark.extended
def test_particles_outside_of_the_support_die_and_groups_stand_alone():
    half = lambda x: jnp.where(x[:, 0] > 0, log_base(x), -jnp.inf)
    keys = jax.random.split(jax.random.key(0), 24)
    x = STD * jax.vmap(lambda key: jax.random.normal(key, (2,)))(jax.random.split(jax.random.key(1), 24))
    run = jax.jit(lambda x, keys: steering.annealed(log_base, half, x, keys, (0, 0.5, 0.5, 1), 0.5, number=8))
    whole = groups.assert_the_last_stands_alone(run, x, keys)
    assert np.isfinite(whole.x).all() and not np.isnan(whole.log_weights).any()
    alive = np.asarray(whole.log_weights).ravel() > -np.inf
    assert 0 < alive.sum() < 24 and (np.asarray(whole.x)[alive, 0] > 0).all()


REFUSED = {
    "falls": ({"ladder": (0, 0.6, 0.5, 1)}, "do not fall"),
    "ends": ({"ladder": (0, 0.5)}, "from 0 to 1"),
    "size": ({"step_sizes": 0.0}, "step_sizes = 0.0 must be positive"),
    "an infinite size": ({"step_sizes": np.inf}, "step_sizes = inf must be positive and finite"),
    "sizes": ({"step_sizes": np.ones(3)}, r"step_sizes = .* one number or one for each of the 2 rungs"),
    "leapfrogs": ({"leapfrogs": 0}, "leapfrogs = 0 must be an integer of at least 1"),
    "groups": ({"number": 5}, "number = 5 particles in a group do not divide the 12 samples"),
    "shape": ({"log_density": lambda x: x}, "the log-densities, one number for each sample,"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_annealed_is_refused(name):
    changes, message = REFUSED[name]
    arguments = {"log_base": log_base, "log_density": log_density, "ladder": (0, 1), "step_sizes": 0.1, "number": 4}
    keys = jax.random.split(jax.random.key(0), 12)
    with pytest.raises(ValueError, match=message):
        steering.annealed(x=jnp.ones((12, 2)), keys=keys, **(arguments | changes))


@pytest.mark.extended
def test_a_pilot_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["diffusion.sampling.steering.annealed"], "RUNGS", 3)
    pilot = functools.partial(steering.annealing_ladder, log_base, log_density, jnp.eye(9, 2), jax.random.key(0), 0.1)
    with pytest.raises(ValueError, match="3 rungs reach b = "):
        pilot(share=0.999)
    with pytest.raises(ValueError, match=r"share = 1 must be in \(0, 1\)"):
        pilot(share=1)
