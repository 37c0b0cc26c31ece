"""Densities with more to them than a distribution: importance sampling by recent losses, and times per frame."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import given, strategies as st

from diffusion import schedules, timesteps

BINS, HISTORY = 6, 3
SCHEDULE = schedules.rectified_flow()


@functools.cache
def _density(discrete=False, uniform_prob=0.01):
    density = timesteps.loss_second_moment(SCHEDULE, BINS, discrete, HISTORY, uniform_prob)
    return density._replace(sample=jax.jit(density.sample), update=jax.jit(density.update))


MANY = 4000  # one size for all, so that compilations are shared
KEYS = jax.random.split(jax.random.key(0), MANY)


def _draw(density, state, keys=KEYS, start=0):
    return density.sample(state, keys, jnp.arange(start, start + len(keys)))


class Resampler:
    """The published algorithm in plain Python, one loss at a time: the last losses in a list for each bin."""

    def __init__(self, uniform_prob=0.01):
        self.losses = [[] for _ in range(BINS)]
        self.uniform_prob = uniform_prob

    def see(self, i, loss):
        self.losses[i] = [*self.losses[i], loss][-HISTORY:]

    def probabilities(self):
        if any(len(seen) < HISTORY for seen in self.losses):
            return np.full(BINS, 1 / BINS)
        w = np.array([np.sqrt(np.mean(np.square(seen))) for seen in self.losses])
        return w / w.sum() * (1 - self.uniform_prob) + self.uniform_prob / BINS


def _time(i, discrete):
    return (np.asarray(i) + (1 if discrete else 0.5)) / BINS


def _bin(t, discrete):
    return np.round(np.asarray(t, np.float64) * BINS - (1 if discrete else 0.5)).astype(int)


def _trained(discrete, seed=0):
    """A state after some batches of one size, beside the published algorithm after the same losses."""
    density = _density(discrete)
    resampler = Resampler()
    state = _density(discrete).init()
    rng = np.random.default_rng(seed)
    for _ in range(8):
        i = rng.integers(0, BINS, 8)
        raw = rng.uniform(0.1, 3.0, 8)
        # What a training step hands over carries the importance of the state that drew the times.
        importance = 1 / (BINS * resampler.probabilities()[i])
        state = density.update(state, jnp.asarray(_time(i, discrete), jnp.float32), jnp.asarray(raw * importance))
        for one, loss in zip(i, raw):
            resampler.see(one, loss)
    return density, state, resampler


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_history_is_the_published_one(discrete, seed):
    """Many losses of one bin in a batch, none, and more than it remembers: the same as one by one in order."""
    _, state, resampler = _trained(discrete, seed)
    for i in range(BINS):
        assert int(min(state["seen"][i], HISTORY)) == len(resampler.losses[i])
        remembered = np.sort(np.asarray(state["losses"][i]))[HISTORY - len(resampler.losses[i]) :]
        np.testing.assert_allclose(remembered, np.sort(resampler.losses[i]), rtol=1e-5)


def test_bins_divide_the_times_of_the_schedule():
    density = timesteps.loss_second_moment(SCHEDULE._replace(t_min=0.5, t_max=2.5), BINS, False, HISTORY, 0.01)
    middles = 0.5 + 2 * (jnp.array([1, 4, 4]) + 0.5) / BINS
    np.testing.assert_array_equal(density.update(density.init(), middles, jnp.ones(3))["seen"], [0, 1, 0, 0, 2, 0])


@pytest.mark.parametrize("discrete", [False, True])
def test_times_have_the_published_probabilities_and_exact_importance(discrete):
    """Bins in proportion to p, the importance 1 / (bins p): so p_i importance_i = 1 / bins, which is unbiasedness."""
    density, state, resampler = _trained(discrete)
    p = resampler.probabilities()
    assert p.max() > 1.5 * p.min()
    t, importance = _draw(density, state)
    i = _bin(t, discrete)
    assert t.dtype == importance.dtype == jnp.float32
    assert scipy.stats.chisquare(np.bincount(i, minlength=BINS), p * MANY).pvalue > 1e-3
    np.testing.assert_allclose(p[i] * np.asarray(importance), 1 / BINS, rtol=1e-5)


def test_expectation_of_any_loss_is_that_of_uniform_times():
    """int p(t) importance(t) f(t) dt = int f(t) dt, with the density and the importance that were drawn."""
    density, state, resampler = _trained(False)
    t, importance = _draw(density, state)
    by_bin = np.array([np.asarray(importance)[_bin(t, False) == i][0] for i in range(BINS)])
    f = lambda t: np.exp(2 * t) + np.sin(9 * t)
    edges = np.arange(BINS + 1) / BINS
    density_of_bin = resampler.probabilities() * BINS
    total = sum(density_of_bin[i] * by_bin[i] * scipy.integrate.quad(f, edges[i], edges[i + 1])[0] for i in range(BINS))
    np.testing.assert_allclose(total, scipy.integrate.quad(f, 0, 1)[0], rtol=1e-5)
    for i in range(BINS):  # within a bin times are uniform
        inside = np.asarray(t, np.float64)[_bin(t, False) == i] * BINS - i
        assert scipy.stats.kstest(inside, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("discrete", [False, True])
def test_times_are_uniform_until_every_bin_has_a_history(discrete):
    density = _density(discrete)
    state = density.init()
    # All bins full but the last, which lacks one.
    i = np.repeat(np.arange(BINS), HISTORY)[:-1]
    losses = jnp.asarray(np.linspace(1, 100, i.size), jnp.float32)
    state = density.update(state, jnp.asarray(_time(i, discrete), jnp.float32), losses)
    t, importance = _draw(density, state)
    np.testing.assert_allclose(importance, 1, rtol=1e-6)
    assert scipy.stats.chisquare(np.bincount(_bin(t, discrete), minlength=BINS)).pvalue > 1e-3
    state = density.update(state, jnp.asarray(_time([BINS - 1], discrete), jnp.float32), jnp.ones(1))
    assert np.ptp(_draw(density, state)[1]) > 0.5


def test_zero_losses_leave_the_times_uniform():
    density = _density()
    i = np.repeat(np.arange(BINS), HISTORY)
    state = density.update(density.init(), jnp.asarray(_time(i, False), jnp.float32), jnp.zeros(i.size))
    t, importance = _draw(density, state)
    np.testing.assert_allclose(importance, 1, rtol=1e-5)
    assert np.isfinite(t).all()


def test_adaptive_draws_depend_on_the_example_alone():
    density, state, _ = _trained(False)
    whole = _draw(density, state)
    part = _draw(density, state, KEYS[7:11], 7)
    for one, other in zip(whole, part):
        np.testing.assert_array_equal(one[7:11], other)


@given(uniform_prob=st.floats(1e-4, 1.0))
def test_times_stay_inside_the_schedule(uniform_prob):
    schedule = schedules.edm()
    density = timesteps.loss_second_moment(schedule, BINS, False, 1, uniform_prob)
    state = {"losses": jnp.asarray([[1e-6], [1e3], [0.0], [1.0], [5.0], [1e9]]), "seen": jnp.ones(BINS, jnp.int32)}
    t, importance = _draw(density, state)
    assert (t > schedule.t_min).all()
    assert (t < schedule.t_max).all()
    assert np.isfinite(importance).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: timesteps.loss_second_moment(SCHEDULE, 0), "bins"),
        (lambda: timesteps.loss_second_moment(SCHEDULE, history=0), "history"),
        (lambda: timesteps.loss_second_moment(SCHEDULE, uniform_prob=0.0), "uniform_prob"),
        (lambda: timesteps.loss_second_moment(SCHEDULE, uniform_prob=float("nan")), "uniform_prob"),
        (lambda: timesteps.loss_second_moment(schedules.linear_beta(), 2000, True), "2000"),
        (lambda: timesteps.mode(SCHEDULE, 1.8), "scale = 1.8"),
        (lambda: timesteps.mode(SCHEDULE, -1.1), "scale = -1.1"),
        (lambda: timesteps.mode(SCHEDULE, float("nan")), "scale"),
        (lambda: timesteps.laplace(SCHEDULE, scale=0.0), "scale"),
        (lambda: timesteps.beta_density(SCHEDULE, 0.0, 1.0), "a = 0.0"),
        (lambda: timesteps.beta_density(SCHEDULE, 1.0, -1.0), "b = -1.0"),
        (lambda: timesteps.per_frame(timesteps.cosmap(SCHEDULE), 0), "frames"),
    ],
)
def test_bad_densities_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_cosmap_has_the_log_snrs_of_the_cosine_schedule():
    """On the rectified flow 2 ln((1 - t) / t) is 2 ln(cot(pi u / 2)), u uniform (Esser et al. 2024, section 3.1)."""
    t, _ = _draw(timesteps.cosmap(SCHEDULE), ())
    log_snr = np.asarray(SCHEDULE.log_snr(t), np.float64)
    of_cosine = lambda log_snr: 1 - 2 / np.pi * np.arctan(np.exp(-log_snr / 2))
    assert scipy.stats.kstest(of_cosine(log_snr), "uniform").pvalue > 1e-3


# Times per frame.


def test_per_frame_draws_each_frame_from_the_density():
    density = timesteps.per_frame(timesteps.mode(SCHEDULE), 4)
    keys = KEYS[:1000]
    t, importance = _draw(density, density.init(), keys)
    assert t.shape == importance.shape == (1000, 4)
    alone, _ = _draw(timesteps.mode(SCHEDULE), ())
    for frame in range(4):
        assert scipy.stats.ks_2samp(t[:, frame], alone).pvalue > 1e-3
    correlation = np.corrcoef(np.asarray(t).T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / 1000**0.5
    np.testing.assert_array_equal(_draw(density, (), keys[3:7], 3)[0], t[3:7])


def test_per_frame_strata_cover_consecutive_frames():
    density = timesteps.per_frame(timesteps.uniform_density(SCHEDULE, strata=8), 4)
    t, _ = _draw(density, (), KEYS[:4])
    np.testing.assert_array_equal(np.floor(np.asarray(t).reshape(-1, 8) * 8), np.tile(np.arange(8), (2, 1)))


def test_per_frame_tells_an_adaptive_density_of_every_frame():
    density = timesteps.per_frame(_density(), 2)
    t = jnp.asarray(_time([[0, 3], [3, 5]], False), jnp.float32)
    state = density.update(density.init(), t, jnp.asarray([2.0, 7.0]))
    np.testing.assert_array_equal(state["seen"], [1, 0, 0, 2, 0, 1])
    np.testing.assert_allclose(np.sort(state["losses"][3]), [0.0, 2.0, 7.0])


def test_the_largest_draw_stays_in_the_last_bin(monkeypatch):
    """Twelve shares of 1/12 add up to 1 - 2^-23 in float32, which is no more than the largest draw."""
    bins = 12
    assert np.cumsum(np.full(bins, 1 / bins, np.float32), dtype=np.float32)[-1] <= 1 - 2.0**-23
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, 1 - 2.0**-23, dtype))
    for discrete in (False, True):
        density = timesteps.loss_second_moment(SCHEDULE, bins, discrete)
        t, importance = density.sample(density.init(), KEYS[:1], jnp.arange(1))
        assert 1 - 1 / bins < float(t[0]) <= 1 and float(importance[0]) == pytest.approx(1)


def test_the_ends_of_the_draws_stay_inside_the_schedule(monkeypatch):
    """Half a cell of 2^-23 above the start; the last bin's end is rounded to 1, and t stays below it."""
    bins = 1000
    density = timesteps.loss_second_moment(SCHEDULE, bins)
    for draw, expected in ((0.0, 2.0**-24 / bins), (1 - 2.0**-23, 1 - 2.0**-24)):
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype, draw=draw: jnp.full(shape, draw, dtype))
        t = float(density.sample(density.init(), KEYS[:1], jnp.arange(1))[0][0])
        assert t == pytest.approx(SCHEDULE.t_min + (SCHEDULE.t_max - SCHEDULE.t_min) * expected, rel=1e-7)
        assert SCHEDULE.t_min < t < SCHEDULE.t_max
