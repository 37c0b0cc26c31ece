"""The way from pictures to latents to a run on them, and back to pictures."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import imagenet256_dit, imagenet256_rae
from diffusion.data import latent_cache, sources
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments import encode, reproduce, train
from diffusion.experiments.run import examples
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders, generate
from diffusion.models import interchange
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.autoencoder_rae import AutoencoderRAE
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.recipe import ConfigError, Recipe, checks
from diffusion.recipe.values import plain
from diffusion.training.checkpointing import checkpoints
from tests.drawn_parameters import drawn

pytestmark = pytest.mark.usefixtures("compilation_cache")


def made(folder, seed=0, levels=2, channels=1, **changes):
    """A small autoencoder in a folder, as diffusers would save it."""
    module = AutoencoderKL(
        widths=(8,) * levels,
        layers=1,
        groups=2,
        middle_attention=False,
        picture_channels=channels,
        **{"scale": 0.5, "shift": 0.25} | changes,
    )
    params = drawn(module.init, jnp.zeros((1, 16, 16, channels)), seed=seed)["params"]
    interchange.save(folder, module, params)
    return str(folder)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return made(tmp_path_factory.mktemp("vae") / "vae")


def config_of(cache, **changes):
    """The tiny preset on the latents of the digits."""
    config = imagenet256_dit.get_config("tiny")
    config.update_from_flattened_dict(
        {
            "data.name": "digits",
            "data.shape": (4, 4, 4),
            "data.latents.dir": str(cache),
            "data.threads": 1,
            "model.num_classes": 10,
            "model.patch": 2,
            "model.depth": 1,
            "model.width": 16,
            "model.heads": 2,
            "train.steps": 4,
            "train.log_every": 2,
            "checkpoint.every": 2,
            "evaluate.split": "validation",
            "sample.steps": 2,
            "sample.number": 3,
            "sample.batch_size": 2,
            **changes,
        }
    )
    return config


def test_pictures_that_come_back_with_other_channels_are_not_compared():
    module = AutoencoderKL(widths=(8, 8), layers=1, groups=2, middle_attention=False, decoded_channels=4)
    with pytest.raises(ConfigError, match="vae encodes pictures of 3 channels but decodes 4"):
        autoencoder_folders.reconstruction(autoencoder_folders.Autoencoder("vae", module, {}, {}))


@pytest.mark.extended
def test_pictures_of_other_channels_are_refused_before_a_folder_is_made(vae, tmp_path):
    """A folder of the encoding that failed refused the right autoencoder."""
    with pytest.raises(ConfigError, match="takes pictures of 1 channels, but these have 3"):
        encode.run(autoencoder_folders.load(vae), "shapes@test", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_folder_of_a_run_is_refused_before_the_networks_are_read(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    values = types.SimpleNamespace(autoencoder="none", encoder="none", encoder_size=0, out=str(tmp_path))
    monkeypatch.setattr(encode.flags, "FLAGS", values)
    with pytest.raises(latent_cache.CacheError, match=r"holds config\.json, but no cache of latents"):
        encode.main([])


@pytest.mark.slow
def test_latents_are_the_encoders(vae, tmp_path):
    autoencoder = autoencoder_folders.load(vae)
    found = encode.run(autoencoder, "digits@validation", tmp_path / "cache", batch_size=50, flip=True)
    assert found == latent_cache.describe(tmp_path / "cache")
    assert (found.kind, found.shape, found.views, found.scale, found.shift) == (
        "moments",
        (4, 4, 4),
        ("plain", "flipped"),
        0.5,
        0.25,
    )
    cache, _ = latent_cache.open_cache(tmp_path / "cache")
    pictures, _ = sources.open_source("digits", "validation")
    rows = [0, 77, len(pictures) - 1]
    for row, record in zip(rows, cache.__getitems__(rows)):
        image = pictures[row]["image"]
        assert record["label"] == pictures[row]["label"]
        for view, of in zip(record["x"], (image, image[:, ::-1])):
            expected = autoencoder.module.apply({"params": autoencoder.params}, to_model(of[None]), method="encode")
            np.testing.assert_allclose(view, np.concatenate(expected), atol=1e-5)
    encode.run(autoencoder, "digits@validation", tmp_path / "mean", batch_size=50, mean=True)
    np.testing.assert_array_equal(latent_cache.open_cache(tmp_path / "mean")[0][3]["x"], cache[3]["x"][:1, :1])


@pytest.mark.slow
def test_a_run_on_latents_resumes_repeats_its_steps_and_decodes_its_samples(vae, tmp_path):
    encode.run(autoencoder_folders.load(vae), "digits@train", tmp_path / "cache")
    config = config_of(tmp_path / "cache", **{"data.latents.autoencoder": vae})
    assert train.run(config, tmp_path / "whole") == 0
    stopped = config_of(tmp_path / "cache", **{"data.latents.autoencoder": vae, "train.steps": 2})
    assert train.run(stopped, tmp_path / "resumed") == 0
    assert train.run(config, tmp_path / "resumed") == 0
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "resumed/metrics.jsonl").read_bytes()
    assert reproduce.repeat(Recipe.from_config(config), tmp_path / "whole", 2).finite

    params, _ = checkpoints.load_ema(tmp_path / "whole")
    seeds = generate.seeds(config, 3)
    labels = np.zeros(3, np.int32)
    images = generate.generator(Recipe.from_config(config, (4, 4, 4))).images(params, labels, seeds)
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8
    # The same latents, decoded by hand.
    pictures = config.copy_and_resolve_references()
    pictures.data.latents.dir = pictures.data.latents.autoencoder = ""
    x, _ = generate.generator(Recipe.from_config(pictures, (4, 4, 4))).trajectory(params, labels, seeds)
    autoencoder = autoencoder_folders.load(vae)
    expected = autoencoder.module.apply({"params": autoencoder.params}, x[-1] / 0.5 + 0.25, method="decode")
    assert np.abs(images.astype(int) - np.asarray(to_uint8(expected)).astype(int)).max() <= 1
    shown, _ = generate.generator(Recipe.from_config(config, (4, 4, 4))).trajectory(params, labels, seeds)
    np.testing.assert_allclose(shown[-1], expected, atol=1e-4)


@pytest.mark.slow
def test_a_run_on_latents_of_a_representation_autoencoder(tmp_path):
    """DiT^DH as the recipe has it: encoded, trained with shifted times, sampled and decoded."""
    encoder = DINOv2(width=8, depth=1, heads=2, hidden=32, size=28, patch=4, registers=1, affine=False)
    decoder = RAEDecoder(8, width=8, depth=1, heads=2, hidden=12, patch=2)
    module = AutoencoderRAE(encoder, decoder, (4, 4, 8))
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    interchange.save(tmp_path / "rae", module, params)
    found = encode.run(autoencoder_folders.load(tmp_path / "rae"), "digits@train", tmp_path / "cache")
    assert (found.kind, found.shape, found.scale) == ("mean", (4, 4, 8), 1.0)
    config = imagenet256_rae.get_config("tiny")
    latents = {"data.latents.autoencoder": str(tmp_path / "rae"), "data.shape": (4, 4, 8), "model.patch": 2}
    small = {"model.width": 16, "model.heads": 2, "model.decoder_width": 16, "model.decoder_heads": 2}
    changes = config_of(tmp_path / "cache")
    names = ("data.name", "data.latents.dir", "data.threads", "model.num_classes", "train.steps", "train.log_every",
             "checkpoint.every", "evaluate.split", "sample.steps", "sample.number", "sample.batch_size")  # fmt: skip
    for name in names:
        section, field = changes, name
        while "." in field:
            head, field = field.split(".", 1)
            section = section[head]
        latents[name] = section[field]
    config.update_from_flattened_dict(latents | small)
    assert train.run(config, tmp_path / "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)
    average, _ = checkpoints.load_ema(tmp_path / "run")
    recipe = Recipe.from_config(config, (4, 4, 8))
    a = (4 * 4 * 8 / 4096) ** 0.5
    np.testing.assert_allclose(recipe.sampling.plan.t, [1, a * 0.5 / (1 + (a - 1) * 0.5)], rtol=1e-5)
    images = generate.generator(recipe).images(average, np.zeros(3, np.int32), generate.seeds(config, 3))
    assert images.shape == (3, 8, 8, 3) and images.dtype == np.uint8


def test_other_latents_than_the_config_asks_for_are_refused(tmp_path):
    describe = lambda sha: {"family": "AutoencoderKL", "config": {"scaling_factor": 0.5}, "sha256": sha}
    spec = sources.describe("digits", "validation")
    about = {
        "name": "digits",
        "version": spec.version,
        "split": "validation",
        "size": 2,
        "num_classes": 10,
        "shape": [8, 8, 1],
    }
    description = latent_cache.Description(about, describe("ab"), (4, 4, 4), "mean", ("plain",), "float32", 0.5, 0.0)
    from diffusion.data import latent_writer

    source = [{"image": np.zeros((8, 8, 1), np.uint8), "label": 0}] * 2
    latent_writer.write(
        tmp_path, source, spec._replace(size=2), description, lambda x: np.zeros((len(x), 1, 4, 4, 4)), threads=0
    )
    config = config_of(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset.split is 'validation' there, but the run needs 'train'"):
        examples.open_examples(Recipe.from_config(config))
    config.data.split = "validation"
    assert examples.open_examples(Recipe.from_config(config)).spec.shape == (4, 4, 4)
    assert workdir.example_shape(config_of(tmp_path, **{"data.shape": None})) == (4, 4, 4)
    config.data.latents.autoencoder = "vae"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            autoencoder_folders, "load", lambda path: autoencoder_folders.Autoencoder(path, None, None, describe("cd"))
        )
        with pytest.raises(ConfigError, match=r"autoencoder.sha256 is 'ab' there, but the run needs 'cd'"):
            examples.open_examples(Recipe.from_config(config))
        with pytest.raises(ConfigError, match=r"autoencoder.sha256 is 'ab' there, but the run needs 'cd'"):
            autoencoder_folders.decoding(config)


def test_configs_that_mix_latents_and_pictures_are_refused(tmp_path):
    for change, match in [
        ({"data.augment": ({"name": "flip"},)}, "changes pictures, but config.data.latents.dir"),
        ({"evaluate.every": 2}, "samples are latents, which must be decoded to pictures"),
        ({"data.latents.dir": "", "data.latents.autoencoder": "vae"}, "the run uses no latents"),
    ]:
        with pytest.raises(ConfigError, match=match):
            checks.validate(config_of(tmp_path, **change))
    with pytest.raises(ConfigError, match=r"holds no cache of latents: there is none. It is made by"):
        examples.open_examples(Recipe.from_config(config_of(tmp_path)))
    with pytest.raises(ConfigError, match=r"this run makes latents. Name the autoencoder"):
        generate.generator(Recipe.from_config(config_of(tmp_path), (4, 4, 4)))


@pytest.mark.slow
def test_what_does_not_fit_the_encoder_is_refused(vae, tmp_path):
    autoencoder = autoencoder_folders.load(vae)
    with pytest.raises(ConfigError, match="NAME@SPLIT"):
        encode.run(autoencoder, "digits", tmp_path)
    with pytest.raises(ConfigError, match="no split 'tset'"):
        encode.run(autoencoder, "digits@tset", tmp_path)
    large = autoencoder_folders.load(made(tmp_path / "f16", levels=5))
    with pytest.raises(ConfigError, match="the nearest valid size is 16 x 16"):
        encode.run(large, "digits@train", tmp_path / "c")
    with pytest.raises(ConfigError, match="takes pictures of 1 channels, but these have 3"):
        autoencoder_folders.channels(np.zeros((2, 8, 8, 3), np.uint8), autoencoder.module.picture_channels)
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        autoencoder_folders.load(tmp_path / "nowhere")
    # The hash is of the weights and the fields, whatever file they lie in.
    assert autoencoder_folders.load(made(tmp_path / "same")).record == autoencoder.record
    assert autoencoder_folders.load(made(tmp_path / "other", seed=1)).record["sha256"] != autoencoder.record["sha256"]
    assert (
        autoencoder_folders.load(made(tmp_path / "scaled", scale=0.4)).record["config"] != autoencoder.record["config"]
    )


def test_a_run_of_before_latents_is_still_read(tmp_path):
    config = config_of("")
    old = plain(config)
    del old["data"]["latents"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert plain(workdir.read_config(tmp_path)) == plain(config)
    assert workdir.settle_config(tmp_path, config)


def test_a_reconstruction_is_the_decoded_mean():
    """Of an encoder that halves values, and a decoder that doubles them again and adds a tenth of the range."""

    class Halves:
        picture_channels = 1

        def apply(self, variables, x, method="__call__"):
            if method == "encode":
                return Moments(x / 2, jnp.zeros_like(x))
            return {"decode": 2 * x + variables["params"]["more"], "__call__": x}[method]

    autoencoder = autoencoder_folders.Autoencoder("vae", Halves(), {"more": jnp.float32(0.2)}, {})
    pictures = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    found = autoencoder_folders.reconstruction(autoencoder)(pictures)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, pictures + 25.5, atol=1)
