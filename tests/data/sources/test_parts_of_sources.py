"""Parts of splits and of mixtures by enumeration: which rows, which ends, which files, and whose column is whose."""

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.data.sources import combined, splits
from diffusion.data.sources.sequences import Records


@pytest.mark.parametrize("size, together", [(10, 1), (11, 1), (12, 3), (13, 3), (1, 1)])
def test_neighbouring_parts_share_no_record_and_leave_none_out(size, together):
    """Of groups that stay together, 13 rows are four groups of three: the last row is in none."""
    whole = size // together * together
    for cut in ("30%", "1", "50%"):
        first, last = splits.parse(f"train[:{cut}]"), splits.parse(f"train[{cut}:]")
        parts = []
        for part in (first, last):
            try:
                parts.append(part.rows(size, together))
            except ValueError:
                parts.append(np.zeros(0, np.int64))
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(whole))
        for rows in parts:
            assert (np.diff(rows) > 0).all()
            assert (rows.reshape(-1, together) % together == np.arange(together)).all()
        count = round(size // together * 0.3) if cut == "30%" else 1 if cut == "1" else round(size // together * 0.5)
        assert len(parts[0]) == min(count, size // together) * together


def test_a_part_is_a_fair_sample_and_the_whole_is_in_order():
    np.testing.assert_array_equal(splits.parse("train").rows(7), np.arange(7))
    half = splits.parse("train[:50%]").rows(1000)
    assert abs(half.mean() - 500) < 40 and not np.array_equal(half, np.arange(500))
    assert splits.parse("train[100:300]").ends(1000) == (100, 300)
    assert splits.parse("train[10%:25%]").ends(1000) == (100, 250)
    assert splits.parse("train[:]").ends(9) == splits.parse("train").ends(9) == (0, 9)
    with pytest.raises(ValueError, match=r"the part \[5:\] of 5 records is empty"):
        splits.parse("train[5:]").rows(5)


@pytest.mark.parametrize("text, number", [("train[:5000]", 1000), ("train[400:1001]", 600), ("train[:150%]", 1000)])
def test_a_part_beyond_its_split_is_named_with_the_number_of_its_records(text, number):
    with pytest.warns(UserWarning, match=rf"goes beyond the 1,000 records of 'train', and has {number:,} records$"):
        assert len(splits.parse(text).rows(1000)) == number


def test_a_part_that_ends_with_its_split_is_silent(recwarn):
    for text in ("train[:1000]", "train[10:]", "train[:100%]", "train"):
        splits.parse(text).rows(1000)
    assert not recwarn.list


def test_a_part_of_groups_beyond_its_split_counts_groups():
    with pytest.warns(UserWarning, match="beyond the 5 groups of 2 records of 'train', and has 10 records$"):
        splits.parse("train[:6]").rows(10, together=2)


@pytest.mark.parametrize("text", ["train[", "train[5]", "train[5:6", "train[a:]", "", "tr ain", "train[:5%]x"])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match="is not of the form"):
        splits.parse(text)


def test_parts_of_streams_are_numbers_of_records():
    assert splits.numbers(("", ""), "a") == (0, None) and splits.numbers(("3", ""), "a") == (3, None)
    assert splits.numbers(("", "1"), "a") == (0, 1) and splits.numbers(("2", "3"), "a") == (2, 3)
    for ends in (("3", "3"), ("4", "3"), ("", "0")):
        with pytest.raises(ValueError, match=r"split = 'train\[\.\.\]' is empty"):
            splits.numbers(ends, "train[..]")
    for ends in (("10%", ""), ("", "10%")):
        with pytest.raises(ValueError, match="stream does not know how many it has"):
            splits.numbers(ends, "train[..]")


@pytest.mark.parametrize(
    "name, split, of_class",
    [
        ("train/cat/1.png", "train", "cat"), ("cat/test/1.png", "test", "cat"), ("cat/1.png", "", "cat"),
        ("train-00000.tar", "train", ""), ("test_1.tar", "test", ""), ("val.tar", "val", ""), ("a-train.tar", "", ""),
        ("dog/train_1.obj", "train", "dog"), ("test/train-1.tar", "test", ""), ("1.png", "", ""),
    ],
)  # fmt: skip
def test_names_of_files_say_their_split_and_class(name, split, of_class):
    assert splits.split_of(name) == split and splits.class_of(name) == of_class


def test_files_are_those_of_their_split():
    names = ["train-0.tar", "test-0.tar", "train-1.tar"]
    assert splits.files_of("train", names, "here") == ["train-0.tar", "train-1.tar"]
    assert splits.files_of("train", ["a.tar", "b.tar"], "here") == ["a.tar", "b.tar"]
    with pytest.raises(ValueError, match="here has no split 'val'; its splits are test, train"):
        splits.files_of("val", names, "here")
    with pytest.raises(ValueError, match="the only split is 'train'"):
        splits.files_of("test", ["a.tar"], "here")


def test_files_lie_in_their_folder_or_are_named_one_by_one(tmp_path):
    (tmp_path / "a.tar").write_text("a")
    assert splits.within(str(tmp_path)) == tmp_path
    assert splits.within(str(tmp_path / "a.tar")) is None  # the user named it, wherever it leads
    assert splits.within(str(tmp_path / "*.tar")) == tmp_path
    files, where, name = splits.files_at(str(tmp_path / "*.tar"), (".tar",), "train")
    assert files == [tmp_path / "a.tar"] and name == "*.tar" and where == str(tmp_path / "*.tar")
    (tmp_path / "B.TAR").write_text("b")
    assert [file.name for file in splits.files_at(str(tmp_path), (".tar",), "train")[0]] == ["B.TAR", "a.tar"]
    with pytest.raises(ValueError, match=r"holds no files that end in .png or .jpg"):
        splits.files_at(str(tmp_path), (".png", ".jpg"), "train")
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        splits.files_at(str(tmp_path / "none"), (".tar",), "train")
    with pytest.raises(ValueError, match="the only split is 'train'"):
        splits.files_at(str(tmp_path / "a.tar"), (".tar",), "test")


def test_class_folders_hold_all_files_or_none(tmp_path):
    for name in ("cat/1.obj", "train/dog/train_2.obj"):
        (tmp_path / "mixed" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mixed" / name).write_text("o")
    files, classes, _, _ = splits.class_files(str(tmp_path / "mixed"), (".obj",), "train")
    assert [file.name for file in files] == ["train_2.obj"] and classes == ["dog"]
    (tmp_path / "loose" / "cat").mkdir(parents=True)
    (tmp_path / "loose" / "cat" / "1.obj").write_text("o")
    assert splits.class_files(str(tmp_path / "loose"), (".obj",), "train")[1] == ["cat"]
    (tmp_path / "loose" / "2.obj").write_text("o")
    with pytest.raises(ValueError, match=r"holds 2.obj beside folders of classes"):
        splits.class_files(str(tmp_path / "loose"), (".obj",), "train")
    assert splits.class_files(str(tmp_path / "loose" / "2.obj"), (".obj",), "train")[1] == []


# ==== Mixtures and filters ====


class Captioned(Records):
    """Records of the numbers from `first` on, with captions, a stamp and identities of their own."""

    def __init__(self, first, number, known=True):
        super().__init__([{"x": np.float32([first + k])} for k in range(number)])
        self.first, self.known = first, known

    def captions(self):
        return [f"number {self.first + row}" for row in range(len(self))]

    def stamp(self):
        return f"stamp {self.first} {len(self)}"

    def identities(self):
        return np.array([self.first + row for row in range(len(self))]) if self.known else None


def test_captions_and_identities_of_a_mixture_are_those_of_its_records():
    mixed = sources.mixture([Captioned(0, 3), Captioned(100, 2)], (1, 1))
    values = [int(mixed[row]["x"][0]) for row in range(len(mixed))]
    assert values == [0, 1, 2, 100, 101, 100]
    assert mixed.captions() == [f"number {value}" for value in values]
    np.testing.assert_array_equal(mixed.identities(), values)
    assert sources.mixture([Captioned(0, 3), Captioned(100, 2, known=False)], (1, 1)).identities() is None
    stamps = {mixed.stamp(), sources.mixture([Captioned(0, 3), Captioned(100, 2)], (1, 2)).stamp(),
              sources.mixture([Captioned(0, 3), Captioned(101, 2)], (1, 1)).stamp()}  # fmt: skip
    assert len(stamps) == 3 and mixed.spec.name.startswith("50% ") and " and 50% " in mixed.spec.name
    assert mixed.spec.size == 6 and mixed.fingerprint()["ends"] == [3, 6]


def test_weights_of_zero_and_below_are_refused_and_the_longest_epoch_is_not(monkeypatch):
    for weights in ((1, 0), (1, -1), (1, float("nan"))):
        with pytest.raises(ValueError, match="a weight above 0 for each source"):
            sources.mixture([Captioned(0, 3), Captioned(9, 3)], weights)
    monkeypatch.setattr(combined, "LONGEST", 12)
    assert len(sources.mixture([Captioned(0, 3), Captioned(9, 3)], (1, 3))) == 12
    with pytest.raises(ValueError, match="epoch of the mixture would have 15 records"):
        sources.mixture([Captioned(0, 3), Captioned(9, 3)], (1, 4))


def test_a_filter_keeps_what_belongs_to_its_records():
    kept = sources.filtered(Captioned(0, 6), lambda record: record["x"][0] % 2)
    assert [int(kept[row]["x"][0]) for row in range(3)] == [1, 3, 5] and kept.spec.size == len(kept) == 3
    assert kept.captions() == ["number 1", "number 3", "number 5"]
    np.testing.assert_array_equal(kept.identities(), [1, 3, 5])
    assert sources.filtered(Captioned(0, 6, known=False), lambda record: True).identities() is None
    other = sources.filtered(Captioned(0, 6), lambda record: record["x"][0] > 2)
    assert kept.stamp() != other.stamp() and kept.fingerprint()["kept"] != other.fingerprint()["kept"]
    assert [int(record["x"][0]) for record in kept.__getitems__([2, 0])] == [5, 1]
    with pytest.raises(ValueError, match="the filter reads 'label', but the records of list have only x"):
        sources.filtered(Captioned(0, 6), lambda record: record["label"])
