"""Positions, order and references that are measured: exact for known pictures, and the report of tiny runs."""

import json
import types
from typing import Any

import numpy as np
import pytest

from diffusion.configs.tuning import drawings_control, drawings_image_prompt
from diffusion.data.shapes import arrangements, drawing, scenes
from diffusion.data.shapes.arrangements import Arrangement, Thing
from diffusion.data.shapes.scenes import Lot
from diffusion.experiments import train
from diffusion.metrics.attribute_reader import Reader
from diffusion.recipe import ConfigError
from examples.control import control_metrics, reference_metrics, report as control_report, shape_finder
from examples.text import judge
from tests.experiments.run.test_image_prompt_tuning import encoder
from tests.text_to_image import made_pipelines

NOBODY = Reader({}, {}, "")


@pytest.fixture(scope="module")
def examples():
    return [arrangements.example("test", row, "outlines") for row in range(40)]


@pytest.fixture
def knowing(monkeypatch):
    """A judge who reads the colour of what stands in the middle, and takes every shape for a star."""

    def seen(_, images):
        colours = [scenes.COLOURS[shape_finder.hues(image)[28:36, 28:36].max()] for image in images]
        return [scenes.Scene("one", "plain", colour, "star") for colour in colours]

    monkeypatch.setattr(judge, "seen_without_refusal", seen)


def moved(arrangement, dx, dy):
    things = tuple(thing._replace(x=thing.x + dx, y=thing.y + dy) for thing in arrangement.things)
    return arrangement._replace(things=things)


def test_shapes_of_real_pictures_are_found_within_a_pixel(examples):
    errors = []
    for example in examples:
        parts = shape_finder.find_shapes(example.image)
        match = shape_finder.matched(arrangements.centres(example.arrangement), parts)
        errors += list(match.error)
        things = example.arrangement.things
        assert [parts[i].colour for i in match.index if i >= 0] == [
            thing.colour for thing, i in zip(things, match.index) if i >= 0
        ]
    assert np.mean(errors) < 0.5 and np.max(errors) < 2.0


def test_a_known_shift_is_the_error():
    """A circle drawn 3 pixels right and 4 down of its plan is 5 pixels away; one that is missing is FAR away."""
    plan = Arrangement("plain", (Thing("green", "circle", 22.0, 20.0, 9.0), Thing("red", "circle", 44.0, 44.0, 9.0)))
    picture = lambda arrangement: arrangements.picture(arrangement, Lot(0, 0, 0))
    centres = arrangements.centres(plan)
    match = shape_finder.matched(centres, shape_finder.find_shapes(picture(moved(plan, 3, 4))))
    np.testing.assert_allclose(match.error, [5, 5], atol=0.1)
    one = plan._replace(things=plan.things[:1])
    match = shape_finder.matched(centres, shape_finder.find_shapes(picture(one)))
    np.testing.assert_allclose(match.error, [0, shape_finder.FAR], atol=0.1)
    assert match.index.tolist() == [0, -1]
    assert shape_finder.matched(centres, []).error.tolist() == [shape_finder.FAR] * 2


def test_one_part_of_two_plans_belongs_to_the_nearer_whatever_is_far_away():
    """The part at 4 is 4 from the plan at 0, and 6 from that at 10; another at -50 is FAR from both."""
    parts = [shape_finder.Found("red", x, 0.0, np.zeros((64, 64), bool)) for x in (4.0, -50.0)]
    match = shape_finder.matched(np.array([[0.0, 0.0], [10.0, 0.0]]), parts)
    assert match.index.tolist() == [0, -1] and match.error.tolist() == [4, shape_finder.FAR]


def test_a_missing_shape_is_a_wrong_one_and_one_too_many_is_none(knowing):
    """Two pictures lack one of their two stars, and in one another star stands beside: three of five are right."""
    stars = Thing("red", "star", 20.0, 20.0, 9.6), Thing("green", "star", 44.0, 44.0, 9.6)
    both = Arrangement("plain", stars)
    one = both._replace(things=stars[:1])
    images = np.stack([arrangements.picture(shown, Lot(0, 0, 0)) for shown in (one, both, one)])
    plans: list[Any] = [types.SimpleNamespace(arrangement=plan) for plan in (both, one, both)]
    figures = control_metrics.follows(images, plans, NOBODY)
    for name in ("prompt", "there", "close", "whole"):
        assert figures[name]["share"] == pytest.approx(3 / 5) and figures[name]["count"] == 5
    assert figures["error"]["value"] == pytest.approx(shape_finder.FAR / 3, abs=0.2)  # halves of two, and 0
    assert figures["covered"]["value"] == pytest.approx(2 / 3, abs=0.02) and figures["median"] < 0.5
    assert figures["count"]["share"] == 0 and figures["order"] is None


def test_order_is_read_where_two_overlap():
    things = Thing("red", "square", 28.0, 30.0, 9.0), Thing("blue", "circle", 36.0, 30.0, 9.0)
    plan = Arrangement("plain", things)
    picture = lambda arrangement: arrangements.picture(arrangement, Lot(0, 0, 0))
    assert control_metrics.on_top(picture(plan), plan) is True
    assert control_metrics.on_top(picture(plan._replace(things=things[::-1])), plan) is False
    assert control_metrics.on_top(picture(plan), moved(plan._replace(things=things[:1]), 0, 0)) is None


@pytest.mark.extended
def test_figures_of_right_and_of_other_pictures(examples, knowing):
    real = control_metrics.rows(lambda prompts, controls, seeds: np.stack([e.image for e in examples]), examples)
    np.testing.assert_array_equal(real["real"], real["with"])
    right = control_metrics.follows(real["with"], examples, NOBODY)
    assert right["covered"]["value"] > 0.97 and right["whole"]["share"] > 0.93
    assert right["error"]["value"] < 0.5 and right["close"]["share"] == right["count"]["share"] == 1
    assert {right[name]["prompts"] for name in ("close", "there", "whole", "prompt")} == {len(examples)}
    stars = [thing.shape == "star" for example in examples for thing in example.arrangement.things]
    assert right["there"]["share"] == right["prompt"]["share"] == np.mean(stars) and right["order"]["share"] == 1
    other = control_metrics.follows(np.roll(real["real"], 1, axis=0), examples, NOBODY)
    assert other["covered"]["value"] < 0.2 and other["whole"]["share"] < 0.05
    assert other["error"]["value"] > 8 and other["close"]["share"] < 0.3 and other["there"]["share"] < 0.05


def test_the_overlap_with_a_plan_is_that_of_geometry():
    """A square of 16 pixels that stands 4 to the right: 12 of 20 columns; a circle in another colour: none."""
    plan = Arrangement("plain", (Thing("green", "square", 20.0, 20.0, 9.6), Thing("red", "circle", 46.0, 44.0, 9.0)))
    image = arrangements.picture(moved(plan, 4, 0)._replace(things=moved(plan, 4, 0).things[:1]), Lot(0, 0, 0))
    image[36:52, 38:54] = drawing.PALETTE["blue"]
    parts = shape_finder.find_shapes(image)
    index = shape_finder.matched(arrangements.centres(plan), parts).index
    assert (index >= 0).all()
    np.testing.assert_allclose(control_metrics.covered(image, plan, parts, index), [12 / 20, 0.0], atol=0.02)
    assert control_metrics.covered(image, plan, parts, np.array([-1, -1])).tolist() == [0.0, 0.0]


def test_a_part_by_itself_stands_in_the_middle_without_the_others():
    things = Thing("red", "square", 20.0, 18.0, 8.0), Thing("blue", "circle", 44.0, 40.0, 8.0)
    image = arrangements.picture(Arrangement("plain", things), Lot(0, 0, 0))
    for part, colour in zip(sorted(shape_finder.find_shapes(image), key=lambda part: part.x), ("red", "blue")):
        (single,) = shape_finder.find_shapes(shape_finder.alone(image, part))
        assert single.colour == colour and np.hypot(single.x - 32, single.y - 32) < 1
        assert single.mask.sum() == part.mask.sum()


@pytest.mark.extended
def test_what_comes_back_of_references(monkeypatch):
    """References in place of pictures agree with themselves; papers are told apart; chance is below."""
    wanted = reference_metrics.references(24)
    table = {image.tobytes(): scene for image, scene in zip(wanted.images, wanted.scenes)}
    monkeypatch.setattr(judge, "read_scenes", lambda _, images: [table[image.tobytes()] for image in images])
    make = lambda prompts, pictures, seeds: wanted.images if pictures is None else pictures
    figures, rows = reference_metrics.alone(make, NOBODY, 24)
    templates = figures["reference"].pop("templates")
    assert templates["shape"]["share"] == templates["whole"]["share"] == 1
    assert figures["chance"]["templates"]["whole"]["share"] < 0.5
    assert all(share["share"] == 1 for share in figures["reference"].values())
    assert set(figures["reference"]) >= {"style", "paper", "kind", "colour", "shape", "size", "position", "relation"}
    assert figures["chance"]["colour"]["share"] < 0.5 and rows["references"] is not None
    night = np.broadcast_to(np.array(drawing.NIGHT, np.uint8), (1, 64, 64, 3))
    light = [np.broadcast_to(np.array(paper, np.uint8), (1, 64, 64, 3)) for paper in drawing.PAPERS]
    assert reference_metrics.paper(np.concatenate([*light, night])).tolist() == [0, 1, 2, 3, 4]


def test_a_count_is_compared_where_there_are_several(monkeypatch):
    wanted = [scenes.Scene("one", "plain", "red", "star"), scenes.Scene("several", "plain", "blue", "star", count=3)]
    shown = [wanted[0], wanted[1]._replace(count=4, colour="red")]
    monkeypatch.setattr(judge, "read_scenes", lambda reader, images: shown)
    white = np.full((2, 64, 64, 3), 255, np.uint8)
    references = reference_metrics.References(white, wanted)
    figures = reference_metrics.agreement(NOBODY, white, references, ("count", "colour", "relation"))
    assert {name: share["share"] for name, share in figures.items()} == {"count": 0, "colour": 1 / 2}
    assert figures["count"]["count"] == 1


def test_two_runs_of_one_control_are_refused(tmp_path, monkeypatch):
    """The second one's figures and pictures would replace those of the first."""
    monkeypatch.setattr(control_report, "_arranged", lambda run: ("outlines", (16.0,)))
    with pytest.raises(ConfigError, match="two of --runs=a,b learned outlines"):
        control_report.run(["a", "b"], "", tmp_path, control_report.Settings())


def test_other_runs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--runs and --reference are both empty"):
        control_report.run([], "", tmp_path, control_report.Settings())


@pytest.mark.slow
def test_recipes_train_and_are_reported(tmp_path, monkeypatch):
    """The recipes at their preset, on a base of made weights, with a judge who sees the same in all pictures."""
    base = made_pipelines.folder("pixart", tmp_path / "base")
    config = drawings_control.get_config("tiny")
    config.update_from_flattened_dict({"base.path": str(base)})
    assert train.run(config, tmp_path / "outlines") == 0
    config = drawings_image_prompt.get_config("tiny")
    config.update_from_flattened_dict({"base.path": str(base), "tuning.encoder": encoder(tmp_path / "encoder")})
    assert train.run(config, tmp_path / "reference") == 0
    shown = scenes.Scene("one", "plain", "red", "circle", "small", "top")
    monkeypatch.setattr(judge, "read_scenes", lambda _, images: [shown] * len(images))
    monkeypatch.setattr(judge, "seen_without_refusal", judge.read_scenes)
    settings = control_report.Settings(8, 2)
    out = tmp_path / "report"
    content = control_report.run([str(tmp_path / "outlines")], str(tmp_path / "reference"), out, settings, NOBODY)
    figures = json.loads((out / "report.json").read_text())["figures"]
    assert figures == content["figures"] and figures["control"]["outlines"]["real"]["error"]["value"] < 1
    assert figures["control"]["outlines"]["with"]["error"]["value"] <= shape_finder.FAR
    for name in ("outlines.png", "reference.png", "reference_with_prompt.png", "report.md"):
        assert (out / name).is_file()
    assert "| outlines | with the control |" in (out / "report.md").read_text()
    with pytest.raises(
        ConfigError, match=r"learned from the source 'drawings'\. Valid for --runs: runs of tuning/drawings_control"
    ):
        control_report.run([str(tmp_path / "reference")], "", out, settings, NOBODY)
