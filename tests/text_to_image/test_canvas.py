"""The picture that a request begins with: margins that are painted, arrays in the model's range, what is kept."""

import types

import numpy as np
import pytest

from diffusion.published.pipeline_kinds import EditedPictures
from diffusion.text_to_image import canvas, jobs
from diffusion.text_to_image.canvas import Canvas, edited_images, scaled
from diffusion.text_to_image.requested_images import open_images
from diffusion.text_to_image.requests import Request

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
MASK = np.random.default_rng(1).random((4, 6)) < 0.5


@pytest.mark.parametrize("mask", [None, MASK])
def test_margins_are_painted_beside_what_the_mask_has(mask):
    found = Canvas(IMAGE, mask).extended((1, 2, 3, 0))
    assert found.image.shape == (7, 9, 3)
    np.testing.assert_array_equal(found.image[1:5, 3:], IMAGE)
    np.testing.assert_array_equal(found.image[0, 3:], IMAGE[0])  # the edge goes on
    np.testing.assert_array_equal(found.image[1:5, 0], IMAGE[:, 0])
    np.testing.assert_array_equal(found.mask[1:5, 3:], np.zeros((4, 6), bool) if mask is None else mask)
    outside = np.ones((7, 9), bool)
    outside[1:5, 3:] = False
    assert found.mask[outside].all()


def test_without_margins_or_without_a_picture_the_canvas_stays():
    own = Canvas(IMAGE, None)
    assert own.extended((0, 0, 0, 0)) is own
    empty = Canvas(None, None)
    assert empty.extended((1, 1, 1, 1)) is empty
    with pytest.raises(ValueError, match=r"make a picture of 100000004 x 6 pixels\. Valid: at most"):
        own.extended((10**8, 0, 0, 0))


def test_arrays_are_floats_of_the_models_range_and_a_mask_of_one_channel():
    image, mask = Canvas(IMAGE, MASK).arrays()
    np.testing.assert_allclose(image, (IMAGE / 127.5 - 1)[None], atol=1e-6)
    np.testing.assert_array_equal(mask, MASK[None, :, :, None])
    assert Canvas(None, None).arrays() == (None, None) and Canvas(IMAGE, None).arrays()[1] is None


def test_what_is_not_painted_is_kept_to_the_byte():
    made = np.random.default_rng(2).integers(0, 256, (2, 4, 6, 3), np.uint8)
    np.testing.assert_array_equal(Canvas(IMAGE, MASK).with_original(made), np.where(MASK[..., None], made, IMAGE))
    for empty in (Canvas(IMAGE, None), Canvas(None, None)):
        assert empty.with_original(made) is made


def test_an_edited_picture_keeps_its_ratio_and_its_middle():
    """6,400 pixels of 100 x 400 are 40 x 160; without a divisor 19 x 21 pixels keep the middle 16 x 16."""
    wide = np.zeros((100, 400, 3), np.uint8)
    assert scaled(wide, 6400, 8).shape == (40, 160, 3)
    assert scaled(wide.swapaxes(0, 1), 6400, 8).shape == (160, 40, 3)
    picture = np.random.default_rng(0).integers(0, 256, (19, 21, 3), np.uint8)
    how = types.SimpleNamespace(divisor=0, pixels=10**6)
    (edited,) = edited_images([picture], how, 8)
    np.testing.assert_array_equal(edited, picture[1:17, 2:18])


def test_the_pictures_in_a_prompt_have_fewer_pixels_than_those_that_the_denoiser_sees():
    """40 x 40 pixels are 16 x 16 for the denoiser, and 8 x 8 for the text encoder, which sees them in their order."""
    edits = EditedPictures(256, 4, prompt_pixels=64)
    kind = types.SimpleNamespace(video=None, pictures=types.SimpleNamespace(several=edits))
    model = types.SimpleNamespace(kind=kind, multiple=4, sight=lambda picture: picture + 1)
    greys = [np.full((40, 40, 3), grey, np.uint8) for grey in (10, 20)]
    images = open_images(model, Request(images=tuple(greys)))
    assert [(image.shape, image.max()) for image in images.edited] == [((16, 16, 3), 10), ((16, 16, 3), 20)]
    assert [(image.shape, image.max()) for image in images.in_prompt] == [((8, 8, 3), 11), ((8, 8, 3), 21)]
    blind = types.SimpleNamespace(kind=kind, multiple=4, sight=None)
    assert open_images(blind, Request(images=tuple(greys))).in_prompt == ()


def test_a_clip_between_two_pictures_has_the_patches_of_the_first_and_the_last(monkeypatch):
    class Read(Exception):
        pass

    def patches(frames, number):
        raise Read([int(frame.max()) for frame in frames])

    greys = [np.full((8, 8, 3), grey, np.uint8) for grey in (10, 20)]
    monkeypatch.setattr(jobs, "conditions", lambda *_, **how: ({}, {}))
    course = types.SimpleNamespace(frames=5, rate=8.0, size=(8, 8))
    job = jobs.Job(Request(images=tuple(greys), guidance=2.0), Canvas(greys[0], None), course)
    with pytest.raises(Read) as read:
        job.conditions(types.SimpleNamespace(patches=patches), 1)
    assert read.value.args == ([10, 20],)


def test_a_canvas_with_margins_may_have_as_many_pixels_as_a_picture(monkeypatch):
    monkeypatch.setattr(canvas.pictures, "PIXELS", 7 * 9)
    assert Canvas(IMAGE, None).extended((1, 2, 3, 0)).image.shape == (7, 9, 3)
    monkeypatch.setattr(canvas.pictures, "PIXELS", 7 * 9 - 1)
    with pytest.raises(ValueError, match="make a picture of 7 x 9 pixels"):
        Canvas(IMAGE, None).extended((1, 2, 3, 0))


def test_a_picture_of_too_many_pixels_is_reduced_at_its_ratio():
    """100 x 400 pixels at a quarter are 50 x 200, of which 8 divides 48 and 200."""
    how = types.SimpleNamespace(divisor=0, pixels=10_000)
    (edited,) = edited_images([np.zeros((100, 400, 3), np.uint8)], how, 8)
    assert edited.shape == (48, 200, 3)
    (same,) = edited_images([np.zeros((100, 100, 3), np.uint8)], how, 4)
    assert same.shape == (100, 100, 3)
