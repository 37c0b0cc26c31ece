"""The rows of techniques: their measures on real drawings, and the page, which keeps rows that are not made again."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data.shapes import drawing
from diffusion.data.shapes.scenes import COLOURS, SHAPES, WITHHELD, Lot, Scene, parsed
from diffusion.metrics import bootstrap
from diffusion.recipe import ConfigError
from examples.techniques import report, row, steered, taught

STAR = Scene("one", "plain", "purple", "star", "large", "top right")
ABOUT = {"model": "none", "checkpoint": ""}


def drawn(number: int = 4) -> np.ndarray:
    return np.stack([drawing.draw(STAR, Lot(3, 0, i)) for i in range(number)])


@pytest.mark.extended
def test_measures_of_real_drawings():
    """A purple star at the top right is that and nothing else; a heart and a red star are not there."""
    lines, count = {"line": drawn()}, 4
    share = lambda measured: measured["line"]["share"]
    assert share(row.shares(lines, [STAR] * count, "shape", "colour", "size", "position")) == 1
    assert share(row.shares(lines, [STAR._replace(shape="heart")] * count, "shape")) == 0
    assert share(row.shares(lines, [STAR._replace(colour="red")] * count, "shape", "colour")) == 0
    assert share(row.inside(lines, [STAR] * count, [(0.5, 0, 1, 0.5)] * 2 + [(0, 0, 0.5, 0.5)] * 2)) == 0.5
    assert (
        share(row.inside({"line": np.full((1, 64, 64, 3), 250, np.uint8)}, [STAR], [(0, 0, 1, 1)])) == 0
    )  # nothing is there
    assert share(row.share_of_colour(lines, [STAR] * count, "purple")) == 1
    assert share(row.share_of_colour(lines, [STAR] * count, "pink")) == 0


def test_papers_that_are_close():
    papers = np.array([[250, 247, 240], [250, 247, 243], [240, 244, 250], [249, 247, 240]], np.uint8)
    made = np.broadcast_to(papers[:, None, None], (4, 64, 64, 3))
    assert row.close({"line": made}, np.array([250.0, 247, 240]))["line"]["share"] == 0.5


def test_rows_of_parts_come_in_turn():
    assert steered._mixed(6, 2).tolist() == [0, 3, 1, 4, 2, 5]


def test_the_prompts_of_boxes_and_words_are_captions():
    assert all(parsed(prompt).kind == "one" for prompt in steered.BOXES)
    assert all(parsed(prompt).kind == "pair" for prompt in steered.BOTH)


def test_the_plans_of_two_controls_have_two_colours_and_shapes_at_two_places():
    for first, second in (taught._plan(Lot(1, 0, i)) for i in range(8)):
        assert first.colour != second.colour and first.shape != second.shape
        assert (first.x, first.y) == taught.FIRST and (second.x, second.y) == taught.SECOND


def test_single_shapes_are_of_trained_combinations():
    asked = [taught._one(number) for number in range(64)]
    assert not {(scene.colour, scene.shape) for scene in asked} & WITHHELD
    assert {scene.colour for scene in asked[:8]} == set(COLOURS) and {scene.shape for scene in asked[:8]} == set(SHAPES)


def made_row(title: str) -> row.Row:
    figures = {"stars": {"without": bootstrap.share([False] * 4), "with": bootstrap.share([True] * 4)}}
    lines = {"without": drawn(), "with": drawn()}
    return row.Row(title, "../../tuning.md", ("diffusion sample",), "Look here.", ["a star"] * 4, lines, figures)


def test_a_row_made_again_leaves_the_others(tmp_path):
    report.run({"words": lambda number: made_row("Words")}, tmp_path, 8, ABOUT)
    report.run({"regions": lambda number: made_row("Regions")}, tmp_path, 8, ABOUT)
    content = report.run({"words": lambda number: made_row("Other words")}, tmp_path, 8, ABOUT)
    assert list(content["rows"]) == ["regions", "words"]
    page = (tmp_path / "report.md").read_text()
    assert page.index("[Regions]") < page.index("[Other words]") and "[Words]" not in page
    assert "stars: without **0%** (0 to 49), with **100%** (51 to 100)" in page  # Wilson's interval of 0 of 4
    for name in ("regions", "words"):
        assert f"({name}.png)" in page
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 4 * 64 and picture.height > 2 * 64


def test_rows_that_cannot_be_made_are_refused(tmp_path):
    runs = {"slider": tmp_path}
    assert list(report.makers(None, runs)) == [*steered.ROWS, "slider"]
    assert list(report.makers(None, {}, ["uce"])) == ["uce"]
    with pytest.raises(ConfigError, match=r"--only=erase needs a run\. Valid: --runs=erase=FOLDER"):
        report.makers(None, runs, ["erase"])
    with pytest.raises(ConfigError, match=r"'wrods'.*Did you mean 'words'"):
        report.makers(None, {}, ["wrods"])
    with pytest.raises(ConfigError, match=r"'sliders'.*Did you mean 'slider'"):
        report.makers(None, {"sliders": tmp_path})
