"""Which records a source keeps in memory, which it blames, and what its description says."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusion.data import fingerprints
from diffusion.data.sources import array_files, parquet_files, picture_files, spec, table_records
from diffusion.data.sources.spec import DamagedRecord, DataSpec, Leaf, RandomAccess
from tests.data.made import png
from tests.data.sources import stored


def folder(tmp_path, **more):
    return picture_files.picture_folder(stored.picture_folder(tmp_path / "data")["path"], **more)


@pytest.mark.parametrize("room, kept", [(6 * 4 * 4 * 3, True), (6 * 4 * 4 * 3 - 1, False)])
def test_decoded_pictures_stay_in_memory_where_all_of_them_fit(tmp_path, monkeypatch, room, kept):
    monkeypatch.setattr(spec, "MEMORY_LIMIT", room)
    source = folder(tmp_path)
    first, again = source[1]["image"], source[1]["image"]
    assert (first is again) == kept
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("room, kept", [(6 * (48 + 8 * 8), True), (6 * (48 + 8 * 8) - 1, False)])
def test_conditions_take_their_share_of_the_memory(tmp_path, monkeypatch, room, kept):
    """They were not counted, so that small pictures with large conditions filled the memory."""
    monkeypatch.setattr(spec, "MEMORY_LIMIT", room)
    (tmp_path / "data").mkdir()
    rows = [{"image": {"bytes": png(picture)}, "depth": [1.0] * 8} for picture in stored.PICTURES]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/train.parquet")
    source = parquet_files.parquet(str(tmp_path / "data"), condition="depth")
    assert source.spec.condition == Leaf((8,), "float64") and (source[1] is source[1]) == kept


def test_numbers_and_pictures_of_several_sizes_are_read_again(tmp_path):
    """Numbers are mapped from their file; pictures that keep their sizes have none in common."""
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2), np.float32))
    numbers = array_files.arrays(str(tmp_path / "a.npz"))
    varied = folder(tmp_path, varied=(4, 4))
    for source in (numbers, varied):
        source[0]
        assert not source._kept


class Made(RandomAccess):
    """Records of which some are damaged, whose reads are counted."""

    def __init__(self, number, damaged=(), keep=False):
        super().__init__()
        self.spec = DataSpec("made", "train", (2,), 0, number, dtype="float32")
        self.where, self._mend, self._keep = "made", "Mend it.", keep
        self.damaged, self.reads = set(damaged), []

    def _place(self, row):
        return f"record {row}"

    def _stored(self, rows):
        self.reads.append(list(rows))
        if bad := self.damaged & set(rows):
            raise ValueError(f"{sorted(bad)} are damaged")
        return list(rows)

    def _record(self, row, stored):
        return {"x": np.float32([row, stored])}

    def _bytes(self, stored):
        return str(stored).encode()


def test_rows_are_read_at_once_and_each_once():
    source = Made(5)
    assert [record["x"][0] for record in source.__getitems__([3, 1, 3])] == [3, 1, 3]
    assert source.reads == [[3, 1]]
    source.__getitems__([3])
    assert source.reads == [[3, 1], [3]]
    kept = Made(5, keep=True)
    kept.__getitems__([3, 1])
    assert [record["x"][0] for record in kept.__getitems__([1, 2])] == [1, 2]
    assert kept.reads == [[3, 1], [2]]


def test_a_damaged_record_is_found_among_others_and_not_read_again():
    source = Made(5, damaged=[2])
    with pytest.raises(DamagedRecord, match=r"record 2.*Mend it\."):
        source.__getitems__([1, 2, 3])
    before = len(source.reads)
    with pytest.raises(DamagedRecord, match="record 2"):
        source[2]
    assert len(source.reads) == before and source[1]["x"][0] == 1


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_that_there_are_not_are_refused(row):
    with pytest.raises(IndexError, match=rf"row {row} is not in 0\.\.4"):
        Made(5)[row]
    assert Made(5)[0]["x"][0] == 0 and Made(5)[4]["x"][0] == 4


def test_the_stamp_of_a_table_may_hold_paths_and_numbers_of_numpy():
    class Own:
        name, where, columns, date = "own", "memory", ("x",), 1

        def __len__(self):
            return 2

        def read(self, rows, columns):
            return [{"x": np.float32([row])} for row in rows]

        def place(self, row):
            return f"row {row}"

        def stamp(self):
            return [pathlib.Path("a"), np.int64(self.date)]

    table = Own()
    before = table_records.Records(table).stamp()
    assert before == table_records.Records(table).stamp()
    table.date = 2
    assert before != table_records.Records(table).stamp()


def test_the_sample_of_a_fingerprint_is_of_content_and_survives_damage():
    same, other = Made(5)._sampled(), Made(6)._sampled()
    assert same == Made(5)._sampled() != other and Made(5, damaged=[1])._sampled() != same


def test_the_sample_of_a_fingerprint_reads_each_of_its_records_once_and_few_together():
    source = Made(100)
    digest = source._sampled()
    assert [row for rows in source.reads for row in rows] == fingerprints.rows(100)
    assert max(map(len, source.reads)) <= 16
    assert digest == fingerprints.digest(str(row).encode() for row in fingerprints.rows(100))


def test_what_a_description_says():
    label = {"label": Leaf((), "int32"), "text": Leaf((3,), "uint8"), "mask": Leaf((4, 6), "uint8")}
    picture = DataSpec("a", "train", (4, 6, 3), 0, 1, condition=label)
    assert picture.entry == "image" and picture.pictures and picture.masks and picture.has_class
    null = picture.null
    assert null["text"].shape == (3,) and null["text"].dtype == np.float32 and null["label"].dtype == np.int32
    assert not any(np.any(leaf) for leaf in null.values())
    vector = DataSpec("a", "train", (4,), 0, 1, dtype="float32", condition={"label": Leaf((1,), "int32")})
    assert vector.entry == "x" and not vector.pictures and not vector.masks and not vector.has_class
    assert not DataSpec("a", "train", (4,), 0, 1, condition={"label": Leaf((), "float32")}).has_class
    assert DataSpec("a", "train", (4,), 0, 1).null is None and not DataSpec("a", "train", (4,), 0, 1).has_class
    off = {"mask": Leaf((6, 4), "uint8")}
    assert not picture._replace(condition=off).masks
    assert picture._replace(condition={"mask": Leaf((4, 6, 1), "uint8")}).masks
    assert not picture._replace(condition={"mask": Leaf((4, 6, 1, 1), "uint8")}).masks


@pytest.mark.parametrize("channels, is_one", [(1, True), (2, False), (3, True), (4, True), (5, False)])
def test_pictures_have_one_three_or_four_channels(channels, is_one):
    assert spec.is_picture((4, 4, channels), "uint8") == is_one
    assert not spec.is_picture((4, 4, channels), "float32") and not spec.is_picture((4, channels), "uint8")
    assert not spec.is_picture((2, 4, 4, channels), "uint8") and not spec.is_picture({"a": (4, 4, 3)}, "uint8")


def test_the_class_of_a_record_is_its_label_wherever_it_stands():
    assert spec.class_of({"label": 3}) == 3 and spec.class_of({}) == 0
    assert spec.class_of({"condition": {"label": 2}}) == 2 and spec.class_of({"condition": np.ones(2)}) == 0
    assert spec.class_of({"label": 3, "condition": {"label": 2}}) == 3


def test_sizes_are_height_and_width_from_headers_or_arrays():
    source = Made(2)
    source._read = lambda rows: [{"image": np.zeros((5, 7, 3))}, {"image": b"encoded"}]

    class Opened:
        height, width = 3, 9

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    np.testing.assert_array_equal(source._sizes([0, 1], "image", lambda data: Opened()), [[5, 7], [3, 9]])
    source._read = lambda rows: []
    assert source._sizes([], "image", None).shape == (0, 2)


def test_labels_of_an_array_of_texts_are_texts(tmp_path):
    """Named classes come from an array of texts, numbered ones from an array of integers."""
    x = np.zeros((4, 2), np.float32)
    np.savez(tmp_path / "texts.npz", x=x, label=np.array(["dog", "cat", "dog", "cat"]))
    texts = array_files.arrays(str(tmp_path / "texts.npz"), label="label")
    assert texts.spec.classes == ("cat", "dog") and [texts[row]["label"] for row in range(4)] == [1, 0, 1, 0]
    np.savez(tmp_path / "numbers.npz", x=x, label=np.array([2, 0, 1, 2]))
    numbers = array_files.arrays(str(tmp_path / "numbers.npz"), label="label")
    assert numbers.spec.num_classes == 3 and [numbers[row]["label"] for row in range(4)] == [2, 0, 1, 2]
    columns = array_files.Arrays(str(tmp_path / "texts.npz")).column("label"), array_files.Arrays(
        str(tmp_path / "numbers.npz")
    ).column("label")  # fmt: skip
    assert isinstance(columns[0], list) and isinstance(columns[1], np.ndarray)


def test_the_header_of_a_picture_that_a_link_leads_out_to_is_not_read(tmp_path):
    """Sizes are asked for before any picture is decoded."""
    place = tmp_path / "data"
    stored.picture_folder(place)
    source = picture_files.picture_folder(str(place), varied=(4, 4))
    (place / "2.png").rename(tmp_path / "outside.png")
    (place / "2.png").symlink_to(tmp_path / "outside.png")
    np.testing.assert_array_equal(source.sizes([0, 1, 3]), [[4, 4]] * 3)
    with pytest.raises(ValueError, match=r"2\.png"):
        source.sizes([2])


def test_what_is_a_clip():
    """Clips of other than 1 or 3 channels cannot be drawn, and their masks move with them; numbers have neither."""
    assert spec.is_clip((4, 8, 8, 3), "uint8") and spec.is_clip((4, 8, 8, 1), "uint8")
    mask = spec.Leaf((8, 8), "float32")
    for shape, dtype, moves in (
        ((4, 8, 8, 3), "float32", False),
        ((8, 8, 3), "uint8", True),
        ((8, 8, 8, 4), "uint8", True),
        ({"x": (2,)}, "uint8", False),
    ):
        assert not spec.is_clip(shape, dtype)
        described = spec.DataSpec("a", "train", shape, 0, 1, dtype=dtype, condition={"mask": mask})
        assert not described.clips and described.masks == moves
    assert spec.DataSpec("a", "train", (4, 8, 8, 3), 0, 1, condition={"mask": mask}).masks


@pytest.mark.parametrize("label", ["cat", None, np.array([1, 2]), [1]])
def test_a_label_that_is_no_number_is_named(label):
    with pytest.raises(ValueError, match=r"its label is .*\. Valid: an integer"):
        spec.class_of({"label": label})
