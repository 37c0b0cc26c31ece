"""What a run knows of the model that it tunes: the same weights wherever they lie, others nowhere."""

import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion.experiments.run import tuned_base
from diffusion.experiments.run.players import BASE
from diffusion.recipe import ConfigError
from diffusion.recipe.base import NULL
from diffusion.training.state import TrainState


@pytest.fixture
def program(monkeypatch):
    """A program that keeps a transformer and copies the vae; `weights` are those in its folder."""
    weights = {
        "transformer": {"w": np.ones(2, np.float32)},
        "vae": {"w": np.zeros(3, np.float32)},
        NULL: {"text": np.ones(1)},
    }
    asked = []
    monkeypatch.setattr(tuned_base, "_loaded", lambda program, parts: asked.append(parts) or dict(weights))
    base = types.SimpleNamespace(path="B")
    target = types.SimpleNamespace(unsaved={BASE: {"transformer": None, NULL: None}})
    tuned = types.SimpleNamespace(base=base, tuning=types.SimpleNamespace(copies=("vae",)))
    made = types.SimpleNamespace(tuned=tuned, target=target)
    return made, weights, asked


STATE = TrainState(**dict.fromkeys(TrainState._fields))


def test_networks_that_the_state_keeps_have_its_shardings_and_the_others_are_replicated():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    split, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    shape = jax.ShapeDtypeStruct((2,), np.float32, sharding=split)

    def load(parts, shardings):
        return {part: shardings(part, {"w": shape}) for part in parts}

    base = types.SimpleNamespace(load=load, null={"text": np.ones(1)})
    target = types.SimpleNamespace(unsaved={BASE: {"transformer": {"w": shape}}})
    program = types.SimpleNamespace(tuned=types.SimpleNamespace(base=base), target=target)
    parts = tuned_base._loaded(program, ("transformer", "vae"))
    assert parts["transformer"] == {"w": split} and parts["vae"] == {"w": everywhere}
    assert parts[NULL]["text"].sharding == everywhere


def test_a_restored_run_has_its_base_and_says_where_it_lies(program):
    made, _weights, asked = program
    state, before = tuned_base.restored(made, STATE, None)  # a checkpoint that does not say what it tuned
    assert set(state.unsaved[BASE]) == {"transformer", NULL} and asked == [("transformer", "vae")]
    assert before["path"] == "B" and len(before["sha256"]) == 64
    assert list(before["leaves"]) == sorted(before["leaves"]) and len(before["leaves"]) == 3
    made.tuned.base.path = "elsewhere"
    earlier = {**before, "sha256": "of an earlier version"}
    assert tuned_base.restored(made, STATE, earlier)[1] == {**earlier, "path": "elsewhere"}


@pytest.mark.parametrize("value", [np.array([1, 2], np.float32), np.ones((1, 2), np.float32)])
def test_other_weights_and_shapes_are_refused_by_the_leaf(program, value):
    made, weights, _ = program
    before = tuned_base.restored(made, STATE, None)[1]
    weights["transformer"] = {"w": value}
    with pytest.raises(ConfigError, match=r"holds another model than .*\(from B\): transformer/w differs"):
        tuned_base.restored(made, STATE, before)


def test_a_run_that_keeps_the_types_of_files_goes_on_with_a_record_of_their_casts(program):
    made, weights, _ = program
    before = tuned_base.restored(made, STATE, None)[1]
    weights["transformer"] = {"w": np.ones(2, np.float16)}
    assert tuned_base.restored(made, STATE, before)[1] == before
    weights["transformer"] = {"w": np.full(2, 1.5, np.float16)}
    with pytest.raises(ConfigError, match=r"holds another model than .*\(from B\): transformer/w differs"):
        tuned_base.restored(made, STATE, before)
    weights["transformer"] = {"w": np.ones(2, np.float16)}
    now = tuned_base.restored(made, STATE, None)[1]
    assert now["leaves"]["transformer/w"].startswith("(2,) float16 ")


def test_a_run_without_a_base_has_none():
    assert tuned_base.restored(types.SimpleNamespace(tuned=None), STATE, {"path": "B"}) == (STATE, None)
