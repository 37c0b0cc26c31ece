"""What a run's sampler is called with: a flow map, a tangent field or a denoiser, of the run's network."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps
from diffusion.experiments.sampling import generate
from diffusion.objectives import Jumps, Moves


def recipe_of(reads, null="null", strength=(), takes=()):
    """A run whose network returns what it is called with, guided by 2.5 where it takes a strength."""
    return types.SimpleNamespace(
        network=types.SimpleNamespace(apply=lambda *inputs: inputs),
        schedule="its schedule",
        examples=types.SimpleNamespace(null=null),
        objective=types.SimpleNamespace(reads=reads, condition=types.SimpleNamespace(strength=strength)),
        config=types.SimpleNamespace(sample=types.SimpleNamespace(guidance=types.SimpleNamespace(scale=2.5))),
        sampling=types.SimpleNamespace(sampler=types.SimpleNamespace(takes=takes)),
    )


def called(network, schedule, condition):
    """In place of a field or a flow map: its own inputs."""
    return network("x", "clock", condition), schedule


LABELS = jnp.array([3, 1, 2])
JUMPS, MOVES = Jumps(called, None), Moves(called, None, None)


@pytest.mark.parametrize("build, reads", [(generate.flow_map, JUMPS), (generate.tangent_field, MOVES)])
@pytest.mark.parametrize("null", ["null", None])
def test_labels_are_conditions_of_what_was_trained_with_them(build, reads, null):
    (params, x, clock, condition), schedule = build(recipe_of(reads, null), reads)("params", LABELS)
    assert (params, x, clock, schedule) == ("params", "x", "clock", "its schedule")
    assert (condition is None) if null is None else (condition is LABELS)


def test_a_network_of_a_strength_receives_the_scale_of_guidance_for_each_example():
    (*_, condition), _ = generate.flow_map(recipe_of(JUMPS, strength=(1.0, 4.0)), JUMPS)("params", LABELS)
    assert condition["label"] is LABELS and condition["strength"].dtype == jnp.float32
    np.testing.assert_array_equal(condition["strength"], [2.5, 2.5, 2.5])


def test_the_sampler_decides(monkeypatch):
    for name in ("flow_map", "tangent_field", "denoiser"):
        monkeypatch.setattr(generate, name, lambda recipe, reads=None, name=name: name)
    build = generate.build_for_sampler
    assert build(recipe_of(MOVES)) == "tangent_field"
    assert build(recipe_of(JUMPS, takes=(flow_maps.FlowMap,))) == "flow_map"
    assert build(recipe_of(JUMPS, takes=("denoisers",))) == "denoiser"
    assert build(recipe_of("another", takes=(flow_maps.FlowMap,))) == "denoiser"
