"""The pictures: that they hold the images they should, pixel by pixel, and refuse what they cannot show."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from diffusion.experiments import few_steps
from diffusion.experiments.evaluation import plots
from tests.experiments.evaluation import charts


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def holds(picture, image, factor):
    """Whether the enlarged image lies somewhere in the picture, unchanged."""
    if image.shape[-1] == 1:
        image = image.repeat(3, -1)
    enlarged = image.repeat(factor, 0).repeat(factor, 1)
    height, width = enlarged.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (height, width), (0, 1))[::1, ::1]
    corner = (windows[:, :, :, 0, 0] == enlarged[0, 0]).all(-1)
    spots = np.argwhere(corner & (windows[:, :, :, -1, -1] == enlarged[-1, -1]).all(-1))
    return any((picture[y : y + height, x : x + width] == enlarged).all() for y, x in spots)


def test_grid_shows_one_row_a_class_in_crisp_pixels(rng, tmp_path):
    images = rng.integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    labels = np.array([2, 0, 2, 0, 2, 5, 2])
    plots.sample_grid(images, labels, tmp_path / "grid.png", columns=3)
    picture = read(tmp_path / "grid.png")
    for i in range(6):
        assert holds(picture, images[i], 6), i
    assert not holds(picture, images[6], 6)  # the fourth of class 2
    height, width = picture.shape[:2]
    assert 3 * 48 < height < 220 and 3 * 48 < width < 260
    assert (picture[[0, -1]] == 255).all()  # white paper
    assert list(tmp_path.iterdir()) == [tmp_path / "grid.png"]  # nothing unfinished is left


@pytest.mark.parametrize("border", [0, 40, 63, 64, 255])
def test_grey_pictures_have_their_values_whatever_their_border_is(rng, tmp_path, border):
    """Dark photographs and digits on black alike: nothing guesses from the pixels which of them are negatives."""
    images = np.full((2, 8, 8, 1), border, np.uint8)
    images[:, 2:6, 2:6] = rng.integers(0, 256, (2, 4, 4, 1))
    plots.sample_grid(images, np.arange(2), tmp_path / "grid.png")
    assert all(holds(read(tmp_path / "grid.png"), image, 6) for image in images)
    x = np.stack([rng.normal(size=images.shape), images / 127.5 - 1])
    plots.trajectory(x, x[1:], np.array([1.0, 0.0]), np.arange(2), tmp_path / "way.png")
    assert all(holds(read(tmp_path / "way.png"), image, 6) for image in images)


def test_originals_stand_left_of_what_was_made_of_them(tmp_path):
    red, blue = (np.zeros((4, 8, 8, 3), np.uint8) + np.uint8(colour) for colour in ([255, 0, 0], [0, 0, 255]))
    plots.sample_grid(blue, np.array([0, 1, 0, 1]), tmp_path / "grid.png", originals=red)
    drawn = read(tmp_path / "grid.png")
    (_, before), (_, after) = (np.nonzero((drawn == picture[0, 0, 0]).all(-1)) for picture in (red, blue))
    assert len(before) == len(after) > 0 and before.max() < after.min()


def test_grid_of_one_class_fills_rows(rng, tmp_path):
    images = rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    plots.sample_grid(images, np.zeros(12, int), tmp_path / "grid.png", columns=5)
    picture = read(tmp_path / "grid.png")
    assert all(holds(picture, image, 6) for image in images)


def test_trajectory_ends_in_the_sample(rng, tmp_path):
    steps, count = 12, 3
    x = rng.normal(size=(steps + 1, count, 8, 8, 1))
    x[-1] = rng.integers(0, 256, (count, 8, 8, 1)) / 127.5 - 1
    x0 = np.tanh(rng.normal(size=(steps, count, 8, 8, 1)))
    plots.trajectory(x, x0, np.linspace(1, 0, steps + 1), np.arange(count), tmp_path / "way.png")
    picture = read(tmp_path / "way.png")
    to_bytes = lambda image: np.floor(np.clip(image * 127.5 + 128, 0, 255)).astype(np.uint8)
    for b in range(count):
        assert holds(picture, to_bytes(x[-1, b]), 6)
        assert holds(picture, to_bytes(x0[0, b]), 6)
        assert not holds(picture, to_bytes(x[0, b]), 6)  # noise beyond [-1, 1] is scaled to be seen


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_trajectory_of_few_steps_and_large_noise(rng, tmp_path, steps):
    x = rng.normal(size=(steps + 1, 2, 32, 32, 3)) * 80
    plots.trajectory(x, x[1:] / 80, np.linspace(1, 0, steps + 1) * 1e-3, np.arange(2), tmp_path / "way.png")
    assert read(tmp_path / "way.png").shape[1] > 2 * (steps + 1) * 64


def test_curves_survive_gaps_and_a_torn_line(tmp_path):
    rows = [{"step": 10 * i, "loss": 1 / (i + 1), "loss_by_t": [0.5, None, *[0.1] * 8]} for i in range(30)]
    rows.insert(5, {"step": 50, "evaluate": {"fd_pixels": 1.0}})
    text = "\n".join(map(json.dumps, rows)) + '\n{"step": 300, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    picture = read(tmp_path / "curves.png")
    assert picture.shape[1] >= 800
    blue = (np.abs(picture.astype(int) - [0x1F, 0x5F, 0xA8]).max(-1) < 30).sum(0)
    left, right = np.split(blue, 2)
    assert left.sum() > 100 and right.sum() > 100  # a line in either panel


@pytest.mark.parametrize("seeds", [1, 8])
def test_the_names_of_settings_lie_in_the_picture_and_beside_the_axes(tmp_path, monkeypatch, seeds):
    rows = [{"step": 10 * i, "loss": 1 / (i + 1), "loss_by_t": [0.5] * 10} for i in range(30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = [", ".join(f"learning_rate={rate},seed={seed}" for seed in range(seeds)) for rate in (0.0003, 0.003)]
    figures = charts.kept(monkeypatch)
    plots.curves({name: [tmp_path / "metrics.jsonl"] for name in names}, tmp_path / "curves.png")
    FigureCanvasAgg(figures[0]).draw()
    renderer = figures[0].canvas.get_renderer()
    (legend,) = [*figures[0].legends, *(axes.get_legend() for axes in figures[0].axes if axes.get_legend())]
    box = legend.get_window_extent(renderer)
    assert figures[0].bbox.x0 <= box.x0 < box.x1 <= figures[0].bbox.x1 and box.y0 >= figures[0].bbox.y0
    for axes in figures[0].axes:
        assert not box.overlaps(axes.get_tightbbox(renderer)) and axes.bbox.height > 150
    assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == names


def test_curves_of_one_row_without_times(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert read(tmp_path / "curves.png").size


def test_smoothing_is_a_mean_over_neighbours():
    values = np.array([1.0, np.nan, 4.0, 7.0])
    np.testing.assert_allclose(plots._smooth(values), [1, 2.5, 5.5, 5.5])
    np.testing.assert_allclose(plots._smooth(np.full(200, 3.0)), 3.0)


def test_bad_input(tmp_path):
    images = np.zeros((3, 8, 8, 1), np.uint8)
    labels = np.zeros(3, int)
    with pytest.raises(ValueError, match=r"\[8, 8, 1\]"):
        plots.sample_grid(images[0], labels, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"labels \[N\], got .* \[2\]"):
        plots.sample_grid(images, labels[:2], tmp_path / "a.png")
    with pytest.raises(ValueError, match="got"):
        plots.sample_grid(images[:0], labels[:0], tmp_path / "a.png")
    with pytest.raises(ValueError, match="4 channels"):
        plots.sample_grid(np.zeros((3, 8, 8, 4), np.uint8), labels, tmp_path / "a.png")
    x = np.zeros((5, 3, 8, 8, 1))
    with pytest.raises(ValueError, match="x0"):
        plots.trajectory(x, x, np.linspace(1, 0, 5), labels, tmp_path / "a.png")
    with pytest.raises(ValueError, match="ts"):
        plots.trajectory(x, x[1:], np.linspace(1, 0, 4), labels, tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="diffusion train"):
        plots.curves(tmp_path / "none.jsonl", tmp_path / "a.png")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no row"):
        plots.curves(tmp_path / "empty.jsonl", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_mosaic_needs_no_texts_above_its_columns(tmp_path):
    plots.mosaic([np.full((1, 2, 8, 8, 3), 90, np.uint8)], ["row"], [[]], tmp_path / "bare.png")
    with Image.open(tmp_path / "bare.png") as bare:
        assert (np.asarray(bare.convert("RGB")) == 90).all(-1).sum() >= 2 * 64


def test_the_texts_of_a_mosaic_stand_where_its_tiles_are(tmp_path):
    """Tiles of 48 pixels, 6 apart, 46 below titles and 12 + 26 from the left behind short names."""
    tiles = np.full((2, 3, 8, 8, 3), 255, np.uint8)
    plots.mosaic([tiles], ["H", "H"], [["H", "H", "H"]], tmp_path / "texts.png", ["H"])
    picture = read(tmp_path / "texts.png")
    assert picture.shape == (46 + 2 * 54 - 6 + 12, 12 + 26 + 3 * 54 - 6 + 12, 3)
    ink = picture.max(-1) < 128
    middles = {(12 + 13 - 4, 46 + 24), (12 + 13 - 4, 46 + 54 + 24), *((38 + 54 * c + 24, 36) for c in range(3))}
    for x, y in middles:
        letter = np.argwhere(ink[y - 9 : y + 9, x - 9 : x + 9])
        assert letter.size and np.abs(letter.mean(0) - 8.5).max() <= 1.5, (x, y)
        ink[y - 9 : y + 9, x - 9 : x + 9] = False
    title = np.argwhere(ink)
    assert title[:, 1].min() in range(38, 42)  # it begins above the first tile
    assert abs(title[:, 0].mean() - 16) <= 1.5


def test_points_have_the_names_of_their_classes(monkeypatch, tmp_path):
    """Of three named classes two are drawn; a class beyond the names has its number; one class alone needs no name."""
    figures = charts.kept(monkeypatch)
    points, labels = np.arange(8.0).reshape(4, 2), np.array([2, 0, 2, 3])
    plots.scatter(points, labels, tmp_path / "points.png", ("cat", "dog", "owl"))
    plots.beside(points, points, (labels, labels[:2].repeat(2)), tmp_path / "beside.png", ("cat", "dog", "owl"))
    plots.scatter(points, np.zeros(4, int), tmp_path / "points.png")
    legends = [axes.get_legend() for figure in figures for axes in figure.axes]
    named = [[text.get_text() for text in legend.get_texts()] for legend in legends if legend]
    assert named == [["cat", "owl", "3"], ["cat", "owl", "3"], ["cat", "owl"]] and legends[-1] is None
    first = figures[0].axes[0].collections[1]
    assert first.get_label() == "owl" and first.get_offsets().tolist() == points[[0, 2]].tolist()


def test_the_rows_of_a_trajectory_have_the_names_of_their_classes(monkeypatch, tmp_path):
    rows = []
    monkeypatch.setattr(plots, "mosaic", lambda blocks, names, *rest: rows.append(names))
    x = np.zeros((3, 3, 8, 8, 1))
    for classes in (("cat", "dog"), ()):
        plots.trajectory(x, x[1:], np.array([1.0, 0.5, 0.0]), np.array([1, 0, 2]), tmp_path / "way.png", 3, classes)
    assert rows == [["dog", "cat", "2"], ["1", "0", "2"]]


@pytest.mark.extended
@pytest.mark.parametrize("models", [1, 4, 8])
def test_the_label_of_the_distances_of_students_lies_within_the_page(models, monkeypatch, tmp_path):
    rows = [{"name": f"model {i}", "nfe": 1, "fd_pixels": 1.0 + i / 10, "spread": {}} for i in range(models)]
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    few_steps.draw(rows, ["pixels"], rows[0], tmp_path / "plot.png")
    figures[0].canvas.draw()
    (label,) = figures[0].findobj(lambda item: isinstance(item, Text) and item.get_text().startswith("Frechet"))
    box, page = label.get_window_extent(), figures[0].bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    numbers = [tick.get_text() for tick in figures[0].axes[0].get_yticklabels()]
    assert models == 1 or len(numbers) > 2


def test_the_names_of_students_are_as_they_are_written(monkeypatch, tmp_path):
    """Text between two dollars would be set as mathematics, or end in an error."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    few_steps.draw([{"name": "$\\b$", "nfe": 1, "fd_pixels": 1.0, "spread": {}}], ["pixels"], None, tmp_path / "a.png")
    title = figures[0].axes[0].title
    assert title.get_text() == "$\\b$" and not title.get_parse_math()


def test_the_line_of_a_student_goes_by_its_numbers_of_evaluations(monkeypatch, tmp_path):
    """--steps=4,1,2 measures in this order; a line in it would go back and forth."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rows = [{"name": "a", "nfe": nfe, "fd_pixels": 1.0 / nfe, "spread": {}} for nfe in (4, 1, 2)]
    few_steps.draw(rows, ["pixels"], None, tmp_path / "a.png")
    line = figures[0].axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [1, 2, 4] and line.get_ydata().tolist() == [1.0, 0.5, 0.25]


def test_titles_above_points_lie_within_the_page_and_count_those_outside(monkeypatch, tmp_path):
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    samples = np.concatenate([circle, [[9.0, 0.0], [0.0, -9.0]]])
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.beside(circle, samples, (np.zeros(100, int), np.zeros(102, int)), tmp_path / "beside.png")
    figures[0].canvas.draw()
    for panel, said in zip(figures[0].axes, ("real examples", "samples, 2 of 102 outside")):
        box, page = panel.title.get_window_extent(), figures[0].bbox
        assert panel.get_title() == said and page.y0 <= box.y0 and box.y1 <= page.y1
