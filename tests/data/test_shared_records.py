"""Which records two sources share: by their numbers however they are cut, mixed and filtered, and by their content."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion.data import identities, shared_records, sources
from diffusion.data.sources import python_objects


def shared(some, others):
    return shared_records.by_number(*map(shared_records.identify, (some, others)))


def digits(split):
    return sources.open_source("digits", split)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 pictures of two classes, all alike: their content cannot tell them apart."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(20):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "split, other, number",
    [("train", "train", 1258), ("test", "train", 0), ("train[50%:]", "train", 629), ("train[50%:]", "train[:50%]", 0),
     ("train[:500]", "train[499:]", 1), ("train", "train[90%:]", 126), ("train[:9]+test", "train", 9)],
)  # fmt: skip
def test_splits_of_a_dataset_are_told_apart_by_their_numbers(split, other, number):
    assert shared(digits(split), digits(other)) == number == shared(digits(other), digits(split))


@pytest.mark.parametrize(
    "split, other, number",
    [("train[90%:]", "train[:90%]", 0), ("train[90%:]", "train", 4), ("train[:30]", "train[10:]", 20)],
)  # fmt: skip
def test_parts_of_a_folder_are_told_apart_though_their_pictures_are_alike(folder, split, other, number):
    assert shared(sources.class_folders(str(folder), split), sources.class_folders(str(folder), other)) == number


def test_filters_mixtures_and_controls_keep_the_numbers(folder):
    train, rest = (sources.class_folders(str(folder), split) for split in ("train[:50%]", "train[50%:]"))
    kept = sources.filtered(train, lambda record: record["label"] == 0)
    assert shared(kept, train) == len(kept) < 20 and shared(kept, rest) == 0
    both = sources.mixture([train, rest], (3, 1))
    assert shared(both, rest) > 0 and shared(rest, both) == 20 == shared(train, both)
    assert shared(sources.controlled(rest, lambda picture: picture), rest) == 20
    assert (
        shared(
            sources.mixture(
                [python_objects.source_of([{"image": np.zeros((4, 4, 3), np.uint8), "label": 0}], 2), rest]
            ),
            rest,
        )
        is None
    )


def test_drawings_that_look_alike_are_others():
    train, test = (sources.drawings(split=split, number=3000) for split in ("train", "test"))
    assert shared(test, train) == 0 and shared(sources.drawings(number=50), train) == 50


def test_windows_of_series_are_told_apart_by_their_steps(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.random.default_rng(0).normal(size=(100, 1)))
    opened = lambda split, held_out: sources.series_windows(
        str(tmp_path / "a.npz"), split, length=10, held_out=held_out
    )
    assert shared(opened("test", 0.2), opened("train", 0.2)) == 0
    assert shared(opened("test", 0.0), opened("train", 0.0)) == len(opened("test", 0.0)) > 0


def test_streams_of_the_same_files_are_told_apart_by_the_ends_of_their_splits(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    for name in ("train", "test"):
        rows = [[float(i), 0.5] for i in range(60)]
        parquet.write_table(pyarrow.table({"x": rows}), tmp_path / f"{name}-0.parquet")
    opened = lambda split: sources.parquet_stream(str(tmp_path), split)
    assert shared(opened("train[:20]"), opened("train[20:]")) == 0
    assert shared(opened("train[:20]"), opened("train[15:]")) == 5
    assert shared(opened("train[:20]"), opened("train")) == 20
    assert shared(opened("train"), opened("train")) == shared_records.BEYOND
    assert shared(opened("test"), opened("train")) is None  # other files: their content decides


def test_records_of_ones_own_are_told_apart_by_content():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    some, others = (python_objects.source_of([{"x": row} for row in rows]) for rows in (x[:6], x[4:]))
    assert shared(some, others) is None
    assert shared_records.by_content(x[:6], x[4:]) == 2
    assert shared_records.by_content(x[:6], x[6:]) == 0 == shared_records.by_content(x[:6], x.astype(np.float64))
    almost = np.nextafter(x, np.float32(np.inf))
    assert shared_records.by_content(almost, x) == 0


def test_numbers_of_two_sets_say_nothing(folder, tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for number in range(3):
            picture = np.full((4, 4, 3), number, np.uint8)
            Image.fromarray(picture).save(tmp_path / part / f"{number}.png")
    train, test = (sources.picture_folder(str(tmp_path), split) for split in ("train", "test"))
    assert shared(test, train) is None  # the same pictures in another folder
    images = [np.stack([record["image"] for record in map(source.__getitem__, range(3))]) for source in (test, train)]
    assert shared_records.by_content(*images) == 3


def test_identities_are_the_same_in_every_process(folder):
    """They are digests of names, and not Python's hashes, which differ from process to process."""
    found = shared_records.identify(digits("test[:2]"))
    assert found.dtype == np.int64 and found.shape == (2, 3) and found[:, 2].tolist() == [0, 1]
    assert json.loads(json.dumps(found.tolist())) == found.tolist() and (found >= 0).all()
    assert np.array_equal(found, shared_records.identify(digits("test"))[:2])


def test_a_thousand_sets_and_parts_have_identities_of_their_own():
    one = np.concatenate([identities.numbered([name], name % 7, [0]) for name in range(1000)])
    assert len(np.unique(one[:, 0])) == 1000 and len(np.unique(one[:, 1])) == 7
    np.testing.assert_array_equal(identities.numbered([3], 3, [0, 5])[1], [*one[3, :2], 5])
