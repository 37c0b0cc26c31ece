"""Features of a frozen encoder beside latents: written by a command, read by a run, refused where they are others'."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import imagenet256_sit
from diffusion.data import feature_cache, latent_cache, latent_writer, sources
from diffusion.data.transforms import to_model
from diffusion.experiments import encode, train
from diffusion.experiments.run import examples, program
from diffusion.experiments.sampling import autoencoder_folders, encoder_features
from diffusion.models import interchange
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.companions import Encoder
from diffusion.training.checkpointing import checkpoints
from tests.experiments import test_encode
from tests.experiments.run.test_features import OneConvolution

pytestmark = pytest.mark.usefixtures("compilation_cache")
TINY = {"width": 16, "depth": 1, "heads": 2, "hidden": 32, "size": 28}
U_NET = {"name": "song_unet", "width": 8, "multipliers": (1,), "blocks": 1, "num_classes": 10}
ALIGNMENT = {"name": "alignment", "layer": 1, "weight": 0.5, "projector": {"name": "mlp", "hidden": 8}}


class Few:
    """A source of four pictures of 8 x 8."""

    spec = sources.DataSpec("few", "train", (8, 8, 1), 10, 4, "1.0.0")
    where = "memory"

    def __len__(self):
        return 4

    def __getitem__(self, row):
        return {"image": np.arange(64, dtype=np.uint8).reshape(8, 8, 1) + row, "label": row}

    def fingerprint(self):
        return {"records": 4}


@pytest.fixture(autouse=True)
def encoder_by_name(monkeypatch):
    monkeypatch.setitem(names.ENCODERS, "one_convolution", OneConvolution)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Latents of four pictures, written by hand, with the features of an encoder of one's own."""
    folder = tmp_path_factory.mktemp("cache")
    dataset = {"name": "few", "version": "1.0.0", "split": "train", "size": 4, "num_classes": 10, "shape": [8, 8, 1]}
    about = latent_cache.Description(dataset, {}, (4, 4, 4), "mean", ("plain",), "float32", 1.0, 0.0)
    latent_writer.write(
        folder, Few(), Few.spec, about, lambda images: np.zeros((len(images), 1, 4, 4, 4), np.float32), batch_size=4
    )
    encoder, params = own()
    encode.features(encoder, params, Few(), str(folder), batch_size=4, threads=0)
    return folder


def own(**fields):
    encoder = Encoder(OneConvolution(**fields), size=4)
    return encoder, encoder.init(jax.random.key(9), jnp.zeros((1, 4, 4, 3)), None, None)


def config_of(cache, **changes):
    """SiT with REPA as published, of a tiny size, on latents of (4, 4, 4)."""
    config = imagenet256_sit.get_config("repa")
    config.update_from_flattened_dict(
        {
            "data.name": "digits",
            "data.shape": (4, 4, 4),
            "data.latents.dir": str(cache),
            "data.threads": 1,
            "encoder.network": {"name": "one_convolution"},
            "encoder.size": 4,
            "model.num_classes": 10,
            "model.depth": 1,
            "model.width": 16,
            "model.heads": 2,
            "objective.wrappers": (ALIGNMENT, {"name": "condition_dropout", "rate": 0.1}),
            "train.steps": 4,
            "train.batch_size": 8,
            "train.log_every": 2,
            "train.dtype": "float32",
            "checkpoint.every": 2,
            "sample.steps": 2,
            "sample.number": 3,
            **changes,
        }
    )
    return config


@pytest.mark.extended
def test_the_published_recipe():
    """The values of train.py and README.md of sihyun-yu/REPA."""
    recipe = checks.validate(imagenet256_sit.get_config("repa"))
    (head,) = recipe.objective.heads.values()
    assert recipe.objective.blocks.features == (8,) and head.layer == 8
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), 4, 768))
    assert jax.tree.map(lambda leaf: leaf.shape[-1], shapes) == {
        f"dense_{i}": {"kernel": width, "bias": width} for i, width in enumerate((2048, 2048, 768))
    }
    assert recipe.companions.encoder.features() == (
        256,
        768,
    )  # as many tokens as the network's patches of 2 x 2 of 32 x 32
    assert recipe.config.train.steps == 4_000_000 and recipe.config.sample.guidance.scale == 1.8


@pytest.mark.extended
def test_a_step_takes_the_features_of_the_batch_and_no_encoder(cache):
    recipe = checks.validate(config_of(cache)).at((4, 4, 4))
    made = program.build(recipe, program.mesh_of(recipe.config))  # which traces the step
    assert made.target.frozen is None and made.target.unsaved is None
    assert (made.batch["features"].shape, made.batch["features"].dtype) == ((8, 4, 6), np.float16)
    assert made.target.params["heads"]["term"]["dense_2"]["bias"].shape == (6,)


@pytest.mark.extended
def test_the_features_on_disk_are_the_encoders(cache):
    recipe = checks.validate(config_of(cache, **{"data.name": "few"})).at((4, 4, 4))
    data = examples.open_examples(recipe)
    encoder, params = own()
    pictures = np.repeat(np.stack([Few()[row]["image"] for row in (3, 1)]), 3, -1)
    expected = encoder.apply(params, to_model(pictures), None, None)
    found = [record["features"][0] for record in data.source.__getitems__([3, 1])]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert data.source.fingerprint()["encoder"] == encoder_features.digest(params["params"])
    assert "latents with features of an encoder" in str(data)


@pytest.mark.parametrize(("changes", "message"), [
    ({"encoder.network": {"name": "one_convolution", "width": 5}}, r"of another encoder.*network.width: 6 -> 5"),
    ({"encoder.size": 8}, r"config\.encoder:.*of another encoder \(.*: size: 4 -> 8"),
    ({"encoder.size": 0}, r"config\.encoder\.size = 0, but .*not known from the data"),
    ({"encoder.network": {"name": "dinov2", **TINY}, "encoder.size": 30},
     r"config\.encoder\.size = 30: this encoder takes images \[B, H, W, 3\] whose sides are multiples of 14"),
    ({"objective.wrappers": (ALIGNMENT, {"name": "augmentation", "augment": {"name": "edm_augmentation"}}),
      "model": U_NET, "sample.guidance.scale": 1.0}, r"objective\.wrappers.*an augmentation changes the examples"),
    ({"encoder.network": {"name": ""}}, "aligns features with an encoder's, but the run has no encoder"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(cache, changes, message):
    config = config_of(cache, **{"data.name": "few", **changes})
    with pytest.raises(ConfigError, match=message):
        examples.open_examples(checks.validate(config).at((4, 4, 4)))


def test_features_of_other_weights_are_refused(cache, tmp_path):
    from safetensors.flax import save_file

    _, params = own()
    leaves = {f"patches.{name}": leaf for name, leaf in params["params"]["patches"].items()}
    for file, change in (("same", 0.0), ("other", 1e-3)):
        save_file({name: leaf + change for name, leaf in leaves.items()}, tmp_path / f"{file}.safetensors")
    recipe = lambda file: checks.validate(
        config_of(cache, **{"data.name": "few", "encoder.path": str(tmp_path / f"{file}.safetensors")})
    )
    examples.open_examples(recipe("same").at((4, 4, 4)))
    with pytest.raises(ConfigError, match=r"features of another encoder .*sha256: '[0-9a-f]{64}' -> '[0-9a-f]{64}'"):
        examples.open_examples(recipe("other").at((4, 4, 4)))


def test_a_network_that_is_no_encoder_is_refused(monkeypatch):
    monkeypatch.setattr(interchange, "load", lambda path: (AutoencoderKL(), {}))
    with pytest.raises(
        ConfigError, match=r"is an AutoencoderKL, which is not an image encoder\. Valid: ConvNeXt, DINOv2, "
    ):
        encoder_features.load("vae", 28)


def test_an_encoder_has_a_size_that_it_takes(monkeypatch):
    module = DINOv2(**TINY)
    params = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), jnp.zeros((1, 28, 28, 3)))["params"]
    monkeypatch.setattr(interchange, "load", lambda path: (module, params))
    encoder, found = encoder_features.load("dino", 14)
    assert (encoder.module, encoder.path, encoder.size, found) == (module, "dino", 14, {"params": params})
    for size, words in ((0, "= 0 must be the side"), (-14, "= -14 must be the side"), (15, "= 15: .*multiples of 14")):
        with pytest.raises(ConfigError, match=f"--encoder_size {words}"):
            encoder_features.load("dino", size)


@pytest.mark.slow
def test_repa_on_latents_from_pictures_to_samples(tmp_path):
    """A published encoder's folder, latents and features of digits and their mirrors, a run that resumes."""
    module = DINOv2(**TINY)
    params = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 28, 28, 3)))["params"]
    interchange.save(tmp_path / "dinov2", module, params)
    vae = test_encode.made(tmp_path / "vae")
    cache = tmp_path / "cache"
    encode.run(autoencoder_folders.load(vae), "digits@train", str(cache), flip=True)
    encode.features(*encoder_features.load(tmp_path / "dinov2", 28), "digits@train", str(cache), flip=True)
    latents, _ = latent_cache.open_cache(cache)
    features = feature_cache.open_beside(cache, latents.description)
    pictures, _ = sources.open_source("digits", "train")
    image = np.repeat(pictures[5]["image"], 3, -1)
    for view, of in zip(features[5]["x"], (image, image[:, ::-1])):
        resized = jax.image.resize(to_model(of[None]), (1, 28, 28, 3), "bicubic")
        expected = module.apply({"params": params}, resized).patches
        np.testing.assert_allclose(view[0], expected, atol=1e-2)
    config = config_of(cache, **{"encoder.network": {"name": "dinov2", **TINY}, "encoder.size": 28})
    assert train.run(config, tmp_path / "whole") == 0
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert all(-1 <= row["term"] <= 1 for row in rows)
    written = (tmp_path / "whole/metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "whole/checkpoints/4")
    assert train.run(config, tmp_path / "whole") == 0
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == written
    about = checkpoints.read_about(tmp_path / "whole", 4)
    assert about["data"]["encoder"] == encoder_features.digest(params)
    assert not any(name.startswith("frozen") for name in about["leaves"])


def test_how_an_encoder_computes_is_no_part_of_its_identity():
    identity = lambda **fields: encoder_features.identity(Encoder(DINOv2(**TINY | fields), size=28))
    assert identity(dtype="bfloat16") == identity() != identity(depth=2)


def test_features_are_stored_as_they_are():
    encoder, params = own()
    about = encoder_features.description(encoder, params, {"name": "few"}, ("plain",))
    assert (about.scale, about.shift, about.kind, about.views) == (1.0, 0.0, "mean", ("plain",))
    assert about.shape == (1, *encoder.features(params))


def test_features_of_other_pixels_than_the_latents_are_refused(tmp_path):
    """Latents of an earlier version are those of stored pixels: turned features would belong to no patch of them."""

    class Turned(Few):
        def fingerprint(self):
            return {"records": 4, "pixels": "viewed"}

    dataset = latent_cache.dataset_of(Few.spec)
    about = latent_cache.Description(dataset, {}, (4, 4, 4), "mean", ("plain",), "float32", 1.0, 0.0)
    zeros = lambda images: np.zeros((len(images), 1, 4, 4, 4), np.float32)
    both = lambda source: encode.features(*own(), source, str(tmp_path), batch_size=4, threads=0)
    latent_writer.write(tmp_path, Few(), Few.spec, about, zeros, batch_size=4)
    with pytest.raises(latent_cache.CacheError, match="latents that an earlier version encoded from the stored pixels"):
        both(Turned())
    assert not feature_cache.beside(tmp_path).exists()
    both(Few())
    assert feature_cache.open_beside(tmp_path, about)


def test_an_encoder_reads_pictures_of_a_pixel_or_more(monkeypatch):
    class Pixel:
        """An encoder of any size."""

    monkeypatch.setattr(encoder_features.interchange, "load", lambda path: (Pixel(), {}))
    monkeypatch.setattr(encoder_features.names, "ENCODERS", {"pixel": Pixel})
    monkeypatch.setattr(encoder_features, "Encoder", lambda module, path, size: Sized(size))

    class Sized(int):
        def features(self, params):
            assert params == {"params": {}}

    assert encoder_features.load("a folder", 1) == (1, {"params": {}})
    for size in (0, -1):
        with pytest.raises(ConfigError, match=f"--encoder_size = {size} must be the side length"):
            encoder_features.load("a folder", size)
