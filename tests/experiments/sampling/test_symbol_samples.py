"""Samples of runs on symbols: which numbers they are drawn from, and which part of a text is known."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete
from diffusion.experiments.sampling import generate, symbol_samples
from diffusion.objectives import Restores
from diffusion.recipe.sections import sectioned
from diffusion.training.step import HEADS

MASKS = discrete.absorbing(discrete.linear(), 4)
KEYS = jax.random.split(jax.random.key(0), 3)


def run(length=6, causal=0, process=MASKS):
    """A recipe's parts as far as they are read, and the arguments of `infilling` once it is called."""
    solver = types.SimpleNamespace(nfe=lambda steps: 2 * steps)
    parts = {"shape": (length,), "sampler": solver, "plan": types.SimpleNamespace(solved=5)}
    objective = types.SimpleNamespace(reads=Restores(process, discrete.from_logits))
    network = types.SimpleNamespace(causal=causal)
    recipe = types.SimpleNamespace(
        **sectioned(parts | {"null": None, "network": network}), with_parts=lambda sampler: sampler
    )
    recipe.objective = objective
    return recipe


def test_a_text_stands_at_the_beginning_and_its_gaps_and_its_rest_are_filled_in(monkeypatch):
    monkeypatch.setattr(discrete, "infilling", lambda sampler, values, known: (values, known))
    values, known = symbol_samples.infilled(run(), "b_ca", ("a", "b", "c"))
    np.testing.assert_array_equal(known, [True, False, True, True, False, False])
    np.testing.assert_array_equal(np.asarray(values)[np.asarray(known)], [1, 2, 0])
    # In source code a low line is a symbol like others: it still stands for what is filled in.
    values, known = symbol_samples.infilled(run(), "b_ca", ("_", "a", "b", "c"))
    np.testing.assert_array_equal(known, [True, False, True, True, False, False])
    np.testing.assert_array_equal(np.asarray(values)[np.asarray(known)], [2, 3, 1])


@pytest.mark.parametrize("causal, evaluations", [(0, 10), (2, 33), (3, 22)])
def test_each_block_costs_its_steps_and_one_evaluation_that_keeps_it(causal, evaluations):
    """Ten evaluations for five steps of a solver of two stages; of three or two blocks eleven each."""
    assert symbol_samples.evaluations(run(causal=causal)) == evaluations


def test_the_prior_and_the_steps_have_keys_of_their_own(monkeypatch):
    seen = {}
    prior = lambda process, keys, shape: seen.setdefault("prior", keys) is keys and jnp.zeros((len(keys), *shape))
    monkeypatch.setattr(discrete, "prior", prior)
    monkeypatch.setattr(discrete, "sample", lambda *parts: seen.setdefault("steps", parts[-1]))
    recipe = run()
    first, rest = generate.keys(np.arange(3, dtype=np.uint32))
    symbol_samples.sampled(recipe, recipe.objective.reads)({}, {}, None, (first, rest))
    for name, keys in (("prior", first), ("steps", rest)):
        np.testing.assert_array_equal(jax.random.key_data(seen[name]), jax.random.key_data(keys))


def test_the_network_receives_the_labels_and_the_guides_their_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(symbol_samples, "predictor", lambda recipe, reads: lambda *parts: asked.append(parts))
    monkeypatch.setattr(discrete, "sample", lambda *parts: None)
    recipe = run()
    symbol_samples.sampled(recipe, recipe.objective.reads)("params", "weights", "labels", (KEYS, KEYS))
    assert asked == [("params", "labels", "weights")]


def test_trained_masks_have_the_powers_that_the_run_has_learned():
    """softplus(log(e^w - 1)) = w."""
    powers = np.array([0.5, 1.0, 2.0])
    process = discrete.TrainedMasks(jnp.ones(3))
    params = {HEADS: {"powers": jnp.asarray(np.log(np.expm1(powers)), jnp.float32)}}
    learned = symbol_samples.process_of(Restores(process, None), params)
    np.testing.assert_allclose(learned.powers, powers, rtol=1e-5)
    assert symbol_samples.process_of(Restores(MASKS, None), params) is MASKS
