"""The models that stand beside diffusion of characters: laws that can be written down."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.symbols import autoregressive, character_runs, characters, text_models
from tests.drawn_parameters import drawn


def test_runs_of_two_are_interpolated_with_shorter_ones():
    """The text is a b a a: p(b | a) by its counts, by hand."""
    counts = character_runs.fit(np.array([0, 1, 0, 0]), 2, size=3)
    first_b = (1 + 2 / 3) / (4 + 2)  # one of four characters, two different ones
    then_b = (1 + 2 * first_b) / (2 + 2)  # one of the two that follow an a, which two different ones follow
    found = character_runs.bits(counts, np.array([[1, 0, 1], [0, 1, 2]]), size=3)
    np.testing.assert_allclose(found[0, [0, 2]], -np.log2([first_b, then_b]))
    never = (0 + 2 / 3) / (4 + 2)
    np.testing.assert_allclose(found[1, 2], -np.log2((0 + 1 * never) / (1 + 1)))  # one character follows the b


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_runs_give_every_text_a_probability_and_all_of_them_sum_to_one(longest):
    text = np.random.default_rng(0).integers(0, 3, 40)
    every = np.array(list(itertools.product(range(3), repeat=3)))
    bits = character_runs.bits(character_runs.fit(text, longest, 3), every, 3).sum(1)
    np.testing.assert_allclose(np.sum(2.0**-bits), 1)


@pytest.fixture(scope="module")
def causal():
    network = autoregressive.CausalTransformer(3, width=32, depth=1, heads=1)
    return network, drawn(network.init, jnp.zeros((1, 3), jnp.int32))["params"]


@pytest.mark.extended
def test_a_character_is_predicted_by_the_ones_before_it_alone(causal):
    network, params = causal
    x = jnp.array([[0, 1, 2, 1], [0, 1, 0, 2]])
    logits = jax.jit(network.apply)({"params": params}, x)
    np.testing.assert_allclose(logits[0, :3], logits[1, :3], atol=1e-6)
    assert np.abs(logits[0, 3] - logits[1, 3]).max() > 1e-3


@pytest.mark.extended
def test_texts_from_left_to_right_have_the_law_whose_nats_are_measured(causal):
    network, params = causal
    every = jnp.asarray(list(itertools.product(range(3), repeat=2)))
    p = np.exp(-2 * autoregressive.nats(jax.jit(network.apply)({"params": params}, every), every))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    number = 4000
    x = np.asarray(autoregressive.sample(network, params, jax.random.split(jax.random.key(2), number), 2))
    found = np.bincount(3 * x[:, 0] + x[:, 1], minlength=9) / number
    np.testing.assert_allclose(found, p, atol=4 * 0.5 / np.sqrt(number))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["masked", "uniform", "flow", "autoregressive"])
def test_a_network_of_equal_letters_is_charged_their_logarithm(name):
    """All parameters 0: log 27 nats a character on the average, exactly from left to right."""
    model = text_models.all_models(32, 1)[name]
    shapes = jax.eval_shape(model.network.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32), jnp.ones(1))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    x0 = jnp.asarray(np.random.default_rng(0).integers(0, 27, (2048, 4)), jnp.int32)
    nats = np.asarray(jax.jit(model.bound)(params, jax.random.key(1), x0))
    error = nats.std() / np.sqrt(len(nats))
    assert abs(nats.mean() - np.log(27)) < 4 * error + 1e-5 and error < 0.2
    assert characters.decoded(characters.encoded("a line")) == "a line"
