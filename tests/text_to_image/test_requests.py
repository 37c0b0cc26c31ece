"""Requests for pictures: every setting has one type, range and help, wherever it is written."""

import dataclasses
import inspect
import pathlib
import re
import types

import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.text_to_image import pipelines
from diffusion.text_to_image.canvas import edited_images
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.settings import settings

IMAGE = np.zeros((16, 16, 3), np.uint8)


def test_generate_takes_the_settings_of_a_request_and_names_them():
    said = set(re.findall(r"\w+", inspect.getdoc(text_to_image.generate)))
    assert settings(Request).keys() <= said
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepz'"):
        text_to_image.generate(None, "a cat", stepz=3)


def test_every_setting_says_what_it_does_and_its_default_is_valid():
    for name, one in settings(Request).items():
        assert len(one.help) > 10 and one.read(name, one.default) == one.default


def test_values_of_json_and_of_numpy_become_those_of_python():
    request = Request(
        prompts="a cat", seeds=np.arange(2), steps=20.0, guidance=np.float32(2), margins=[1.0, 0, 0, 0],
        image=pathlib.Path("a.png"),
    )  # fmt: skip
    assert (request.prompts, request.seeds, request.steps) == (("a cat",), (0, 1), 20)
    assert (request.margins, request.image) == ((1, 0, 0, 0), "a.png")
    assert isinstance(request.steps, int) and isinstance(request.guidance, float)


@pytest.mark.parametrize("wrong, message", [
    ({"steps": 2.5}, "steps = 2.5. Valid: a whole number"),
    ({"steps": True}, "steps = True. Valid: a whole number"),
    ({"seeds": None}, r"seeds = \[null\]. Valid: a list"),
    ({"seeds": {"0": 1}}, "seeds = .*. Valid: a list"),
    ({"margins": (0, 0, 0)}, "margins = .*. Valid: a list of 4, each a whole number"),
    ({"batch_size": 10**9}, "batch_size = 1000000000. Valid: .* at most 4096"),
    ({"prompts": "x" * 10**6}, "Valid: .* a text of at most 20000 letters"),
    ({"prompts": "a\0b"}, "without NUL"),
    ({"guidance": 10**400}, "guidance = 1000.*. Valid: a number"),
    ({"emphasis": "loud"}, "emphasis = 'loud'. Valid: one of none, scale"),
    ({"strength": 0, "image": IMAGE}, "strength = 0. Valid: a number above 0"),
    ({"image": [[1]]}, "image = .*. Valid: the path of a picture"),
    ({"resamplings": 2, "image": IMAGE}, "resamplings = 2 makes.*; name a mask or margins"),
    ({"kept_noise": "one", "image": IMAGE}, "kept_noise = 'one' is.*; name a mask or margins"),
    ({"kept_noise": "two", "image": IMAGE}, "kept_noise = 'two'. Valid: .*fresh.*one"),
    ({"prompts": ["a", "b"], "seeds": [1, 2, 3]}, "2 prompts and 3 seeds"),
])  # fmt: skip
def test_a_request_is_refused_where_it_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        Request(**wrong)


def test_a_series_has_seeds_that_follow_one_another():
    request = Request.series("a cat", 5, 3, steps=2)
    assert request.rows() == (["a cat"] * 3, [5, 6, 7]) and request.number == 3
    with pytest.raises(ValueError, match=r"seed = 4294967295. Valid: .* at most 4294967294"):
        Request.series("a cat", 2**32 - 1, 2)
    with pytest.raises(ValueError, match=r"number = 1000000000. Valid"):
        Request.series("a cat", 0, 10**9)


def test_less_strength_begins_later_and_what_is_kept_is_sampled_from_the_start():
    first = lambda steps=10, **how: Request(image=IMAGE, **how).first_step(steps)
    assert [first(), first(strength=0.5), first(strength=1)] == [2, 5, 0]
    assert first(margins=(4, 0, 0, 0)) == first(mask=np.ones((16, 16), bool)) == Request().first_step(10) == 0
    # Of a flow as diffusers 0.42.1's `get_timesteps` of FLUX.1, Stable Diffusion 3 and Z-Image has it; 25 * 0.56 > 14.
    cases = [(28, 0.6), (28, 0.8), (10, 0.3), (25, 0.56), (4, 0.1), (30, 1.0)]
    of_flow = [Request(image=IMAGE, strength=strength).first_step(steps, begun=True) for steps, strength in cases]
    assert of_flow == [11, 5, 7, 10, 3, 0]
    with pytest.raises(ValueError, match=r"strength = 0\.05 of 10 steps is less than one step\..*at least 0\.1"):
        first(strength=0.05)


def test_a_request_is_frozen_and_a_changed_one_is_checked_again():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request().steps = 3
    with pytest.raises(ValueError, match=r"steps = 0\. Valid"):
        dataclasses.replace(Request(), steps=0)


@pytest.mark.parametrize("distilled, image_guidance", [(False, 1.5), (True, 1.0)])
def test_a_distilled_model_that_edits_takes_a_request_that_names_no_guidance(distilled, image_guidance):
    kind = pipelines.KINDS["StableDiffusionInstructPix2PixPipeline"]
    facts = {"kind": kind, "usual": kind.usual, "distilled": distilled, "sees_picture": True, "sees_mask": False}
    process, vae = types.SimpleNamespace(sampler="lcm"), types.SimpleNamespace(factor=8)
    model = types.SimpleNamespace(**facts, process=process, modules={"vae": vae})
    request = Request(prompts=("a cat",), image=np.zeros((16, 16, 3), np.uint8)).resolved(model)
    request.check(model)
    assert request.image_guidance == image_guidance


@pytest.mark.parametrize("name, does", [
    ("FluxKontextPipeline", "edits a picture by the prompt"),
    ("FluxControlPipeline", "follows a picture, its edges or depths, by the prompt"),
])  # fmt: skip
def test_a_model_that_sees_a_picture_says_which_it_needs(name, does):
    kind = pipelines.KINDS[name]
    facts = {"kind": kind, "usual": kind.usual, "distilled": True, "sees_picture": True, "sees_mask": False}
    process, vae = types.SimpleNamespace(sampler="euler"), types.SimpleNamespace(factor=8)
    model = types.SimpleNamespace(**facts, process=process, modules={"vae": vae})
    with pytest.raises(ValueError, match=f"this model {does}; name the image"):
        Request(prompts=("a cat",)).resolved(model).check(model)


def test_the_image_of_a_model_that_sees_several_is_the_first_of_its_images_unless_it_is_changed():
    kind = pipelines.KINDS["Flux2KleinPipeline"]
    facts = {"kind": kind, "usual": kind.usual, "distilled": False, "sees_picture": False, "sees_mask": False}
    process, vae = types.SimpleNamespace(sampler="euler"), types.SimpleNamespace(factor=16)
    more = {"sides": (64, 64), "multiple": 16, "boundary": None, "name": "Flux2KleinPipeline"}
    model = types.SimpleNamespace(**facts, **more, process=process, modules={"vae": vae})
    of = lambda **settings: Request(prompts=("a cat",), **settings).resolved(model)
    edited = of(image="a.png", images=["b.png", "c.png"])
    edited.check(model)
    assert edited.image is None and edited.images == ("a.png", "b.png", "c.png")
    changed = of(image="a.png", images="b.png", strength=0.5)
    assert changed.image == "a.png" and changed.images == ("b.png",)
    assert of(image="a.png", margins=(8, 0, 0, 0)).images == ()

    # More than a megapixel is scaled to one, 1024 sqrt(2) x 1024 / sqrt(2) rounded down; then the middle is cut out.
    large, odd = np.zeros((2048, 1024, 3), np.uint8), np.arange(33 * 20 * 3, dtype=np.uint8).reshape(33, 20, 3)
    found = edited_images((large, odd), kind.pictures.several, 16)
    assert found[0].shape == (1440, 720 // 16 * 16, 3) and found[1].shape == (32, 16, 3)
    np.testing.assert_array_equal(found[1], odd[:32, 2:18])
    assert edited.size(model, None, found) == (1440, 720)
    assert of(images="a.png", height=32).size(model, None, found) == (32, 720)
    with pytest.raises(ValueError, match=r"one of the images has 33 x 9 pixels .* at least 16"):
        edited_images((odd[:, :9],), kind.pictures.several, 16)

    needing = types.SimpleNamespace(**{**vars(model), "kind": pipelines.KINDS["QwenImageEditPipeline"]})
    checked = lambda **settings: Request(prompts=("a cat",), **settings).resolved(needing).check(needing)
    for named in ({"image": "a.png"}, {"images": "a.png"}, {"image": "a.png", "strength": 0.5}):
        checked(**named)
    with pytest.raises(ValueError, match=r"edits pictures by the prompt; name the image, or images$"):
        checked()
    for named in ({"images": ["a.png", "b.png"]}, {"image": "a.png", "mask": "m.png", "images": "b.png"}):
        with pytest.raises(ValueError, match=r"images: 2 pictures\. Valid: at most 1 for this model"):
            checked(**named)
    repainted = Request(prompts=("a cat",), image="a.png", mask="m.png", images="b.png").resolved(model)
    for name, seen in (("Flux2KleinPipeline", ("b.png",)), ("Flux2KleinInpaintPipeline", ("a.png", "b.png"))):
        assert repainted.edited(pipelines.KINDS[name].pictures.several) == seen and repainted.image == "a.png"

    kontext = types.SimpleNamespace(**{**vars(model), "kind": pipelines.KINDS["FluxKontextPipeline"],
                                       "sees_picture": True, "distilled": True})  # fmt: skip
    with pytest.raises(
        ValueError, match=r"images: a .* sees one picture, its image; only models such as FLUX\.2 support several"
    ):
        Request(prompts=("a cat",), image="a.png", images="b.png").resolved(kontext).check(kontext)


@pytest.mark.parametrize(
    "facts, settings, guided",
    [
        ({"distilled": True}, {"guidance": 7.0}, False),
        ({}, {"guidance": 7.0}, True),
        ({}, {"guidance": 1.0}, False),
        ({}, {"guidance": 1.0, "late_guidance": 3.0}, True),
        ({}, {"guidance": 0.0}, False),
        ({"sees_picture": True}, {"guidance": 1.0, "image_guidance": 1.0}, False),
        ({"sees_picture": True}, {"guidance": 1.0, "image_guidance": 1.5}, True),
        ({"sees_picture": True}, {"guidance": 0.5, "image_guidance": 1.0}, True),
    ],
)
def test_the_negative_prompt_is_evaluated_where_a_scale_says_so(facts, settings, guided):
    model = types.SimpleNamespace(**{"distilled": False, "sees_picture": False, **facts})
    assert Request.make("a cat", **settings).guided(model) == guided


def test_a_trajectory_begins_at_an_image_that_is_changed_or_not_from_the_start():
    image = np.zeros((16, 16, 3), np.uint8)
    whole, painted = (Request.make("a cat", image=image), Request.make("a cat", image=image, margins=(0, 8, 0, 0)))
    assert not Request.make("a cat").begins_at_image(3)
    assert [whole.begins_at_image(first) for first in (0, 3)] == [True, True]
    assert [painted.begins_at_image(first) for first in (0, 3)] == [False, True]


def test_seeds_and_prompts_are_as_many_or_one():
    request = Request.make("a cat", [3, 5])
    assert (request.number, request.seeds, request.rows()) == (2, (3, 5), (["a cat", "a cat"], [3, 5]))
    assert Request.make(["a cat", "a dog"], 7).rows() == (["a cat", "a dog"], [7, 7])


@pytest.mark.parametrize("name, low, high", [
    ("steps", 1, 1000), ("guidance", -1e6, 1e6), ("late_guidance", -1e6, 1e6), ("image_guidance", -1e6, 1e6),
    ("perturbed_guidance", 0, 1e6), ("sound_guidance", -1e6, 1e6), ("modality_guidance", -1e6, 1e6),
    ("height", 0, 2**16), ("width", 0, 2**16), ("frames", 0, 10_000), ("frame_rate", 0, 1000), ("layers", 0, 100),
    ("resamplings", 1, 100), ("batch_size", 1, 4096), ("tile", 0, 2**16), ("merge", 0, 0.75), ("attention", 0, 100),
])  # fmt: skip
def test_numbers_of_a_request_have_their_ends(name, low, high):
    valid = settings(Request)[name].valid
    step = 1 if isinstance(high, int) else 0.01
    assert valid.holds(low) and valid.holds(high)
    assert not valid.holds(low - step) and not valid.holds(high + step)


def test_lists_and_texts_of_a_request_have_their_lengths():
    holds = lambda name, value: settings(Request)[name].valid.holds(value)
    for name, entry, most in (("images", "a.png", 16), ("controls", ("a", "b.png"), 16), ("words", "a", 16),
                              ("regions", "a:0,0,1,1", 16), ("margins", 2**16, 4)):  # fmt: skip
        entry = settings(Request)[name].read(name, [entry] * most)[0] if name != "margins" else entry
        assert holds(name, (entry,) * most) and not holds(name, (entry,) * (most + 1))
    assert not holds("margins", (0, 0, 0)) and not holds("margins", (0, 0, 0, 2**16 + 1))
    assert holds("seeds", (0, 2**32 - 1)) and not holds("seeds", (2**32,)) and not holds("seeds", (-1,))
    for name, most in (("negative", 20_000), ("sampler", 100), ("watermark", 4096)):
        assert holds(name, "a" * most) and not holds(name, "a" * (most + 1))
    assert holds("strength", 1) and holds("strength", 1e-3) and not holds("strength", 0) and not holds("strength", 1.01)
