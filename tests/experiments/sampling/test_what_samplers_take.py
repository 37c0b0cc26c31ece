"""What a run's sampler is called with: a flow map, a tangent field or a denoiser, of the run's network."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion import flow_maps
from diffusion.experiments.sampling import run_denoiser
from diffusion.objectives import Jumps, Moves
from diffusion.recipe import ConfigError


def recipe_of(reads, null="null", strength=(), takes=(), interval=None):
    """A run whose network returns what it is called with, guided by 2.5 where it takes a strength.

    An interval, which may be (), is that of its config, where its network takes one.
    """
    of = types.SimpleNamespace
    return types.SimpleNamespace(
        network=types.SimpleNamespace(apply=lambda *inputs: inputs),
        schedule=SCHEDULE,
        examples=types.SimpleNamespace(null=null),
        objective=types.SimpleNamespace(reads=reads, condition=of(strength=strength, interval=interval is not None)),
        config=of(sample=of(guidance=ConfigDict({"scale": 2.5, "interval": interval or None}))),
        sampling=types.SimpleNamespace(sampler=types.SimpleNamespace(takes=takes)),
    )


def called(network, schedule, condition):
    """In place of a field or a flow map: its own inputs."""
    return network("x", "clock", condition), schedule


SCHEDULE = types.SimpleNamespace(t_max=0.9)
LABELS = jnp.array([3, 1, 2])
JUMPS, MOVES = Jumps(called, None), Moves(called, None, None)


@pytest.mark.parametrize("build, reads", [(run_denoiser.flow_map, JUMPS), (run_denoiser.tangent_field, MOVES)])
@pytest.mark.parametrize("null", ["null", None])
def test_labels_are_conditions_of_what_was_trained_with_them(build, reads, null):
    (params, x, clock, condition), schedule = build(recipe_of(reads, null), reads)("params", LABELS)
    assert (params, x, clock, schedule) == ("params", "x", "clock", SCHEDULE)
    assert (condition is None) if null is None else (condition is LABELS)


def test_a_network_of_a_strength_receives_the_scale_of_guidance_for_each_example():
    (*_, condition), _ = run_denoiser.flow_map(recipe_of(JUMPS, strength=(1.0, 4.0)), JUMPS)("params", LABELS)
    assert condition["label"] is LABELS
    assert condition["strength"].dtype == jnp.float32 and condition["strength"].shape == (3,)
    np.testing.assert_array_equal(condition["strength"], [2.5, 2.5, 2.5])


@pytest.mark.parametrize("interval, expected", [((), (0, 0.9)), ((0.2, 0.5), (0.2, 0.5))])
def test_a_network_of_an_interval_receives_that_of_the_config_or_all_times(interval, expected):
    recipe = recipe_of(JUMPS, strength=(1.0, 4.0), interval=interval)
    (*_, condition), _ = run_denoiser.flow_map(recipe, JUMPS)("params", LABELS)
    assert sorted(condition) == ["interval", "label", "strength"]
    np.testing.assert_array_equal(condition["interval"], np.float32([expected] * 3))


def test_the_sampler_decides(monkeypatch):
    for name in ("flow_map", "tangent_field", "denoiser"):
        monkeypatch.setattr(run_denoiser, name, lambda recipe, reads=None, name=name: name)
    build = run_denoiser.build_for_sampler
    assert build(recipe_of(MOVES)) == "tangent_field"
    assert build(recipe_of(JUMPS, takes=(flow_maps.FlowMap,))) == "flow_map"
    assert build(recipe_of(JUMPS, takes=("denoisers",))) == "denoiser"
    assert build(recipe_of("another", takes=(flow_maps.FlowMap,))) == "denoiser"


# ==== Edits of classes beside their sources ====


@pytest.fixture
def edited(monkeypatch):
    """`run_denoiser.side_by_side` of a run of a network of four layers, with its calls as results."""
    monkeypatch.setattr(run_denoiser.facts, "layer_masks", lambda network: ("borrow",) * network.borrows)
    monkeypatch.setattr(run_denoiser.editing, "borrowing", lambda *inputs: ("borrowing", *inputs))
    monkeypatch.setattr(run_denoiser.editing, "prompt_to_prompt", lambda *inputs: inputs)
    monkeypatch.setattr(run_denoiser.sampling, "denoiser", lambda *inputs: inputs)

    def call(scale=3.0, borrows=True, by_class=True, layers=None, **changes):
        nothing = {"conditions": None, "depths": False, "guides": (), "merge": 0.0}
        recipe = types.SimpleNamespace(
            network=types.SimpleNamespace(borrows=borrows, depth=4, apply=lambda *inputs: inputs),
            examples=types.SimpleNamespace(by_class=by_class, null_condition=lambda number: f"{number} of none"),
            config=types.SimpleNamespace(model=types.SimpleNamespace(name="made")),
            sampling=types.SimpleNamespace(guidance="guidance", **nothing | changes),
            schedule="schedule", parameterization="parameterization", scale=scale,
        )  # fmt: skip
        return run_denoiser.side_by_side(recipe, "params", [1, 2, 3], [4, 5, 6], 0.7, layers)

    return call


@pytest.mark.parametrize("layers, expected", [(None, range(4)), ((0, 3), (0, 3))])
def test_an_edit_borrows_from_its_source_and_guidance_from_no_class(edited, layers, expected):
    make, apply, until = edited(layers=layers)
    assert apply("x", "t") == ("params", "x", "t") and until == 0.7
    edits = ("borrowing", [1, 2, 3], [4, 5, 6], 4, expected)
    nothing = ("borrowing", "3 of none", "3 of none", 4, expected)
    assert make("network") == ("network", "schedule", "parameterization", (edits, nothing), "guidance")
    make, *_ = edited(scale=1, layers=layers)
    assert make("network") == ("network", "schedule", "parameterization", (edits,))


@pytest.mark.parametrize(
    "settings, message",
    [({"borrows": False}, r"config\.model\.name = 'made' has no layers that can use the attention maps of another"),
     ({"by_class": False}, r"classes\. Valid: one"),
     ({"conditions": "both"}, "examples side by side support only classifier_free"),
     ({"guides": ("one",)}, "examples side by side support only classifier_free"),
     ({"depths": True}, "examples side by side support only classifier_free"),
     ({"merge": 0.5}, "examples side by side support only classifier_free"),
     ({"layers": (3, 4, 5)}, r"layers = \(3, 4, 5\) has 4\. Valid: 0 \.\. 3\."),
     ({"layers": (-1,)}, r"layers = \(-1,\) has -1\.")],
)  # fmt: skip
def test_runs_and_layers_that_cannot_are_refused(edited, settings, message, monkeypatch):
    monkeypatch.setattr(run_denoiser.names, "MODELS", {})
    with pytest.raises(ConfigError, match=message):
        edited(**settings)
