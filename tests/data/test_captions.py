"""Captions as conditions: the row of each record, on disk and in batches, and what is refused."""

import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffusion.data import captions, pipeline, sources
from diffusion.data.latent_cache import CacheError
from tests.data.made import image_feature, png, write

TEXTS = ["a cat", "a dog", "a cat", "a fox", "a dog", "a dog"]
SPEC = sources.DataSpec("made", "train", (4, 4, 3), 0, len(TEXTS), "1.2.0")


def table():
    """The entries of a text here: the sum of its letters, and its length."""
    letters = lambda few: {
        "text": np.array([[sum(map(ord, text))] for text in few], np.float32),
        "text_mask": np.array([[len(text) > 0] for text in few]),
    }
    return captions.table(TEXTS, letters, batch_size=3)


class Source:
    spec, where = SPEC, "memory"

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, row):
        return {"image": np.full((4, 4, 3), row, np.uint8)}


def test_each_distinct_caption_is_read_once_and_the_empty_one_is_the_first():
    seen = []
    found = captions.table(TEXTS, lambda few: seen.extend(few) or {"n": np.array([len(text) for text in few])}, 2)
    assert seen[:4] == ["", "a cat", "a dog", "a fox"] and not any(seen[4:])
    assert found.row.tolist() == [1, 2, 1, 3, 2, 2]
    assert found.null["n"] == 0 and found.entries["n"].tolist() == [0, 5, 5, 5]


def test_captions_are_numbered_as_they_come_and_read_in_batches_of_one_size():
    """A program compiles for each size of its inputs."""
    sizes = []
    lengths = lambda few: sizes.append(len(few)) or {"n": np.array([len(text) for text in few])}
    found = captions.table(["bbb", "", "a", "bbb", "cc"], lengths, batch_size=3)
    assert found.row.tolist() == [1, 0, 2, 1, 3] and found.entries["n"].tolist() == [0, 3, 1, 2]
    assert sizes == [3, 3]


def test_a_stream_has_the_entries_that_the_network_receives(monkeypatch):
    read = lambda texts: {"ids": np.array([[len(text)] for text in texts]), "mask": np.ones((len(texts), 1), bool)}
    monkeypatch.setattr(captions, "_reader", lambda tokenizer: read)
    monkeypatch.setattr(captions, "CaptionedStream", lambda stream, read: read)
    stream = types.SimpleNamespace(spec=SPEC)
    assert captions.tokenized_stream(stream, "folder", ("ids",))("a cat") == {"ids": np.array([5])}


@pytest.mark.parametrize("condition, is_refused", [
    (None, False), ({"mask": (4,)}, False), ({"mask": (4,), "ids": (4,)}, True), ((4,), True),
])  # fmt: skip
def test_a_condition_beside_captions_has_other_names(condition, is_refused):
    if not is_refused:
        captions._require_other_names(condition, ("ids", "text"))
        return
    with pytest.raises(ValueError, match=r"cannot hold the captions too\. Valid: a mapping whose names differ"):
        captions._require_other_names(condition, ("ids", "text"))


def test_batches_bring_each_picture_its_own_caption():
    source = captions.Captioned(Source(), table())
    batch = next(pipeline.batches(source, SPEC, seed=3, batch_size=6, threads=0))
    rows = batch["image"][:, 0, 0, 0]
    assert sorted(rows) == list(range(6))
    expected = [sum(map(ord, TEXTS[row])) for row in rows]
    np.testing.assert_array_equal(batch["condition"]["text"][:, 0], expected)
    assert batch["condition"]["text_mask"].shape == (6, 1)


def test_entries_stand_beside_those_of_the_records_own_condition():
    class Masked(Source):
        spec = SPEC._replace(condition={"mask": (4,)})

        def __getitem__(self, row):
            return {**super().__getitem__(row), "condition": {"mask": np.full(4, row)}}

    record = captions.Captioned(Masked(), table())[3]
    assert record["condition"].keys() == {"mask", "text", "text_mask"} and record["condition"]["mask"][0] == 3


def test_a_fingerprint_is_of_the_rows_and_of_the_entries():
    class Stated(Source):
        def fingerprint(self):
            return {"records": len(TEXTS)}

    of = lambda table, entry="condition": captions.Captioned(Stated(), table, entry).fingerprint()
    whole = table()
    assert of(whole) == of(table()) and of(whole).keys() == {"records", "conditions"}
    assert of(whole, "metadata") == {"records": 6, "metadata": of(whole)["conditions"]}
    swapped = whole._replace(row=whole.row[::-1].copy())
    changed = {**whole.entries, "text": whole.entries["text"] + np.float32([[0], [0], [0], [1]])}  # of the last text
    assert len({found["conditions"] for found in map(of, (whole, swapped, whole._replace(entries=changed)))}) == 3


def test_facts_of_captions_stand_beside_the_conditions():
    beside = captions.Captioned(Source(), table())
    source = captions.Captioned(beside, table(), "metadata")
    batch = next(pipeline.batches(source, SPEC, seed=3, batch_size=6, threads=0))
    lengths = [[len(TEXTS[row]) > 0] for row in batch["image"][:, 0, 0, 0]]
    np.testing.assert_array_equal(batch["metadata"]["text"], batch["condition"]["text"])
    np.testing.assert_array_equal(batch["metadata"]["text_mask"], lengths)
    assert set(batch["metadata"]) == set(batch["condition"]) == {"text", "text_mask"}


def test_conditions_are_read_without_the_examples():
    found = pipeline.conditions(captions.Captioned(Source(), table()), SPEC, [4, 0, 4])
    expected = [sum(map(ord, TEXTS[row])) for row in (4, 0, 4)]
    np.testing.assert_array_equal(found["condition"]["text"][:, 0], expected)
    classes = SPEC._replace(num_classes=9)
    # Of another shape than the spec's, as the moments of latents are before a draw.
    labelled = [{"x": np.zeros((2, 5)), "label": row + 3} for row in range(6)]
    assert pipeline.conditions(labelled, classes, [5, 1])["label"].tolist() == [8, 4]


def test_what_is_written_is_what_is_read(tmp_path):
    captions.write(tmp_path, table(), captions.describe(SPEC, "e5"))
    found = captions.read(tmp_path)
    for name, rows in table().entries.items():
        np.testing.assert_array_equal(found.entries[name], rows)
        np.testing.assert_array_equal(captions.null(tmp_path)[name], rows[0])
    np.testing.assert_array_equal(found.row, table().row)
    captions.require(tmp_path, "made", "train", 6)
    captions.require(tmp_path, "made:1.2.0", "train", 6)


@pytest.mark.parametrize(
    "wanted, message",
    [
        (("other", "train", 6), "name is 'made' there, but the run needs 'other'"),
        (("made", "test", 6), "split is 'train' there"),
        (("made", "train", 7), "size is 6 there, but the run needs 7"),
        (("made:2.0.0", "train", 6), "version is '1.2.0' there"),
    ],
)
def test_captions_of_other_pictures_are_refused(wanted, message, tmp_path):
    captions.write(tmp_path, table(), captions.describe(SPEC, "e5"))
    with pytest.raises(CacheError, match=message):
        captions.require(tmp_path, *wanted)


def test_damaged_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no captions.*diffusion encode_text"):
        captions.read(tmp_path)
    captions.write(tmp_path, table(), captions.describe(SPEC, "e5"))
    whole = (tmp_path / captions.ARRAYS).read_bytes()
    (tmp_path / captions.ARRAYS).write_bytes(whole[:40])
    for read in (captions.read, captions.null):
        with pytest.raises(CacheError, match="is damaged"):
            read(tmp_path)
    with pytest.raises(CacheError, match="there are 2 records but captions for 6; both must have the"):
        captions.Captioned([1, 2], table())


@pytest.mark.parametrize("row", [[0, 4], [-1, 2], [0.0, 1.0]])
def test_rows_that_no_caption_has_are_refused(row, tmp_path):
    rows = np.array(row)
    rows = rows.astype(np.int32) if rows.dtype.kind == "i" else rows
    captions.write(tmp_path, table()._replace(row=rows), captions.describe(SPEC, "e5"))
    with pytest.raises(CacheError, match="is damaged: its rows do not belong together"):
        captions.read(tmp_path)


def test_a_folder_that_is_written_anew_is_whole_or_none(tmp_path, monkeypatch):
    captions.write(tmp_path, table(), captions.describe(SPEC, "e5"))
    monkeypatch.setattr(captions, "save", lambda arrays: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        captions.write(tmp_path, table(), captions.describe(SPEC, "another"))
    with pytest.raises(FileNotFoundError, match="holds no captions"):
        captions.read(tmp_path)


def test_empty_captions_are_refused_and_all_named(tmp_path):
    features = {"image": image_feature(), "caption": tfds.features.Text()}
    examples = [{"image": png(np.zeros((4, 4, 3), np.uint8)), "caption": text} for text in ("a", "", "b", " ")]
    place = write(tmp_path, features, examples)
    with pytest.raises(ValueError, match=r"made \(train\): 2 of 4 captions are empty, at the records 1, 3 \("):
        captions.texts_of(sources.open_source("made", "train", place)[0])
    place = write(tmp_path / "fine", features, [{**example, "caption": " a cat "} for example in examples])
    assert captions.texts_of(sources.open_source("made", "train", place)[0]) == ["a cat"] * 4
