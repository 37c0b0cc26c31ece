"""Autoencoders trained from a config: with critics, perceptual networks and encoders, and what is refused."""

import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.flax import save_file

from diffusion.data.digits import digits
from diffusion.data.transforms import to_model
from diffusion.experiments import train
from diffusion.experiments.run import program
from diffusion.experiments.sampling import representation_autoencoders
from diffusion.experiments.text import model
from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.defaults import defaults
from diffusion.training.sharding import leaf_name

pytestmark = pytest.mark.usefixtures("compilation_cache")
KL = {"name": "autoencoder_kl", "widths": (8, 8), "layers": 1, "groups": 4, "latent_channels": 2}
DECODER = {
    "name": "rae_decoder",
    "features": 12,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "hidden": 32,
    "patch": 2,
    "mean": (0.5,),
    "std": (0.5,),
}
DIT = {"name": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 0}
FLOW = {"name": "flow_matching", "density": {"name": "uniform_density"}}
LPIPS = {"name": "lpips", "widths": (4, 4)}
CRITIC = {"name": "patch_discriminator", "width": 8, "layers": 1, "groups": 2}


class OneConvolution(nn.Module):
    """An encoder of digits: normalised products of their patches."""

    width: int = 12
    patch: int = 2
    picture_channels = 1

    @nn.compact
    def __call__(self, images):
        side = (self.patch, self.patch)
        h = nn.LayerNorm(use_bias=False, use_scale=False)(nn.Conv(self.width, side, side, name="patches")(images))
        return ImageFeatures(h.reshape(len(h), -1, self.width), h.mean((1, 2)))


@pytest.fixture(autouse=True)
def encoder_by_name(monkeypatch):
    monkeypatch.setitem(names.ENCODERS, "one_convolution", OneConvolution)


def config_of(network, objective, **changes) -> ConfigDict:
    config = defaults()
    config.data.shape = (8, 8, 1)
    config.model = network
    config.objective = {"wrappers": (), **objective}
    config.train.update({"steps": 4, "batch_size": 16, "log_every": 2})
    config.checkpoint.every = 2
    config.evaluate.every = 0
    for field, value in changes.items():
        *sections, last = field.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    return config


ENCODER = {"encoder__network": {"name": "one_convolution"}}
PERCEPTUAL = {"perceptual__network": LPIPS}
RAE = {"name": "rae_decoder", "start": 2}
PLAYS = {
    "second_player__objective": {"name": "rae_critic", "start": 1},
    "second_player__network": CRITIC,
    "second_player__optimizer": {"name": "adamw", "learning_rate": 1e-3},
}
VF = {"name": "kl_autoencoder", "aligned": {"weight": 0.1}}
EQ = {"name": "kl_autoencoder", "equivariance": {"scales": (0.5,)}}
REFUSED = {
    "no encoder": (config_of(DECODER, RAE), r"the run has no encoder\. Valid: an encoder"),
    "an encoder without use": (config_of(KL, {"name": "kl_autoencoder"}, **ENCODER), "the objective uses no encoder"),
    "no network of the critic": (
        config_of(DECODER, RAE, **ENCODER, second_player__objective={"name": "rae_critic"}),
        "config.second_player.network.name = '', .* its own architecture. Valid: patch_discriminator",
    ),
    "a critic without use": (
        config_of(DIT, FLOW, second_player__objective={"name": "patch_critic"}, second_player__network=CRITIC),
        "second player, but the run has one that trains 'critic'",
    ),
    "features without use": (
        config_of(DIT, FLOW, **PERCEPTUAL),
        r"config\.perceptual\.network\.name = 'lpips',.*no pictures by their features",
    ),
    "another objective's critic": (
        config_of(DECODER, RAE, **ENCODER, **PLAYS | {"second_player__objective": {"name": "patch_critic"}}),
        r"'patch_critic'.* judges examples made with \('pictures', None\), .* rae_critic with rae_decoder",
    ),
    "a critic of other noise": (
        config_of(DECODER, RAE, **ENCODER, **PLAYS | {"second_player__objective": {"name": "rae_critic", "tau": 0.0}}),
        r"made with \('features', 0\.0, 'half_normal'\), but the objective makes them with \('features', 0\.8",
    ),
    "a setting that is none": (config_of(KL, VF | {"aligned": {"margin": 1.0}}, **ENCODER), "aligned.*'margin'"),
    "a scale out of range": (config_of(KL, EQ | {"equivariance": {"scales": (2.0,)}}), r"scales = \(2\.0,\)"),
    "another network": (config_of(KL, RAE, **ENCODER), "of the kind 'decoder', .* of the kind 'autoencoder'"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_fit_is_refused_before_anything_is_compiled(name):
    config, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


@pytest.mark.extended
@pytest.mark.parametrize("change, message", [
    ({"encoder__network": {"name": "one_convolution", "patch": 4}}, "the encoder has 4 patches for a picture,"),
    ({"encoder__network": {"name": "one_convolution", "width": 6}}, "reads 12 features for each patch,"),
], ids=["patch", "width"])  # fmt: skip
def test_an_encoder_that_the_decoder_does_not_read_is_refused_with_the_step(change, message):
    config = config_of(DECODER, RAE, **{**ENCODER, **change})
    recipe = checks.validate(config).at((8, 8, 1))
    with pytest.raises(ConfigError, match=message):
        program.build(recipe, program.mesh_of(config))


@pytest.mark.extended
def test_the_critic_plays_first_with_an_optimizer_of_its_own(monkeypatch):
    """What the steps are made of; the slow tests below run them."""
    made = []
    inner = program.alternating
    record = lambda turns, *rest, **engine: made.append((turns, engine)) or inner(turns, *rest, **engine)
    monkeypatch.setattr(program, "alternating", record)
    config = config_of(DECODER, RAE, **ENCODER, **PLAYS)
    config.train.accumulate = 2
    built = program.build(checks.validate(config).at((8, 8, 1)), program.mesh_of(config))
    ((turns, engine),) = made
    assert [(name, player.trained) for name, player in turns.items()] == [("critic", "critic"), ("model", "model")]
    assert turns["critic"].optimizer is not turns["model"].optimizer
    assert engine["accumulate"] == 2 and {"heads", "follow"} <= engine.keys()
    assert built.target.second_players.keys() == {"critic"}


def saved(module, x, path):
    params = module.init(jax.random.key(9), x)["params"]
    leaves = {leaf_name(p).replace("/", "."): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params)}
    save_file(leaves, path)
    return params


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vf", "vf and critic", "eq", "eq and critic"])
def test_a_kl_autoencoder_trains_with_its_terms(objective, tmp_path):
    changes = dict(PERCEPTUAL)
    entry = dict(VF if objective.startswith("vf") else EQ)
    changes |= {"encoder__network": {"name": "one_convolution"}} if entry is not EQ and "aligned" in entry else {}
    if "critic" in objective:
        same = {"equivariance": entry["equivariance"]} if "equivariance" in entry else {}
        # pictures of 4 x 4 pixels are too small for a critic
        same = {"equivariance": {"scales": (1.0,)}} if same else {}
        entry |= same
        changes |= PLAYS | {"second_player__objective": {"name": "patch_critic", **same}}
    # latents of 4 x 4, as many as the encoder's patches
    config = config_of(KL, {**entry, "start": 1}, **changes)
    assert train.run(config, tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) and "perceptual" in row for row in rows)
    assert ("foundation" in rows[-1]) == objective.startswith("vf")
    assert ("critic/loss" in rows[-1]) == ("critic" in objective)
    module, params, _ = model.trained(tmp_path)
    assert module.apply({"params": params}, jnp.zeros((1, 8, 8, 1))).shape == (1, 8, 8, 1)


@pytest.mark.slow
def test_a_representation_autoencoders_decoder_learns_digits(tmp_path):
    """L1, features and a critic, from noised features: far below the error of the mean picture."""
    save = lambda module, name: saved(module, jnp.zeros((1, 8, 8, 1)), tmp_path / f"{name}.safetensors")
    encoder = save(OneConvolution(), "encoder")
    save(names.PERCEPTUAL["lpips"](widths=(4, 4)), "lpips")
    config = config_of(
        DECODER,
        RAE | {"start": 200, "tau": 0.2, "perceptual": 0.1, "adversarial": 0.1},
        **ENCODER,
        **PERCEPTUAL,
        **PLAYS | {"second_player__objective": {"name": "rae_critic", "start": 150, "tau": 0.2}},
        encoder__path=str(tmp_path / "encoder.safetensors"),
        perceptual__path=str(tmp_path / "lpips.safetensors"),
        optimizer={"name": "adamw", "learning_rate": 2e-3, "warmup": 10, "decay": "constant"},
    )
    config.train.update({"steps": 300, "batch_size": 64, "log_every": 50})
    config.checkpoint.every = 300
    config.ema.update({"decay": 0.9})
    assert train.run(config, tmp_path / "run") == 0
    decoder, params, _ = model.trained(tmp_path / "run")
    images, _, splits = digits()
    x = np.asarray(to_model(images[splits == "test"]))
    features = OneConvolution().apply({"params": encoder}, x).patches
    y = decoder.apply({"params": params}, features.reshape(len(x), 4, 4, -1))
    error = np.abs(x - y).mean()
    assert error < 0.35 * np.abs(x - x.mean(0)).mean(), error
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"perceptual", "adversarial", "sigma", "critic/real"} <= rows[-1].keys()
    module, whole = representation_autoencoders.build_autoencoder(decoder, params, config)
    assert module.statistics == (4, 4, 12)
    z = module.apply({"params": whole}, x, method="encode")
    assert np.abs(z.mean(0)).max() < 0.5 and 0.8 < z.std() < 1.2  # test pictures by the statistics of training
    np.testing.assert_allclose(module.apply({"params": whole}, z, method="decode"), y, atol=1e-3)
    with pytest.raises(ConfigError, match=r"config\.encoder\.path = '': the encoder of this run has initial weights"):
        representation_autoencoders.build_autoencoder(decoder, params, config_of(DECODER, RAE, **ENCODER))
    wrong = config.copy_and_resolve_references()
    wrong.perceptual.network = LPIPS | {"widths": (4, 6)}
    with pytest.raises(ConfigError, match=re.escape("config.perceptual.path") + ".*holds another network: .*conv_1_0"):
        train.run(wrong, tmp_path / "wrong")
    (tmp_path / "lpips.safetensors").unlink()  # the run keeps these features
    config.train.steps = 301
    assert train.run(config, tmp_path / "run") == 0
    with pytest.raises(ConfigError, match="another encoder than"):
        representation_autoencoders.build_autoencoder(decoder, params, config, sha256=64 * "0")
    with pytest.raises(ConfigError, match=re.escape("config.perceptual.path = ")):
        train.run(config, tmp_path / "new")
