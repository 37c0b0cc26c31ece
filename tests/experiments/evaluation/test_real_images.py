"""Splits as metrics read them: every record once, in order, with its class; streams up to a number of records."""

import types

import numpy as np
import pytest

from diffusion.data.sources import python_objects
from diffusion.data.sources.iterated import Iterated
from diffusion.data.sources.spec import DamagedRecord
from diffusion.experiments.evaluation import real_images


def labelled(number, start=0):
    return [{"x": np.float32([start + i, -i]), "label": (3 * i) % 7} for i in range(number)]


def test_every_record_is_read_once_with_its_class():
    """2,001 records come in three parts of at most 1,000."""
    made = labelled(2001)
    split = real_images._read(python_objects.source_of(made, num_classes=7), "stop", ())
    np.testing.assert_array_equal(split.images, np.stack([record["x"] for record in made]))
    assert split.labels.tolist() == [record["label"] for record in made] and split.labels.dtype == np.int64
    assert split.spec.num_classes == 7 and split.conditions is None


def test_a_stream_is_read_to_its_end_or_to_ten_thousand_records(monkeypatch):
    assert real_images.STREAMED == 10_000
    monkeypatch.setattr(real_images, "STREAMED", 20)
    stream = lambda count: Iterated(lambda: ({"x": np.float32([k])} for k in range(count)))
    read = lambda count: real_images._read(stream(count), "stop", ()).images[:, 0].tolist()
    assert read(12) == list(range(12)) and read(25) == list(range(20))


class Damaged(list):
    """Records of which the second cannot be used."""

    def __getitem__(self, row):
        if row == 1:
            raise ValueError("torn")
        return super().__getitem__(row)


@pytest.mark.filterwarnings("ignore:left out")
def test_damaged_records_are_left_out_by_choice():
    source = lambda: python_objects.source_of(Damaged(labelled(5)), num_classes=7)
    split = real_images._read(source(), "skip", ())
    assert split.images[:, 0].tolist() == [0, 2, 3, 4] and split.labels.tolist() == [0, 6, 2, 5]
    with pytest.raises(DamagedRecord, match="torn"):
        real_images._read(source(), "stop", ())


def test_the_splits_of_a_recipe_with_records_of_its_own():
    none = types.SimpleNamespace(buckets=types.SimpleNamespace(area=0))
    recipe = types.SimpleNamespace(
        data=labelled(4), held_out=labelled(3, 10), examples=types.SimpleNamespace(num_classes=7),
        config=types.SimpleNamespace(data=none),
    )  # fmt: skip
    train, held = real_images.read_splits(recipe)
    assert train.images[:, 0].tolist() == [0, 1, 2, 3] and held.images[:, 0].tolist() == [10, 11, 12]
    assert (train.spec.split, held.spec.split) == ("train", "held out") and train.spec.num_classes == 7
    with pytest.raises(DamagedRecord):
        real_images.read_splits(types.SimpleNamespace(**vars(recipe) | {"held_out": Damaged(labelled(3))}))


def test_the_trained_split_and_the_one_to_compare_with(monkeypatch):
    monkeypatch.setattr(real_images, "split_of", lambda config, split: split)
    assert real_images.splits_of({"data": {"split": "a"}, "evaluate": {"split": "b"}}) == ("a", "b")


def test_rows_are_drawn_once_each_and_are_not_the_first():
    """Records may be in the order of their class or time; of 1,000 rows the mean of a hundred is near the middle."""
    rows = real_images.drawn_rows(1000, 100)
    assert len(set(rows.tolist())) == 100 and set(rows) <= set(range(1000))
    assert abs(rows.mean() - 499.5) < 4 * 289 / 10 and abs(rows[:50].mean() - 499.5) < 4 * 289 / 50**0.5
    assert sorted(real_images.drawn_rows(7, 100)) == list(range(7))
    assert rows.tolist() == real_images.drawn_rows(1000, 100).tolist()
