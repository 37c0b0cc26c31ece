"""Metrics of editing: exact figures of made edits, and the ends of the interpolation between prompts."""

import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import Lot
from diffusion.metrics.attribute_reader import Reader
from examples.text import edits, judge
from tests.text_to_image import made_pipelines

NOBODY = Reader({}, {}, "")


@pytest.fixture
def editor(monkeypatch):
    """A model that draws what a prompt requests and keeps the rest, and a judge who knows its pictures."""
    table = {}

    def generate(model, prompt, *, image, seeds, mask=None, margins=(0, 0, 0, 0), strength=None, resamplings=1):
        if any(margins):
            right = margins[3]
            mask = np.pad(np.zeros(image.shape[:2], bool), ((0, 0), (0, right)), constant_values=True)
            image = np.pad(image, ((0, 0), (0, right), (0, 0)), mode="edge")
        lot = Lot(int(seeds), 8, 0)
        scene = scenes.completed(scenes.parsed(prompt), lot)
        drawn = drawing.draw(scene, lot)
        made = drawn if mask is None else np.where(mask[..., None], drawn, image)
        if model == "careless":
            made = made ^ np.uint8(1)
        table[made.tobytes()] = judge.facing(scene)
        return made[None]

    monkeypatch.setattr(text_to_image, "generate", generate)
    monkeypatch.setattr(edits, "through_autoencoder", lambda _, images: images)
    monkeypatch.setattr(judge, "read_scenes", lambda _, images: [table[image.tobytes()] for image in images])


def test_edits_that_follow_the_request(editor):
    found = edits.image_to_image("good", NOBODY, 4)
    assert all(each[name]["share"] == 1 for each in found["figures"].values() for name in ("colour", "shape", "size"))
    assert [len(images) for _, images in found["rows"]] == [4] * 5
    found = edits.style("good", NOBODY, 3)["figures"]
    assert found["neon"]["style"]["share"] == found["outlined"]["shape"]["share"] == 1


@pytest.mark.parametrize("edit", [edits.inpainting, edits.outpainting])
def test_what_is_kept_is_compared_to_the_bit(editor, edit):
    good, careless = (edit(model, NOBODY, 4)["figures"] for model in ("good", "careless"))
    assert good["kept_to_the_bit"]["share"] == 1 and careless["kept_to_the_bit"]["share"] == 0
    assert good["requested"]["attributes"]["share"] == 1


def test_an_edit_to_another_thing_is_seen(editor, monkeypatch):
    right = judge.read_scenes
    other = lambda scene: scene._replace(colour="pink" if scene.colour == "red" else "red")
    monkeypatch.setattr(judge, "read_scenes", lambda reader, images: [other(scene) for scene in right(reader, images)])
    found = edits.image_to_image("good", NOBODY, 4)["figures"]["0.8"]
    assert found["colour"]["share"] == 0 and found["shape"]["share"] == 1


def test_pictures_to_edit_are_what_they_say():
    images, shown = edits.starts(5, position="left", size="medium")
    assert len(images) == len(shown) == 5
    for image, scene in zip(images, shown):
        assert (scene.kind, scene.style, scene.position, scene.size) == ("one", "plain", "left", "medium")
        assert not scenes.withheld(scene)
        assert np.ptp(image[:, 40:].reshape(-1, 3), axis=0).max() == 0  # the right half is paper


def test_the_seam_is_the_step_between_its_two_columns():
    real = np.full((2, 4, 64, 3), 100, np.uint8)
    made = real.copy()  # both halves are 2 brighter, and the left one is put back
    coded = real + np.uint8(2)
    made[:, :, 32:] += 10
    made[0, 2, 32] += 20
    assert edits.seam(made, coded, real) == {
        "mean": 12.5,
        "worst": 20,
        "coded_mean": 2,
        "coded_worst": 2,
        "real_mean": 0,
        "real_worst": 0,
    }


@pytest.mark.slow
def test_the_autoencoder_gives_pictures_back_one_by_one(tmp_path):
    model = text_to_image.load(made_pipelines.folder("sd", tmp_path / "sd"))
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
    coded = edits.through_autoencoder(model, images)
    assert coded.shape == images.shape and coded.dtype == np.uint8
    assert np.abs(edits.through_autoencoder(model, images[1:2])[0].astype(int) - coded[1]).max() <= 1
    assert (coded[0] != coded[1]).mean() > 0.5
