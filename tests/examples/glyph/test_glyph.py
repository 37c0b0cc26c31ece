"""A glyph from five pictures: the pictures, the retriever on known features, and the report of whole tunings."""

import collections
import csv
import json
import types
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffusion import text_to_image
from diffusion.data import shapes
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import NONE, SHAPES, Lot, Scene
from diffusion.experiments import train
from diffusion.experiments.evaluation.figures import training_minutes
from diffusion.io import json_lines
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader
from diffusion.recipe import ConfigError, recipes
from examples.glyph import glyph, glyph_metrics, report as glyph_report
from examples.glyph.glyph_metrics import Gallery
from examples.text import demo as text_demo, drawn_objects, judge
from tests.data.made import image_feature, png, write

ALONE = Scene("one", "plain", "red", glyph.NAME, "large", "top")
FIRST = Scene("pair", "plain", "red", glyph.NAME, count=2, relation="above", second_colour="blue", second_shape="star")
SECOND = Scene("pair", "plain", "red", "moon", count=2, relation="above", second_colour="blue", second_shape=glyph.NAME)
NOBODY = Reader({}, {}, "")


def test_the_ghost_has_the_edges_of_its_circles_and_lines():
    at = lambda x, y: float(glyph.ghost(np.array(x * 10.0), np.array(y * 10.0), 10.0))
    edge = {(0, -0.95), (0.85, 0.2), (-0.85, 0.2), (0, 0.6 + 0.85 / 3), (2 * 0.85 / 3, 0.6 + 0.85 / 3), (0.4, 0.15)}
    assert max(abs(at(*point)) for point in edge) < 1e-12  # top, sides, two lobes, an eye's lower edge
    assert at(0.4, -0.12) == at(-0.4, -0.12) == pytest.approx(2.7)  # an eye, as far as its radius
    assert at(2, 0.2) == pytest.approx(11.5) and at(0, -2) == pytest.approx(10.5)
    assert at(0, 0.4) < 0 and at(0.85 / 3, 0.8) > 0  # inside; between two lobes


def test_the_five_pictures_show_what_their_captions_say_and_are_the_same_each_time(tmp_path):
    folder = glyph.write(tmp_path / "pictures")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    glyph.write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before and len(before) == 6
    rows = list(csv.DictReader((folder / "metadata.csv").open()))
    assert [row["caption"] for row in rows] == [scenes.phrase(scene) for scene in glyph.TAUGHT]
    assert rows[0] == {
        "file_name": "0.png",
        "caption": "a large purple ghost in the middle",
        "word": "a large purple <ghost> in the middle",
    }
    assert glyph.NAME not in SHAPES
    for row, scene in zip(rows, glyph.TAUGHT):
        image = np.asarray(Image.open(folder / row["file_name"])).astype(float)
        colour = np.array(drawing.PALETTE[scene.colour])
        painted = np.argwhere(np.abs(image - colour).max(-1) < 12)
        (top, left), (bottom, right) = painted.min(0), painted.max(0) + 1
        column, line = divmod(tuple(scenes.POSITIONS).index(scene.position), 3)[::-1]
        low, high = drawing.RADII[scene.size]
        assert abs((left + right) / 2 - drawing.PLACES[column]) <= 1  # its middle, and its width of 1.7 radii
        assert 1.7 * low - 2 < right - left <= 1.7 * high + 1
        assert top < drawing.PLACES[line] < bottom


def test_prompts_hold_one_ghost_each_and_every_place_of_a_pair():
    requested = glyph.requested(200)
    assert requested == glyph.requested(300)[:200]
    slots = collections.Counter((scene.kind, scene.shape == glyph.NAME) for scene in requested)
    assert slots["one", True] == 100 and min(slots["pair", True], slots["pair", False]) > 30
    assert all([scene.shape, scene.second_shape].count(glyph.NAME) == 1 for scene in requested)
    assert {scene.colour for scene in requested} == set(scenes.COLOURS)
    assert glyph.word(FIRST, "<ghost>") == "a red <ghost> above a blue star"


def test_the_nearest_real_picture_says_the_shape():
    one = Gallery(np.array([[0.0, 0.0], [4.0, 0.0]]), ["ghost", "star"])
    other = Gallery(np.array([[0.0, 0.0], [0.0, 3.0], [9.0, 9.0]]), ["moon", "ghost", "star"])
    found = glyph_metrics.retrieved(np.array([[1.9, 5.0], [2.1, 0.0], [1.0, 1.6]]), [one, one, other])
    assert found == ["ghost", "star", "ghost"]
    with pytest.raises(ValueError, match="each of the 2 pictures needs a gallery, got 1"):
        glyph_metrics.retrieved(np.zeros((2, 2)), [one])


def test_the_factor_refuses_the_stated_share_of_real_pictures():
    """Galleries of a shape at 0 and a spoilt one at 10: a picture at x has the ratio x / (10 - x)."""
    known = [Gallery(np.array([[0.0], [10.0]]), ["ghost", NONE])] * 5
    features = np.array([[0.0], [2.0], [5.0], [6.0], [8.0]])
    assert glyph_metrics.refusal(features, known, share=0.0) == pytest.approx(4)
    factor = glyph_metrics.refusal(features, known, share=0.25)
    assert factor == pytest.approx(1.5)  # the fourth of five ratios
    found = glyph_metrics.retrieved(features, known, factor)
    assert found == ["ghost", "ghost", "ghost", "ghost", NONE]
    assert glyph_metrics.retrieved(features, known) == ["ghost", "ghost", "ghost", NONE, NONE]  # the first of equals


def test_a_ratio_is_of_the_nearest_picture_of_a_shape_and_the_nearest_spoilt_one():
    one = Gallery(np.array([[0.0], [3.0], [10.0], [15.0]]), ["ghost", "star", NONE, NONE])
    other = Gallery(np.array([[20.0], [-4.0], [1.0]]), [NONE, "ghost", NONE])
    assert glyph_metrics.refusal(np.array([[5.0]]), [one], share=0.5) == pytest.approx(2 / 5)
    ratios = glyph_metrics.refusal(np.array([[5.0], [-1.0]]), [one, other], share=0.5)
    assert ratios == pytest.approx((2 / 5 + 3 / 2) / 2)


def test_a_subject_is_refused_by_the_factor(monkeypatch):
    """A picture at 6 is 6 from the ghost and 4 from a spoilt one, which counts as 6.4; the rest is right."""
    monkeypatch.setattr(attribute_reader, "features", lambda reader, images: images)
    monkeypatch.setattr(judge, "read_scenes", lambda reader, images: [ALONE, SECOND])
    fits = [{"shape": True, "whole": False}] * 2
    monkeypatch.setattr(glyph_metrics.drawn_objects, "verdicts", lambda requested, images, more: fits)
    known = [Gallery(np.array([[0.0], [10.0]]), [glyph.NAME, NONE])] * 2
    images = np.array([[6.0], [7.0]])
    figures = glyph_metrics.fidelity(NOBODY, [ALONE, SECOND], images, known, 1.6)
    shares = {name: figures[name]["share"] for name in ("best", "whole", "subject", "pictures", "prompt")}
    assert shares == {"best": 1, "whole": 0, "subject": 1 / 2, "pictures": 1 / 2, "prompt": 1}
    assert glyph_metrics.fidelity(NOBODY, [ALONE, SECOND], images, known)["subject"]["share"] == 0


@pytest.mark.extended
def test_drawn_ghosts_are_the_best_of_nine_and_spoilt_ones_are_not_whole():
    requested = glyph.requested(60)
    shape = tuple(glyph.SHAPE.values())
    verdicts = lambda images: [
        drawn_objects.verdict(*pair)
        for pair in zip(requested, drawn_objects.measured(np.stack(images), requested, shape))
    ]
    real = verdicts([glyph.picture(scene, 0, i) for i, scene in enumerate(requested)])
    assert all(found["shape"] and found["whole"] and found["one_piece"] and found["colour"] for found in real)
    spoilt = verdicts([glyph.spoilt_picture(scene, 0, i) for i, scene in enumerate(requested)])
    whole, sharp = (np.array([found[name] for found in spoilt]) for name in ("whole", "sharp"))
    assert whole[::3].mean() <= 0.1 and sharp[2::3].mean() == 0  # broken ones, blurred ones
    assert (whole & sharp)[1::3].mean() < 0.5  # blended ones


@pytest.fixture
def knowing(monkeypatch):
    """Real pictures that are numbers, of which a judge knows the scene; returns the function that makes them."""
    table = []

    def picture(scene, stream, number):
        table.append(scene)
        return np.array([[[len(table) // 256, len(table) % 256, 0]]], np.uint8)

    scene_of = lambda image: table[int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) - 1]
    names = (*SHAPES, glyph.NAME, NONE)
    features = lambda scene: np.concatenate(
        [np.eye(10)[names.index(name)] for name in (scene.shape, scene.second_shape)]
    )
    monkeypatch.setattr(glyph, "picture", picture)
    monkeypatch.setattr(
        attribute_reader, "features", lambda _, images: np.stack([features(scene_of(x)) for x in images])
    )
    monkeypatch.setattr(judge, "read_scenes", lambda _, images: [judge.facing(scene_of(image)) for image in images])
    spoilt = lambda scene, stream, number: picture(glyph_metrics.with_shape(scene, NONE), stream, number)
    monkeypatch.setattr(glyph, "spoilt_picture", spoilt)
    has = lambda scene, image: {name: scene.shape == scene_of(image).shape for name in ("shape", "whole")}
    monkeypatch.setattr(glyph_metrics.drawn_objects, "measured", lambda images, requested, more: images)
    monkeypatch.setattr(glyph_metrics.drawn_objects, "verdict", has)
    return lambda scenes_: np.stack([picture(scene, 99, 0) for scene in scenes_])


def test_real_pictures_have_the_glyph_and_others_have_not(knowing):
    requested = [ALONE, FIRST, SECOND]
    known = glyph_metrics.galleries(NOBODY, requested, number=2)
    assert [len(gallery.names) for gallery in known] == [20, 18, 18]
    assert "star" not in known[1].names and "moon" not in known[2].names
    real = glyph_metrics.real_figures(NOBODY, requested, known, lambda images: np.roll(images, 1, 0))
    assert {name: found["share"] for name, found in real["right"].items()} == {
        "subject": 1.0, "best": 1.0, "whole": 1.0, "prompt": 1.0, "pictures": 1.0,
    }  # fmt: skip
    assert (
        real["mistaken"]["share"] == real["spoilt"]["share"] == 0 and real["coded"]["prompt"]["share"] < 1
    )  # of other scenes' pictures
    hearts = [glyph_metrics.with_shape(scene, "heart") for scene in requested]
    assert [scene.second_shape for scene in hearts] == [NONE, "star", "heart"]
    found = glyph_metrics.fidelity(NOBODY, requested, knowing(hearts), known)
    assert found["subject"]["share"] == found["pictures"]["share"] == 0 and found["prompt"]["share"] == 1
    wrong = [ALONE._replace(colour="pink"), FIRST, SECOND]  # of 4 + 3 + 3 attributes beside the shapes one is wrong
    found = glyph_metrics.fidelity(NOBODY, requested, knowing(wrong), known)
    assert found["subject"]["share"] == 1 and found["pictures"]["share"] == pytest.approx(2 / 3)
    assert found["prompt"] | {"interval": None} == {"share": 0.9, "interval": None, "count": 10, "prompts": 3}


def test_drift_is_of_pixels_and_of_attributes(knowing):
    captions = ["a red heart", "a blue star above a red moon"]
    right = [scenes.completed(scenes.parsed(text), Lot(0, 0, 0)) for text in captions]
    before = knowing(right)
    same = glyph_metrics.drift(NOBODY, captions, before, before)
    assert same["difference"] == 0 and same["same"]["share"] == same["attributes"]["share"] == 1
    after = knowing([right[0]._replace(shape=glyph.NAME), right[1]])
    apart = np.abs(after.astype(int) - before).mean()
    changed = glyph_metrics.drift(NOBODY, captions, before, after)
    assert changed["difference"] == pytest.approx(apart) and apart > 0 and changed["same"]["share"] == 0
    assert changed["attributes"]["share"] == pytest.approx(5 / 6)  # kind, colour, shape of each


def test_minutes_and_bytes_are_those_of_the_run(tmp_path):
    rates = {1: None, 60: 2.0, 120: 0.5}  # the first line of a run may have none
    for line in ({"step": step, "steps_per_second": rate} for step, rate in rates.items()):
        json_lines.append(tmp_path / "timing.jsonl", line)
    assert training_minutes(tmp_path) == pytest.approx((30 + 120) / 60)
    assert training_minutes(tmp_path, 60) == pytest.approx(30 / 60)
    for name, size in (("a", 3), ("transformer/b", 50), ("vae/c", 700)):
        path = tmp_path / "tuning" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    assert glyph_report.weight(tmp_path, ()) == 3 and glyph_report.weight(tmp_path, ("transformer",)) == 50


def test_a_model_of_other_pictures_is_refused(tmp_path):
    model: Any = types.SimpleNamespace(side=16)
    other = glyph_report.Taught("none", model)
    with pytest.raises(ConfigError, match="makes pictures of 16 pixels, but the judge reads only pictures of 64"):
        glyph_report.run([other], tmp_path, 8, 8, {})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny model of the shapes."""
    place = tmp_path_factory.mktemp("glyph")
    features = {"image": image_feature(shape=(64, 64, 3)), "caption": tfds.features.Text()}
    rows = [shapes.example("train", i) for i in range(18)]
    dataset = write(place / "tfds", features, [{"image": png(row[0]), "caption": row[1]} for row in rows])
    config = recipes.load("text/shapes:tiny")
    config.update_from_flattened_dict(
        {
            "data.name": "made",
            "data.dir": dataset,
            "measured": 18,
            **{f"{stage}.data.threads": 0 for stage in ("encoder", "autoencoder", "denoiser")},
        }
    )
    assert text_demo.run(config, place / "text") == 0
    return place / "text" / "model"


@pytest.mark.slow
def test_three_tunings_and_their_report(base, tmp_path, monkeypatch):
    images, shown = judge.pictures(1, {"one": 60, "several": 30, "pair": 60, "word": 60})
    reader = attribute_reader.train(images, judge.labels(shown), steps=2)
    monkeypatch.setattr(judge, "reader", lambda: reader)
    pictures = glyph.write(tmp_path / "pictures")
    runs = []
    for name in ("textual_inversion", "lora", "dreambooth"):
        config = recipes.load(f"tuning/glyph:{name}")
        for wrapper in config.objective.wrappers:
            wrapper["number"] = 2
        config.update_from_flattened_dict(
            {
                "base.path": str(base),
                "data.source.path": str(pictures),
                "data.threads": 0,
                "train.steps": 2,
                "train.batch_size": 2,
                "train.log_every": 1,
            }
        )
        assert train.run(config, tmp_path / name) == 0
        runs.append(glyph_report.tuned(tmp_path / name))
    taught = [glyph_report.Taught("no tuning", text_to_image.load(base)), *runs]
    content = glyph_report.run(taught, tmp_path / "report", 8, 8, {"model": "tiny"})
    assert content == json.loads((tmp_path / "report" / "report.json").read_text())
    models = content["figures"]["models"]
    assert list(models) == ["no tuning", "textual inversion", "lora", "dreambooth"]
    changed = {name: row["drift"]["difference"] for name, row in models.items()}
    assert changed["no tuning"] == changed["textual inversion"] == 0 < changed["lora"]  # other prompts to the bit
    assert models["textual inversion"]["drift"]["same"]["share"] == 1
    assert models["textual inversion"]["bytes"] < models["lora"]["bytes"] < models["dreambooth"]["bytes"]
    assert "glyph.png" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "glyph.png").is_file()
    with pytest.raises(ConfigError, match="tunes no model"):
        glyph_report.tuned(base.parent / "denoiser")


def test_two_runs_of_one_name_are_refused(tmp_path):
    """They are rows of one table by the names of their folders; the second one would replace the first."""
    taught = [glyph_report.Taught(name, None) for name in ("no tuning", "lora", "lora")]
    with pytest.raises(ConfigError, match="two rows have the name 'lora'"):
        glyph_report.run(taught, tmp_path / "report", 8, 8, {})
    assert not (tmp_path / "report").exists()
