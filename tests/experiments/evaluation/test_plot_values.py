"""The numbers of the plots, read from the figure before it is written: lines, limits, places, colours."""

import json

import numpy as np
import pytest

from diffusion.experiments.evaluation import plots
from tests.experiments.evaluation import charts


@pytest.fixture
def drawn(monkeypatch):
    return charts.kept(monkeypatch)


@pytest.fixture
def mosaics(monkeypatch):
    """The arguments of each mosaic, in place of a picture."""
    seen = []
    monkeypatch.setattr(plots, "mosaic", lambda *arguments: seen.append(arguments))
    return seen


def log(folder, rows, name="metrics.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder / name


def linear(number):
    """Rows whose loss falls from 3 to 2, with four bins of t: row i has i, i + 1, i + 2 and every second time none."""
    return [
        {"step": 10 * i, "loss": 3 - i / (number - 1), "loss_by_t": [i, i + 1, i + 2, None if i % 2 else i]}
        for i in range(number)
    ]


def test_a_run_has_its_losses_by_step_and_the_first_and_last_tenth_by_t(drawn, tmp_path):
    rows = linear(20)
    plots.curves(log(tmp_path, rows[::-1]), "unused.png")
    left, right = drawn[0].axes
    by_step, by_t = charts.lines(left), charts.lines(right)
    assert by_step.keys() == {"logged", "smoothed"}
    logged = by_step["logged"].get_xydata()
    np.testing.assert_allclose(logged, [[10 * i, 3 - i / 19] for i in range(20)])
    np.testing.assert_allclose(by_step["smoothed"].get_ydata()[1:-1], logged[1:-1, 1])  # a mean over three of a line
    assert by_t.keys() == {"first tenth of training", "last tenth of training"}
    first, last = by_t["first tenth of training"], by_t["last tenth of training"]
    np.testing.assert_allclose(first.get_xydata(), [[0.125, 0.5], [0.375, 1.5], [0.625, 2.5], [0.875, 0]])
    np.testing.assert_allclose(last.get_xydata(), [[0.125, 18.5], [0.375, 19.5], [0.625, 20.5], [0.875, 18]])
    assert (first.get_color(), last.get_color()) == (plots.ORANGE, plots.BLUE)
    assert right.get_ylim()[0] == 0 < right.get_ylim()[1] and right.get_xlim() == (0, 1)


@pytest.mark.parametrize("number, share", [(10, "tenth of training"), (9, "1 of 9 logged")])
def test_ten_rows_have_a_tenth(drawn, tmp_path, number, share):
    plots.curves(log(tmp_path, linear(number)), "unused.png")
    assert charts.lines(drawn[0].axes[1]).keys() == {f"first {share}", f"last {share}"}


def test_smoothing_takes_a_twentieth_to_both_sides():
    """Of 80 values a window of 5: a single one spreads over five places."""
    impulse = np.zeros(80)
    impulse[40] = 1
    expected = np.zeros(80)
    expected[38:43] = 0.2
    np.testing.assert_allclose(plots._smooth(impulse), expected)


def test_held_out_losses_are_lines_of_their_own(drawn, tmp_path):
    held = lambda loss, *by_t: {"held_out_loss": {"average": {"loss": loss, "by_t": by_t}}}
    rows = linear(3)
    rows[0] |= held(8.0, 1.0, 2.0)
    rows[1] |= held(None, 3.0, 4.0)
    rows[2] |= held(2.5, None, 6.0)
    plots.curves(log(tmp_path, rows), "unused.png")
    left, right = drawn[0].axes
    average, by_t = charts.lines(left)["held out, average"], charts.lines(right)["held out, average, step 20"]
    np.testing.assert_array_equal(average.get_xydata(), [[0, 8], [10, np.nan], [20, 2.5]])
    np.testing.assert_array_equal(by_t.get_xydata(), [[0.25, np.nan], [0.75, 6]])
    assert average.get_color() == by_t.get_color() == plots.HELD
    assert left.get_ylim()[1] > 8  # the axis shows them too


def test_several_runs_have_a_colour_a_name_and_the_last_tenth_by_t(drawn, tmp_path):
    files = [log(tmp_path, linear(number), f"{number}.jsonl") for number in (20, 21, 3)]
    plots.curves({"a": files[:2], "b": files[2:]}, "unused.png")
    left, right = drawn[0].axes
    assert [line.get_color() for line in left.lines] == [plots.BLUE, plots.BLUE, plots.ORANGE]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]
    assert left.get_legend() is None and right.get_legend() is None
    assert [len(line.get_xdata()) for line in left.lines] == [20, 21, 3]
    np.testing.assert_allclose([line.get_ydata()[0] for line in right.lines], [18.5, 19.5, 2])
    assert [line.get_color() for line in right.lines] == [plots.BLUE, plots.BLUE, plots.ORANGE]


def axis(drawn, tmp_path, losses):
    plots.curves(log(tmp_path, [{"step": i, "loss": loss} for i, loss in enumerate(losses)]), "unused.png")
    return drawn[-1].axes[0]


def test_the_axis_of_losses_leaves_out_the_highest_hundredth(drawn, tmp_path):
    """Of 1, 1.01 .. 2 the quantile is 1.99: 5 % of 0.99 below, and 15 % above."""
    left = axis(drawn, tmp_path, np.linspace(1, 2, 101).tolist())
    assert left.get_yscale() == "linear"
    np.testing.assert_allclose(left.get_ylim(), [1 - 0.05 * 0.99, 1.99 + 0.15 * 0.99])


@pytest.mark.parametrize(
    "losses, scale",
    [([20.0, 1.0], "linear"), ([20.1, 1.0], "log"), ([20.1, 1.0, 0.0], "linear"), ([20.1, 1.0, -1.0], "linear")],
)
def test_the_axis_is_logarithmic_for_positive_losses_of_very_different_sizes(drawn, tmp_path, losses, scale):
    assert axis(drawn, tmp_path, losses).get_yscale() == scale


def test_each_class_has_its_own_colour(drawn):
    labels = np.array([1, 9, 0])
    plots.scatter(np.eye(3)[:, :2], labels, "unused.png")
    colours = {part.get_label(): tuple(part.get_facecolor()[0][:3]) for part in drawn[0].axes[0].collections}
    rgb = lambda colour: tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert colours == {"0": rgb(plots.BLUE), "1": rgb(plots.ORANGE), "9": rgb(plots.ORANGE)}  # of eight


def test_two_classes_need_a_legend(drawn):
    plots.scatter(np.eye(2), np.arange(2), "unused.png")
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == ["0", "1"]


def test_vectors_are_drawn_along_the_longest_axes_of_the_real_ones_about_their_mean(drawn):
    """Real points at +-3, +-2 and +-0.1 along known axes about a far middle; the signs of the axes are free."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    middle = np.array([50.0, -20.0, 30.0])
    scales = np.diag([3.0, 2.0, 0.1])
    real = np.concatenate([scales, -scales]) @ axes + middle
    samples = np.array([[1.0, 30.0, 7.0]]) @ axes + middle
    plots.beside(real, samples, (np.zeros(6, int), np.zeros(1, int)), "unused.png")
    left, right = drawn[0].axes
    shown = [np.asarray(panel.collections[0].get_offsets()) for panel in (left, right)]
    expected = np.array([[3, 0], [0, 2], [0, 0], [3, 0], [0, 2], [0, 0]])
    np.testing.assert_allclose(np.abs(shown[0]), expected, atol=1e-9)
    np.testing.assert_allclose(np.abs(shown[1]), [[1, 30]], atol=1e-9)
    assert np.ptp(shown[0][[0, 3], 0]) == pytest.approx(6)  # to both sides


def test_the_panels_show_all_but_a_thousandth_of_the_real_points_and_a_fifth_more(drawn):
    real = np.stack([np.linspace(10, 11, 1001), np.linspace(-4, -2, 1001)], 1)
    plots.beside(real, 100 * real, (np.zeros(1001, int), np.zeros(1001, int)), "unused.png")
    np.testing.assert_allclose(drawn[0].axes[1].get_xlim(), [10.001 - 0.2 * 0.998, 10.999 + 0.2 * 0.998], rtol=1e-6)
    np.testing.assert_allclose(drawn[0].axes[1].get_ylim(), [-3.998 - 0.2 * 1.996, -2.002 + 0.2 * 1.996], rtol=1e-6)


def test_a_grid_has_ten_rows_of_one_class_or_twenty_classes(mosaics):
    grid = lambda labels, columns: plots.sample_grid(np.zeros((len(labels), 2, 2, 1)), labels, "unused.png", columns)
    grid(np.zeros(45, int), 4)
    grid(np.arange(25), 4)
    grid(np.full(4, 7), 4)  # one row holds them: it has the name of its class
    lengths = [[len(row) for row in blocks[0]] for blocks, *_ in mosaics]
    assert lengths == [[4] * 10, [1] * 20, [4]]
    assert [names for _, names, *_ in mosaics] == [[""] * 10, [str(i) for i in range(20)], ["7"]]


def test_a_grid_of_one_class_says_its_name_once(mosaics):
    images = np.zeros((9, 2, 2, 1))
    plots.sample_grid(images, np.ones(9, int), "unused.png", 4, ("cat", "dog"), originals=images)
    assert mosaics[0][1] == ["dog", "", ""]


def test_a_trajectory_has_eight_times_and_ends_in_the_sample(mosaics):
    """Of 13 times the first, the last and six between; noise wider than data is divided by 1.25 deviations."""
    rng = np.random.default_rng(0)
    scales = np.r_[[40.0] * 6, [0.1] * 7]
    x = rng.uniform(-1, 1, (13, 2, 2, 2, 1)) * scales[:, None, None, None, None]
    x0 = rng.uniform(-1, 1, (12, 2, 2, 2, 1))
    ts = np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.006, 0.004, 0])
    plots.trajectory(x, x0, ts, np.array([3, 4]), "unused.png", rows=1)
    ((noisy, predicted), names, columns, _, titles) = mosaics[0]
    at = [0, 2, 4, 6, 7, 9, 11, 12]
    assert columns == (["t = 1.00", "0.80", "0.60", "0.40", "0.30", "0.10", "4e-03", "0.00"],) * 2 and names == ["3"]
    to_bytes = lambda image: np.floor(np.clip(image * 127.5 + 128, 0, 255)).astype(np.uint8).repeat(3, -1)
    for column, i in enumerate(at):
        scale = 1.25 * x[i].std() if i < 6 else 1
        np.testing.assert_array_equal(noisy[0][column], to_bytes(x[i, 0] / scale))
        np.testing.assert_array_equal(predicted[0][column], to_bytes((x0[i] if i < 12 else x[12])[0]))
    assert titles[0].startswith("sample") and titles[1].startswith("prediction")


def picture_of(path):
    with plots.Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_blocks_stand_beside_each_other_under_texts_of_two_lines(tmp_path):
    """Tiles of 8 x 20 pixels three times as large, to reach 48; the second block 20 behind the longest row."""
    tile = lambda value: np.full((8, 20, 3), (value, 200, 0), np.uint8)
    blocks = [[[tile(10)], [tile(20), tile(30)]], [[tile(40)], [tile(50)]]]
    plots.mosaic(blocks, ["", ""], [["a\nb", ""], []], tmp_path / "blocks.png")
    picture = picture_of(tmp_path / "blocks.png")
    top, second = 28 + 16, 12 + 2 * 66 + 20
    corners = {10: (top, 12), 20: (top + 30, 12), 30: (top + 30, 78), 40: (top, second), 50: (top + 30, second)}
    for value, (y, x) in corners.items():
        spots = np.argwhere((picture == (value, 200, 0)).all(-1))
        assert spots.min(0).tolist() == [y, x] and len(spots) == 24 * 60
        assert (picture[y - 1, x - 1 : x + 61] == 225).all() and (picture[y - 1 : y + 25, x + 60] == 225).all()
    assert picture.shape == (top + 2 * 30 - 6 + 12, second + 2 * 66 - 6 + 12, 3)
    ink = np.argwhere(picture[:top, :, 0] < 128)
    assert 8 < ink[:, 0].min() and ink[:, 0].max() < top - 1 and abs(ink[:, 1].mean() - 42) < 3


def test_names_of_rows_take_eight_pixels_a_letter(tmp_path):
    plots.mosaic([np.full((1, 1, 48, 48, 3), (255, 0, 0), np.uint8)], ["kitten"], [[]], tmp_path / "named.png")
    red = np.argwhere((picture_of(tmp_path / "named.png") == (255, 0, 0)).all(-1))
    assert red.min(0).tolist() == [12, 12 + 14 + 6 * 8]


def test_captions_stand_below_the_first_48_pictures_orange_where_they_are_wrong(drawn):
    images = np.zeros((50, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(50)
    plots.captioned(images, [f"picture {i}" for i in range(50)], [i % 2 == 0 for i in range(50)], "unused.png")
    plots.captioned(images[:9], ["a"] * 9, [True] * 9, "unused.png")
    assert len(drawn[0].axes) == 48 and len(drawn[1].axes) == 16
    assert drawn[1].get_size_inches().tolist() == pytest.approx([1.3 * 8, 1.72 * 2])
    for i, axes in enumerate(drawn[0].axes):
        assert axes.get_title() == f"picture {i}" and axes.images[0].get_array()[0, 0, 0] == i
        assert axes.title.get_color() == (plots.ORANGE if i % 2 else plots.INK)
    assert [bool(axes.images) for axes in drawn[1].axes] == [True] * 9 + [False] * 7


def test_grey_pictures_with_captions_keep_their_values(drawn):
    images = np.array([0, 100, 255], np.uint8).reshape(3, 1, 1, 1).repeat(2, 1)
    plots.captioned(images, ["a", "b", "c"], [True] * 3, "unused.png")
    shown = [axes.images[0].to_rgba(axes.images[0].get_array())[0, 0] for axes in drawn[0].axes[:3]]
    np.testing.assert_array_equal(np.round(255 * np.array(shown)[:, :3]), [[0] * 3, [100] * 3, [255] * 3])


@pytest.mark.parametrize("text", ["costs $5 or $6", "$\\nope$", "_left"])
def test_texts_are_shown_as_they_are_written(drawn, tmp_path, text):
    """Two dollars would set the text between them as mathematics, and a name with "_" first would leave the legend."""
    plots.captioned(np.zeros((1, 2, 2, 3), np.uint8), [text], [True], "unused.png")
    plots.scatter(np.eye(2), np.arange(2), "unused.png", ("cat", text))
    file = log(tmp_path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    plots.curves({"first": [file], text: [file, file]}, "unused.png")
    captioned, points, _ = (figure.axes[0] for figure in drawn)
    shown = [captioned.title, *points.get_legend().get_texts(), *drawn[2].legends[0].get_texts()]
    assert [label.get_text() for label in shown] == [text, "cat", text, "first", text]
    assert not any(label.get_parse_math() for label in shown)


def test_losses_below_zero_are_shown_by_t(drawn, tmp_path):
    """A negative log-likelihood of densities, for example, which has no lower bound."""
    plots.curves(log(tmp_path, [{"step": 1, "loss": -2.0, "loss_by_t": [-3.0] * 5 + [-1.0] * 5}]), "unused.png")
    low, high = drawn[0].axes[1].get_ylim()
    assert low < -3.0 and -1.0 < high


def test_samples_that_are_not_a_number_count_as_outside(drawn):
    real = np.stack([np.linspace(0, 1, 100), np.linspace(0, 1, 100)[::-1]], 1)
    samples = real.copy()
    samples[:7] = np.nan
    plots.beside(real, samples, (np.zeros(100, int),) * 2, "unused.png")
    assert drawn[0].axes[1].get_title() == "samples, 7 of 100 outside"


def test_a_single_real_vector_is_drawn_at_its_own_middle(drawn):
    plots.beside(np.ones((1, 3)), np.ones((4, 3)), (np.zeros(1, int), np.zeros(4, int)), "unused.png")
    np.testing.assert_allclose(np.asarray(drawn[0].axes[0].collections[0].get_offsets()), [[0, 0]], atol=1e-12)


def test_a_grid_without_classes_has_no_names_however_many_pictures(mosaics):
    images = np.zeros((12, 2, 2, 1))
    plots.sample_grid(images[:5], np.zeros(5, int), "unused.png")
    plots.sample_grid(images, np.zeros(12, int), "unused.png")
    plots.sample_grid(images, np.full(12, 3), "unused.png")
    plots.sample_grid(images[:2], np.zeros(2, int), "unused.png", classes=("cat",))
    x = np.zeros((2, 2, 2, 2, 1))
    plots.trajectory(x, x[1:], np.array([1.0, 0.0]), np.zeros(2, int), "unused.png")
    assert [names for _, names, *_ in mosaics] == [[""], ["", ""], ["3", ""], ["cat"], ["", ""]]


def test_the_longest_names_of_rows_are_not_cut_off(tmp_path):
    for name in ("WW", "WWWWWWWWWWWW"):
        plots.mosaic([np.full((1, 1, 48, 48, 3), (255, 0, 0), np.uint8)], [name], [[]], tmp_path / "wide.png")
        picture = picture_of(tmp_path / "wide.png")
        tile = np.argwhere((picture == (255, 0, 0)).all(-1))[0][1]
        ink = np.argwhere((picture[:, : tile - 1] < 128).all(-1))[:, 1]
        assert 2 < ink.min() and ink.max() < tile - 3
