"""Runs that teach a U-Net to edit pictures by instructions: how they begin, what they drop, write and sample."""

import csv
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.experiments import train
from diffusion.experiments.sampling import tuned_run
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.base import NULL, TunedNetwork
from tests.experiments.run.made_tuning import config as config_of, pictures
from tests.experiments.run.test_control_tuning import received
from tests.experiments.run.test_tuning import begun, same


def config(place, pipeline="sd", **changes):
    """A run on five pairs of pictures, each with an instruction."""
    made = config_of(place, {"name": "instruct_pix2pix"}, pipeline, **changes)
    folder = place / "pictures"
    if not (folder / "metadata.csv").exists():
        pictures(folder / "before")
        with open(folder / "metadata.csv", "w") as file:
            write = csv.writer(file)
            write.writerow(["file_name", "original_file_name", "text"])
            write.writerows(
                [f"{i}.png", f"before/{(i + 1) % 5}.png", f"make it {'red blue'.split()[i % 2]}"] for i in range(5)
            )
    made.data.source = {**made.data.source.to_dict(), "condition": ("original",)}
    made.data.text.prompt = ""
    return made


@pytest.mark.slow
def test_it_begins_as_the_base_and_sees_the_original_once_it_has_trained(tmp_path):
    config_without = config(tmp_path, **{"objective.wrappers": ()})  # else both originals may be dropped
    recipe, made, state, batch = begun(config_without, tmp_path)
    kept = jax.tree.map(np.array, state.unsaved["base"])
    kernel = state.params["conv_in"]["kernel"]
    assert kernel.shape[2] == 8 and not kernel[:, :, 4:].any()
    x = jax.random.normal(jax.random.key(0), batch["x"].shape)
    clock = jnp.full(len(x), 500.0)
    captions = received(batch)
    loaded = text_to_image.load(recipe.companions.tuned.base.path)
    expected = loaded.denoiser.apply({"params": loaded.params["unet"]}, x, clock, {"text": captions["text"]})
    tuned = jax.jit(lambda weights, captions: recipe.network.apply(kept, weights, x, clock, captions))
    np.testing.assert_allclose(tuned(state.params, captions), expected, rtol=0, atol=1e-5)
    state, _ = made.step(state, batch, made.seed)
    same(state.unsaved["base"], kept)
    assert np.abs(state.params["conv_in"]["kernel"][:, :, 4:]).max() > 0
    other = {**captions, "original": -captions["original"]}
    assert np.abs(tuned(state.params, captions) - tuned(state.params, other)).max() > 1e-5
    # What is dropped is zero latents, and not the latents of a grey picture.
    dropped = tuned(state.params, {**captions, "original": jnp.zeros_like(captions["original"])})
    blind = {**state.params, "conv_in": {**state.params["conv_in"]}}
    blind["conv_in"]["kernel"] = blind["conv_in"]["kernel"].at[:, :, 4:].set(0)
    np.testing.assert_allclose(dropped, tuned(blind, captions), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline, kind, guidance", [("sd", "StableDiffusion", 7.5), ("xl", "StableDiffusionXL", 5.0)])
def test_what_it_writes_is_a_folder_that_edits_as_the_run_does(tmp_path, pipeline, kind, guidance):
    made = config(tmp_path, pipeline)
    run = tmp_path / "run"
    assert train.run(made, run) == 0
    folder = run / "tuning"
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == f"{kind}InstructPix2PixPipeline"
    assert json.loads((folder / "tuning.json").read_text())["base_model"] == f"{pipeline} ({kind}Pipeline)"
    by_file = text_to_image.load(folder)
    by_run, *_ = tuned_run.load(run)
    assert by_file.sees_picture and by_run.sees_picture and by_file.usual == by_run.usual == (100, guidance)
    same(by_file.params["unet"], by_run.params["unet"])
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    how = {"image": image, "steps": 2, "sampler": "ddim"}
    edited = text_to_image.generate(by_run, "make it red", **how)
    np.testing.assert_array_equal(edited, text_to_image.generate(by_file, "make it red", **how))
    assert (edited != text_to_image.generate(by_file, "make it red", image_guidance=4.0, **how)).any()


def test_another_base_is_refused(tmp_path):
    for pipeline, why in (
        ("flux", "FluxPipeline, and that kind of model has no pipeline that edits"),
        ("kontext", "FluxKontextPipeline, which already edits"),
    ):
        with pytest.raises(ConfigError, match=f"the base is a {why}"):
            checks.validate(config_of(tmp_path, {"name": "instruct_pix2pix"}, pipeline))


@pytest.mark.extended
def test_the_instruction_and_the_original_are_dropped_alone_too(tmp_path):
    """The text by its mark alone, so that its entries come from the model's own empty prompt."""
    number = 64
    recipe = checks.validate(config(tmp_path, **{"objective.wrappers": ({"name": "condition_dropout", "rate": 0.3},)}))
    seen = {}

    def network(params, weights, x, clock, entries):
        seen.update(entries)
        return jnp.zeros_like(x)

    tuned = recipe.companions.tuned
    spied = TunedNetwork(tuned.base, dataclasses.replace(tuned.tuning, apply=network, networks=()))
    draw = lambda salt, shape: np.random.default_rng(salt).standard_normal(shape).astype(np.float32)
    text = tuned.text()["text"].shape
    null = draw(0, text)
    x, captions, originals = draw(1, (number, 2, 2, 4)), draw(2, (number, *text)), draw(3, (number, 2, 2, 4))
    condition = {"text": captions, "captioned": np.ones(number, np.float32), "original": originals}
    networks = {"model": functools.partial(spied.apply, {NULL: {"text": null}}, {})}
    keys = jax.random.split(jax.random.key(4), number)
    recipe.objective.loss(networks, recipe.schedule, keys, {"x": x, "condition": condition}, 0)
    equal = lambda a, b: np.all(np.asarray(a) == np.asarray(b), axis=tuple(range(1, a.ndim)))
    no_text, no_original = equal(seen["text"], null), equal(seen["original"], 0 * originals)
    np.testing.assert_array_equal(~no_text, equal(seen["text"], captions))
    np.testing.assert_array_equal(~no_original, equal(seen["original"], originals))
    shares = [np.mean(a & b) for a, b in ((no_text, no_original), (no_text, ~no_original), (~no_text, no_original))]
    np.testing.assert_allclose(shares, 0.3, atol=0.2)  # of 64 draws: 3.5 standard deviations
    with pytest.raises(
        ConfigError, match=r"rate = 0\.4 applies to all conditions together and to each of captioned, original alone"
    ):
        checks.validate(config(tmp_path, **{"objective.wrappers": ({"name": "condition_dropout", "rate": 0.4},)}))
