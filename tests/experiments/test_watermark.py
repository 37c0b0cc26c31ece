"""diffusion watermark: pictures are marked, found and measured; mistakes are one sentence."""

import dataclasses
import hashlib
import itertools
import json
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import samplers, text_to_image, watermarks
from diffusion.experiments import train, watermark
from diffusion.experiments.evaluation import watermark_robustness
from diffusion.experiments.evaluation.watermark_robustness import Maker
from diffusion.experiments.sampling import run_samples, trained_run, watermarked
from diffusion.io import content_credentials, local_certificates, pictures
from diffusion.recipe import ConfigError, Recipe
from diffusion.sampling.watermarks import key_files
from diffusion.training.checkpointing import checkpoints
from tests import commands
from tests.text_to_image import made_pipelines

SMOOTH = np.random.default_rng(0).uniform(60, 200, (4, 16, 16, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)


@pytest.fixture(autouse=True)
def known_keys(monkeypatch):
    """The keys that are made are the same in each run: with random ones, one p-value in a hundred is below 0.01."""
    made = (hashlib.sha256(bytes([number])).hexdigest() for number in itertools.count())
    monkeypatch.setattr(key_files.secrets, "token_hex", lambda size: next(made)[: 2 * size])


def linear(number=24):
    """A model whose pictures are their noise, 128 + 32 z."""
    keys = jax.random.split(jax.random.key(0), number)
    noise = jax.random.normal(jax.random.key(1), (number, 16, 16, 3))
    shown = lambda z: np.clip(np.rint(128 + 32 * np.asarray(z)), 0, 255).astype(np.uint8)

    def make(key_file, count):
        return shown(watermarks.load(key_file).embed(noise, keys) if key_file else noise)[:count]

    again = lambda x, t: shown(noise[: len(x)]) if t > 0.5 else x  # above 0.5 nothing is left
    return Maker("linear", make, lambda x: (x.astype(np.float32) - 128) / 32, again, (16, 16, 3), 5)


def test_what_survives_is_measured(tmp_path):
    key = str(tmp_path / "mark.json")
    watermarks.make(key, "gaussian_shading", bits=16, nonces=4)
    seen = []
    content = watermark_robustness.measure(key, linear(), 24, seen.append)
    rows = content["changes"]
    assert seen == list(range(1, linear().changes + 1)) and len(rows) == linear().changes
    for name in ("none", "noise 0.1", "regenerated from t = 0.3"):
        assert rows[name]["auroc"]["value"] == 1 and rows[name]["bit_accuracy"] > 0.99
        assert rows[name]["detected"]["share"] == rows[name]["hits"] == 1
    gone = rows["regenerated from t = 0.6"]
    assert gone["auroc"]["value"] == pytest.approx(0.5, abs=1e-12) and gone["detected"] == gone["false_positives"]
    assert all(row["false_positives"]["share"] < 0.15 for row in rows.values())
    assert json.loads(json.dumps(content)) == content
    low, high = rows["none"]["bit_accuracy_interval"]
    assert 0.8 < low < high == 1  # all bits of 24 pictures, which count as at least 24 draws
    assert f"| none | 1.000 ({low:.3f} .. 1.000) | 1.000 (" in watermark_robustness.table(content)


def test_pictures_are_marked_and_found(tmp_path):
    key = str(tmp_path / "post.json")
    entry = {"name": "spread_spectrum", "key": "0123456789abcdef" * 4, "bits": 8, "low": 3, "high": 24, "strength": 5.0}
    (tmp_path / "post.json").write_text(json.dumps(entry))
    made = watermarks.load(key)
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(SMOOTH):
        pictures.write(tmp_path / "in" / f"{i}.png", picture, {"seed": i})
    files = list(watermark.embed(key, str(tmp_path / "in"), str(tmp_path / "out")))
    assert [file.name for file in files] == [f"{i}.png" for i in range(4)]
    assert pictures.settings_of(files[2]) == {"seed": 2}
    readings = dict(watermark.detect(key, str(tmp_path / "out"), None))
    assert all(one.p_value[0] < 0.01 and (one.bits == made.message).all() for one in readings.values())
    assert min(one.p_value[0] for _, one in watermark.detect(key, str(tmp_path / "in"), None)) > 0.01
    maker = watermark._files_maker(key, str(tmp_path / "in"))
    content = watermark_robustness.measure(key, maker, 100)
    rows = content["changes"]
    assert content["number"] == 4 and len(rows) == maker.changes  # as many as there are
    assert rows["none"]["bit_accuracy"] == 1 and "regenerated from t = 0.3" not in rows
    with pytest.raises(FileExistsError, match=r"0\.png exists already"):
        list(watermark.embed(key, str(tmp_path / "in"), str(tmp_path / "out")))


def test_all_existing_pictures_are_measured(tmp_path, monkeypatch):
    """The first 100 were, by the default of --number, which is refused there."""
    key = str(tmp_path / "post.json")
    watermarks.make(key, "spread_spectrum")
    np.savez(tmp_path / "own.npz", images=np.tile(SMOOTH[:1, :16, :16], (101, 1, 1, 1)))
    monkeypatch.setattr(watermark.flag_errors, "refuse", lambda *_: None)
    written = []
    monkeypatch.setattr(watermark_robustness, "measure", lambda key, maker, number, _: len(maker.make("", number)))
    monkeypatch.setattr(watermark_robustness, "write", lambda content, out: written.append(content))
    monkeypatch.setattr(watermark_robustness, "table", str)
    values = {"pictures": str(tmp_path / "own.npz"), "number": 100, "workdir": None, "model": None}
    watermark._done("measure", types.SimpleNamespace(key=key, out=str(tmp_path), **values))
    assert written == [101]


def test_a_damaged_picture_leaves_no_marked_ones_behind(tmp_path):
    key = str(tmp_path / "post.json")
    watermarks.make(key, "spread_spectrum")
    pictures.write(tmp_path / "a.png", SMOOTH[0], {})
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"b\.png is not a valid picture"):
        list(watermark.embed(key, str(tmp_path), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_mistakes_are_refused(tmp_path):
    key = str(tmp_path / "ring.json")
    watermarks.make(key, "tree_ring")
    pictures.write(tmp_path / "a.png", SMOOTH[0], {})
    with pytest.raises(ConfigError, match="lies in the initial noise, so it is embedded by sampling"):
        list(watermark.embed(key, str(tmp_path / "a.png"), str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="the model that made the pictures, by --workdir or --model"):
        list(watermark.detect(key, str(tmp_path / "a.png"), None))
    with pytest.raises(ConfigError, match=r"a\.png has 64 x 64 pixels, but linear makes pictures of 16 x 16"):
        list(watermark.detect(key, str(tmp_path / "a.png"), linear()))
    with pytest.raises(ConfigError, match=r"lies in the initial noise,.*Name --workdir or --model"):
        watermark._files_maker(key, str(tmp_path / "a.png"))
    post = str(tmp_path / "post.json")
    watermarks.make(post, "spread_spectrum")
    with pytest.raises(ConfigError, match=r"1 pictures of 64 x 64\. Valid: two or more of one size"):
        watermark._files_maker(post, str(tmp_path / "a.png"))
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        (tmp_path / "empty").mkdir()
        watermark.files_of(str(tmp_path / "empty"))
    recipe = Recipe.from_config(digits.get_config("tiny"), (8, 8, 1))
    with pytest.raises(ConfigError, match="bits = 100 exceeds the number of noise values, 64"):
        run_samples._check_watermark(watermarks.gaussian_shading("0" * 64, bits=100), recipe)
    with pytest.raises(ConfigError, match=r"the sampler adds noise of its own.*spread_spectrum"):
        drawing = recipe.with_parts(sampler=samplers.ddpm())
        run_samples._check_watermark(watermarks.gaussian_shading("0" * 64, bits=8), drawing)


def test_a_picture_that_a_model_inverts_to_no_numbers_is_named(tmp_path):
    """Its p-value was NaN, and the picture had "no watermark"."""
    key = str(tmp_path / "mark.json")
    watermarks.make(key, "gaussian_shading", bits=16, nonces=4)
    model = linear()
    np.savez(tmp_path / "samples.npz", images=model.make(key, 3))
    spoilt = lambda x: np.where(np.arange(len(x))[:, None, None, None] == 1, np.nan, model.to_noise(x))
    with pytest.raises(ConfigError, match=r"linear inverts .*samples\.npz\[1\] to noise that is not finite"):
        list(watermark.detect(key, str(tmp_path / "samples.npz"), model._replace(to_noise=spoilt)))


def test_pictures_of_an_npz_file_are_read_in_batches(tmp_path):
    key = str(tmp_path / "mark.json")
    watermarks.make(key, "gaussian_shading", bits=16, nonces=4)
    model = linear()
    np.savez(tmp_path / "samples.npz", images=np.concatenate([model.make(key, 7), model.make("", 5)]))
    seen = []
    counted = model._replace(to_noise=lambda x: seen.append(len(x)) or model.to_noise(x))
    readings = list(watermark.detect(key, str(tmp_path / "samples.npz"), counted))
    assert seen == [5, 5, 2] and readings[11][0].endswith("samples.npz[11]")
    p = np.array([reading.p_value for _, reading in readings])
    assert p.shape == (12, 1) and p[:7].max() < 0.01 < p[7:].min()
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 16, 16, 3)))
    with pytest.raises(ValueError, match=r"floats\.npz has no pictures"):
        list(watermark.detect(key, str(tmp_path / "floats.npz"), model))


def test_every_picture_has_a_random_key_of_its_own_whatever_the_batch():
    draw = lambda pictures, keys: jax.vmap(jax.random.bits)(keys)
    drawn = [watermarked.in_batches(draw, np.zeros((7, 1)), size) for size in (3, 7)]
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0])) == 7


def test_nothing_is_written_where_two_pictures_would_have_one_name(tmp_path):
    key = str(tmp_path / "post.json")
    watermarks.make(key, "spread_spectrum")
    (tmp_path / "in").mkdir()
    for name in ("0.png", "a.jpg", "a.png"):
        pictures.write(tmp_path / "in" / name, SMOOTH[0], {})
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both be written"):
        list(watermark.embed(key, str(tmp_path / "in"), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_model_beside_pictures_that_are_measured_is_refused(tmp_path):
    values = types.SimpleNamespace(pictures="p", workdir="r", model=None, key="k")
    with pytest.raises(ConfigError, match="leave out --workdir and --model"):
        watermark._done("measure", values)


def test_the_checksum_of_parameters_is_of_all_their_values():
    params = {"a": np.zeros(2, np.float32), "b": np.ones((1, 2), np.float32)}
    one = run_samples.checksum(params)
    assert len(one) == 64 and one == run_samples.checksum(dict(reversed(params.items())))
    assert one != run_samples.checksum(params | {"b": np.array([[1, 2]], np.float32)})


@pytest.mark.slow
def test_a_run_makes_marked_samples_and_the_command_measures_them(tmp_path):
    config = digits.get_config("tiny")
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    key = tmp_path / "mark.json"
    words = [f"--key={key}", "--name=gaussian_shading", '--arguments={"bits": 4, "nonces": 2}']
    made = commands.run("diffusion", "watermark", "make", *words)
    assert made.returncode == 0, made.stderr
    again = commands.run("diffusion", "watermark", "make", *words)
    assert again.returncode == 1 and "exists already" in again.stderr
    words = [f"--workdir={tmp_path}/run", f"--watermark={key}", f"--out={tmp_path}/marked"]
    sampled = commands.run("diffusion", "sample", *words, timeout=300)
    assert sampled.returncode == 0, sampled.stderr
    record = json.loads((tmp_path / "marked" / "samples.json").read_text())
    assert record["checkpoint"]["watermark"] == watermarks.load(key).identity
    # As initialised the network predicts nothing: what is sampled is the noise alone, up to its scale.
    images = np.load(tmp_path / "marked" / "samples.npz")["images"]
    run = trained_run.load(tmp_path / "run")
    assert images.shape == (20, *run.shape)
    words = [f"--key={key}", f"--workdir={tmp_path}/run", "--number=8", f"--out={tmp_path}/measured"]
    measured = commands.run("diffusion", "watermark", "measure", *words, timeout=300)
    assert measured.returncode == 0, measured.stderr
    assert "| none | " in measured.stdout and (tmp_path / "measured" / "robustness.png").is_file()
    wrong = commands.run("diffusion", "sample", f"--workdir={tmp_path}/run", "--watermark=none.json")
    assert wrong.returncode == 2 and "there is no such key file" in wrong.stderr
    pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    signer = local_certificates.make(tmp_path / "signer")
    words = [f"--workdir={tmp_path}/run", f"--credentials={signer}", f"--out={tmp_path}/signed"]
    sampled = commands.run("diffusion", "sample", *words, timeout=300)
    assert sampled.returncode == 0, sampled.stderr
    said = content_credentials.read(tmp_path / "signed" / "samples.png", signer / "root.pem").request
    params, _ = checkpoints.load_ema(tmp_path / "run")
    assert said["model"] == "run" and said["model_sha256"] == run_samples.checksum(params)
    assert str(tmp_path) not in json.dumps(said)


RANGE = 640.0  # four times the deviation of latents whose noise was never taken away: 1 / alpha = 157


class Blocks(nn.Module):
    """An autoencoder that keeps latents up to rounding: four of the twelve numbers of a block of 2 x 2 pixels."""

    factor, latent_channels, scale, shift = 2, 4, 1.0, 0.0

    def decode(self, z):
        batch, height, width, _ = z.shape
        blocks = jnp.tile(z / RANGE, 3).reshape(batch, height, width, 2, 2, 3)
        return blocks.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, 3)

    def encode(self, x):
        batch, height, width, _ = x.shape
        blocks = x.reshape(batch, height // 2, 2, width // 2, 2, 3).swapaxes(2, 3)
        return RANGE * blocks.reshape(batch, height // 2, width // 2, 12)[..., :4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, settings", [("gaussian_shading", {"bits": 16, "nonces": 4}), ("tree_ring", {"radius": 0.5})]
)
def test_a_watermark_on_latents_is_read_through_the_autoencoder(name, settings, tmp_path):
    """A denoiser that predicts no noise keeps the latents up to their scale, so that all is there to the end."""
    model = text_to_image.load(made_pipelines.folder("pixart", tmp_path / "pixart"))
    params = {**model.params, "transformer": jax.tree.map(jnp.zeros_like, model.params["transformer"]), "vae": {}}
    model = dataclasses.replace(model, modules={**model.modules, "vae": Blocks()}, params=params)
    maker = watermarked.build_model_maker(model, "zero", ["a cat", "a dog"], batch=2, steps=4)
    key = str(tmp_path / "mark.json")
    (tmp_path / "mark.json").write_text(json.dumps({"name": name, "key": "0123456789abcdef" * 4, **settings}))
    mark = watermarks.load(key)
    marked, others = (mark.read(maker.to_noise(maker.make(file, 4))) for file in (key, ""))
    assert marked.score.min() > others.score.max()  # an AUROC of 1
    assert marked.p_value.max() < 1e-4 < others.p_value.min()
    if marked.bits is not None:
        assert (marked.bits == mark.message).all()
