"""Regions, words and a reference in a request: how they are written, what they do, and what is refused."""

import functools
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image, timesteps
from diffusion.guidance import Unpaired
from diffusion.io import pictures
from diffusion.models.layers import attention_records
from diffusion.sampling import editing
from diffusion.text import Tokenizer
from diffusion.text_to_image import png
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.regions import Places, Region, Word, ends, on_latents, token_places
from diffusion.text_to_image.requests import Request
from tests.text_to_image import made_pipelines
from tests.text_to_image.stand_ins import made_model

HALF = (0.0, 0.0, 0.5, 1.0)


@pytest.mark.parametrize("text, region", [
    ("a red ball:0,0,0.5,1", Region("a red ball", HALF)),
    ("half past 3:15:0,0,.5,1", Region("half past 3:15", HALF)),
    ("a ball:0,0,0.123456789,1", Region("a ball", (0.0, 0.0, 0.123456789, 1.0))),
    ("a ball:mask=c:/left.png", Region("a ball", "c:/left.png")),
    ("a ball:mask=left.png", Region("a ball", "left.png")),
])  # fmt: skip
def test_a_region_is_written_as_text_as_a_pair_or_as_a_table(text, region):
    assert Region.read(text) == Region.read(tuple(region)) == Region.read(region._asdict()) == region
    assert Region.read(region.text) == region
    assert png.request({"regions": [list(region)]}, Request()).regions == (region,)


def test_words_are_written_as_text_as_a_pair_or_as_a_table():
    for text, word in (
        ("red ball", Word("red ball")),
        ("ball:0,0,0.1234567,1", Word("ball", (0.0, 0.0, 0.1234567, 1.0))),
    ):
        assert Word.read(text) == Word.read(tuple(word)) == Word.read(word._asdict()) == Word.read(word.as_text) == word


@pytest.mark.parametrize("wrong, message", [
    ({"regions": ["a ball"]}, r"regions:.*a prompt and where it.*, such as 'a red ball:0,0,0\.5,1'"),
    ({"regions": ["a ball:0,0,0,1"]}, "regions: the box of 'a ball' = .*. Valid: four numbers left, top, right"),
    ({"regions": ["a ball:0,0,1,0"]}, "regions: the box of 'a ball' = .*. Valid: four numbers left, top, right"),
    ({"regions": [("a ball", 3)]}, r"ball' applies at 3\..*: four numbers left.*a mask"),
    ({"words": [3]}, r"words: 3\..*: words of the prompt, each with a box or"),
    ({"words": ["ball:0,0,2,1"]}, "words: the box of 'ball' = .*. Valid: four numbers"),
    ({"words": ["ball"], "emphasis": "scale"}, "words are located in the prompt by its text"),
    ({"attention": -1}, "attention = -1. Valid: a number from 0 to 100"),
])  # fmt: skip
def test_what_is_no_place_is_refused_where_it_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        Request(**wrong)


def test_a_box_and_a_mask_become_shares_of_latents(tmp_path):
    mask = Region("a", (0.25, 0, 1, 1)).mask((4, 4))
    np.testing.assert_array_equal(mask, np.broadcast_to([False, True, True, True], (4, 4)))
    np.testing.assert_array_equal(on_latents(mask, 2), [[0.5, 1.0]] * 2)
    wide = Region("a", (0.25, 0, 0.75, 0.5)).mask((2, 8))
    np.testing.assert_array_equal(wide, [[False] * 2 + [True] * 4 + [False] * 2, [False] * 8])
    pictures.write(tmp_path / "a.png", np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1), {})
    np.testing.assert_array_equal(Region("a", str(tmp_path / "a.png")).mask((4, 4)), mask)
    with pytest.raises(ValueError, match=r"has 4 x 4 pixels \(height x width\), but its picture has 8 x 4"):
        Region("a", str(tmp_path / "a.png")).mask((8, 4))
    with pytest.raises(ValueError, match=r"mask of the region 'a' must be Bool with the picture's size \[8, 4"):
        Region("a", mask).mask((8, 4))
    with pytest.raises(ValueError, match="the mask of the region 'a' is False everywhere"):
        Region("a", ~np.ones((8, 4), bool)).mask((8, 4))


def test_words_are_found_by_their_tokens():
    split = lambda text: ([sum(map(ord, word)) for word in text.split()], lambda n: "")
    tokenizer = Tokenizer(split, (100,), (101,), 0, 8)
    words = (Word("red cat"), Word("hill"))
    found = token_places(words, ["the red cat a hill", "a hill red cat"], tokenizer)
    np.testing.assert_array_equal(found, [[[2, 3], [5, -1]], [[3, 4], [2, -1]]])
    np.testing.assert_array_equal(token_places(words[1:], ["hill a hill"], tokenizer), [[[1]]])
    with pytest.raises(ValueError, match="the words 'hill' do not occur in the prompt 'a b c d e f hill', or its text"):
        token_places(words[1:], ["a b c d e f hill"], tokenizer)


def test_words_act_in_the_first_half_and_in_the_first_fifth_of_the_steps():
    """Of few steps, too, and of those that are left; steps that are repeated count once."""
    grid = np.array([0.752, 0.502, 0.252, 0.002, 0.0])
    assert ends(timesteps.plan(grid)) == (0.502, 0.752)
    assert ends(editing.repaint_quarters(timesteps.plan(grid), 1, 1)) == (0.252, 0.502)
    fifty = np.linspace(1, 0, 51)
    for plan in (timesteps.plan(fifty), editing.repaint_quarters(timesteps.plan(fifty), 0, 3)):
        assert ends(plan) == (fifty[24], fifty[9])


@functools.cache
def model(name="sd"):
    with tempfile.TemporaryDirectory() as place:
        return text_to_image.load(made_pipelines.folder(name, pathlib.Path(place)))


SAME = {"steps": 4, "guidance": 2.0, "sampler": "ddim", "height": 16, "width": 16, "seeds": 3}


def made(prompt="a cat", **more):
    return text_to_image.generate(model(), prompt, **{**SAME, **more})


def test_each_region_has_the_condition_of_its_own_prompt_for_every_picture():
    """The stand-in's condition ends with the number of letters of its text."""
    regions = [("a cat", HALF), ("the long car", (0.5, 0, 1, 1))]
    request = Request.make(["the hill"], seeds=[1, 2], regions=regions, steps=1, sampler="ddim")
    both = made_model()
    conditional, unconditional = Job.prepare(both, request).conditions(both, 2)
    letters = [condition["tokens"][:, -1].tolist() for condition in (conditional, *conditional["regions"])]
    assert letters == [[len(text)] * 2 for text in ("the hill", "a cat", "the long car")]
    assert "regions" not in unconditional


@pytest.mark.slow
def test_one_region_that_covers_all_is_its_prompt_to_the_bit():
    whole = made("the hill", regions=[("a cat", (0, 0, 1, 1))])
    np.testing.assert_array_equal(whole, made("a cat"))
    halves = made("the hill", regions=[("a cat", HALF), ("the car", (0.5, 0, 1, 1))])
    assert (halves != whole).any()
    *_, last = text_to_image.watch(model(), "the hill", regions=[("a cat", HALF), ("the car", (0.5, 0, 1, 1))], **SAME)
    assert np.abs(last.pictures.astype(int) - halves).max() <= 1
    free = made("the hill", regions=[("a cat", HALF)], guidance=1.0)  # without a null branch
    assert free.shape == whole.shape


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_the_maps_of_a_network_and_the_moves_that_they_guide(name):
    """Their sum over tokens is one; words move x_t down their losses; a scale of zero moves nothing."""
    own = model(name)
    conditional, unconditional = text_to_image.conditions(own, ["a cat"], "bad", 2.0, 16, 16)
    params = own.params[own.kind.denoiser.folder]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, own.channels)), jnp.float32)
    _, seen = own.denoiser.apply({"params": params}, x, jnp.zeros(1), conditional, mutable=[attention_records.MAPS])
    maps = attention_records.records(seen)
    assert len(maps) == len(own.denoiser.extra_layers(8, 8))
    for layer in maps:
        np.testing.assert_allclose(layer.sum(-1), 1, rtol=1e-5)
    tokens = token_places([Word("cat"), Word("a", HALF)], ["a cat"], own.tokenizers["text_encoder"])
    words = {**conditional, "words": jnp.asarray(tokens)}
    first = len(own.tokenizers["text_encoder"].start)
    plain = text_to_image.denoise(own, params, conditional, unconditional, 2.0)(x, 0.9)
    for attention in (0.0, 1.0):
        places = Places((), (None, HALF), attention, first)
        guided = text_to_image.denoise(own, params, words, unconditional, 2.0, places=places)
        assert isinstance(guided, Unpaired)
        found = guided.denoise(x, 0.9)
        assert (np.abs(found.x0 - plain.x0).max() > 1e-5) == (attention > 0)


@pytest.mark.slow
def test_generate_takes_words_and_names_the_samplers_that_follow_them():
    assert (made(words=["cat"], attention=50.0) != made()).any()
    assert (made(words=["cat:0,0,0.5,1"], sampler="", attention=50.0) != made()).any()
    with pytest.raises(
        ValueError, match=r"moving x_t, which the sampler dpmpp_2m does not support\. Valid: ddim, ddpm"
    ):
        made(words=["cat"], sampler="dpmpp_2m")
    with pytest.raises(ValueError, match="the words 'dog' do not occur in the prompt"):
        made(words=["dog"])
    with pytest.raises(ValueError, match="maps of cross-attention, which a MMDiT does not have"):
        text_to_image.generate(model("mmdit"), "a cat", words=["cat"], **SAME)


@pytest.mark.slow
def test_a_reference_changes_the_picture_and_its_own_size_is_needed():
    reference = np.full((16, 16, 3), 200, np.uint8)
    reference[:, 8:] = 30
    found = made(reference=reference)
    assert (found != made()).any()
    np.testing.assert_array_equal(found, made(reference=reference))
    *_, last = text_to_image.watch(model(), "a cat", reference=reference, **SAME)
    assert np.abs(last.pictures.astype(int) - found).max() <= 1
    with pytest.raises(
        ValueError, match=r"the reference has 8 x 16 pixels \(height x width\), but the pictures have 16 x 16"
    ):
        made(reference=reference[:8])


@pytest.mark.parametrize("value", [7, None, {"prompt": "a"}, ["a"], ("a", (0, 0, 1, 1), 3), ("", (0, 0, 1, 1)), "ab"])
def test_what_is_no_region_is_refused_in_words(value):
    with pytest.raises(ValueError, match=r"regions: .*Valid: a prompt and where it applies|regions: the box"):
        Region.read(value)
