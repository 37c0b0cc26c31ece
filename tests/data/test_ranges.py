"""The ends of the ranges of arguments of made data and of what is made of data."""

import numpy as np
import pytest

from diffusion.data import augmentation, controls, gaussian_processes, series_masks, solids, transforms
from diffusion.data.sources import sound_clips, tfds_records
from diffusion.data.sources.columns import Columns

ALL = np.ones((4, 1), bool)
RNG = np.random.default_rng(0)
stationary = lambda **one: gaussian_processes.stationary(**{"length": 4, **one})
# (function of a value, values that it takes, values that it refuses, words of the error)
RANGES = {
    "horizon": (series_masks.forecast, [1], [0], "horizon = 0"),
    "horizon of a series": (lambda n: series_masks.forecast(n)(RNG, ALL), [1, 3], [4], "hides the whole of a series"),
    "least": (lambda least: series_masks.gaps(least, 0.7), [1e-3, 0.7], [0.0, 0.71], "least = "),
    "most": (lambda most: series_masks.gaps(0.1, most), [0.1, 0.99], [0.09, 1.0], "most = "),
    "longest": (lambda longest: series_masks.gaps(longest=longest), [1], [0], "longest = 0"),
    "length": (lambda length: stationary(length=length), [2], [1], "length = 1"),
    "channels": (lambda channels: stationary(channels=channels), [1], [0], "channels = 0"),
    "correlation": (lambda value: stationary(channels=2, correlation=value), [0.0, 0.99], [-0.01, 1.0], "correlation"),
    "noise": (lambda noise: stationary(noise=noise), [1e-6, 0.99], [0.9e-6, 1.0], "noise = "),
    "share": (lambda share: stationary(share=share), [0.0, 1.0], [-0.01, 1.01], "share = "),
    "scale": (lambda scale: stationary(scale=scale), [1e-3], [0.0, -1.0], "scale = "),
    "period": (lambda period: stationary(period=period), [1e-3], [0.0], "period = "),
    "period_scale": (lambda scale: stationary(period_scale=scale), [0.1], [0.0], "period_scale = "),
    "low": (lambda low: controls.edges(low, 100.0), [0.0, 100.0], [-0.1, 100.1], "low = "),
    "blur": (lambda blur: controls.edges(blur=blur), [0.0], [-0.1], "blur = "),
    "blur of a sketch": (controls.sketch, [1e-3], [0.0], "blur = "),
    "factor": (controls.downsampled, [1], [0], "factor = 0"),
    "sides": (lambda side: controls.downsampled(2)(np.zeros((2, side, 3), np.uint8)), [2, 4], [3], "does not divide"),
    "other sides": (
        lambda side: controls.downsampled(2)(np.zeros((side, 2, 3), np.uint8)),
        [2],
        [3],
        "does not divide",
    ),
    "side of squares": (transforms.check_side, [0, 1, 2**14], [-1, 2**14 + 1], "side = .* 0 for pictures of one size"),
    "side of a table's pictures": (lambda side: Columns("a table", ("image",), side=side), [0, 8], [-1], "side = -1"),
    "label of a table": (
        lambda label: Columns("a table", ("x", "y"), x="x", label=label),
        ["y", ""],
        ["x"],
        "label = 'x'",
    ),
    "length of a note": (
        lambda length: sound_clips.instruments(number=10, sample_rate=8000, length=length)[6],
        [3],
        [2],
        "length = 2",
    ),
    "side of a dataset's pictures": (
        lambda side: tfds_records.open_source("digits", "train", side=side),
        [],
        [-1],
        "side = -1",
    ),
    "padding": (transforms.crop, [1], [0], "at least 1 pixel"),
    "padding of a picture": (
        lambda side: transforms.crop(2)(RNG, np.zeros((side, 9, 3), np.uint8)),
        [3],
        [2],
        "padding 2 is too wide",
    ),
    "padding of a narrow picture": (
        lambda side: transforms.crop(2)(RNG, np.zeros((9, side, 3), np.uint8)),
        [3],
        [2],
        "padding 2 is too wide",
    ),
    "probability": (augmentation.edm_augmentation, [0.0, 1.0], [-0.01, 1.01], "probability = "),
    "minor": (lambda minor: solids.torus(1.0, minor), [1e-3, 0.99], [0.0, 1.0], "minor = "),
    "corners": (lambda n: solids.revolved([(0, 0), (1, 0.5), (0, 1)][:n]), [3], [2], "three corners"),
    "radius": (lambda radius: solids.revolved([(0, 0), (radius, 0.5), (0, 1)]), [0.1, 1.0], [-0.1], "radius >= 0"),
    "first corner": (lambda r: solids.revolved([(r, 0), (1, 0.5), (0, 1)]), [0], [0.1], "on the axis"),
    "last corner": (lambda r: solids.revolved([(0, 0), (1, 0.5), (r, 1)]), [0], [0.1], "on the axis"),
    "upright": (lambda one: solids.superellipsoid((1, 1, 1), one, 1), [0.1, 1.9], [0.0, 2.0], "upright = "),
    "flat": (lambda one: solids.superellipsoid((1, 1, 1), 1, one), [0.1, 1.9], [0.0, 2.0], "flat = "),
    "half": (lambda side: solids.superellipsoid((1, 1, side), 1, 1), [0.1], [0.0, -1.0], "three positive numbers"),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range(name):
    call, valid, refused, words = RANGES[name]
    for value in valid:
        call(value)
    for value in refused:
        with pytest.raises(ValueError, match=words):
            call(value)


@pytest.mark.parametrize("shape, there", [((4, 1), 2), ((1, 2), 2), ((2, 1), 1), ((3, 2), 0)])
def test_gaps_leave_something_given_and_hide_something_where_two_values_are_there(shape, there):
    known = np.zeros(shape, bool)
    known.flat[:there] = True
    for least in (0.001, 0.99):
        for _ in range(20):
            hidden = series_masks.gaps(least, least, 1)(RNG, known)
            assert not (hidden & ~known).any()
            if there > 1:
                assert hidden.any() and (known & ~hidden).any()


def test_the_parts_of_a_batch_of_series_are_checked():
    given = np.ones((2, 3, 1), np.float32)
    mask = np.broadcast_to(np.array([True, False, False])[:, None], given.shape)
    real = np.broadcast_to(np.array([False, True, False])[:, None], given.shape)
    fine = {"given": given, "mask": mask, "real": real}
    series_masks.check(fine)
    second = np.arange(2)[:, None, None] == 1
    for change, words in (
        ({"given": given[..., 0]}, "one shape"),
        ({"mask": mask[:1]}, "one shape"),
        ({"real": real[:1]}, "one shape"),
        ({one: value[..., 0] for one, value in fine.items()}, "one shape"),
        ({"mask": mask.astype(int)}, "Valid: Bool"),
        ({"real": real.astype(int)}, "Valid: Bool"),
        ({"given": np.where(second, np.nan, given)}, "series 1 has a given value that is no finite number"),
        ({"given": np.where(second, np.inf, given)}, "series 1 has a given value that is no finite number"),
        ({"real": real | (mask & second)}, "series 1 has a value that is both"),
        ({"mask": mask & ~second}, "series 1 has nothing that is given"),
        ({"real": real & ~second}, "series 1 has nothing that is hidden"),
    ):
        with pytest.raises(ValueError, match=words):
            series_masks.check(fine | change)
    series_masks.check(fine | {"given": np.where(mask, given, np.nan)})
