"""Controls that are computed from pictures, and the source that has them in its records."""

import numpy as np
import pytest

from diffusion.data import controls, sources
from diffusion.recipe import ConfigError, data as data_of_config
from tests.experiments.run.made_tuning import pictures


def square(contrast=200):
    """A bright square, 8 .. 23 of 32 x 32 pixels."""
    picture = np.full((32, 32, 3), 20, np.uint8)
    picture[8:24, 8:24] += np.uint8(contrast)
    return picture


def test_edges_are_the_outline_one_pixel_wide():
    found = controls.edges()(square())
    assert found.dtype == np.uint8 and set(np.unique(found)) == {0, 255}
    white = found[..., 0] > 0
    np.testing.assert_array_equal(white, white.T)
    assert not white[:6].any() and not white[10:22, 10:22].any() and not white[26:].any()
    assert (white[12:20].sum(axis=1) == 2).all() and white[12:20, 7:9].any(axis=1).all()


def test_weak_edges_stay_where_they_are_connected_with_strong_ones():
    fading = np.full((32, 32, 3), 20, np.uint8)
    fading[16:] += np.linspace(20, 120, 32).astype(np.uint8)[:, None]  # slopes of 80 .. 480
    assert not controls.edges(50, 500, 0)(fading).any()
    white = controls.edges(50, 400, 0)(fading)[..., 0] > 0
    assert white[15:17].any(axis=0).all() and not white[:14].any()
    assert not controls.edges(300, 400, 0)(fading)[:, :12].any()


def test_a_sketch_is_dark_along_the_dark_side_of_an_edge_and_a_downsampled_picture_has_its_means():
    sketch = controls.sketch()(square())[..., 0]
    assert sketch[16, 16] > 240 and sketch[2, 2] > 240 and sketch[16, 6] < 128
    coarse = controls.downsampled(16)(square())
    assert coarse.shape == (32, 32, 3) and set(np.unique(coarse)) == {20 + 200 // 4}


@pytest.mark.parametrize("make, message", [
    (lambda: controls.edges(2, 1), "low = 2, high = 1"),
    (lambda: controls.edges(blur=float("nan")), "blur = nan"),
    (lambda: controls.sketch(float("nan")), "blur = nan. Valid: above 0"),
    (lambda: controls.sketch(0), "blur = 0. Valid: above 0"),
    (lambda: controls.downsampled(0), "factor = 0. Valid: at least 1"),
    (lambda: controls.downsampled(7)(square()), "factor = 7 does not divide .* 32 x 32"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_config_names_the_control_of_a_source(tmp_path):
    of = {"name": "picture_folder", "path": str(pictures(tmp_path / "pictures"))}
    named = lambda control: data_of_config._opened({"name": "controlled", "of": of, "control": control}, "train")
    source = named({"name": "edges", "low": 10.0})
    assert source.spec.condition == {"control": sources.Leaf((16, 16, 3), "uint8")}
    record = source[3]
    np.testing.assert_array_equal(record["condition"]["control"], controls.edges(10.0)(record["image"]))
    with pytest.raises(ConfigError, match=r"control\.name: unknown control 'edgs'\. Did you mean 'edges'"):
        named({"name": "edgs"})


def test_a_function_of_ones_own_must_make_a_picture(tmp_path):
    of = sources.picture_folder(str(pictures(tmp_path / "pictures")))
    with pytest.raises(sources.DamagedRecord, match=r"control of record 0 .* is float64 \[16, 16\]. Valid: uint8"):
        sources.controlled(of, lambda picture: picture.mean(-1))[0]
    with pytest.raises(ValueError, match="without the name 'control'"):
        sources.controlled(sources.controlled(of, lambda picture: picture), lambda picture: picture)
