"""What made data are where nothing is said: a config that leaves an argument out has the same data in every version."""

import inspect

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.data.sources import mesh_records, solid_records, spiral_points, table_records
from diffusion.data.sources.iterated import Iterated

NUMBER = {"split": "train", "number": 20_000}
SOLIDS = {"split": "train", "number": 10_000, "kinds": ()}
DEFAULTS = {
    "drawings": {"split": "train", "silent": 0.5, "number": 8_000},
    "arranged_drawings": {"split": "train", "kind": "outlines", "number": 8_000, "places": ()},
    "spelled_drawings": {"split": "train", "share": 0.15, "number": 24_000},
    "moving_drawings": {
        "split": "train", "frames": 16, "side": 64, "number": 8_000, "radii": (6.0, 6.6), "alone": False, "span": 0,
    },
    "moving_pairs": {
        "split": "train", "frames": 16, "side": 48, "number": 16_000, "radii": (7.6, 8.2), "span": 0,
    },
    "sphere_mixture": NUMBER,
    "torsion_mixture": NUMBER,
    "rotation_mixture": NUMBER,
    "spirals": NUMBER | {"arms": 3, "noise": 0.03},
    "ideal_folds": {"split": "train", "number": 6_000, "withheld": 0},
    "gaussian_series": NUMBER | {
        "length": 48, "channels": 1, "hide": None, "correlation": 0.6, "noise": 0.05, "share": 0.5, "scale": 10.0,
        "period": 12.0, "apart": True,
    },
    "solid_points": SOLIDS | {"points": 128},
    "solid_distances": SOLIDS | {"side": 16, "truncation": 0.25},
    "instruments": {
        "split": "train", "number": 4_000, "sample_rate": 8_000, "length": 4096, "form": None, "vibrato": False,
        "mels": 0, "window": 256, "hop": 64, "shaped": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_made_data_stay(name):
    parameters = inspect.signature(getattr(sources, name)).parameters.values()
    assert {one.name: one.default for one in parameters if one.default is not one.empty} == DEFAULTS[name]


def test_tables_and_spirals_have_the_defaults_of_their_documentation():
    parameters = inspect.signature(table_records.Records).parameters
    assert parameters["viewed"].default is False and parameters["together"].default == 1
    assert inspect.signature(spiral_points.Spirals).parameters["number"].default == 20_000
    assert mesh_records.CloudRecords.draws == 1
    assert solid_records.SEED == 2029  # run folders go on with the solids of this seed


@pytest.mark.extended
@pytest.mark.parametrize("name", DEFAULTS)
def test_made_data_have_the_number_and_the_split_that_is_asked_for(name):
    for split in ("train", "test"):
        source = getattr(sources, name)(split, number=3)
        assert len(source) == 3 and source.spec.split == split


def test_an_instrument_of_the_least_rate_is_valid():
    source = sources.instruments(number=1, sample_rate=2000, length=256)
    assert len(source) == 1 and source.spec.name == "instruments"


def test_a_mixture_begins_as_its_shares_say():
    """Of 3 and 1 in 4 the stream that is furthest behind its share n w_k is next, and of equals the first."""
    numbers = lambda first: [{"x": np.float32([first + k])} for k in range(40)]
    mixed = sources.mixture([_stream(numbers(0)), _stream(numbers(100))], (3, 1))
    records = [int(record["x"][0]) for record in mixed.records(8)]
    assert [number // 100 for number in records] == [0, 0, 1, 0, 0, 0, 1, 0]


def _stream(records):
    return Iterated(lambda: iter(records))
