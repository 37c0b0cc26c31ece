"""What can be wrong with data, at every source that it can be wrong of: one sentence that names the file and the place.

What is said of folders, tables and captions: tests/data/sources/test_formats.py.
"""

import gzip
import io
import json
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffusion.data import captions, pipeline, sources
from diffusion.data.sources import DamagedRecord, python_objects, sequences
from diffusion.data.sources.streams import Stream
from tests.data.made import png
from tests.data.sources import hugging_face, stored

WIDE = stored.PICTURES[3].reshape(2, 8, 3)
STREAMS = {"tar_stream": "tar_shards", "parquet_stream": "parquet"}
FILES = [*stored.FORMATS, *STREAMS]
PYTHON = ["huggingface", "huggingface_stream", "sequence", "iterable"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


def opened(name, folder, **options):
    """A source with the pictures of `stored`; of files in the folder, which is made if it is not there."""
    if name in PYTHON:
        return of_memory(name, **options)
    if not folder.exists():
        stored.FORMATS[STREAMS.get(name, name)](folder)
    if name in STREAMS:
        options = {"classes": stored.NAMES, "window": 1} | options
    return getattr(sources, name)(str(folder / "a.npz" if name == "arrays" else folder), **options)


def of_memory(name, **options):
    if name.startswith("huggingface"):
        kind = hugging_face.IterableDataset if name.endswith("stream") else hugging_face.Dataset
        return sources.huggingface(hugging_face.pictures(kind), **options)
    records = [{"image": picture, "label": label} for picture, label in zip(stored.PICTURES, stored.LABELS)]
    classes = len(options.get("classes", stored.NAMES))
    return python_objects.source_of(records if name == "sequence" else lambda: iter(records), classes)


def all_of(source):
    if isinstance(source, Stream):
        return list(source.records(99))
    return pipeline.fetch(source, np.arange(len(source)))


def replaced(folder, old, new):
    """Replaces bytes in the one file that holds them."""
    (path,) = (path for path in folder.rglob("*") if path.is_file() and old in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(old, new))


PLACES = {  # of the picture 3
    "class_folders": r"dog/3\.png \(record \d\)",
    "picture_folder": r"data/3\.png \(record 3\)",
    "tar_shards": r"train-0\.tar, record '0003' at byte [1-9]\d* \(record 3\)",
    "parquet": r"train-00001-of-00002\.parquet, row 1 \(record 3\)",
    "array_records": r"train\.array_record, record 3 \(record 3\)",
    "arrays": r"a\.npz, row 3 \(record 3\)",
    "tar_stream": r"train-0\.tar, record '0003' at byte [1-9][\d,]*",
    "parquet_stream": r"train-00001-of-00002\.parquet, row 1",
    "huggingface": r"Dataset 'Dataset', row 3 \(record 3\)",
    "huggingface_stream": r"IterableDataset, row 3",
    "sequence": r"record 3 of the data",
    "iterable": r"<lambda>, record 3",
}


@pytest.mark.parametrize(
    "name", ["class_folders", "picture_folder", "tar_shards", "parquet", "tar_stream", "parquet_stream"]
)
def test_a_broken_picture_is_named_and_the_others_are_read(tmp_path, name):
    opened(name, tmp_path / "data")
    good = png(stored.PICTURES[3])
    if "parquet" in name:  # whose pages have a checksum of their own
        path = tmp_path / "data/data/train-00001-of-00002.parquet"
        table = pq.read_table(path).to_pylist()
        table[1]["image"]["bytes"] = good[:40]
        pq.write_table(pq.read_table(path).from_pylist(table), path, row_group_size=2)
    else:
        replaced(tmp_path / "data", good, good[:40] + b"\0" * (len(good) - 40))
    options = {"classes": stored.NAMES} if name == "parquet" else {}
    source = opened(name, tmp_path / "data", **options)
    with pytest.raises(DamagedRecord, match=rf"{PLACES[name]} cannot be used: .*(truncated|broken|cannot|not|image)"):
        all_of(source)
    with pytest.warns(UserWarning, match="left out"):
        if isinstance(source, Stream):
            rest = list(source.records(99, skip=True))
        else:
            rest = [record for record in pipeline.sound(source, range(6)) if record is not None]
    expected = [picture.tobytes() for k, picture in enumerate(stored.PICTURES) if k != 3]
    assert sorted(record["image"].tobytes() for record in rest) == sorted(expected)


def test_data_of_broken_pictures_alone_are_refused_with_the_cause_of_the_first(tmp_path):
    rows = [{"image": {"bytes": b"no picture", "path": None}, "label": k % 2} for k in range(3)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet, row 0 .*cannot be used: .*not a valid picture"):
        sources.parquet(str(tmp_path / "data"))


@pytest.mark.parametrize("name", ["class_folders", "picture_folder", "tar_shards", "parquet", *STREAMS, *PYTHON])
def test_mixed_sizes_are_named(tmp_path, monkeypatch, name):
    pictures = [WIDE if k == 3 else picture for k, picture in enumerate(stored.PICTURES)]
    monkeypatch.setattr(stored, "PICTURES", pictures)
    with pytest.raises(DamagedRecord, match=rf"{PLACES[name]} cannot be used: .* \(2, 8, 3\), but the first one has"):
        all_of(opened(name, tmp_path / "data"))


@pytest.mark.parametrize("name", ["sequence", "iterable"])
@pytest.mark.parametrize("value", [-np.inf, np.inf])
def test_a_python_record_with_infinity_is_named(name, value):
    """NaN stands for a value that is missing, as in a series with gaps."""
    records = [{"x": {"at": np.full(2, k, np.float32), "charge": np.float32([0.5])}} for k in range(6)]
    records[2]["x"]["at"][0] = np.nan
    records[3]["x"]["at"][1] = value
    source = python_objects.source_of(records if name == "sequence" else lambda: iter(records))
    with pytest.raises(DamagedRecord, match=rf"{PLACES[name]} cannot be used: its example holds {value}\."):
        all_of(source)


@pytest.mark.parametrize("name", ["sequence", "iterable"])
def test_a_python_record_with_infinity_in_its_condition_is_named(name):
    records = [{"x": np.full(2, k, np.float32), "condition": {"vector": np.ones(3, np.float32)}} for k in range(6)]
    records[3]["condition"]["vector"][1] = np.inf
    source = python_objects.source_of(records if name == "sequence" else lambda: iter(records))
    with pytest.raises(DamagedRecord, match=rf"{PLACES[name]} cannot be used: its condition holds inf\."):
        all_of(source)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (np.int64([3, 255]), "int64 [2]"),  # the bytes of a batch would not be scaled to [-1, 1] beside it
        (np.uint8([3, 255, 0]), "uint8 [3]"),
        ({"control": np.uint8([3, 255])}, "control: uint8 [2]"),
        (None, "none"),
    ],
)
def test_a_python_record_with_another_condition_is_named(condition, words):
    first = {"x": np.zeros(3, np.float32), "condition": np.uint8([0, 255])}
    second = {"x": np.zeros(3, np.float32)} | ({} if condition is None else {"condition": condition})
    records = sequences.Records([first, first, second])
    assert records[1]["condition"].tolist() == [0, 255]
    with pytest.raises(
        DamagedRecord, match=re.escape(f"its condition is {words}, but that of the first one is uint8 [2]")
    ):
        records[2]
    if condition is not None:
        with pytest.raises(DamagedRecord, match=r"record 1 .* that of the first one is none"):
            sequences.Records([{"x": np.zeros(3, np.float32)}, second])[1]


def test_a_label_may_stand_in_the_condition_and_a_record_without_any_is_named():
    inside = {"x": np.zeros(3, np.float32), "condition": {"label": np.int32(1), "depth": np.float32([0.5])}}
    without = {"x": np.zeros(3, np.float32), "condition": {"depth": np.float32([0.5])}}
    records = sequences.Records([inside, without], num_classes=2)
    assert records[0]["condition"]["label"] == 1
    with pytest.raises(DamagedRecord, match=r'it holds condition, x\. Valid: "x" and a label'):
        records[1]


@pytest.mark.parametrize(
    "name", ["picture_folder", "class_folders", "tar_shards", "parquet", "arrays", "array_records"]
)
def test_a_label_that_is_not_in_the_list_is_named(tmp_path, name):
    opened(name, tmp_path / "data")
    first = r"(dog/1\.png|data/1\.png|train-0\.tar, record '0001' at byte \d+|00000-of-00002\.parquet, row 1|"
    first += r"a\.npz, row 1|train\.array_record, record 1)"
    with pytest.raises(ValueError, match=rf"{first}: its label is .*, which is not one of the 1 classes cat"):
        opened(name, tmp_path / "data", classes=("cat",))


@pytest.mark.parametrize("name", [*STREAMS, "huggingface_stream", "sequence", "iterable"])
def test_a_label_that_is_not_in_the_list_of_a_stream_is_named(tmp_path, name):
    source = opened(name, tmp_path / "data", classes=("cat",))
    place = PLACES[name].replace("3'", "1'").replace("record 3", "record 1").replace("row 3", "row 1")
    place = place.replace("00001-of", "0000[01]-of")
    with pytest.raises(DamagedRecord, match=rf"{place} cannot be used: .*its label is 1"):
        all_of(source)


@pytest.mark.parametrize(
    "name", ["class_folders", "picture_folder", "tar_shards", "parquet", "array_records", *STREAMS]
)
def test_an_empty_folder_is_refused(tmp_path, name):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"data holds (neither pictures|no pictures|no files)"):
        getattr(sources, name)(str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match="there is no such"):
        getattr(sources, name)(str(tmp_path / "none"))


def test_what_is_no_array_or_empty_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path / "data")):
        sources.arrays(str(tmp_path / "data"))
    stored.arrays(tmp_path / "other")
    path = tmp_path / "other/a.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.npz"):
        sources.arrays(str(path))


@pytest.mark.parametrize("name", ["parquet", "parquet_stream"])
def test_a_parquet_without_the_column_lists_those_that_it_has(tmp_path, name):
    with pytest.raises(ValueError, match=r"no column 'img' for x; its columns are image, label, text\. Did you mean"):
        opened(name, tmp_path / "data", x="img")
    table = pq.read_table(tmp_path / "data/data/train-00001-of-00002.parquet").drop(["image"])
    pq.write_table(table, tmp_path / "data/data/train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet.* (has the columns|has no image, only) label"):
        all_of(opened(name, tmp_path / "data", classes=stored.NAMES))


def cut(content, name, share):
    whole = len(content.rstrip(b"\0")) if name == "train-0.tar" else len(content)
    return content[: int(whole * share)]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["train-0.tar", "train-0.tar.gz"])
def test_a_tar_cut_short_is_named_and_nothing_is_lost_in_silence(tmp_path, name, share):
    opened("tar_stream", tmp_path / "data")
    content = (tmp_path / "data/train-0.tar").read_bytes()
    (tmp_path / "data/train-0.tar").unlink()
    content = gzip.compress(content) if name.endswith("gz") else content
    (tmp_path / "data" / name).write_bytes(cut(content, name, share))
    with pytest.raises(
        DamagedRecord, match=rf"{name} is not a complete tar archive: after record .* at byte [\d,]+: .*Copy it"
    ):
        all_of(opened("tar_stream", tmp_path / "data"))


@pytest.mark.parametrize("name", ["tar_shards", "tar_stream"])
def test_a_damaged_header_within_a_tar_does_not_end_it_in_silence(tmp_path, name):
    """Python's own reader takes it for the end of the archive; so it does an end between two members."""
    opened(name, tmp_path / "data")
    path = tmp_path / "data/train-0.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        at = archive.getmember("0002.png").offset
    for changed in (content[:at], content[:at] + b"?" * 512 + content[at + 512 :]):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"train-0\.tar is (not a complete tar archive|truncated|damaged)"):
            all_of(opened(name, tmp_path / "data"))


def tar_of(path, members):
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["tar_shards", "tar_stream"])
def test_a_member_that_is_not_what_its_suffix_says_is_named(tmp_path, name):
    picture = png(stored.PICTURES[0])
    texts = {"0.png": picture, "0.txt": b"a cat", "1.png": picture, "1.txt": "un ch\xe2t".encode("latin-1")}
    tar_of(tmp_path / "a/train.tar", texts)
    with pytest.raises(
        ValueError, match=r"train\.tar, record '1' at byte .*its txt is not in UTF-8: the byte 0xe2 at 5"
    ):
        source = opened(name, tmp_path / "a", classes=())
        if name == "tar_shards":
            captions.texts_of(source)
        all_of(source)
    labels = {"0.png": picture, "0.cls": b"0", "1.png": picture, "1.cls": b"one"}
    tar_of(tmp_path / "b/train.tar", labels)
    with pytest.raises(ValueError, match=r"train\.tar, record '1' at byte .*its cls cannot be read: .*b'one'"):
        all_of(opened(name, tmp_path / "b"))


@pytest.mark.parametrize("labels", [["cat", None, "dog"], [0, None, 1], ["cat", "", "dog"], ["0", "1", "", "10"]])
def test_a_record_without_a_label_is_no_class(labels, tmp_path):
    pq.write_table(pa.table({"x": [[0.5, 1.0]] * len(labels), "label": labels}), tmp_path / "a.parquet")
    row = next(k for k, label in enumerate(labels) if not label and label != 0)
    with pytest.raises(ValueError, match=rf"a\.parquet, row {row}: it has no label\. Valid: a label in every record"):
        sources.parquet(str(tmp_path / "a.parquet"))
    assert not sources.parquet(str(tmp_path / "a.parquet"), label="").spec.num_classes


def test_numbers_of_another_shape_get_no_advice_about_pictures(tmp_path):
    pq.write_table(pa.table({"a": [[0.5], [1.0, 2.0]], "b": [[0.5], [1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(DamagedRecord, match=r"'a': \(2,\).*the first one has \{'a': \(1,\), 'b': \(1,\)\}\. "):
        sources.parquet(str(tmp_path / "a.parquet"), x=("a", "b"))[1]


def test_an_empty_label_that_is_named_as_a_class_is_one(tmp_path):
    pq.write_table(pa.table({"x": [[0.5], [1.0]], "label": ["", "dog"]}), tmp_path / "a.parquet")
    source = sources.parquet(str(tmp_path / "a.parquet"), classes=("dog", ""))
    assert [source[row]["label"] for row in range(2)] == [1, 0]


@pytest.mark.parametrize("label, read", [("1_0", "1_0"), ("nan", "nan"), ("12", 12), ("-1.5e3", -1500.0), (".5", 0.5)])
def test_a_column_of_a_table_is_numbers_where_they_are_written_in_digits(label, read, tmp_path):
    """Python's int and float also take 1_0, which is 10, and words."""
    (tmp_path / "0.png").write_bytes(png(stored.PICTURES[0]))
    (tmp_path / "metadata.csv").write_text(f"file_name,value\n0.png,{label}\n")
    assert sources.picture_folder(str(tmp_path)).column("value") == [read]


@pytest.mark.parametrize("labels, unused", [([1, 2, 3], "1 have no record (0)"), ([0, 3], "2 have no record (1, 2)")])
def test_classes_without_records_are_named(labels, unused, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((len(labels), 2), np.float32), label=labels)
    with pytest.warns(UserWarning, match=re.escape(f"of the classes 0 to 3, {unused}")):
        source = sources.arrays(str(tmp_path / "a.npz"))
    assert source.spec.num_classes == 4 and [source[row]["label"] for row in range(len(labels))] == labels


def test_parquet_files_of_different_types_are_refused(tmp_path):
    for number, label in enumerate((0, "cat")):
        pq.write_table(pa.table({"x": [[0.5]], "label": [label]}), tmp_path / f"{number}.parquet")
    with pytest.raises(
        ValueError, match=r"column 'label' cannot be read: 0\.parquet holds int64, but 1\.parquet string"
    ):
        sources.parquet(str(tmp_path))


@pytest.mark.parametrize("end", ["\u2028", "\u0085"])
def test_a_caption_in_json_lines_may_hold_any_letter(end, tmp_path):
    (tmp_path / "0.png").write_bytes(png(stored.PICTURES[0]))
    row = json.dumps({"file_name": "0.png", "caption": f"a{end}b"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(f"{row}\r\n\n", encoding="utf-8")
    assert sources.picture_folder(str(tmp_path)).captions() == [f"a{end}b"]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int32()])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_the_bytes_of_pictures_as_numbers_are_refused(tmp_path, format, kind):
    """They were read as symbols, where all files have one length."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, format)
    values = pa.array([list(buffer.getvalue())] * 3, pa.list_(kind))
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet")
    for read in (sources.parquet, sources.parquet_stream):
        with pytest.raises(
            ValueError, match=rf"'image' holds lists of {len(buffer.getvalue())} numbers .* (?i:{format}) f"
        ):
            read(str(tmp_path / "a.parquet"))
    binary = pa.array([bytes(row) for row in values.to_pylist()], pa.binary())
    pq.write_table(pa.table({"image": binary}), tmp_path / "a.parquet")
    if format != "GIF":
        assert sources.parquet(str(tmp_path / "a.parquet")).spec.shape == (8, 8, 3)


def test_other_lists_of_numbers_are_read(tmp_path):
    values = pa.array([[137, 80, 78, 71, 999], [0, 1, 2, 3, 4]], pa.list_(pa.int32()))
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    assert sources.parquet(str(tmp_path / "a.parquet"))[0]["x"].tolist() == [137, 80, 78, 71, 999]
