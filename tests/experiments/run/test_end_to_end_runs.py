"""REPA-E by config: an autoencoder that trains with the model on its latents, resumed, sampled, and what is refused."""

import json
import shutil
from types import SimpleNamespace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion.experiments import train
from diffusion.experiments.run import program, start
from diffusion.experiments.sampling import generate, run_samples, watermarked
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.latent_space import from_diffusion
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.autoencoder import Autoencoder
from diffusion.training.checkpointing import checkpoints

pytestmark = pytest.mark.usefixtures("compilation_cache")
KL = {"name": "autoencoder_kl", "widths": (8, 8), "layers": 1, "groups": 4, "latent_channels": 2, "picture_channels": 1}
REPA = {"name": "alignment", "layer": 1, "weight": 0.5, "projector": {"name": "mlp", "hidden": 8}}
PLAYS = {
    "objective": {"name": "end_to_end_critic"},
    "network": {"name": "patch_discriminator", "width": 8, "layers": 1, "groups": 2},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
}


class Features(NamedTuple):
    patches: jax.Array


class OneConvolution(nn.Module):
    """An encoder of digits with as many patches as the model has."""

    picture_channels = 1

    @nn.compact
    def __call__(self, images):
        h = jnp.tanh(nn.Conv(6, (4, 4), (4, 4), name="patches")(images))
        return Features(h.reshape(len(h), -1, 6))


END_TO_END = {"name": "end_to_end", "condition_dropout": 0.1}


@pytest.fixture(autouse=True)
def encoder_by_name(monkeypatch):
    monkeypatch.setitem(names.ENCODERS, "one_convolution", OneConvolution)


def config_of(**changes):
    config = digits.get_config("tiny")
    config.autoencoder.network = KL
    config.encoder.network = {"name": "one_convolution"}
    config.objective.wrappers = (REPA, END_TO_END | {"alignment": 1.5, "kl": 1e-6})
    config.objective.density["strata"] = 16
    settings = {"train.batch_size": 16, "train.log_every": 2, "train.steps": 4, "checkpoint.every": 2}
    config.update_from_flattened_dict({**settings, "optimizer.warmup": 0, **changes})
    return config


@pytest.mark.slow
def test_the_model_is_of_latents_and_the_batch_of_pictures():
    config = config_of()
    config.second_player.update(PLAYS)
    recipe = checks.validate(config).at((8, 8, 1))
    assert (recipe.examples.shape, recipe.example_shape) == ((4, 4, 2), (8, 8, 1))
    made = program.build(recipe, program.mesh_of(config))  # which traces the step
    assert made.batch["image"].shape == (16, 8, 8, 1)
    head = made.target.params["heads"]["autoencoder"]
    assert head["mean"].shape == head["var"].shape == (2,)
    assert made.target.second_players["critic"].params["params"]
    assert "autoencoder" in made.target.ema["heads"]


REFUSED = {
    "no autoencoder": (
        {"autoencoder.network": {"name": ""}},
        r"config\.autoencoder\.network = .* trains an autoencoder, but none is named",
    ),
    "no use for it": ({"objective.wrappers": (REPA,)}, "the objective does.*no autoencoder"),
    "no terms": ({"objective.wrappers": (END_TO_END,)}, "the autoencoder is aligned only by a term on features"),
    "sides": ({"data.shape": (9, 9, 1)}, r"does not take examples of \(9, 9, 1\)"),
    "channels": ({"data.shape": (8, 8, 3)}, "Valid: pictures of 1 channels whose sides 2 divides"),
    "an argument": ({"objective.wrappers": (REPA, END_TO_END | {"alignement": 1.0})}, "'?alignment"),
    "an argument of its own": (
        {"objective.wrappers": (REPA, END_TO_END | {"null": 1})},
        r"^(?!.*To replace).*wrappers\[1\]: unknown argument of end_to_end 'null'",
    ),
    "no file": ({"autoencoder.path": "/nowhere"}, "config.autoencoder.path = '/nowhere', but it does not exist"),
    "latents": ({"data.latents.dir": "/nowhere"}, "config.autoencoder encodes the pictures in each step"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_fit_is_refused(name):
    changes, message = REFUSED[name]
    config = config_of()
    for field, value in changes.items():
        section, _, last = field.rpartition(".")
        (config if section == "" else config[section] if "." not in section else config.data.latents)[last] = value
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


@pytest.mark.slow
@pytest.mark.parametrize("critic", [False, True], ids=["alone", "with a critic"])
def test_a_run_is_resumed_bit_for_bit_and_decodes_by_its_own_autoencoder(critic, tmp_path):
    config = config_of()
    if critic:
        config.second_player.update(PLAYS)
    recipe = checks.on_its_data(checks.validate(config))
    made = program.build(recipe, program.mesh_of(config))
    assert train.run(config, tmp_path) == 0
    end = checkpoints.restore_latest(tmp_path, made.target)[0]
    shutil.rmtree(tmp_path / "checkpoints/4")
    assert train.run(config, tmp_path) == 0
    again = checkpoints.restore_latest(tmp_path, made.target)[0]
    assert int(end.step) == int(again.step) == 4
    jax.tree.map(np.testing.assert_array_equal, end, again)
    first = made.init(made.seed).params["heads"]["autoencoder"]
    for kept in (end.params, end.ema):
        head = kept["heads"]["autoencoder"]
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), head, first)
        assert min(moved["mean"], moved["var"], moved["network"]["autoencoder"]["encoder"]["conv_in"]["kernel"]) > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = {"term", "autoencoder_term", "reconstruction", "kl"} | ({"adversarial"} if critic else set())
    assert all(expected <= set(row) and "autoencoder" not in row for row in rows)
    samples = run_samples.sample(recipe, tmp_path)
    assert samples.shape[1:] == (8, 8, 1) and np.ptp(samples) > 0
    params, _ = checkpoints.load_ema(tmp_path)
    labels, seeds = np.zeros(2, np.int32), np.arange(2, dtype=np.uint32)
    x, _ = generate.generator(recipe).trajectory(params, labels, seeds)
    assert x.shape[1:] == (2, 8, 8, 1)
    changed = jax.tree.map(lambda leaf: leaf, params)
    changed["heads"]["autoencoder"]["mean"] = params["heads"]["autoencoder"]["mean"] + 1.0
    other = generate.generator(recipe).images(changed, labels, seeds)
    assert (other != generate.generator(recipe).images(params, labels, seeds)).any()


@pytest.mark.slow
def test_a_run_begins_with_the_autoencoder_of_a_folder(tmp_path):
    from diffusion.models import interchange

    module = AutoencoderKL(**{name: value for name, value in KL.items() if name != "name"}, scale=0.5, shift=1.0)
    params = module.init(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))["params"]
    interchange.save(tmp_path / "vae", module, params)
    config = config_of(**{"autoencoder.path": str(tmp_path / "vae")})
    config.autoencoder.network = {**KL, "scale": 0.5, "shift": 1.0}
    recipe = checks.on_its_data(checks.validate(config))
    made = program.build(recipe, program.mesh_of(config))
    state, _ = start.first_state(config, tmp_path / "run", made, {})
    for held in (state.params, state.ema):
        head = held["heads"]["autoencoder"]
        jax.tree.map(np.testing.assert_array_equal, head["network"]["autoencoder"], params)
        np.testing.assert_allclose(head["mean"], [1.0, 1.0])
        np.testing.assert_allclose(head["var"], [4.0, 4.0])
    config.autoencoder.network = {**KL, "widths": (4, 4)}
    other = program.build(checks.on_its_data(checks.validate(config)), program.mesh_of(config))
    with pytest.raises(ConfigError, match=r"config.autoencoder.path = .* holds another autoencoder"):
        start.first_state(config, tmp_path / "run", other, {})


def test_pictures_that_do_not_fit_are_refused_and_commands_on_pictures_refuse_its_runs():
    recipe = checks.validate(config_of())  # whose data's shape is not known yet
    with pytest.raises(ConfigError, match=r"config.autoencoder.network.*does not take examples of \(8, 7, 1\)"):
        recipe.at((8, 7, 1))
    run = SimpleNamespace(recipe=recipe.at((8, 8, 1)), config=recipe.config)
    with pytest.raises(ConfigError, match="RUN: watermarks can only be measured on runs on pictures"):
        watermarked.build_run_maker(run, "RUN")


def test_an_autoencoder_in_python_goes_with_an_objective_that_trains_it():
    autoencoder = Autoencoder(AutoencoderKL(widths=(8, 8), groups=4, latent_channels=2, picture_channels=1))
    latents = autoencoder.latents()
    assert autoencoder.latent_shape((8, 8, 1)) == (4, 4, 2)
    np.testing.assert_allclose(latents.variance, np.full(2, 0.18215**-2), rtol=1e-6)
    with pytest.raises(ValueError, match="does not take examples of"):
        autoencoder.latent_shape((8, 7, 1))
    head = {"mean": jnp.array([1.0, -2.0]), "var": jnp.array([4.0, 0.25]), "network": {"autoencoder": {"a": 1}}}
    module, own = autoencoder.trained({"heads": {"autoencoder": head}})
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
    expected = np.array([1.0, -2.0]) + np.array([2.0, 0.5]) * x
    np.testing.assert_allclose(from_diffusion(x, module.scale, module.shift), expected, rtol=1e-6)
    assert own == {"a": 1}
