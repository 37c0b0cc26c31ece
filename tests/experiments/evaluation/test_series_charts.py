"""Pictures of series: which numbers each line, band and dot has."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy import special

from diffusion.data import gaussian_processes
from diffusion.experiments.evaluation import plots, series_charts
from diffusion.experiments.evaluation.series_charts import Part
from tests.experiments.evaluation import charts


@pytest.fixture
def drawn(monkeypatch):
    return charts.kept(monkeypatch, series_charts)


def part(number=1, length=6, channels=1, truth=True):
    """The first half is given, the rest hidden, except the last step, which is neither."""
    rng = np.random.default_rng(0)
    given = rng.normal(size=(number, length, channels))
    mask = np.zeros(given.shape, bool)
    mask[:, : length // 2] = True
    real = ~mask
    real[:, -1] = False
    hidden = rng.normal(size=given.shape)
    hidden[:, length // 2] = np.nan
    return Part(np.where(mask, given, 0), mask, real, hidden if truth else None)


def panels(figure):
    return [axes for axes in figure.axes if axes.axison]


def collections(axes):
    return {each.get_label(): each for each in axes.collections}


def offsets(axes, name):
    return np.asarray(collections(axes)[name].get_offsets())


def test_few_samples_are_lines_and_the_rest_is_empty(drawn):
    series = part()
    samples = np.random.default_rng(1).normal(size=(1, 3, 6, 1))
    series_charts.fans(samples, series, "unused.png")
    (axes,) = panels(drawn[0])
    lines = axes.get_lines()
    assert len(lines) == 3 and [line.get_label() for line in lines].count("samples") == 1
    for line, sample in zip(lines, samples[0, :, :, 0]):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(6))
        expected = np.where(series.mask[0, :, 0], series.given[0, :, 0], sample)
        np.testing.assert_array_equal(line.get_ydata()[:5], expected[:5])
        assert np.isnan(line.get_ydata()[5])  # neither given nor hidden
        assert line.get_color() == plots.BLUE
    np.testing.assert_array_equal(offsets(axes, "given"), np.stack([np.arange(3), series.given[0, :3, 0]], 1))
    np.testing.assert_array_equal(offsets(axes, "hidden"), np.stack([[4], series.truth[0, 4:5, 0]], 1))  # 3 is unknown


@pytest.mark.parametrize("number, lines", [(19, 19), (20, 1)])
def test_many_samples_are_a_median_and_two_bands(drawn, number, lines):
    series = part(truth=False)
    samples = np.random.default_rng(1).normal(size=(1, number, 6, 1))
    series_charts.fans(samples, series, "unused.png")
    (axes,) = panels(drawn[0])
    assert len(axes.get_lines()) == lines and "hidden" not in collections(axes)
    if lines > 1:
        return
    (median,) = axes.get_lines()
    whole = np.where(series.mask[0], series.given[0], samples[0])[:, :5, 0]
    np.testing.assert_array_equal(median.get_xdata(), np.arange(5))
    np.testing.assert_allclose(median.get_ydata(), np.median(whole, 0))
    for name, ends in (("samples, 90%", (0.05, 0.95)), ("samples, 50%", (0.25, 0.75))):
        (band,) = collections(axes)[name].get_paths()
        corners = {tuple(np.round(corner, 6)) for corner in band.vertices}
        for bound in np.quantile(whole, ends, axis=0):
            assert {tuple(np.round(corner, 6)) for corner in zip(np.arange(5.0), bound)} <= corners
        assert to_hex(collections(axes)[name].get_facecolor()[0]) == plots.BLUE


def test_the_exact_distribution_is_beside_them(drawn):
    """Half widths of a normal distribution: 1.645 deviations hold 90 %, 0.674 hold 50 %."""
    process = gaussian_processes.stationary(6, 2)
    series = part(channels=2)
    series_charts.fans(np.zeros((1, 2, 6, 2)), series, "unused.png", process)
    first, second = panels(drawn[0])
    assert [axes.get_title() for axes in (first, second)] == ["series 0, channel 0", "series 0, channel 1"]
    assert first.title.get_color() == second.title.get_color() == series_charts.INK
    K, given = process.covariance, series.mask[0].ravel()
    weights = K[:, given] @ np.linalg.inv(K[np.ix_(given, given)])
    mean = (weights @ series.given[0].ravel()[given]).reshape(6, 2)
    std = np.sqrt(np.maximum(np.diag(K - weights @ K[given]), 0)).reshape(6, 2)
    for channel, axes in enumerate((first, second)):
        orange = [line.get_ydata() for line in axes.get_lines() if line.get_color() == plots.ORANGE]
        widths = [0.0] + [sign * special.ndtri(0.5 + level / 2) for level in (0.9, 0.5) for sign in (-1, 1)]
        assert len(orange) == 5
        for line, width in zip(orange, widths):
            np.testing.assert_allclose(line, mean[:, channel] + width * std[:, channel], atol=1e-4)
        assert {"exact median", "exact, 90%", "exact, 50%"} <= set(charts.lines(axes))
    styles = [line.get_linestyle() for line in first.get_lines() if line.get_color() == plots.ORANGE]
    assert styles[1] == styles[2] != styles[3] == styles[4]


@pytest.mark.parametrize("number, channels, shown, rows", [(1, 1, 1, 1), (3, 1, 3, 2), (9, 1, 6, 3), (2, 2, 4, 2)])
def test_the_first_series_have_a_panel_a_channel(drawn, number, channels, shown, rows):
    series = part(number, channels=channels)
    series_charts.fans(np.zeros((number, 2, 6, channels)), series, "unused.png")
    axes = panels(drawn[0])
    assert len(axes) == shown and len(drawn[0].axes) == 2 * rows
    titles = [
        f"series {i}" + (f", channel {c}" if channels > 1 else "") for i in range(number) for c in range(channels)
    ]
    assert [each.get_title() for each in axes] == titles[:shown]
    assert drawn[0].get_figheight() == pytest.approx(0.5 + 2.1 * rows)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["samples", "hidden", "given"]
    assert legend._ncols == 3  # one line above the panels


def test_samples_of_one_condition_come_together():
    condition = {"given": np.array([1.0, 2, 1, 1])[:, None, None], "mask": np.ones((4, 1, 1), bool)}
    condition["real"] = np.array([0, 0, 0, 1], bool)[:, None, None]
    samples = np.arange(4.0)[:, None, None]
    groups, part = series_charts.grouped(samples, condition)
    assert [group.ravel().tolist() for group in groups] == [[0, 2], [1], [3]]
    np.testing.assert_array_equal(part.given.ravel(), [1, 2, 1])
    np.testing.assert_array_equal(part.real.ravel(), [False, False, True])
    np.testing.assert_array_equal(part.mask.ravel(), [True, True, True])
    assert part.truth is None


def test_covariances_at_each_lag(drawn):
    process = gaussian_processes.stationary(4, 2)
    x = np.random.default_rng(0).normal(size=(7, 4, 2))
    series_charts.lags(x, process, "unused.png")
    left, right = drawn[0].axes
    assert [axes.get_title() for axes in (left, right)] == [
        "samples, channel 0",
        "covariance at a lag of so many steps",
    ]
    assert len(left.get_lines()) == 5
    for row, line in enumerate(left.get_lines()):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([np.arange(4), x[row, :, 0]], 1))
    shades = [line.get_alpha() for line in left.get_lines()]
    assert shades == sorted(shades, reverse=True) and shades[0] == 1 and shades[-1] > 0.2
    blocks = process.covariance.reshape(4, 2, 4, 2)
    for channel in range(2):
        found, exact = (line.get_ydata() for line in right.get_lines()[2 * channel : 2 * channel + 2])
        for lag in range(4):
            pairs = [(i, i + lag) for i in range(4 - lag)]
            mean = np.mean([(x[:, i, channel] * x[:, j, channel]).mean() for i, j in pairs])
            assert found[lag] == pytest.approx(mean)
            assert exact[lag] == pytest.approx(np.mean([blocks[i, channel, j, channel] for i, j in pairs]))
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["samples", "exact"]
    colours = [line.get_color() for line in right.get_lines()]
    assert colours == [plots.BLUE, plots.ORANGE] * 2
    np.testing.assert_array_equal(right.get_lines()[3].get_xdata(), np.arange(4))
    assert right.get_lines()[0].get_linestyle() != right.get_lines()[1].get_linestyle()


def test_one_channel_and_few_samples_need_no_more_words(drawn):
    series_charts.lags(np.zeros((2, 4, 1)), gaussian_processes.stationary(4), "unused.png")
    left, right = drawn[0].axes
    assert left.get_title() == "samples" and len(left.get_lines()) == 2 and len(right.get_lines()) == 2
