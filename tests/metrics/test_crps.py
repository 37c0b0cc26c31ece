"""CRPS: its estimates against closed forms and its definition as an integral, and what they refuse."""

import math
import re

import numpy as np
import pytest
from scipy import integrate, stats

from diffusion.metrics import crps


def test_the_closed_form_is_the_integral_and_a_point_has_its_distance():
    for mean, std, y in ((0.3, 0.7, -1.1), (0.0, 1.0, 0.0), (2.0, 0.1, 2.05)):
        normal = (mean, std)
        below = integrate.quad(lambda z, of: stats.norm.cdf(z, *of) ** 2, mean - 12 * std - 3, y, args=(normal,))[0]
        above = integrate.quad(lambda z, of: stats.norm.sf(z, *of) ** 2, y, mean + 12 * std + 3, args=(normal,))[0]
        assert crps.gaussian(mean, std, y) == pytest.approx(below + above, rel=1e-6)
    np.testing.assert_allclose(crps.gaussian(np.zeros(2), np.zeros(2), np.array([-3.0, 0.5])), [3.0, 0.5])
    # Of the true distribution it is E|X - X'| / 2 on average: std / sqrt(pi).
    y = np.random.default_rng(0).normal(1.0, 2.0, 100_000)
    assert crps.gaussian(1.0, 2.0, y).mean() == pytest.approx(2 / math.sqrt(math.pi), rel=0.01)


def test_estimates_are_their_double_sums_and_the_fair_one_is_unbiased():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3, 2)), rng.normal(size=(3, 2))
    pairs = np.abs(x[:, None] - x).sum((0, 1))
    error = np.abs(x - y).mean(0)
    np.testing.assert_allclose(crps.fair(x, y), error - pairs / (2 * 5 * 4))
    np.testing.assert_allclose(crps.plug_in(x, y), error - pairs / (2 * 5 * 5))
    np.testing.assert_allclose(crps.plug_in(x[:1], y), np.abs(x[0] - y))
    # Of three samples: fair has the CRPS of N(0, 1) on average, and the plug-in is above it by E|X - X'| / (2 S).
    few = rng.normal(size=(3, 200_000))
    target = np.full(200_000, 0.4)
    exact, spread = crps.gaussian(0.0, 1.0, 0.4), 2 / math.sqrt(math.pi)
    assert crps.fair(few, target).mean() == pytest.approx(exact, abs=5e-3)
    assert crps.plug_in(few, target).mean() == pytest.approx(exact + spread / 6, abs=5e-3)


def test_the_quantile_form_is_the_integral_of_quantile_losses():
    """2 integral_0^1 (q_a - y) (1[y <= q_a] - a) da is the CRPS; CSDI takes 19 levels of it, over the mean |y|."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=400)
    samples = np.broadcast_to(stats.norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None], (4000, 400))
    exact = crps.gaussian(0.0, 1.0, y).mean() / np.abs(y).mean()
    levels = tuple((np.arange(200) + 0.5) / 200)
    assert crps.quantile_form(samples, y, levels=levels) == pytest.approx(exact, rel=1e-3)
    a = np.array(crps.LEVELS)[:, None]
    assert a.ravel() == pytest.approx(np.arange(0.05, 1.0, 0.05))
    q = stats.norm.ppf(a)
    by_hand = 2 * np.abs((q - y) * ((y <= q) - a)).sum(1).mean() / np.abs(y).sum()
    assert crps.quantile_form(samples, y) == pytest.approx(by_hand, rel=1e-3)
    losses = crps.quantile_losses(samples, y)
    np.testing.assert_allclose(losses, 2 * ((q - y) * ((y <= q) - a)).mean(0), atol=1e-3)
    assert crps.quantile_form(samples, y) == pytest.approx(losses.sum() / np.abs(y).sum(), rel=1e-12)
    # What does not count does not change it, and of one channel the sum over channels is the score itself.
    real = np.arange(400) % 4 == 1
    wild = np.where(real, samples, 1e6)
    assert crps.quantile_form(wild, y, real) == pytest.approx(crps.quantile_form(samples[:, real], y[real]))
    assert crps.quantile_sum(samples[..., None], y[:, None]) == pytest.approx(crps.quantile_form(samples, y))


def test_the_sum_over_channels_sees_what_the_channels_share():
    rng = np.random.default_rng(3)
    draw = lambda number: rng.normal(size=(number, 1)) * np.array([1.0, -1.0]) + 0.1 * rng.normal(size=(number, 2))
    y = draw(500)
    joint = np.stack([draw(500) for _ in range(60)])
    apart = np.stack([joint[..., 0], rng.permuted(joint[..., 1], axis=0)], axis=-1)
    assert crps.quantile_form(joint, y) == pytest.approx(crps.quantile_form(apart, y), rel=0.05)
    assert crps.quantile_sum(joint, y) < 0.6 * crps.quantile_sum(apart, y)


def test_the_sum_has_the_chosen_levels():
    """The median alone: twice half the absolute error of the sum's median, over the absolute target."""
    samples, y = np.array([[1.0, 2.0], [2.0, 0.0], [4.0, 3.0]])[:, None], np.array([[1.0, 3.0]])
    assert crps.quantile_sum(samples, y, levels=(0.5,)) == pytest.approx(1 / 4)


def test_a_step_counts_in_the_sum_only_if_every_channel_does():
    rng = np.random.default_rng(5)
    samples, y = rng.normal(size=(30, 40, 2)), rng.normal(size=(40, 2))
    real = np.ones((40, 2), bool)
    real[::4, 1] = real[2::4] = False
    whole = real.all(-1)
    assert 0 < whole.sum() < real.any(-1).sum()
    assert crps.quantile_sum(samples, y, real) == pytest.approx(crps.quantile_sum(samples[:, whole], y[whole]))


def test_intervals_cover_their_level():
    rng = np.random.default_rng(4)
    samples, y = rng.normal(size=(20, 40_000)), rng.normal(size=40_000)
    for level in (0.5, 0.9):  # five standard errors
        assert crps.coverage(samples, y, level).mean() == pytest.approx(level * 19 / 21, abs=0.0125)
    assert not crps.coverage(np.zeros((5, 2)), np.array([1.0, -1.0]), 0.9).any()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: crps.fair(np.zeros((1, 3)), np.zeros(3)), "S >= 2"),
        (lambda: crps.fair(np.zeros((4, 3)), np.zeros(4)), "samples (4, 3) and targets (4,)"),
        (lambda: crps.plug_in(np.array([[np.nan], [1.0]]), np.zeros(1)), "1 of the samples are not finite"),
        (lambda: crps.quantile_form(np.zeros((4, 3)), np.zeros(3)), "all are 0"),
        (lambda: crps.quantile_form(np.ones((4, 3)), np.ones(3), np.zeros(3, bool)), "no target counts"),
        (lambda: crps.coverage(np.zeros((4, 3)), np.zeros(3), 1.0), "level = 1.0"),
        (lambda: crps.gaussian(0.0, -1.0, 0.0), "std has the value -1.0"),
    ],
)
def test_mistakes_are_refused(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
