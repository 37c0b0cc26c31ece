"""Runs that post-train a trained model by config: each resumes bit for bit, and refuses another reference or data."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion.experiments import reproduce, train
from diffusion.recipe import ConfigError, checks, names
from diffusion.training.checkpointing import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compilation_cache")]

ENTRIES = {
    "diffusion_dpo": {
        "name": "diffusion_dpo",
        "weighting": {"name": "snr"},
        "density": {"name": "uniform_density"},
        "beta": 0.02,
    },
    "diffusion_nft": {
        "name": "diffusion_nft",
        "weighting": {"name": "constant"},
        "density": {"name": "uniform_density"},
        "reward": {"name": "near_value", "value": 0.5},
        "group": 4,
        "divergence": 0.01,
    },
    "adjoint_matching": {
        "name": "adjoint_matching",
        "weighting": {"name": "constant"},
        "reward": {"name": "near_value", "value": 0.5},
        "beta": 0.5,
    },
    "policy_gradient": {
        "name": "policy_gradient",
        "reward": {"name": "near_value", "value": 0.5},
        "group": 4,
        "beta": 0.01,
        "policy": "target",
    },
    "reward_backpropagation": {
        "name": "reward_backpropagation",
        "reward": {"name": "near_value", "value": 0.5},
        "last": 1,
    },
    "reward_weights": {
        "name": "flow_matching",
        "density": {"name": "uniform_density"},
        "wrappers": ({"name": "reward_weights", "reward": {"name": "near_value", "value": 0.5}, "beta": 0.5},),
    },
}
WITHOUT_REFERENCE = ("reward_backpropagation", "reward_weights")


def small():
    config = digits.get_config("tiny")
    config.model.update({"patch": 4, "width": 16, "depth": 1, "heads": 1})
    config.train.update({"batch_size": 8, "log_every": 1, "accumulate": 1})
    config.objective.density.strata = 8
    config.sample.steps = 2
    config.sample.guidance.scale = 1.0
    config.evaluate.update({"every": 0, "features": ("pixels",)})
    config.evaluate.loss.every = 0
    return config


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return made_reference(tmp_path_factory.mktemp("reference"))


def made_reference(folder):
    """The folder of a trained model, and of files of pictures of which one was preferred to the other."""
    config = small()
    config.train.steps = 2
    assert train.run(config, folder) == 0
    for k, name in enumerate(("preferred", "rejected", "fewer")):
        pictures = np.random.default_rng(k).integers(0, 256, (48 - 8 * (k == 2), 8, 8, 1), np.uint8)
        np.savez(folder / f"{name}.npz", image=pictures, label=np.arange(len(pictures)) % 10)
    return folder


def post_training(name, folder, steps, rejected="rejected"):
    config = small()
    config.objective = dict(ENTRIES[name])
    config.init_from.path = str(folder)
    if name not in WITHOUT_REFERENCE:
        config.teacher.path = str(folder)
        config.teacher.parameterization = config.parameterization
    config.train.steps = steps
    config.optimizer.update({"decay": "constant", "warmup": 1})
    config.checkpoint.every = 2
    if name == "diffusion_dpo":
        of = [{"name": "arrays", "path": str(folder / f"{part}.npz")} for part in ("preferred", rejected)]
        config.data.source = {
            "name": "preferences",
            "of": tuple(entry | {"classes": tuple("0123456789")} for entry in of),
        }
    return config


@pytest.mark.parametrize("name", ENTRIES)
def test_it_resumes_bit_for_bit(name, reference, tmp_path):
    assert train.run(post_training(name, reference, 4), tmp_path / "whole") == 0
    assert train.run(post_training(name, reference, 2), tmp_path / "parts") == 0
    assert train.run(post_training(name, reference, 4), tmp_path / "parts") == 0
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()
    whole, parts = (checkpoints.read_about(tmp_path / part, 4)["leaves"] for part in ("whole", "parts"))
    assert whole == parts


def test_what_does_not_fit_is_refused_in_a_sentence(reference, tmp_path):
    config = post_training("diffusion_dpo", reference, 2)
    config.model.width = 48
    with pytest.raises(ConfigError, match=r"config\.teacher\.path = .*the teacher's config\.model is .*'width': 16.*"):
        train.run(config, tmp_path / "wider")
    config = post_training("diffusion_dpo", reference, 2, "fewer")
    with pytest.raises(ConfigError, match=r"preferred and rejected examples must agree in their number"):
        train.run(config, tmp_path / "fewer")
    config = post_training("diffusion_dpo", reference, 2)
    config.data.source = digits.get_config("tiny").data.source
    with pytest.raises(ConfigError, match=r"config.data.source.*needs pairs with a preference.*preferences"):
        train.run(config, tmp_path / "single")


def test_a_reward_that_is_not_finite_stops_the_run_and_reproduce_names_its_example(monkeypatch, tmp_path):
    reward = lambda x, condition: jnp.where(jnp.arange(len(x)) == 5, jnp.nan, x.mean((1, 2, 3)))
    monkeypatch.setitem(names.REWARDS, "broken", lambda: reward)
    config = small()
    config.objective = {"name": "policy_gradient", "reward": {"name": "broken"}, "group": 4}
    config.train.steps = 2
    assert train.run(config, tmp_path) == 1
    assert checkpoints.steps(tmp_path / "failed") == [0]  # the state before the step
    repeated = reproduce.repeat(checks.validate(config), tmp_path)
    assert repeated.index[~np.isfinite(repeated.losses)].tolist() == [5]
