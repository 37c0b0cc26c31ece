"""Masks with a schedule for each symbol: laws by matrices in float64, and the entropy of data as the least bound."""

import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps
from diffusion.discrete import steps
from diffusion.discrete.correcting_steps import corrector_law
from diffusion.models import SymbolTransformer
from tests.discrete.enumerated import Enumerated

POWERS = np.array([0.5, 1.0, 3.0])
MASKS = discrete.token_masks(POWERS)


def matrix(t):
    """q(x_t | x_0), `[K x_0, K x_t]`, by its definition."""
    masked = np.append(np.float64(np.float32(t)) ** POWERS, 1.0)
    return np.diag(1 - masked) + masked[:, None] * np.eye(4)[-1]


class EnumeratedTokens(Enumerated):
    def likelihood(self, t):
        one = matrix(t)
        return np.prod([one[self.states[:, None, i], self.states[None, :, i]] for i in range(self.positions)], 0)


def test_the_marginals_go_from_the_data_to_masks():
    symbols = jnp.arange(4)
    for t in (0.0, 1e-3, 0.4, 1.0):
        np.testing.assert_allclose(MASKS.marginal(symbols, t), matrix(t), atol=1e-6)
        np.testing.assert_allclose(MASKS.likelihood(symbols, t), matrix(t).T, atol=1e-6)
    each = MASKS.likelihood(jnp.stack([symbols, symbols[::-1]]), jnp.array([0.3, 0.8]))
    np.testing.assert_allclose(each, [matrix(0.3).T, matrix(0.8).T[::-1]], atol=1e-6)


@pytest.mark.parametrize("t, s", [(0.7, 0.3), (1.0, 0.4), (0.2, 0.0)])
def test_the_posterior_is_bayes_rule(t, s):
    between = np.linalg.inv(matrix(s)) @ matrix(t)  # q(x_t | x_s)
    for a, z in itertools.product(range(3), range(4)):
        whole = matrix(t)[a, z]
        if whole > 1e-9:
            exact = between[:, z] * matrix(s)[a] / whole
            found = MASKS.posterior(jnp.array([z]), jnp.eye(4)[None, a], t, s)[0]
            np.testing.assert_allclose(found, exact, atol=3e-6)


@pytest.mark.parametrize("t, s", [(1.0, 0.999), (0.5, 0.4995)])
def test_slow_masks_have_the_digits_of_their_short_steps(t, s):
    """A power of 0.01 unmasks 1e-5 of the masks in a step of 1,000, of which 1 - (s / t)^w has two digits."""
    powers = np.array([0.01, 2.0])
    masks, (t, s) = discrete.token_masks(powers), (np.float64(np.float32(t)), np.float64(np.float32(s)))
    law = masks.posterior(jnp.array([2]), jnp.array([[0.5, 0.5, 0.0]]), t, s)[0]
    np.testing.assert_allclose(law[:2], 0.5 * -np.expm1(powers * np.log(s / t)), rtol=1e-6)
    symbols, near = jnp.arange(2), np.float64(np.float32(0.9999))
    shown = -np.expm1(powers * np.log(near))
    np.testing.assert_allclose(np.diag(masks.marginal(symbols, near)), shown, rtol=1e-6)
    np.testing.assert_allclose(np.diag(masks.likelihood(symbols, near)), shown, rtol=1e-6)
    leaving = powers * near ** (powers - 1) / shown
    np.testing.assert_allclose(masks.rates_from(symbols, near)[:, 2], leaving, rtol=1e-6)


def test_rates_are_the_derivatives_of_the_steps():
    x0, step = np.append(np.random.default_rng(0).dirichlet(np.ones(3)), 0.0), 1e-3
    law = np.asarray(MASKS.posterior(jnp.array([3]), jnp.asarray(x0)[None], 0.5, 0.5 - step), np.float64)[0]
    rates = MASKS.reverse_rates(jnp.array([3, 1]), jnp.asarray([x0, x0]), 0.5)
    np.testing.assert_allclose(rates[0, :3], law[:3] / step, rtol=5e-3)
    assert rates[0, 3] == 0 and (rates[1] == 0).all()
    forward = np.linalg.inv(matrix(0.5)) @ (matrix(0.5 + step) - matrix(0.5 - step)) / (2 * step)
    np.testing.assert_allclose(MASKS.rates_from(jnp.arange(4), 0.5)[:3, 3], forward[:3, 3], rtol=1e-3)
    assert (MASKS.rates_from(jnp.arange(4), 0.5)[3] == 0).all()


@pytest.mark.extended
def test_equal_powers_are_masks_of_one_schedule_to_each_example():
    one, other = discrete.token_masks([2.0, 2.0, 2.0]), discrete.absorbing(discrete.polynomial(2.0), 4)
    keys, x0 = jax.random.split(jax.random.key(0), 200), jnp.tile(jnp.array([[0, 1, 2, 2]]), (200, 1))
    t = jnp.linspace(0.05, 0.95, 200)
    predict = lambda x, t: discrete.from_logits(other, jnp.tile(jnp.array([0.3, -1.0, 0.2, 5.0]), (*x.shape, 1)), x, t)
    np.testing.assert_array_equal(discrete.noised(one, keys, x0, t), discrete.noised(other, keys, x0, t))
    found = discrete.token_masked_bound(predict, one, keys, x0, t)
    np.testing.assert_allclose(found, discrete.masked_bound(predict, other, keys, x0, t), rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_the_exact_predictor_reaches_the_entropy_and_another_does_not():
    data, number = EnumeratedTokens(MASKS, positions=2), 40_000
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(data.states[rng.choice(len(data.p), number, p=data.p)], jnp.int32)
    t = jnp.asarray((rng.permutation(number) + 0.5) / number, jnp.float32)
    keys = jax.random.split(jax.random.key(0), number)
    bound = jax.jit(lambda predict: discrete.token_masked_bound(predict, MASKS, keys, x0, t), static_argnums=0)
    losses = np.asarray(bound(data.predictor()))
    error = losses.std() / np.sqrt(number)
    assert error < 0.05 and abs(losses.mean() - data.entropy) < 4 * error, (losses.mean(), error, data.entropy)
    blind = lambda x, t: discrete.from_logits(MASKS, jnp.zeros((*x.shape, 4)), x, t)
    others = np.asarray(bound(blind))
    assert others.mean() > data.entropy + 4 * others.std() / np.sqrt(number)


@pytest.mark.parametrize("law", [steps.ancestral_law, steps.euler_law], ids=["ancestral", "euler"])
def test_samples_are_of_first_order(law):
    data = EnumeratedTokens(MASKS, positions=2)
    errors = [
        np.abs(data.stepped_law(law, np.linspace(1.0, 0.1, number + 1)) - data.at(0.1)).sum() for number in (24, 48)
    ]
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.25, errors


def test_corrections_keep_the_law_of_their_time():
    data, short = EnumeratedTokens(MASKS, positions=2), 1e-3
    x, law = jnp.asarray(data.states, jnp.int32), data.at(0.4)
    t = jnp.full(len(x), 0.4)
    once = data.kernel(np.asarray(corrector_law(data.predictor(), MASKS, x, t, jnp.full(len(x), short)), np.float64))
    moved = once - np.eye(len(law))
    assert np.abs(law @ moved).sum() < 0.02 * np.abs(law * np.diag(moved)).sum()


def test_a_context_is_weighed_by_how_likely_each_symbol_is_to_be_masked():
    logits, t = np.log([0.2, 0.5, 0.3, 1.0]), jnp.array([0.1])
    found = np.exp(discrete.from_context(MASKS, jnp.asarray(logits)[None, None], jnp.array([[3]]), t))[0, 0]
    exact = np.array([0.2, 0.5, 0.3]) * 0.1**POWERS
    np.testing.assert_allclose(found, np.append(exact / exact.sum(), 0), rtol=1e-5)


@pytest.mark.extended
def test_the_objective_is_the_bound_and_what_needs_one_schedule_is_refused():
    network = SymbolTransformer(4, width=16, depth=1, heads=2, clock="none", tied=True)
    x0 = jnp.array([[0, 1, 2, 2], [2, 0, 1, 1]])
    variables = network.init(jax.random.key(0), x0)
    schedule = schedules.rectified_flow()
    objective = discrete.masked_diffusion(MASKS, timesteps.uniform_density(schedule))
    model = lambda x, t, c: network.apply(variables, x, t, c)
    keys = jax.random.split(jax.random.key(1), 2)
    losses, parts = objective({"model": model}, schedule, keys, {"x": x0}, 0)
    assert losses.shape == (2,) and np.isfinite(losses).all() and parts["t"].shape == (2,)
    plan = timesteps.plan(np.linspace(1, 0, 5))
    predict = discrete.predictor(model, MASKS, discrete.from_logits)
    for sampler in (discrete.first_hitting(), discrete.flow(), discrete.unmasking(discrete.confident(0.9))):
        with pytest.raises(ValueError, match="token_masks has a schedule for each symbol, and this needs one for all"):
            discrete.sample(sampler, predict, MASKS, jnp.full((2, 4), 3), plan, keys)
    with pytest.raises(ValueError, match=r"score_entropy: token_masks has no ratios\. Valid: masked_diffusion"):
        discrete.score_entropy(MASKS, timesteps.uniform_density(schedule))
    with pytest.raises(ValueError, match=r"token_masks: powers \[1\. 0\.\]. Valid: \[K - 1\] finite numbers above 0"):
        discrete.token_masks([1.0, 0.0])


SAMPLERS = {
    "ancestral": (discrete.ancestral(), 8),
    "euler": (discrete.euler(), 48),
    "tau_leaping": (discrete.tau_leaping(), 48),
    "theta_trapezoidal": (discrete.theta_trapezoidal(), 24),
    "semi_autoregressive": (discrete.semi_autoregressive(1), 8),
    "symbol_corrected": (discrete.corrected(), 8),
    "first_hitting": (discrete.first_hitting(), 1),
    "unmasking": (discrete.unmasking(discrete.surest(1)), 8),
    "remasking": (discrete.remasking(discrete.capped(0.1)), 8),
    "symbol_flow": (discrete.flow(), 8),
    "metric_flow": (discrete.metric_flow(), 8),
}  # {name: (the sampler, steps that suffice)}


@pytest.mark.extended
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_the_data_or_is_one_that_the_page_says_is_refused(name):
    """One position, whose exact predictor weighs each symbol by how likely it is to be masked, t^w."""
    sampler, steps = SAMPLERS[name]
    law, number = np.array([0.5, 0.3, 0.2]), 4000

    def predict(x, t):
        masked = jnp.log(jnp.asarray(law) * jnp.broadcast_to(t, x.shape[:1])[:, None, None] ** POWERS)
        masked = jnp.pad(jax.nn.log_softmax(masked), ((0, 0), (0, 0), (0, 1)), constant_values=-jnp.inf)
        return jnp.where((x == 3)[..., None], masked, jnp.log(jax.nn.one_hot(x, 4)))

    prior_keys, keys = jax.random.split(jax.random.key(0), (2, number))
    plan, x = timesteps.plan(np.linspace(1, 0, steps + 1)), discrete.prior(MASKS, prior_keys, (1,))
    page = (pathlib.Path(__file__).parents[2] / "docs/discrete.md").read_text()
    sentence = re.search(r"`token_masks` have no common schedule.*? refuse them", page, re.DOTALL)[0]
    refused = set(re.findall(r"`(\w+)`", sentence)) - {"token_masks"}
    assert len(refused) == 5
    if name.removeprefix("symbol_") in refused:
        with pytest.raises((ValueError, TypeError)):
            discrete.sample(sampler, predict, MASKS, x, plan, keys)
        return
    drawn = np.bincount(np.asarray(discrete.sample(sampler, predict, MASKS, x, plan, keys)).ravel(), minlength=4)
    np.testing.assert_allclose(drawn / number, [*law, 0], atol=4 * 0.5 / number**0.5)
