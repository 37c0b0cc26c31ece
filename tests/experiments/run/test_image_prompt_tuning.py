"""A run that teaches a model to take image prompts: its first step, what trains, what it writes, how it is sampled."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import text_to_image
from diffusion.adapters import image_prompt, ip_adapter_files
from diffusion.adapters.tuning import Tuning
from diffusion.data import latent_cache, sources
from diffusion.experiments import train
from diffusion.experiments.run import encoded_pictures, tuned_examples
from diffusion.experiments.sampling import tuned_run
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.text_encoders.clip import CLIPVision, CLIPVisionProjection
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.base import TunedNetwork
from tests.experiments.run.made_tuning import config as config_of, pictures
from tests.experiments.run.test_tuning import begun, encoded, same
from tests.models.interchange import published
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines


def encoder(folder):
    """The folder of a tiny CLIP with projection."""
    module = CLIPVisionProjection(CLIPVision(16, 8, 12, 2, 2, 16), 10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    params = tree.unflatten([drawn(f"encoder {i}", *leaf.shape) * 0.3 for i, leaf in enumerate(leaves)])
    interchange.save(folder, module, params)
    return str(folder)


KINDS = {"global": {}, "plus": {"kind": "plus", "tokens": 3, "inner": 16, "depth": 1, "heads": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_prompt_trains_alone_from_the_base_to_the_bit(kind, tmp_path):
    tuning = {"name": "ip_adapter", "encoder": encoder(tmp_path / "encoder"), **KINDS[kind]}
    recipe, made, state, batch = begun(config_of(tmp_path, tuning), tmp_path)
    model = text_to_image.load(recipe.companions.tuned.base.path)
    reader, weights = interchange.load(tmp_path / "encoder")
    whole = kind == "plus"
    about = latent_cache.describe(tmp_path / encoded_pictures.FOLDER / "image_prompt").autoencoder["config"]
    assert about["source"] == {"name": "picture_folder"}
    captions = batch["condition"]
    assert captions["image_prompt"].shape == (2, 5, 12) if whole else (2, 10)
    kept = jax.tree.map(np.array, state.unsaved["base"])
    condition = {name: captions[name] for name in ("text", "text_mask")}
    x = jax.random.normal(jax.random.key(0), batch["x"].shape)
    clock = jnp.full(2, 500.0)
    plain = jax.jit(lambda params: model.denoiser.apply({"params": params}, x, clock, condition))
    tuned = jax.jit(lambda base, weights, entries: recipe.network.apply(base, weights, x, clock, entries))
    before = tuned(state.unsaved["base"], state.params, captions)
    np.testing.assert_array_equal(before, plain(model.params["transformer"])[..., : x.shape[-1]])
    state, metrics = made.step(state, batch, made.seed)
    assert float(metrics["grad_norm"]) > 0
    same(state.unsaved["base"], kept)
    assert np.abs(tuned(state.unsaved["base"], state.params, captions) - before).max() > 1e-4
    # A dropped example is zeros, and has the features of no picture, as in sampling.
    none = jnp.repeat(prompt_features.absent(reader, weights, whole), 2, axis=0)
    dropped = {**captions, "image_prompt": jnp.zeros_like(none)}
    found = tuned(state.unsaved["base"], state.params, dropped)
    if whole:
        np.testing.assert_allclose(
            found, tuned(state.unsaved["base"], state.params, {**captions, "image_prompt": none}), atol=1e-5
        )


@pytest.mark.slow
def test_what_was_seen_stays_where_the_pictures_move(tmp_path):
    config = config_of(tmp_path, {"name": "ip_adapter", "encoder": encoder(tmp_path / "encoder")})
    first = encoded(config, tmp_path)[1]
    made = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.array_record")}
    assert len(made) == 2
    for place in (tmp_path / "moved" / "pictures", tmp_path / "of_another_name"):
        place.parent.mkdir(exist_ok=True)
        pathlib.Path(config.data.source.path).rename(place)
        config.data.source.path = str(place)
        again = encoded(config, tmp_path)[1]
        same(again.source[0], first.source[0])
        assert made == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.array_record")}


@pytest.mark.slow
def test_a_run_writes_a_file_and_is_sampled_with_its_image_prompt(tmp_path):
    tuning = {"name": "ip_adapter", "encoder": encoder(tmp_path / "encoder")}
    config = config_of(tmp_path, tuning)
    assert train.run(config, tmp_path / "run") == 0
    model, *_ = tuned_run.load(tmp_path / "run")
    path = tmp_path / "run" / "tuning" / "ip_adapter.safetensors"
    module, params = ip_adapter_files.load(path, model.denoiser)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    jax.tree.map(close, model.attachments["image"].params["adapter"], params)
    assert module.projection.features == 10
    same = {"steps": 2, "guidance": 2.0, "height": 16, "width": 16}
    prompt = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    make = lambda weight: text_to_image.generate(model, "a cat", controls=[("image", prompt, weight)], **same)
    np.testing.assert_array_equal(make(0.0), text_to_image.generate(model, "a cat", **same))
    assert (make(50.0) != make(0.0)).any()


def test_the_column_of_prompts_has_pictures_of_three_channels(tmp_path):
    made = config_of(tmp_path, {"name": "lora"})
    rows = "".join(f"{i}.png,0.{i}\n" for i in range(5))
    (tmp_path / "pictures" / "metadata.csv").write_text(f"file_name,prompt\n{rows}")
    made.data.source = {**made.data.source.to_dict(), "condition": ("prompt",)}
    recipe = checks.validate(made)
    tuned = recipe.companions.tuned
    sees = TunedNetwork(tuned.base, dataclasses.replace(tuned.tuning, sees_of="prompt"))
    recipe = recipe.with_parts(tuned=sees)
    with pytest.raises(ConfigError, match=r"sees prompt of .* is float64 \[\].* Valid: pictures, uint8 \[\*, \*, 3\]"):
        tuned_examples.pictures(recipe)


def test_entries_of_a_run_of_before_are_taken_over(tmp_path):
    """As such runs wrote them, with the path of the pictures in their identity; of others they are not."""
    source = sources.picture_folder(str(pictures(tmp_path / "pictures")))
    identity = {
        "pictures": source.fingerprint(),
        "source": {"name": "picture_folder", "path": "/elsewhere", "side": 16},
        "tuning": {"name": "ip_adapter", "widths": (1, 2)},
    }
    rows = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    stated = np.frombuffer(json.dumps(identity, sort_keys=True).encode(), np.uint8)
    np.savez(tmp_path / "seen.npz", image_prompt=rows, identity=stated)
    about = {"source": {"name": "picture_folder", "side": 16}, "tuning": identity["tuning"]}
    sight = encoded_pictures.Sight(lambda few: np.zeros((len(few), 2, 3), np.float32), (2, 3), "", about)
    for folder, own, expected in (("seen", sight, rows), ("other", sight._replace(facts={"source": {}}), 0 * rows)):
        place = tmp_path / folder / "image_prompt"
        encoded_pictures.write(own, source, place)
        records = encoded_pictures.Seen(source, "image_prompt", own, place)
        found = [record["condition"]["image_prompt"] for record in records.__getitems__(range(5))]
        np.testing.assert_array_equal(found, expected)


def test_the_prompt_may_be_another_picture_of_the_record(tmp_path, capsys):
    folder = pictures(tmp_path / "pictures", number=3)
    pictures(folder / "others", number=3)
    rows = [f"{i}.png,others/{(i + 1) % 3}.png,a cat" for i in range(3)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,prompt_file_name,text", *rows]))
    source = sources.picture_folder(str(folder), condition=("prompt",))
    means = lambda seen: {"mean": np.stack([picture.mean((0, 1)) for picture in seen])}
    unused: Any = None
    for column, order in (("", (0, 1, 2)), ("prompt", (1, 2, 0))):
        tuning = Tuning(*[unused] * 5, networks=(), see=means, sees={"mean": (3,)}, sees_of=column)
        place = tmp_path / f"seen {column}"
        (sight,) = tuned_examples.seeing(tuning, {"prompt": column}).values()
        encoded_pictures.write(sight, source, place)
        assert "seeing done=3 total=3" in " ".join(capsys.readouterr().out.split())
        records = encoded_pictures.Seen(source, "mean", sight, place)
        found = [record["condition"]["mean"] for record in records.__getitems__([0, 1, 2])]
        expected = [np.asarray(Image.open(folder / f"{i}.png")).mean((0, 1)) for i in order]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        encoded_pictures.write(sight._replace(see=None), source, place)  # they are there
        with pytest.raises(latent_cache.CacheError, match=r"autoencoder\.config\.prompt: .* -> 'other'"):
            encoded_pictures.write(sight._replace(facts={"prompt": "other"}), source, place)


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", [("siglip", "global"), ("dinov2_plain", "plus")])
def test_siglip_and_dinov2_take_clips_place(name, kind, tmp_path):
    """What a picture is in a training is what it is in sampling, by the encoders that transformers writes."""
    folder = published.case(name).folder(tmp_path / "encoder")
    model = text_to_image.load(made_pipelines.folder("sd", tmp_path / "sd"))
    tuning = image_prompt.ip_adapter(model, str(folder), **KINDS[kind])
    shown = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    seen = tuning.see([shown])["image_prompt"]
    reader, _ = interchange.load(folder)
    assert type(reader).__name__ in ("SigLIP", "DINOv2")
    assert seen.shape == (1, *tuning.sees["image_prompt"]) and seen.shape[-1] == reader.width
    weights = tuning.init(jax.random.key(0), model.params)
    weights = jax.tree.map(lambda leaf: leaf + 0.1, weights)
    one = tuning.attach(model, weights).attachments["image"]
    found, absent = one.encode(one.params, jnp.asarray(one.read(shown, (16, 16)))[None])
    module = ip_adapter_files.fresh(model.denoiser, reader.width, **KINDS[kind])
    expected = module.apply({"params": weights}, seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    assert np.abs(found[0][0] - absent[0][0]).max() > 1e-3
