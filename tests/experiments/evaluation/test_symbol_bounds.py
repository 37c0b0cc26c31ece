"""Bits a symbol of held-out sequences: of the exact network the entropy of the data, and the estimator's name."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.experiments.evaluation import symbol_bounds
from diffusion.objectives import Objective
from diffusion.recipe import ConfigError
from diffusion.recipe.sections import Examples
from diffusion.schedules import rectified_flow
from tests.discrete.enumerated import PROCESSES, Enumerated

DENSITY = timesteps.uniform_density(rectified_flow())
RATES = discrete.rate_process(discrete.linear(), discrete.banded_rates(4))


def recipe_of(objective, data=None, null=None):
    network = types.SimpleNamespace(apply=lambda params, x, t, condition: data.predictor()(x, t))
    config = types.SimpleNamespace(objective=types.SimpleNamespace(name="its name"))
    examples = Examples(null=null, num_classes=0)
    return types.SimpleNamespace(objective=objective, network=network, examples=examples, config=config)


@pytest.mark.extended
@pytest.mark.parametrize("name, make", [
    ("absorbing", discrete.masked_diffusion),
    ("uniform", discrete.score_entropy),
    ("uniform", discrete.discrete_flow_matching),
])  # fmt: skip
def test_the_exact_network_needs_the_entropy_of_the_data(name, make, monkeypatch):
    data, number = Enumerated(PROCESSES[name], positions=2), 300
    recipe = recipe_of(make(data.process, DENSITY), data)
    monkeypatch.setattr(symbol_bounds.checkpoints, "load_ema", lambda folder: ({}, 7))
    monkeypatch.setattr(symbol_bounds, "recipe_of_run", lambda subject: recipe)
    rows = np.repeat(np.arange(len(data.p)), np.round(data.p * 400).astype(int))
    real = types.SimpleNamespace(images=data.states[rows], labels=np.zeros(len(rows), int))
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(number=number))
    found = symbol_bounds.bits_per_symbol(types.SimpleNamespace(config=config, workdir="run", real=real))
    nats, bits, perplexity = (found[key] for key in ("nats_per_symbol", "bits_per_symbol", "perplexity"))
    error = nats["standard_error"]
    assert nats["samples"] == number and error < 0.05
    assert abs(nats["value"] - data.entropy / 2) < 4 * error, (nats, data.entropy / 2)
    assert bits["value"] == pytest.approx(nats["value"] / np.log(2))
    assert bits["standard_error"] == pytest.approx(error / np.log(2))
    assert perplexity["value"] == pytest.approx(np.exp(nats["value"]))
    assert perplexity["standard_error"] == pytest.approx(error * perplexity["value"])
    estimator = "masked_bound" if name == "absorbing" else "score_entropy_bound"
    assert all(figure["protocol"]["estimator"] == estimator for figure in found.values())
    assert 0 < nats["protocol"]["deviation_of_a_draw"] and nats["protocol"]["step"] == 7


@pytest.mark.extended
def test_the_deviation_of_a_draw_is_that_of_the_bound_at_one_time(monkeypatch):
    """One position at alpha = 1 - t^4, blind: 4 log 3 / t with probability t^4, drawn again in NumPy."""
    process = discrete.absorbing(discrete.polynomial(4.0), 4)
    recipe = recipe_of(discrete.masked_diffusion(process, DENSITY))
    recipe.network.apply = lambda params, x, t, condition: jnp.zeros((*x.shape, 4))
    monkeypatch.setattr(symbol_bounds.checkpoints, "load_ema", lambda folder: ({}, 7))
    monkeypatch.setattr(symbol_bounds, "recipe_of_run", lambda subject: recipe)
    real = types.SimpleNamespace(images=np.zeros((600, 1), int), labels=np.zeros(600, int))
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(number=600))
    found = symbol_bounds.bits_per_symbol(types.SimpleNamespace(config=config, workdir="run", real=real))
    deviation = found["nats_per_symbol"]["protocol"]["deviation_of_a_draw"]
    rng = np.random.default_rng(0)
    t = (np.arange(32) + rng.uniform(size=(20_000, 32))) / 32
    draws = np.where(rng.uniform(size=t.shape) < t**4, 4 * np.log(3) / t, 0)
    assert deviation == pytest.approx(draws.std(1, ddof=1).mean(), rel=0.04)
    assert found["nats_per_symbol"]["value"] == pytest.approx(np.log(3), abs=4 * draws.mean(1).std() / np.sqrt(600))


def test_held_out_symbols_that_the_process_lacks_are_refused(monkeypatch):
    """A missing category, -1, would count as another symbol in the compiled bound."""
    recipe = recipe_of(discrete.masked_diffusion(discrete.absorbing(discrete.linear(), 4), DENSITY))
    monkeypatch.setattr(symbol_bounds.checkpoints, "load_ema", lambda folder: ({}, 7))
    monkeypatch.setattr(symbol_bounds, "recipe_of_run", lambda subject: recipe)
    images = np.ones((600, 2), int)
    images[599, 1] = -1
    real = types.SimpleNamespace(images=images, spec=types.SimpleNamespace(name="table"))
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(number=9))
    with pytest.raises(
        ConfigError, match=r"sequences of table have symbols -1 \.\. 1\. Valid: 0 \.\. 2; 3 is the mask"
    ):
        symbol_bounds.bits_per_symbol(types.SimpleNamespace(config=config, workdir="run", real=real))


def test_each_time_has_its_part_of_the_path_and_keys_of_its_own(monkeypatch):
    """The mean of 32 times is 1 / 2 to within 1 / (32 sqrt(12 32)); no noise has the key of the times."""
    seen, uniform = [], jax.random.uniform
    note = lambda key: seen.append(np.asarray(key).reshape(-1, 2))
    noted = lambda keys: jax.debug.callback(note, jax.random.key_data(keys))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: noted(key) or uniform(key, shape))
    bound = lambda params, label, keys, x0, t: noted(keys) or t
    monkeypatch.setattr(symbol_bounds, "bound_of", lambda recipe, params: ("a bound", bound))
    monkeypatch.setattr(symbol_bounds.checkpoints, "load_ema", lambda folder: ({}, 7))
    recipe = recipe_of(discrete.masked_diffusion(discrete.absorbing(discrete.linear(), 4), DENSITY))
    monkeypatch.setattr(symbol_bounds, "recipe_of_run", lambda subject: recipe)
    real = types.SimpleNamespace(images=np.zeros((3, 1), int), labels=np.zeros(3, int))
    config = types.SimpleNamespace(evaluate=types.SimpleNamespace(number=3))
    found = symbol_bounds.bits_per_symbol(types.SimpleNamespace(config=config, workdir="run", real=real))
    jax.effects_barrier()
    keys = np.concatenate(seen)
    assert len(keys) == len(np.unique(keys, axis=0)) == 3 * (symbol_bounds.TIMES + 1)
    assert abs(found["nats_per_symbol"]["value"] - 0.5) < 5 / (32 * np.sqrt(12 * 32 * 3))


@pytest.mark.parametrize("objective, name", [
    (discrete.masked_diffusion(discrete.token_masks([1.0, 2.0, 0.5]), DENSITY), "token_masked_bound"),
    (discrete.trained_masks(4, DENSITY), "token_masked_bound"),
    (discrete.block_diffusion(PROCESSES["absorbing"], DENSITY, 2), "block_bound of blocks of 2"),
    (discrete.score_entropy(RATES, DENSITY), "score_entropy_bound"),
])  # fmt: skip
def test_the_estimator_is_that_of_the_process(objective, name):
    assert symbol_bounds.bound_of(recipe_of(objective), {})[0] == name


def test_what_has_no_bound_is_refused():
    path = discrete.metric_path(discrete.line_distances(4))
    with pytest.raises(
        ConfigError, match=r"--metrics=symbols: .*'its name' has a path of distances, for which no bound is known"
    ):
        symbol_bounds.bound_of(recipe_of(discrete.discrete_flow_matching(path, DENSITY)), {})
    with pytest.raises(ConfigError, match=r"--metrics=symbols is for runs on symbols, but .*'its name'"):
        symbol_bounds.bound_of(recipe_of(Objective(lambda *inputs: None)), {})
    masked = discrete.masked_diffusion(PROCESSES["absorbing"], DENSITY)
    with pytest.raises(
        ConfigError, match=r"the conditions of this run are more than classes\. Valid: a run on classes"
    ):
        symbol_bounds.bound_of(recipe_of(masked, null=jnp.zeros(3)), {})
