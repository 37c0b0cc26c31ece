"""Arrays in files as a source: what a record is, what is refused, and that a large file is mapped, not read."""

import numpy as np
import pytest

from diffusion.data import pipeline
from diffusion.data.sources import DamagedRecord, DataSpec, Leaf, arrays
from diffusion.data.sources.columns import CLASSES, class_numbers

X = np.random.default_rng(0).normal(size=(10, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_record_is_a_row_of_each_array(tmp_path, save):
    save(tmp_path / "a.npz", x=X, label=np.arange(10) % 3, vector=X[:, :, 0])
    source = arrays(str(tmp_path / "a.npz"), condition="vector", label="")
    assert source.spec == DataSpec("a.npz", "train", (4, 2), 0, 10, "", "float32", Leaf((4,), "float32"))
    np.testing.assert_array_equal(source[7]["x"], X[7])
    np.testing.assert_array_equal(source[7]["condition"], X[7, :, 0])
    assert "label" not in source[7]
    source = arrays(str(tmp_path / "a.npz"))
    assert source.spec.num_classes == 3 and [source[row]["label"] for row in range(4)] == [0, 1, 2, 0]


def test_the_example_is_no_label_and_an_array_without_numbers_is_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", label=X, rest=np.zeros((10, 0), np.float32))
    source = arrays(str(tmp_path / "a.npz"), x="label", condition="rest")
    assert source.spec.num_classes == 0 and source[3]["condition"].shape == (0,)
    np.testing.assert_array_equal(source[3]["x"], X[3])


def test_the_first_label_that_is_too_large_is_named_by_its_row():
    with pytest.raises(ValueError, match=r"^1: its label is 1000005\. Valid: integers from 0 to 999,999"):
        class_numbers([3, CLASSES + 5, 2], (), str, "labels")


@pytest.mark.extended
def test_labels_are_below_a_million():
    for label, valid in ((CLASSES - 1, True), (CLASSES, False)):
        if valid:
            assert class_numbers([label], (), str, "labels")[1].tolist() == [label]
            continue
        with pytest.raises(ValueError, match=r"0: its label is 1000000\. Valid: integers from 0 to 999,999"):
            class_numbers([label], (), str, "labels")


def test_the_labels_of_a_part_are_its_own(tmp_path):
    labels = np.arange(10) % 3

    def part(name, labels):
        np.savez(tmp_path / f"{name}.npz", x=X, label=labels)
        return arrays(str(tmp_path / f"{name}.npz"), "train[:50%]")

    rows = part("a", labels)._rows
    outside = np.setdiff1d(np.arange(10), rows)
    changed = {name: labels.copy() for name in ("inside", "outside")}
    changed["outside"][outside[-1]] = (changed["outside"][outside[-1]] + 1) % 3
    changed["inside"][rows[-1]] = (changed["inside"][rows[-1]] + 1) % 3
    first, inside, outside = (part(*one).fingerprint()["labels"] for one in (("a", labels), *changed.items()))
    assert first == outside != inside


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_record_that_is_not_finite_is_named_when_it_is_read(tmp_path, value):
    spoilt = X.copy()
    spoilt[7, 2, 1] = value
    np.savez(tmp_path / "a.npz", x=spoilt, other=X)
    for x in ("x", ("other", "x")):
        source = arrays(str(tmp_path / "a.npz"), x=x)
        assert np.isfinite(source[6]["x"] if x == "x" else source[6]["x"]["x"]).all()
        with pytest.raises(DamagedRecord, match=rf"row 7 .*its example holds {value}\. .*--config.data.damaged=skip"):
            source[7]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_condition_that_is_not_finite_is_named_when_it_is_read(tmp_path, value):
    vector = np.ones((len(X), 3), np.float32)
    vector[7, 1] = value
    np.savez(tmp_path / "a.npz", x=X, vector=vector)
    source = arrays(str(tmp_path / "a.npz"), x="x", condition="vector")
    np.testing.assert_array_equal(source[6]["condition"], np.ones(3))
    with pytest.raises(DamagedRecord, match=rf"row 7 .*its condition holds {value}\."):
        source[7]


def test_files_of_a_folder_and_a_single_file(tmp_path):
    np.save(tmp_path / "positions.npy", X)
    np.save(tmp_path / "charges.npy", X[:, :, 0].astype(np.float64))
    source = arrays(str(tmp_path), x=("positions", "charges"))
    assert source.spec.shape == {"positions": (4, 2), "charges": (4,)} and source.spec.entry == "x"
    batch = next(pipeline.batches(source, source.spec, seed=0, batch_size=10, shuffle=False, threads=0))
    assert batch["x"].shape == (10, 12) and batch["x"].dtype == np.float32
    alone = arrays(str(tmp_path / "positions.npy"))
    assert alone.spec.shape == (4, 2) and np.array_equal(alone[3]["x"], X[3])


def test_bytes_of_any_rank_are_scaled_as_pictures_are(tmp_path):
    np.save(tmp_path / "video.npy", np.zeros((3, 5, 4, 4, 3), np.uint8))
    spec = arrays(str(tmp_path / "video.npy")).spec
    assert (spec.shape, spec.dtype, spec.entry, spec.pictures) == ((5, 4, 4, 3), "uint8", "image", False)


def test_parts_are_fair_and_have_nothing_in_common(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(1000, dtype=np.float32)[:, None], label=np.arange(1000) // 500)
    first = arrays(str(tmp_path / "a.npz"), "train[:90%]")
    rest = arrays(str(tmp_path / "a.npz"), "train[90%:]")
    rows = [[record["x"][0] for record in map(source.__getitem__, range(len(source)))] for source in (first, rest)]
    assert len(rows[0]) == 900 and sorted(rows[0] + rows[1]) == list(range(1000))
    assert 30 < sum(row < 500 for row in rows[1]) < 70  # of 100; the first tenth of the file has one class alone


def test_a_large_file_is_mapped(tmp_path):
    huge = np.lib.format.open_memmap(
        tmp_path / "x.npy", "w+", np.float32, (10**4, 25 * 10**6)
    )  # 1 TB, nearly all a hole
    huge[10**4 - 1, 0] = 3
    source = arrays(str(tmp_path / "x.npy"))
    assert len(source) == 10**4 and source[10**4 - 1]["x"][0] == 3


@pytest.mark.parametrize(
    "content, arguments, words",
    [
        ({"x": X, "label": np.zeros(9, int)}, {}, r"one row for each record, but these have x \(10\), label \(9"),
        ({"a": X, "b": X}, {}, "has the columns a.*and none of.*is called image,.*= COLUMN"),
        ({"x": X, "label": np.zeros(10, int)}, {"condition": "lable"}, r"no column 'lable' .*Did you mean 'label'"),
        ({"x": X.astype(np.uint32)}, {}, r"examples are uint32. Valid: uint8.* floating-point .*signed integers"),
        ({"x": X, "label": np.full(10, -1)}, {}, "row 0: its label is -1"),
        ({"x": X, "label": np.zeros((10, 2))}, {}, r"labels in column 'label' are float64 \(.*other numbers"),
        ({"x": X}, {"split": "test"}, r"has no split 'test': the only split is 'train'\. Valid: parts of it"),
        ({"x": X}, {"split": "train[100%:]"}, "records is empty"),
        ({"x": X[:0]}, {}, "holds no records"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path, content, arguments, words):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=words):
        arrays(str(tmp_path / "a.npz"), **arguments)


def test_damaged_and_missing_files_are_named(tmp_path):
    np.save(tmp_path / "a.npy", X)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-8])
    with pytest.raises(ValueError, match=r"a\.npy is not an intact array"):
        arrays(str(tmp_path / "a.npy"))
    with pytest.raises(FileNotFoundError, match=r"b\.npz: there is no such file"):
        arrays(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", x=X)
    content = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"c\.npz is (no sound|not a valid) \.npz file"):
        arrays(str(tmp_path / "c.npz"))


def test_a_column_is_suggested_that_has_more_than_half_of_the_letters(tmp_path):
    np.savez(tmp_path / "a.npz", abxy=np.zeros((3, 2)))
    for name, hint in (("abxz", r"abxy\. Did you mean 'abxy'\?$"), ("abzz", r"abxy\.$")):
        with pytest.raises(ValueError, match=f"no column {name!r} for x; its columns are {hint}"):
            arrays(str(tmp_path / "a.npz"), x=name)


def test_a_class_is_named_once():
    with pytest.raises(ValueError, match=r"labels: classes names 'c' twice"):
        class_numbers(["a", "c"], ("c", "a", "c"), str, "labels")
