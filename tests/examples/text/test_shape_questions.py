"""GenEval's questions of the shapes: which scenes are right, and a made judge whose errors are known."""

import types

import numpy as np
import pytest

from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import Lot, Scene
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following.geneval import TAGS
from examples.text import judge, shape_questions, shapes_report
from examples.text.prompt_metrics import Subject

FORMS = {
    "single_object": "a {shape}", "two_object": "a {shape} and a {second_shape}", "colors": "a {colour} {shape}",
    "position": "a {shape} {relation} a {second_shape}",
    "color_attr": "a {colour} {shape} and a {second_colour} {second_shape}",
}  # fmt: skip
NUMBERS = {2: "two", 3: "three", 4: "four"}
NOBODY = Reader({}, {}, "")


@pytest.mark.parametrize("tag", TAGS)
def test_prompts_are_right_of_their_scenes_and_wrong_of_near_ones(tag):
    for index, (prompt, scene) in enumerate(shape_questions.prompts(tag, 20)):
        text = FORMS.get(tag, "").format(**scene._asdict()).replace("a orange", "an orange")
        if tag == "counting":
            text = f"{NUMBERS[scene.count]} {scene.shape}{'es' if scene.shape == 'cross' else 's'}"
        assert prompt.text == text and scenes.parsed(text) == scene and not scenes.withheld(scene)
        lot = Lot(0, 0, index)
        full = shape_questions.completed(scene, lot)
        assert shape_questions.right(prompt, full) and shape_questions.right(prompt, judge.facing(full))
        near = shape_questions.changed(tag, full, lot)
        assert not shape_questions.right(prompt, near)
        assert sum(a != b for a, b in zip(full, near)) == (2 if tag == "color_attr" else 1)
        assert not shape_questions.right(prompt, Scene("word", "plain", "red", count=0, word="cat"))


def test_more_than_requested_is_right_where_geneval_does_not_count():
    (one, scene), *_ = shape_questions.prompts("single_object", 1)
    several = Scene("several", "plain", "red", scene.shape, count=3)
    assert shape_questions.right(one, several)
    (two, scene), *_ = shape_questions.prompts("counting", 1)
    for count in (1, 2, 3, 4, 5, 6):
        assert shape_questions.right(two, scene._replace(colour="red", count=count)) is (count == scene.count)


@pytest.fixture
def made(monkeypatch):
    """A model that is right in 3 of 4 pictures, and a judge that errs in 1 of 5 right and 1 of 10 wrong ones."""
    table = {}
    order = {}  # of right and of wrong pictures that the judge has seen, so that its errors are spread evenly
    draw = drawing.draw

    def drawn(scene, lot):
        picture = draw(scene, lot)
        table[picture.tobytes()] = judge.facing(scene)
        return picture

    def make(prompts, seeds, guidance, negative):
        images = []
        for index, (text, seed) in enumerate(zip(prompts, seeds)):
            lot = Lot(int(seed), 9, 0)
            scene = scenes.parsed(text)
            tag = TAGS[(int(seed) - shape_questions.FIRST_SEED) // len(prompts)]
            shown = scene if index % 4 else shape_questions.changed(tag, scene, lot)
            images.append(drawn(shape_questions.completed(shown, lot), lot))
        return np.stack(images)

    monkeypatch.setattr(drawing, "draw", drawn)
    monkeypatch.setattr(judge, "read_scenes", lambda reader, images: [table[image.tobytes()] for image in images])
    honest = shape_questions.right

    def right(prompt, scene):
        truth = honest(prompt, scene)
        order[prompt.tag, truth] = count = order.get((prompt.tag, truth), -1) + 1
        return truth != (count % (5 if truth else 10) == 0)

    monkeypatch.setattr(shape_questions, "right", right)
    return Subject(make, NOBODY)


def test_the_interval_of_the_mean_of_tasks_has_the_sum_of_their_squared_errors(monkeypatch):
    """Of six independent shares, and of an interval's two sides apart."""
    shares = np.array([3, 6, 9, 12, 15, 18]) / 20
    perfect = {"right": {"share": 1.0, "count": 10**6}, "wrong": {"share": 0.0, "count": 10**6}}
    for name, instead in {
        "prompts": lambda tag, number: [(types.SimpleNamespace(text=tag, tag=tag), None)] * number,
        "error_rates": lambda subject, tag, number: perfect,
        "right": lambda prompt, row: row < 20 * shares[TAGS.index(prompt.tag)],
    }.items():
        monkeypatch.setattr(shape_questions, name, instead)
    monkeypatch.setattr(judge, "read_scenes", lambda reader, images: range(len(images)))
    made_of_nothing = Subject(lambda prompts, *how: np.zeros(len(prompts)), NOBODY)
    figures = shape_questions.measured(made_of_nothing, 2.0, 20)
    low, high = np.array([figures[tag]["seen"]["interval"] for tag in TAGS]).T
    ends = [0.525 - np.sqrt(np.square(shares - low).sum()) / 6, 0.525 + np.sqrt(np.square(high - shares).sum()) / 6]
    assert figures["overall"]["seen"]["interval"] == pytest.approx(ends)
    assert figures["overall"]["seen"]["share"] == pytest.approx(0.525)


@pytest.mark.extended
def test_the_share_is_corrected_for_the_judges_known_errors(made):
    figures = shape_questions.measured(made, 2.0, 40)
    for tag in TAGS:
        part = figures[tag]
        assert part["known"]["right"]["share"] == 0.8 and part["known"]["wrong"]["share"] == 0.1
        assert part["seen"]["share"] == pytest.approx(0.75 * 0.8 + 0.25 * 0.1)
        assert part["corrected"]["share"] == pytest.approx(0.75)  # (0.625 + 0.9 - 1) / (0.8 + 0.9 - 1)
        low, high = part["corrected"]["interval"]
        assert low < 0.75 < high and high - low > np.ptp(part["seen"]["interval"])
    overall = figures["overall"]
    assert overall["seen"]["share"] == pytest.approx(0.625) and overall["corrected"]["share"] == pytest.approx(0.75)
    widths = [np.ptp(figures[name]["corrected"]["interval"]) for name in ("counting", "overall")]
    assert widths[1] == pytest.approx(widths[0] / np.sqrt(6), rel=0.05)
    rows = shapes_report.geneval_rows(figures)
    assert rows[2][0] == "GenEval: counting" and rows[2][1].startswith("62.5%")
    assert rows[2][2].startswith("corrected 75.0% (") and "80.0% of right pictures and 10.0% of wrong" in rows[2][2]
    assert len(rows) == 7 and shapes_report.geneval_rows({}) == []
