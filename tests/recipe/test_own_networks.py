"""Networks of a user's own that are no Linen modules, named in a config, and fields that mean something else there."""

import dataclasses
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import digits
from diffusion.experiments.run import networks, players
from diffusion.models import NNX, Functions, facts, network_inputs
from diffusion.recipe import Recipe, names
from diffusion.recipe.parts import Resolver


class Pixels(nnx.Module):
    def __init__(self, channels, rngs):
        self.layer = nnx.Linear(channels, channels, rngs=rngs)

    def __call__(self, x, t, condition=None):
        return self.layer(x)


def own_nnx(shape: tuple[int, ...] | None = None) -> NNX:
    return NNX(lambda rngs: Pixels(shape[-1], rngs))


@dataclasses.dataclass(frozen=True)
class OwnClass:
    """A network whose class is no Linen module, and which has no `clone`."""

    channels: int
    width: int = 3
    times: int = 1

    def init(self, key: jax.Array, x: Any, clock: Any, condition: Any) -> dict[str, jax.Array]:
        return {"kernel": jax.random.normal(key, (self.channels, self.channels))}

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any) -> jax.Array:
        return x @ params["kernel"]


@pytest.mark.extended
@pytest.mark.parametrize("function", [own_nnx, OwnClass])
def test_a_config_names_a_network_that_is_no_linen_module(function, monkeypatch):
    """It is built before the data are known, and again for the shape of the examples."""
    monkeypatch.setitem(names.MODELS, "own", function)
    config = digits.get_config("tiny")
    config.model, config.objective.wrappers = {"name": "own"}, ()
    recipe = Recipe.from_config(config)
    for channels in (5, 1):
        network = recipe.at((8, 8, channels)).network
        x, clock, condition = network_inputs.inputs(network, (8, 8, channels), None)
        params = network.init(jax.random.key(0), x, clock, condition)
        assert max(leaf.shape for leaf in jax.tree.leaves(params)) == (channels, channels)


def test_a_teacher_of_another_network_receives_one_time():
    assert players.teacher(OwnClass(1, width=7, times=2)) == OwnClass(1, width=7, times=1)
    assert players.teacher(NNX(own_nnx, times=2)) == NNX(own_nnx, times=1)
    with pytest.raises(ValueError, match="a copy of the network object with times = 1, which cannot be copied"):
        facts.changed(object(), times=1)


def test_fields_patch_and_widths_may_mean_something_else(monkeypatch):
    """Two sides of a patch, and layers that all have the size of the picture."""

    class Layers(nn.Module):
        patch: tuple[int, int] = (2, 2)
        widths: tuple[int, ...] = ()

    monkeypatch.setitem(names.MODELS, "layers", Layers)
    config = digits.get_config("tiny")
    config.model, config.objective.wrappers = {"name": "layers", "patch": (2, 4), "widths": (3,) * 5}, ()
    network = Resolver(config).model((8, 8, 1))
    assert network == Layers((2, 4), (3,) * 5)


@pytest.mark.extended
def test_a_field_attention_may_mean_something_else():
    """E.g. the sides at which a U-Net attends; operations are counted of the network as it is."""

    class Sides(nn.Module):
        attention: tuple[int, ...] = (4,)

        @nn.compact
        def __call__(self, x, t, condition=None):
            assert 8 not in self.attention  # a string would raise a TypeError
            return nn.Dense(3)(x)

    module = Sides()
    params = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    assert networks.flops_of(module, params, (8, 8, 3), None) >= 2 * 64 * 3 * 3


def test_a_subclass_states_facts():
    """The page's example."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "extend.md").read_text()
    scope: dict[str, Any] = {"Functions": Functions}
    exec(re.search(r"```py\n(class SymbolFunctions.*?)```", page, re.DOTALL)[1], scope)
    network = scope["SymbolFunctions"](lambda *_: {}, lambda *_: None)
    assert facts.takes_symbols(network) and not facts.takes_symbols(Functions(network.init, network.apply))
    x, _, _ = network_inputs.inputs(network, (4,), None)
    assert x.dtype == jnp.int32
