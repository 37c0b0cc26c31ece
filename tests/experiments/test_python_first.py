"""A run from Python objects alone: one's own module, records and objective train, go on, are sampled and measured."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.experiments.config import ConfigError
from diffusion.experiments.config.recipe import Recipe, Teacher
from diffusion.experiments.evaluate import evaluate
from diffusion.experiments.evaluation.sample_metrics import Effort
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.of_run import sample
from diffusion.experiments.train import train
from diffusion.objectives.inputs import mean_square, noised
from diffusion.training.checkpointing import checkpoints

LINE = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(LINE)
VELOCITY = parameterizations.velocity()
SETTINGS = {
    "train.steps": 2, "train.batch_size": 4, "train.log_every": 1, "checkpoint.every": 2, "data.threads": 0,
    "sample.steps": 2, "sample.number": 6, "sample.batch_size": 6, "train.accumulate": 1,
}  # fmt: skip


class Perceptron(nn.Module):
    """The user's own network, of points or of pictures."""

    width: int = 8

    @nn.compact
    def __call__(self, x, t, condition=None):
        rows = x.reshape(len(x), -1)
        hidden = nn.silu(nn.Dense(self.width)(jnp.concatenate([rows, t[:, None]], axis=1)))
        return nn.Dense(rows.shape[1])(hidden).reshape(x.shape)


def own_objective(scale=1.0):
    """Flow matching, written out."""

    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, DENSITY, keys, batch)
        return scale * importance * mean_square(networks["model"](x_t, t, None) - (eps - x_0)), {"t": t}

    return objectives.Objective(loss, density=DENSITY)


def points(number=16):
    return [{"x": np.float32([np.cos(i), np.sin(i)])} for i in range(number)]


def pictures(number=16, shift=0):
    return [{"image": np.full((2, 2, 1), 10 * i + shift, np.uint8), "label": 0} for i in range(number)]


def recipe(data=None, settings=None, **parts):
    parts = {
        "schedule": LINE,
        "objective": own_objective(),
        "network": Perceptron(),
        "parameterization": VELOCITY,
    } | parts
    return Recipe(data=points() if data is None else data, config=SETTINGS | (settings or {}), **parts)


def test_points_train_go_on_and_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    run = tmp_path / "run"
    assert train(recipe(), run) == 0
    assert train(recipe(settings={"train.steps": 4}), run) == 0
    straight = tmp_path / "straight"
    assert train(recipe(settings={"train.steps": 4}), straight) == 0
    jax.tree.map(np.testing.assert_array_equal, *(checkpoints.load_ema(folder, 4)[0] for folder in (run, straight)))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    made = sample(recipe(settings={"train.steps": 4}), run)
    assert made.shape == (6, 2) and made.dtype == np.float32 and np.ptp(made) > 0
    np.testing.assert_array_equal(np.load(run / "samples.npz")["images"], made)

    params, _ = checkpoints.load_ema(run)
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(np.arange(6, dtype=np.uint32))
    denoise = parameterizations.denoiser(lambda *inputs: Perceptron().apply(params, *inputs), LINE, VELOCITY)
    plan = timesteps.plan(timesteps.uniform(LINE, steps=2))
    by_hand = samplers.sample(samplers.heun(), denoise, LINE, samplers.prior(LINE, keys[0], (2,)), plan, keys[1])
    np.testing.assert_allclose(made, by_hand, rtol=1e-4, atol=1e-5)


def test_pictures_are_sampled_and_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    own = recipe(pictures(), held_out=pictures(shift=3))
    assert train(own, tmp_path) == 0
    images = sample(own, tmp_path)
    assert images.dtype == np.uint8 and images.shape == (6, 2, 2, 1)
    report = evaluate(own, tmp_path, Effort(0, 2))
    assert report["figures"]["frechet"]["pixels"]["distance"] > 0
    assert report["protocol"]["dataset"]["train_size"] == 16


@pytest.mark.parametrize(
    "parts, field",
    [
        ({"network": Perceptron(9)}, "model.width: 8 -> 9"),
        ({"schedule": schedules.cosine()}, "schedule.alpha.name: .*rectified_flow.* -> .*cosine"),
        ({"objective": objectives.flow_matching(DENSITY)}, "objective.loss.name: .*own_objective.* -> .*flow_matching"),
    ],
)
def test_a_run_does_not_go_on_with_other_parts(tmp_path, parts, field):
    workdir.settle_config(tmp_path, recipe().config)
    assert workdir.settle_config(tmp_path, recipe().config)
    with pytest.raises(ConfigError, match=field):
        workdir.settle_config(tmp_path, recipe(**parts).config)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"parameterization": None}, ValueError, r"Recipe\(parameterization=\.\.\.\) is missing"),
        ({"settings": {"train.stpes": 3}}, ConfigError, "stpes"),
        ({"settings": {"train.steps": 0}}, ConfigError, r"config\.train\.steps = 0"),
        ({"settings": {"schedule": {"name": "cosine"}}}, ConfigError, "names a part that Recipe takes as an argument"),
        ({"settings": {"sample.guidance.scale": 2.0}}, ValueError, "never trained on the null condition"),
        ({"sampler": samplers.flow_map()}, ValueError, "trains a denoiser, which samplers of flow maps do not take"),
        ({"objective": objectives.mean_flow(DENSITY), "sampler": samplers.heun()}, ValueError, "trains a flow map"),
        ({"objective": objectives.distribution_matching(VELOCITY, VELOCITY, VELOCITY, DENSITY)}, ValueError,
         "learns from a teacher"),
        ({"teacher": Teacher(VELOCITY, 1.0, 0, samplers.heun(), 2)}, ValueError, "has no teacher"),
        ({"data": []}, ValueError, "no records"),
        ({"data": [{"picture": 1}]}, ValueError, 'holds picture. Valid: "image" or "x"'),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_by_their_values(change, error, words):
    with pytest.raises(error, match=words):
        recipe(**change)
