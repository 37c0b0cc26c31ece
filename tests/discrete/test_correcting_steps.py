"""Corrections of symbols: they keep the law of their time, and bring other laws nearer to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete import steps
from diffusion.discrete.correcting_steps import corrector_law
from tests.discrete.enumerated import PROCESSES, Enumerated
from tests.discrete.test_rate_processes import PROCESSES as RATE_PROCESSES, EnumeratedRates

DATA = {
    **{name: Enumerated(process, positions=2) for name, process in PROCESSES.items()},
    "rates": EnumeratedRates(RATE_PROCESSES["not reversible"], positions=2),
}


def kernel(data, t, duration):
    """The exact `[S, S]` of one correction of the exact predictor."""
    x = jnp.asarray(data.states, jnp.int32)
    times, durations = jnp.full(len(x), t, jnp.float32), jnp.full(len(x), duration, jnp.float32)
    return data.kernel(np.asarray(corrector_law(data.predictor(), data.process, x, times, durations), np.float64))


@pytest.mark.extended
@pytest.mark.parametrize("name", DATA)
def test_the_law_of_the_time_stays_as_it_is_in_the_limit_of_short_corrections(name):
    """p (kernel - 1) / duration goes to p Q = 0, and the kernel moves at a rate that does not."""
    data = DATA[name]
    law, short = data.at(0.4), 1e-3
    moved = kernel(data, 0.4, short) - np.eye(len(law))
    assert np.abs(np.diag(moved))[law > 1e-6].min() / short > 0.05
    assert np.abs(law @ moved).sum() / short < 0.02 * np.abs(law * np.diag(moved)).sum() / short


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_corrections_bring_another_law_to_the_one_of_the_time(name):
    data = DATA[name]
    law = data.at(0.4)
    other = np.where(law > 0, np.random.default_rng(0).uniform(size=len(law)), 0)
    other, once = other / other.sum(), kernel(data, 0.4, 0.01)
    distances = [np.abs(other @ np.linalg.matrix_power(once, number) - law).sum() / 2 for number in (0, 25, 500)]
    assert distances[1] < 0.8 * distances[0] and distances[2] < 0.05 * distances[0]


@pytest.mark.extended
def test_corrected_steps_draw_the_law_of_step_and_corrections():
    """Two steps, of which only the first is corrected, since the second ends at 0."""
    data, number = Enumerated(PROCESSES["absorbing"], positions=2), 20_000
    sampler = discrete.corrected(2, size=0.5)
    x = jnp.asarray(data.states, jnp.int32)
    step = lambda t, s: data.kernel(
        np.asarray(steps.ancestral_law(data.predictor(), data.process, x, jnp.full(len(x), t), jnp.full(len(x), s)))
    )
    once = kernel(data, 0.5, 0.25)
    exact = data.prior() @ step(1.0, 0.5) @ once @ once @ step(0.5, 0.0)
    keys = jax.random.split(jax.random.key(7), number)
    start = jnp.full((number, 2), data.process.mask)
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))
    run = jax.jit(lambda keys: discrete.sample(sampler, data.tabled(), data.process, start, plan, keys))
    found = np.bincount(np.asarray(data.index(run(keys))), minlength=len(exact)) / number
    assert np.abs(found - exact).sum() / 2 < 1.5 * np.sum(np.sqrt(exact / number)) / 2
    alone = data.stepped_law(steps.ancestral_law, (1.0, 0.5, 0.0))
    assert np.abs(exact - data.p).sum() < 0.8 * np.abs(alone - data.p).sum()  # what the corrections are for


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_a_correction_lasts_for_its_share_of_the_step(size):
    """From 0.75 to 0.5 by a law that stays: a mask goes at the rate 2 of s, for size times 0.25."""
    process, number = PROCESSES["absorbing"], 4000
    stay = lambda predict, process, x, t, s: jax.nn.one_hot(x, process.size)
    blind = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, process.size)), x, t)
    keys = jax.random.split(jax.random.key(0), number)
    start, plan = jnp.full((number, 1), process.mask), timesteps.plan(np.array([0.75, 0.5]))
    found = discrete.sample(discrete.corrected(1, size, stay), blind, process, start, plan, keys)
    share, exact = np.mean(np.asarray(found) != process.mask), -np.expm1(-2 * size * 0.25)
    assert abs(share - exact) < 4 * 0.5 / np.sqrt(number)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"corrections = 0 and size = 1\.0\. Valid: corrections >= 1 and size > 0"):
        discrete.corrected(0)
    with pytest.raises(ValueError, match=r"corrections = 1 and size = 0\b"):
        discrete.corrected(1, size=0)
