"""Figures of watermarks by hand, and the table and the picture that show them."""

import json
import types

import numpy as np
import pytest

from diffusion.experiments.evaluation import watermark_robustness
from diffusion.experiments.evaluation.watermark_robustness import Maker
from diffusion.metrics import bootstrap, detection
from diffusion.recipe import ConfigError
from diffusion.sampling.watermarks import Reading
from tests.experiments.evaluation import charts

MARK = types.SimpleNamespace(message=np.array([1, 0]), carrier="pictures", identity="a watermark")


def reading(score, p, bits=None):
    return Reading(score=np.array(score, float), p_value=np.array(p, float), bits=bits)


def test_figures_by_hand():
    """Marked scores 3, 1 against 2, 0: three of four pairs are in order; p below 0.01, not at it."""
    marked = reading([3, 1], [0.001, 0.01], np.array([[1, 0], [1, 1]]))
    found = watermark_robustness.figures(MARK, marked, reading([2, 0], [0.5, 0.02], None))
    assert found["auroc"]["value"] == 0.75 and found["bit_accuracy"] == 0.75
    assert found["detected"]["share"] == 0.5 and found["false_positives"]["share"] == 0
    assert found["detected"] == bootstrap.share([True, False])
    assert 0 <= found["hits"] <= 0.5  # above the threshold that 1 % of the others exceed, which is near 2
    assert tuple(found["hits_interval"]) == detection.hits_interval([3, 1], [2, 0], 0.01)
    # Shares 1 and 1/2 of the bits of two pictures: s^2 = 2 (1/2)^2 2 / 4^2, n = 2 (3/4 1/4) / s^2 = 6, at most 4 bits.
    assert found["bit_accuracy_interval"] == pytest.approx(bootstrap.wilson_interval(3, 4))
    assert watermark_robustness.figures(MARK, reading([1, 1], [1, 1]), reading([0, 0], [1, 1]))["bit_accuracy"] is None


def test_a_watermark_in_pictures_is_read_there_and_one_in_noise_through_it():
    to_noise = lambda pictures: ("noise of", pictures)
    for carrier, expected in (("pictures", "seen"), ("noise", ("noise of", "seen"))):
        mark = types.SimpleNamespace(carrier=carrier, read=lambda x: x)
        assert watermark_robustness.read(mark, to_noise, "seen") == expected


def maker(shape, regenerate=None):
    return Maker("model", lambda key, number: None, lambda x: x, regenerate, shape)


def test_pictures_are_fitted_to_the_model_s_channels():
    grey, colour = np.full((1, 4, 6, 1), 7, np.uint8), np.arange(72, dtype=np.uint8).reshape(1, 4, 6, 3)
    assert maker((4, 6, 3)).fitted(grey, "a.png").shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(maker((4, 6, 1)).fitted(colour, "a.png"), colour[..., :1])
    np.testing.assert_array_equal(maker((4, 6, 3)).fitted(colour, "a.png"), colour)
    for shape in ((6, 4, 3), (4, 5, 3), (5, 6, 3)):
        message = rf"a\.png has 4 x 6 pixels, but model makes pictures of {shape[0]} x {shape[1]} \(height x width\)"
        with pytest.raises(ConfigError, match=message):
            maker(shape).fitted(colour, "a.png")


def test_existing_pictures_are_marked_as_they_are(monkeypatch):
    """Of 2 x 3 pixels in grey: any other picture is fitted to their size, and their noise is themselves."""
    own = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
    mark = types.SimpleNamespace(embed=lambda pictures, generator: 255 - pictures)
    monkeypatch.setattr(watermark_robustness.watermarks, "load", lambda key: mark)
    made = watermark_robustness.wrap_pictures(own, "a folder")
    assert made.shape == (2, 3, 1) and made.to_noise(own) is own and made.regenerate is None
    np.testing.assert_array_equal(made.make("", 3), own[:3])
    np.testing.assert_array_equal(made.make("key", 3), 255 - own[:3])
    assert made.fitted(np.zeros((1, 2, 3, 3), np.uint8), "a.png").shape == (1, 2, 3, 1)


def test_regeneration_is_two_changes_more():
    changes = len(watermark_robustness.DEGRADATIONS)
    assert maker((1, 1, 1)).changes == changes
    assert maker((1, 1, 1), lambda pictures, t: pictures).changes == changes + 2


def test_the_change_of_pixels_is_a_root_mean_square(monkeypatch):
    """Of 3 and 4 of 255 in two of eight values: sqrt((9 + 16) / 8)."""
    plain = np.full((2, 2, 2, 1), 100, np.uint8)
    marked = plain.copy()
    marked[0, 0, 0, 0], marked[1, 1, 1, 0] = 103, 96
    monkeypatch.setattr(watermark_robustness.watermarks, "load", lambda key: MARK)
    p_value = lambda x: np.where((x != 100).any((1, 2, 3)), 0.001, 1.0)
    monkeypatch.setattr(MARK, "read", lambda x: reading(x.mean((1, 2, 3)), p_value(x)), raising=False)
    monkeypatch.setattr(watermark_robustness, "DEGRADATIONS", {"none": lambda pictures: pictures})
    make = lambda key, number: marked[:number] if key else plain[:number]
    times = []
    regenerate = lambda pictures, t: times.append(t) or pictures
    done = []
    content = watermark_robustness.measure("key", maker((2, 2, 1), regenerate)._replace(make=make), 2, done.append)
    assert done == [1, 2, 3]
    assert content["change_of_pixels"] == pytest.approx(np.sqrt(25 / 8)) and content["number"] == 2
    assert list(content["changes"]) == ["none", "regenerated from t = 0.3", "regenerated from t = 0.6"]
    assert times == [0.3, 0.3, 0.6, 0.6]  # of the marked pictures and of the others
    figures = content["changes"]["none"]
    assert (figures["detected"]["share"], figures["false_positives"]["share"]) == (1, 0)
    assert (content["watermark"], content["model"], content["level"]) == ("a watermark", "model", 0.01)


def row(value, interval, bits):
    share = lambda x: {"share": x, "interval": (x / 2, x * 2), "count": 4}
    area = {"value": value, "interval": interval}
    return {
        "auroc": area, "hits": 0.25, "hits_interval": (0.125, 0.5), "detected": share(0.5),
        "false_positives": share(0.125), "bit_accuracy": bits,
        "bit_accuracy_interval": None if bits is None else (bits - 0.1, bits + 0.01),
    }  # fmt: skip


CONTENT = {
    "watermark": "a watermark", "model": "a model", "number": 12, "level": 0.01,
    "changes": {"none": row(0.9, (0.8, 0.95), 0.99), "JPEG": row(0.5, (0.3, 0.7), None)},
}  # fmt: skip


def test_the_table_has_a_row_a_change():
    lines = watermark_robustness.table(CONTENT).splitlines()
    assert lines[0].endswith("of a model with the watermark and the same number without it; 95 % intervals in brackets")
    assert "p < 0.01, marked | p < 0.01, not marked" in lines[2]
    shares = "0.250 (0.125 .. 0.500) | 0.500 (0.250 .. 1.000) | 0.125 (0.062 .. 0.250) |"
    assert lines[4] == f"| none | 0.990 (0.890 .. 1.000) | 0.900 (0.800 .. 0.950) | {shares}"
    assert lines[5] == f"| JPEG |  | 0.500 (0.300 .. 0.700) | {shares}"
    assert len({line.count("|") for line in lines[2:]}) == 1


@pytest.mark.parametrize("bits", [True, False])
def test_the_picture_has_a_point_a_change_from_the_top(monkeypatch, bits):
    drawn = charts.kept(monkeypatch)
    rows = {"none": row(0.9, (0.8, 0.95), 0.99 if bits else None), "JPEG": row(0.5, (0.3, 0.7), 0.5 if bits else None)}
    watermark_robustness.plot(CONTENT | {"changes": rows}, "unused.png")
    (axes,) = drawn[0].axes
    bars, *bars_of_bits = axes.containers
    point, _, (ends,) = bars
    np.testing.assert_allclose(np.transpose(point.get_data()), [[0.9, 1], [0.5, 0]])
    np.testing.assert_allclose([segment[:, 0] for segment in ends.get_segments()], [[0.8, 0.95], [0.3, 0.7]])
    assert len(bars_of_bits) == bits
    if bits:
        point, _, (ends,) = bars_of_bits[0]
        np.testing.assert_allclose(np.transpose(point.get_data()), [[0.99, 1], [0.5, 0]])
        np.testing.assert_allclose([segment[:, 0] for segment in ends.get_segments()], [[0.89, 1.0], [0.4, 0.51]])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["AUROC, 95 %"] + ["bit accuracy, 95 %"] * bits
    (chance,) = (line for line in axes.get_lines() if line.get_linestyle() == ":")
    assert set(chance.get_xdata()) == {0.5}
    assert axes.get_yticks().tolist() == [1, 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["none", "JPEG"]
    assert axes.get_xlim() == (0, 1.02) and axes.get_title() == "a watermark"
    assert drawn[0].get_size_inches().tolist() == pytest.approx([7, 2.0])  # taller with more changes


def test_the_three_files(tmp_path):
    changes = {"none": row(0.9, (0.8, 0.95), 0.99)}
    watermark_robustness.write(CONTENT | {"changes": changes}, tmp_path / "a" / "b")
    written = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert written == {"robustness.json", "robustness.md", "robustness.png"}
    content = json.loads((tmp_path / "a" / "b" / "robustness.json").read_text())
    assert content["changes"]["none"]["auroc"]["value"] == 0.9
    assert (tmp_path / "a" / "b" / "robustness.md").read_text().endswith("|\n")
