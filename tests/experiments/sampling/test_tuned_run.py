"""A tuned model is its base, what was taught, and on top of that what is added: in that order."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.run import tuned_base
from diffusion.experiments.sampling import tuned_run
from diffusion.recipe import class_folders, versions
from diffusion.text_to_image.requests import Request
from tests.experiments.run import made_tuning

CONFIG = {"base": {"path": "BASE"}, "tuning": {"name": "low_rank"}}
ADDED = {"embeddings": {"word.safetensors": ""}, "loras": {"a.safetensors": 1.0}, "attachments": {"edges": "control"}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder whose parts are named in the order in which they were put together."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(
        tuned_run.workdir, "read_config", lambda folder: json.loads((folder / "config.json").read_text())
    )
    monkeypatch.setattr(
        tuned_run.checkpoints, "load_ema", lambda folder, step: (f"average of {folder.name}", step or 9)
    )
    monkeypatch.setattr(tuned_run, "checksum", lambda weights: f"checksum of the {weights}")
    attach = lambda model, weights: (*model, weights)
    resolver = lambda config: types.SimpleNamespace(
        tuned=types.SimpleNamespace(tuning=types.SimpleNamespace(attach=attach))
    )
    monkeypatch.setattr(tuned_run, "_resolver", resolver)
    t2i = types.SimpleNamespace(
        load=lambda path, **how: (path, how),
        with_words=lambda model, words: (*model, words),
        with_loras=lambda model, loras: (*model, loras),
        with_attachments=lambda model, attachments: (*model, attachments),
    )
    monkeypatch.setattr(tuned_run, "text_to_image", t2i)
    monkeypatch.setattr(tuned_run, "require_same_base", lambda model, folder, run, step: None)
    return tmp_path


def test_a_folder_names_its_base_if_it_tunes_one(run, tmp_path):
    assert tuned_run.base_of(run) == "BASE"
    assert tuned_run.base_of(tmp_path / "nowhere") == ""
    for other in ({"base": {"path": "BASE"}}, {"base": {"path": "BASE"}, "tuning": {"name": ""}}):
        (run / "config.json").write_text(json.dumps(other))
        assert tuned_run.base_of(run) == ""


def test_a_base_that_ships_with_the_package_has_the_packages_folder(run):
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"base": {"path": "drawings"}}))
    assert tuned_run.base_of(run) == str(class_folders.WEIGHTS / "drawings")


def test_nothing_is_added_where_nothing_is_named(run):
    taught = ("BASE", {"dtype": "bfloat16"}, f"average of {run.name}")
    checksum = f"checksum of the average of {run.name}"
    assert tuned_run.load(run, dtype="bfloat16") == (taught, 9, checksum)
    assert tuned_run.load(run, 4, dtype="bfloat16", loras={}, embeddings={}, attachments={}) == (taught, 4, checksum)


@pytest.mark.parametrize(
    "names", [("embeddings",), ("loras",), ("attachments",), ("embeddings", "loras", "attachments")]
)
def test_what_is_added_lies_on_top_of_what_was_taught(run, names):
    model, *_ = tuned_run.load(run, **{name: ADDED[name] for name in names})
    assert model == ("BASE", {}, f"average of {run.name}", *(ADDED[name] for name in names))


def test_a_few_step_student_is_sampled_as_it_was_trained(tmp_path):
    """And a model of any number of steps as its base; what a request names stays."""
    config = made_tuning.config(tmp_path, {"name": "lora", "rank": 2})
    (tmp_path / "config.json").write_text(versions.write(config))
    assert tuned_run.settings_of(tmp_path) == {}
    config.objective = {"name": "latent_consistency_distillation", "guidance": 1.0, "exact_end": True}
    config.sample.update({"sampler": {"name": "consistency"}, "steps": 4})
    config.sample.guidance.scale = 1.0
    (tmp_path / "config.json").write_text(versions.write(config))
    settings = tuned_run.settings_of(tmp_path)
    assert settings == {"steps": 4, "guidance": 1.0, "sampler": "lcm"}
    request = Request.make("a cat", seeds=1)
    assert [getattr(request.completed(settings), name) for name in settings] == [4, 1.0, "lcm"]
    named = {"steps": 2, "guidance": 3.0, "sampler": "ddim"}
    assert Request.make("a cat", seeds=1, **named).completed(settings) == Request.make("a cat", seeds=1, **named)


@pytest.mark.parametrize(
    "dtype, change, refused",
    [
        ("float32", {}, ""),
        ("float32", {"w": np.array([1, 2], np.float16)}, "unet/w"),
        ("float32", {"w": np.array([1, 1, 1], np.float16)}, "unet/w"),
        ("float32", {"w": np.array([1, 1], np.float32)}, ""),  # the same numbers in another type
        ("bfloat16", {"w": jnp.array([1, 2], jnp.bfloat16)}, ""),  # rounded: it cannot be told
        ("bfloat16", {"b": jnp.array([2.0], jnp.bfloat16)}, "unet/b"),
        ("float32", {"w": None}, "unet/w"),
    ],
)
def test_a_base_with_other_weights_than_were_tuned_is_refused(monkeypatch, tmp_path, dtype, change, refused):
    """The folder was replaced, or the path leads elsewhere here; networks that the run never read are not compared."""
    weights = {"w": np.array([1, 1], np.float16), "b": jnp.array([0.5], jnp.bfloat16)}
    leaves = {f"unet/{name}": leaf for name, leaf in tuned_base.describe_leaves(weights).items()}
    leaves["null/text"] = "(2,) float32 00000000"
    monkeypatch.setattr(
        tuned_run.checkpoints, "read_about", lambda run, step: {"base": {"path": "A", "leaves": leaves}}
    )
    now = {name: leaf for name, leaf in (weights | change).items() if leaf is not None}
    model = types.SimpleNamespace(params={"unet": now, "vae": {"w": np.ones(1)}}, dtype=dtype)
    if not refused:
        return tuned_run.require_same_base(model, "B", tmp_path, 9)
    with pytest.raises(tuned_run.workdir.WorkdirError, match=rf"B holds another model .*\(from A\): {refused} differs"):
        tuned_run.require_same_base(model, "B", tmp_path, 9)
