"""ArrayRecord files as one table, and a record read by its first bytes."""

import io
import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from diffusion.data.sources import record_files, spec
from tests.data.made import png


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_record_is_what_its_first_bytes_say():
    kinds = record_files.by_its_first_bytes
    np.testing.assert_array_equal(kinds(npy(np.arange(3)))["x"], [0, 1, 2])
    np.testing.assert_array_equal(kinds(npz(a=np.ones(2)))["a"], [1, 1])
    assert kinds(json.dumps({"label": 3}).encode()) == {"label": 3}
    for start in (b"\x89PNG\r\n\x1a\n", b"RIFF\1\0\0\0WEBP", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*"):
        record = start + b"rest"
        assert kinds(record) == {"image": record}
    for record in (b"", b"[1, 2]", b"P", b"\x93NUMP", b"\x89PN", b"GIF89a", b"RIFF\1\0\0\0WAVE", b"BMW, IIHF, MMs"):
        with pytest.raises(ValueError, match="which is neither a picture"):
            kinds(record)


@pytest.fixture
def table(tmp_path):
    """Three files of 2, 1 and 3 records, {"x": row, "label": row}; each file begins with its own number."""
    row = 0
    for number, size in enumerate((2, 1, 3)):
        writer = ArrayRecordWriter(str(tmp_path / f"train-{number}.array_record"), "group_size:1")
        for _ in range(size):
            writer.write(json.dumps({"x": [row, row], "label": row, "name": f"r{row}"}).encode())
            row += 1
        writer.close()
    return record_files.ArrayRecords(str(tmp_path), "train", record_files.by_its_first_bytes)


def test_rows_go_on_through_the_files_in_their_order(table):
    assert len(table) == 6 and table.columns == ("x", "label", "name")
    rows = [5, 0, 2, 3, 1, 2]
    assert [record["label"] for record in table.read(rows, ["label"])] == rows
    assert table.read([4], ["name", "x"]) == [{"name": "r4", "x": [4, 4]}]
    assert list(table.column("label")) == list(range(6))
    places = [table.place(row) for row in range(6)]
    assert [place.rsplit("/", 1)[1] for place in places] == [
        f"train-{file}.array_record, record {number}"
        for file, number in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2))
    ]


def test_a_column_that_a_record_lacks_is_named(table):
    with pytest.raises(ValueError, match="it has no depth, only x, label, name"):
        table.read([0], ["x", "depth"])
    with pytest.raises(ValueError, match=r"record 0 cannot be used: it has no depth"):
        table.column("depth")


def test_a_filter_s_error_names_the_record_or_the_unknown_column(tmp_path):
    """Filters read records through `metadata`; its error once began with what was wrong, for no record."""
    writer = ArrayRecordWriter(str(tmp_path / "train.array_record"), "group_size:1")
    for content in ({"x": [0.0], "kind": "a"}, {"x": [1.0], "kind": "b"}, {"x": [2.0]}):
        writer.write(json.dumps(content).encode())
    writer.close()
    source = record_files.array_records(str(tmp_path), "train[:2]", label="")  # the rows 1 and 2
    assert source.metadata(0, ["kind"]) == {"kind": "b"}
    with pytest.raises(spec.DamagedRecord, match=r"train\.array_record, record 2 \(record 1\) .*it has no kind"):
        source.metadata(1)
    with pytest.raises(ValueError, match=r"no column 'knd' for metadata.*Did you mean 'kind'\?"):
        source.metadata(0, ["knd"])
    np.testing.assert_array_equal(source[1]["x"], [2.0])  # the values that the filter lacked are not the example's


def test_a_folder_of_pictures_and_labels_is_a_source(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    writer = ArrayRecordWriter(str(tmp_path / "a.arrayrecord"), "group_size:1")
    for picture in pictures:
        writer.write(png(picture))
    writer.close()
    source = record_files.array_records(str(tmp_path))
    assert source.spec.shape == (4, 4, 3) and len(source) == 3
    np.testing.assert_array_equal(source[2]["image"], pictures[2])


@pytest.mark.parametrize("kept", [0, 1, 4, 1000, 65_536, 131_071])
def test_a_file_that_is_cut_short_is_refused_among_sound_ones(tmp_path, kept):
    """The reader of the library has no records of it, and no error."""
    for name in "ab":
        writer = ArrayRecordWriter(str(tmp_path / f"{name}.array_record"), "group_size:1")
        writer.write(json.dumps({"x": [1.0]}).encode())
        writer.close()
    assert len(record_files.array_records(str(tmp_path))) == 2
    content = (tmp_path / "b.array_record").read_bytes()
    (tmp_path / "b.array_record").write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"b\.array_record is truncated, or is not an ArrayRecord file"):
        record_files.array_records(str(tmp_path))


def test_a_file_of_no_records_adds_none(tmp_path):
    for name, number in (("a", 2), ("b", 0)):
        writer = ArrayRecordWriter(str(tmp_path / f"{name}.array_record"), "group_size:1")
        for _ in range(number):
            writer.write(json.dumps({"x": [1.0]}).encode())
        writer.close()
    assert len(record_files.array_records(str(tmp_path))) == 2


def test_pictures_keep_their_sizes_where_samples_have_one(tmp_path):
    writer = ArrayRecordWriter(str(tmp_path / "train.array_record"), "group_size:1")
    pictures = [np.full((4, 5, 3), 7, np.uint8), np.full((6, 4, 3), 9, np.uint8)]
    for picture in pictures:
        writer.write(png(picture))
    writer.close()
    source = record_files.array_records(str(tmp_path), varied=(4, 4))
    for row, picture in enumerate(pictures):
        np.testing.assert_array_equal(source[row]["image"], picture)
    squares = record_files.array_records(str(tmp_path), side=4)
    assert squares.spec.shape == (4, 4, 3)
    np.testing.assert_array_equal([squares[row]["image"][0, 0, 0] for row in (0, 1)], [7, 9])


def test_a_side_for_arrays_is_refused(tmp_path):
    """Arrays of 6 x 5 stayed as they were, without a word."""
    writer = ArrayRecordWriter(str(tmp_path / "train.array_record"), "group_size:1")
    writer.write(json.dumps({"x": np.zeros((6, 5, 3)).tolist()}).encode())
    writer.close()
    with pytest.raises(ValueError, match=r"side = 4 .*'x' holds arrays of the shape \(6, 5, 3\)\. Valid: side = 0"):
        record_files.array_records(str(tmp_path), side=4)
    assert record_files.array_records(str(tmp_path)).spec.shape == (6, 5, 3)


def test_a_damaged_chunk_behind_a_broken_picture_is_one_of_those_that_are_passed_over(tmp_path):
    """The reader's RuntimeError ended the search for a sound record in a traceback."""
    path = tmp_path / "train.array_record"
    pictures = [np.full((4, 4, 3), value, np.uint8) for value in (1, 2, 3)]
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for content in (png(pictures[0])[:40], png(pictures[1]), png(pictures[2])):
        writer.write(content)
    writer.close()
    whole = bytearray(path.read_bytes())
    whole[whole.find(png(pictures[1])) + 20] ^= 255
    path.write_bytes(bytes(whole))
    source = record_files.array_records(str(tmp_path))
    np.testing.assert_array_equal(source[2]["image"], pictures[2])
    with pytest.raises(spec.DamagedRecord, match=r"record 1 .*hash mismatch"):
        source[1]
    with pytest.raises(spec.DamagedRecord, match=r"train\.array_record, record 1 .*hash mismatch"):
        source.metadata(1, ["image"])


@pytest.mark.parametrize(("broken", "opens"), [(99, True), (100, False)])
def test_a_hundred_records_are_tried_for_a_sound_one(tmp_path, broken, opens):
    writer = ArrayRecordWriter(str(tmp_path / "train.array_record"), "group_size:1")
    for _ in range(broken):
        writer.write(png(np.zeros((4, 4, 3), np.uint8))[:40])
    writer.write(png(np.full((4, 4, 3), 5, np.uint8)))
    writer.close()
    if opens:
        np.testing.assert_array_equal(record_files.array_records(str(tmp_path))[broken]["image"], np.full((4, 4, 3), 5))
    else:
        with pytest.raises(ValueError, match="record 0 and the records after it cannot be used"):
            record_files.array_records(str(tmp_path))
