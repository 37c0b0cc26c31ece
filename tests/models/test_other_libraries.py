"""Networks of NNX, Equinox and plain functions: the examples of docs/extend.md, by themselves and in a run."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion import objectives, schedules, timesteps
from diffusion.experiments.sampling.run_samples import sample
from diffusion.experiments.train import train
from diffusion.models import NNX, Equinox, Functions
from diffusion.recipe import names
from diffusion.recipe.parts import Resolver
from diffusion.recipe.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from tests.experiments.test_python_first import SETTINGS, points
from tests.recipe.test_resolve import changed

PAGE = pathlib.Path(__file__).parents[2] / "docs/extend.md"
EXAMPLES = re.findall(r"```py\n(.*?)```", PAGE.read_text().split("## A network of another library")[1], re.DOTALL)
LIBRARIES = ("NNX", "Equinox", "Functions")
LINE = schedules.rectified_flow()


def example(library):
    """The names of the page's example of a library; skips where Equinox, a requirement of development, is missing."""
    if library == "Equinox":
        pytest.importorskip("equinox", reason="Equinox is not installed: pip install equinox runs this test")
    (code,) = [code for code in EXAMPLES if f"import {library}\n" in code]
    made: dict = {}
    exec(code, made)
    return made


def recipe(network, **settings):
    objective = objectives.flow_matching(timesteps.uniform_density(LINE))
    return Recipe(LINE, objective, network, points(), config=SETTINGS | settings)


@pytest.mark.extended
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_network_is_the_librarys_own_with_the_parameters_of_the_key(library):
    made = example(library)
    network = made["network"]
    key = jax.random.key(3)
    x = np.float32([[0.1, -0.4], [0.7, 0.2], [1.0, 0.0]])
    t = np.float32([0.1, 0.5, 0.9])
    params = jax.jit(network.init)(key, x[:1], t[:1], None)
    own = {
        "NNX": lambda: made["Points"](64, nnx.Rngs(key))(x, t),
        "Equinox": lambda: jax.vmap(made["Points"](64, key))(x, t),
        "Functions": lambda: made["apply"](made["init"](key, x, t, None), x, t, None),
    }[library]()
    found = jax.jit(network.apply)(params, x, t, None)
    assert found.shape == x.shape and np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-6)
    assert len({jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_it_trains_goes_on_and_is_sampled(library, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    network = example(library)["network"]
    run, straight = tmp_path / "run", tmp_path / "straight"
    assert train(recipe(network), run) == 0
    assert train(recipe(network, **{"train.steps": 4}), run) == 0
    assert train(recipe(network, **{"train.steps": 4}), straight) == 0
    jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load_ema(folder, 4)[0] for folder in (run, straight)))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    made = sample(recipe(network, **{"train.steps": 4}), run)
    assert made.shape == (6, 2) and np.isfinite(made).all() and np.ptp(made) > 0


def test_a_config_names_one_by_a_function(monkeypatch):
    points_of = example("NNX")["Points"]
    monkeypatch.setitem(names.MODELS, "nnx_points", lambda width: NNX(lambda rngs: points_of(width, rngs)))
    network = Resolver(changed(("model", {"name": "nnx_points", "width": 5}), ("objective.wrappers", ()))).model((2,))
    params = network.init(jax.random.key(0), np.zeros((1, 2)), np.zeros(1), None)
    assert params["hidden"]["kernel"].shape == (3, 5)


def test_state_that_is_no_parameter_is_refused():
    of_nnx = NNX(lambda rngs: nnx.BatchNorm(2, rngs=rngs))
    with pytest.raises(ValueError, match=r"the NNX network has a BatchStat at mean\. Valid: only nnx\.Param"):
        of_nnx.init(jax.random.key(0), None, None, None)
    of_numbers = Equinox(lambda key: jax.tree_util.Partial(jnp.add, jnp.arange(2)))
    with pytest.raises(ValueError, match=r"an array of int32 at .*Valid: arrays of floating-point numbers"):
        of_numbers.apply({}, np.zeros((1, 2)), np.zeros(1), None)


def test_a_pytree_without_equinox_will_do_and_keeps_what_is_no_array():
    made = lambda key: jax.tree_util.Partial(lambda scale, power, x, t, c: scale * x**power, jax.random.normal(key), 3)
    network = Equinox(made)
    params = network.init(jax.random.key(0), None, None, None)
    (scale,) = jax.tree.leaves(params)
    x = np.float32([[1, 2], [3, 4]])
    np.testing.assert_allclose(network.apply(params, x, np.float32(0.5), None), scale * x**3, rtol=1e-6)


def test_a_module_as_it_is_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"the network is a .*Points, which has no init.*Valid: .*NNX\(lambda rngs"):
        recipe(example("NNX")["Points"](8, nnx.Rngs(0)))
    recipe(Functions(lambda *inputs: {}, lambda params, x, clock, condition: x))
