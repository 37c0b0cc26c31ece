"""The board, the divergence and the three residuals by hand, and the statements from divergences by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.remake import flow_map_toy as toy


def scale_of_a_gaussian_flow(t, deviation=2.0):
    """Deviation of (1 - t) x_0 + t x_1 for x_0 ~ N(0, 1) and x_1 ~ N(0, deviation^2)."""
    return jnp.sqrt((1 - t) ** 2 + (deviation * t) ** 2)


def exact(s, t, x):
    """The mean velocity of that flow, whose map is x scale(t) / scale(s), and its velocity at s = t."""
    scale = scale_of_a_gaussian_flow
    apart = jnp.abs(t - s) > 1e-6
    rate = (scale(t) / scale(s) - 1) / jnp.where(apart, t - s, 1)
    at_once = (5 * t - 1) / (1 - 2 * t + 5 * t**2)  # d log scale / dt
    return x * jnp.where(apart, rate, at_once)


@pytest.fixture
def times():
    x = jax.random.normal(jax.random.key(0), (16, 2))
    s, t = jnp.linspace(0.05, 0.5, 16)[:, None], jnp.linspace(0.6, 0.95, 16)[:, None]
    return s, t, jnp.full_like(s, 0.3), x


@pytest.mark.extended
@pytest.mark.parametrize("method", toy.RESIDUALS)
def test_the_map_of_a_gaussian_flow_has_no_residual_and_another_has_one(method, times):
    residual = toy.RESIDUALS[method]
    assert np.abs(residual(exact, exact, *times)).max() < 2e-5
    wrong = lambda s, t, x: exact(s, t, x) + (t - s) * x
    assert np.abs(residual(wrong, wrong, *times)).mean() > 0.05


@pytest.mark.parametrize("method", toy.RESIDUALS)
def test_no_gradient_reaches_the_fixed_terms(method, times):
    """For v = w x: rate_t = w x, rate_s = -w x, and v_{s,t} itself are what a residual differentiates."""
    s, t, h, x = times
    linear = lambda w: lambda s, t, x: w * x
    found = jax.grad(lambda w: jnp.sum(toy.RESIDUALS[method](linear(w), linear(2.0), s, t, h, x)))(0.7)
    assert found == pytest.approx(float(jnp.sum(x)) * (-1 if method == toy.ESD else 1), rel=1e-5)


def test_the_board_has_eight_dark_squares_and_unit_deviations():
    points = np.asarray(toy.board(jax.random.key(0), 20_000))
    column, row = np.floor((points / toy.EDGE + 1) * 2).astype(int).T
    assert set(zip(column, row)) == {(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0}
    np.testing.assert_allclose(points.std(0), 1, rtol=0.02)
    np.testing.assert_allclose(np.bincount(4 * column + row)[[0, 2, 5, 7, 8, 10, 13, 15]], 2500, atol=200)


def test_the_divergence_of_clouds_by_hand():
    """A cloud of n points in each dark cell has (n + 1) / (512 n + 1025) there, where the board has 1 / 512."""
    centres = (np.arange(32) + 0.5) / 16 - 1
    x, y = (centres[index] for index in np.indices((32, 32)))
    dark = (np.indices((32, 32)) // 8).sum(0) % 2 == 0
    cloud = toy.EDGE * np.stack([x, y], -1)
    even = np.repeat(cloud[dark], 7, 0)
    assert toy.divergence(even) == pytest.approx(np.log((512 * 7 + 1025) / (512 * 8)), rel=1e-9)
    assert toy.divergence(np.repeat(cloud[~dark], 7, 0)) == pytest.approx(np.log((512 * 7 + 1025) / 512), rel=1e-9)
    assert toy.divergence(np.full((10, 2), 9.0)) == pytest.approx(np.log(1035 / 512), rel=1e-9)


@pytest.mark.parametrize("jumps", toy.JUMPS)
def test_jumps_of_an_exact_map_compose(jumps):
    start = jax.random.normal(jax.random.key(1), (8, 2))
    np.testing.assert_allclose(toy.samples(exact, start, jumps), 2 * start, rtol=1e-4)


def test_the_velocity_is_trained_on_three_quarters_of_a_batch(monkeypatch):
    """v = 0 has |x_1 - x_0|^2, of mean 2 (1 + 1), over three quarters of the batch, and no residual."""
    nothing = lambda s, t, x: jnp.zeros_like(x)
    found = toy.loss(toy.LSD, nothing, nothing, jax.random.key(0), 40_000)
    assert float(found) == pytest.approx(0.75 * 4, rel=0.02)


@pytest.mark.parametrize("method", [toy.PSD_UNIFORM, toy.PSD_MIDPOINT])
def test_the_second_jump_starts_at_half_time_or_anywhere(monkeypatch, method):
    seen = []
    monkeypatch.setitem(toy.RESIDUALS, method, lambda v, teacher, s, t, h, x: seen.append((s, t, h)) or x)
    toy.loss(method, lambda s, t, x: x, None, jax.random.key(0), 400)
    s, t, h = (np.asarray(array) for array in seen[0])
    assert (s < t).all() and len(h) == 100
    assert (h == 0.5).all() if method == toy.PSD_MIDPOINT else h.min() < 0.1 and h.max() > 0.9


def test_the_statements_of_divergences_by_hand():
    noise = (0.0, 0.01, -0.01, 0.02)
    level = {toy.LSD: 1.0, toy.PSD_UNIFORM: 2.0, toy.PSD_MIDPOINT: 1.0, toy.ESD: 0.5}
    values = {
        toy.VALUE.format(part, seed, jumps): level[part] + noise[seed] * (1 + (part == toy.PSD_MIDPOINT))
        for part in toy.REMAKE.parts
        for seed in range(toy.SEEDS)
        for jumps in toy.JUMPS
    }
    expected = {toy.BETTER.format(part, k): float(part == toy.PSD_UNIFORM) for part in toy.OTHERS for k in toy.JUMPS}
    assert toy.conclude(values) == expected


@pytest.mark.extended
def test_a_part_is_measured_and_drawn_and_the_others_are_compared_with_it(monkeypatch):
    monkeypatch.setattr(toy, "JUMPS", (1, 2))
    measured = toy.measure(toy.LSD, True)
    parts = {
        part: {name.replace(toy.LSD, part): value for name, value in measured.items()} for part in toy.REMAKE.parts
    }
    values = {name: value for row in parts.values() for name, value in row.items() if np.ndim(value) == 0}
    published = [row.figure for row in toy.REMAKE.published if row.figure.endswith((": 1 (1: yes)", ": 2 (1: yes)"))]
    assert toy.conclude(values) == dict.fromkeys(published, 0.0)  # no part differs from its own
    assert len(toy.draw(parts).axes) == 8
