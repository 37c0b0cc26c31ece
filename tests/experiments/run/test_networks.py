"""What a network receives of an example, and how its operations are counted."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.run import networks


def module(**fields):
    return types.SimpleNamespace(**fields)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_module_receives_as_many_times_as_it_says(times):
    x, clock, condition = networks.inputs(module(times=times), (4, 5), None)
    assert x.shape == (1, 4, 5) and not np.any(x) and condition is None
    leaves = jax.tree.leaves(clock)
    assert len(leaves) == times and all(leaf.shape == (1,) and leaf[0] == 0 for leaf in leaves)
    assert isinstance(clock, tuple) == (times > 1)
    assert networks.inputs(module(), (4, 5), None)[1].shape == (1,)


def test_a_condition_is_that_of_one_example_with_a_strength_of_one_where_the_module_takes_it():
    null = {"text": np.arange(6).reshape(2, 3)}
    plain = networks.inputs(module(), (2,), null)[2]
    np.testing.assert_array_equal(plain["text"], null["text"][None])
    leaves = jax.tree.leaves(networks.inputs(module(strength=True), (2,), null)[2])
    assert len(leaves) == 2 and any(np.array_equal(leaf, [1.0]) for leaf in leaves)
    guided = networks.inputs(module(strength=True, interval=True), (2,), null)[2]
    np.testing.assert_array_equal(guided["interval"], [[0.0, 1.0]])


class Dense:
    def __init__(self, attention="matmul", seen=None):
        self.attention, self.seen = attention, [] if seen is None else seen

    def clone(self, attention):
        return Dense(attention, self.seen)

    def apply(self, params, x, clock, condition):
        self.seen.append(self.attention)
        return x @ params


@pytest.mark.parametrize("attention", ["matmul", "cudnn"])
def test_operations_are_those_of_one_example(monkeypatch, attention):
    """A product of [1, 3] with [3, 5] has 2 * 3 * 5; a fused attention is counted as a plain one."""
    monkeypatch.setattr(networks.facts, "kind", lambda module: "backbone")
    dense = Dense(attention)
    assert networks.flops_of(dense, jnp.ones((3, 5)), (3,), None) == 30
    assert set(dense.seen) == {"matmul"}


@pytest.mark.parametrize("kind", ["autoencoder", "decoder", "towers"])
def test_what_is_no_backbone_is_not_counted(monkeypatch, kind):
    monkeypatch.setattr(networks.facts, "kind", lambda module: kind)
    assert networks.flops_of(Dense(), jnp.ones((3, 5)), (3,), None) == 0


class Recorded:
    """A module that returns the arguments of each of its methods."""

    patch, features = 2, 5

    def init(self, *arguments):
        return {"params": {"init": arguments}}

    def apply(self, *arguments):
        return arguments


KEY, X = object(), jnp.full((1, 8, 6, 3), 0.5)


def test_each_kind_of_network_begins_as_its_module_takes_it(monkeypatch):
    """A decoder receives a grid of its features; towers the words, the picture as CLIP normalises it, and the mask."""
    monkeypatch.setattr(networks.coding, "parameters", lambda params: {"autoencoder": params})
    monkeypatch.setattr(networks, "normalised", lambda x: x + 100)
    of = {kind: make(Recorded()) for kind, make in networks.KINDS.items() if kind != "backbone"}
    params = of["autoencoder"].init(KEY, X, None, None)
    key, x = of["autoencoder"].weights(params)["init"]
    assert key is KEY and x is X
    params = of["decoder"].init(KEY, X, None, None)
    key, grid = of["decoder"].weights(params)["init"]
    assert key is KEY and grid.shape[1:] == (4, 3, 5)
    words = {"ids": "ids", "mask": "mask"}
    params = of["towers"].init(KEY, X, None, words)
    assert of["towers"].weights(params)["init"] == (KEY, "ids", X, "mask")
    given, ids, seen, mask = of["towers"].apply("params", X, None, words)
    assert (given, ids, mask) == ("params", "ids", "mask") and np.all(seen == 100.5)
