"""The flags of samples from a published model of classes."""

import pathlib
import re
import types

import numpy as np
import pytest

from diffusion.experiments import sample
from diffusion.experiments.sampling import from_class_model, model_flags, prompt_flags
from diffusion.recipe import ConfigError
from diffusion.recipe.sections import sectioned
from tests.experiments.sampling.test_from_prompt import flags  # noqa: F401


@pytest.fixture
def made(monkeypatch, flags):  # noqa: F811
    """(config, calls): what `main` samples with, in place of a model."""
    calls = []
    monkeypatch.setattr(from_class_model, "RUN_FLAGS", ())  # flags that the command defines beside these
    sample = types.SimpleNamespace(steps=20, number=6, guidance=types.SimpleNamespace(scale=4.0))
    config = types.SimpleNamespace(sample=sample, train=types.SimpleNamespace(dtype="bfloat16"))
    recipe = types.SimpleNamespace(**sectioned({"num_classes": 3}))
    model = types.SimpleNamespace(params="weights", name="DiT", sha256="abc")
    monkeypatch.setattr(from_class_model.checks, "validate", lambda config: recipe)
    monkeypatch.setattr(from_class_model.checks, "on_its_data", lambda recipe: recipe)
    monkeypatch.setattr(from_class_model.class_models, "classes_of", lambda folder: {"cat": 2})
    monkeypatch.setattr(from_class_model.class_models, "load", lambda folder: model)
    monkeypatch.setattr(from_class_model.watermarks, "load", lambda key: f"mark of {key}")
    monkeypatch.setattr(from_class_model.run_samples, "sample_weights", lambda *rest: calls.append(rest))
    return config, calls


def test_what_no_flag_says_is_the_model_s_own(made):
    config, calls = made
    from_class_model.main(config, "folder", None, None, None, None)
    assert (config.sample.steps, config.sample.number, config.sample.guidance.scale) == (20, 6, 4.0)
    assert config.train.dtype == "float32"
    ((_, weights, out, labels, mark, signer, quantised),) = calls
    assert (out, labels, mark, signer, quantised) == ("pictures", None, None, None, "")
    assert weights.params == "weights" and weights.version == weights.model == "DiT"


def test_flags_change_it(made, flags, monkeypatch):  # noqa: F811
    config, calls = made
    flags.steps, flags.guidance, flags.watermark, flags.quantised = 5, 0, "key", "int8"
    flags.n = 4
    monkeypatch.setattr(flags["n"], "present", 1)
    from_class_model.main(config, "folder", "out", ["cat", "0"], None, "signer")
    assert (config.sample.steps, config.sample.number, config.sample.guidance.scale) == (5, 4, 0.0)
    assert calls[0][2] == "out" and calls[0][4:] == ("mark of key", "signer", "int8")
    np.testing.assert_array_equal(calls[0][3], [2, 0, 2, 0])
    with pytest.raises(ConfigError, match="--labels is empty"):
        from_class_model.main(config, "folder", "out", [], None, "signer")


@pytest.mark.parametrize(
    "name, value",
    [("seed", 3), ("lora", ["a"]), ("image", "a.png"), ("drop_text", True), ("n", 0), ("quantised", "stored")],
)
def test_flags_of_prompts_and_values_out_of_range_are_refused(made, flags, monkeypatch, name, value):  # noqa: F811
    setattr(flags, name, value)
    monkeypatch.setattr(flags[name], "present", 1)
    words = {"n": "-n = 0 must be at least 1", "quantised": "--quantised=stored is.*for text-to-image models"}
    with pytest.raises(
        ConfigError, match=words.get(name, f"--{name} = .* is not valid for a model without a text encoder")
    ):
        from_class_model.main(made[0], "folder", None, None, None, None)
    assert not made[1]


def test_every_flag_of_runs_is_refused():
    """All flags that sample.py defines beside the config, but for those that hold for a published model too."""
    source = pathlib.Path(sample.__file__).read_text()
    defined = set(re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source))
    assert {"workdir", "step", "weights"} < defined
    taken = {"workdir", "out", "labels", "condition", "credentials", "n", "quantised", "watermark"}
    assert defined - taken == set(from_class_model.RUN_FLAGS)


def test_defaults_of_a_request_are_one_picture_of_seed_0():
    assert (prompt_flags.NUMBER.default, prompt_flags.SEED.default) == (1, 0)
    assert prompt_flags.PROMPT.default is None and prompt_flags.AGAIN.default is None
    assert (model_flags.DTYPE.default, model_flags.QUANTISED.default, model_flags.DROP_TEXT.default) == (
        "float32", "", False,
    )  # fmt: skip
