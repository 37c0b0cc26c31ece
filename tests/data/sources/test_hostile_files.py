"""Data of a stranger is refused in one sentence: it leads to no other file, opens no socket, and takes no more memory
or time than its size explains."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import tarfile
import threading
import wave

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from diffusion.data import image_folder, sources
from diffusion.data.sources import DamagedRecord, file_streams
from diffusion.io import budgets, files, json_lines, limits
from diffusion.metrics import image_sets
from tests.data.made import png
from tests.data.sources import stored
from tests.reliability.hostile import little_memory  # noqa: F401

PICTURE = png(stored.PICTURES[0])
REFUSALS = (ValueError, OSError)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    """The folder of a stranger's data, beside a picture of this user that is none of its business."""
    (tmp_path / "secret.png").write_bytes(PICTURE)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def read(name, path, **options):
    """Opens a source and reads its first record."""
    source = getattr(sources, name)(str(path), **options)
    if name.endswith("_stream"):
        return next(iter(source.records(1)))
    return source[0]


def ended(call):
    """What the call returns, or the error that it raises; it does not wait for ever."""
    results = []

    def run():
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it waits"
    return results[0]


def refused(words, call):
    """The call raises such an error."""
    result = ended(call)
    with pytest.raises(REFUSALS, match=words):
        if isinstance(result, BaseException):
            raise result


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def array_record(path, *records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def of_child(program):
    """Runs a program that makes a file, whose memory is not that of this process."""
    heads = "import numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
    subprocess.run([sys.executable, "-c", heads + program], check=True)


# ==== Leading out ====

NAMED = [{"bytes": None, "path": "secret.png"}, {"bytes": None, "path": "../secret.png"}, {"bytes": "../secret.png"}]


def outside(value, data):
    """The value with the whole path of the file outside, where it names one by its name."""
    return {key: str(data.parent / item) if item == "secret.png" else item for key, item in value.items()}


@pytest.mark.parametrize("value", NAMED)
@pytest.mark.parametrize("name", ["parquet", "parquet_stream", "array_records", "tar_shards", "picture_folder"])
def test_a_record_that_names_a_file_does_not_open_it(data, monkeypatch, name, value):
    monkeypatch.chdir(data)
    value = outside(value, data)
    text = json.dumps({"image": value, "file_name": "a.png"}).encode()
    (data / "a.png").write_bytes(PICTURE)
    options = {}
    if name.startswith("parquet"):
        pq.write_table(pa.table({"image": [value]}), data / "train.parquet")
    elif name == "array_records":
        array_record(data / "train.array_record", text)
    elif name == "tar_shards":
        tar(data / "train.tar", {"0.json": text})
        options = {"x": "json.image"}
    else:
        (data / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "other": value}))
        options = {"x": "other"}
    refused("names? (of )?a file|is not an array of numbers", lambda: read(name, data, **options))


def folder_of(name, data):
    """A source of a folder with one file, which lies at the path that is returned; and what else the source needs."""
    paths = {
        "class_folders": "cat/a.png", "picture_folder": "a.png", "tar_shards": "a.tar", "tar_stream": "a.tar",
        "parquet": "a.parquet", "parquet_stream": "a.parquet", "array_records": "a.array_record", "arrays": "x.npy",
        "wav_folder": "a.wav", "clip_folder": "a.gif", "clip_shards": "a.tar", "mesh_clouds": "a.npy",
    }  # fmt: skip
    options = {
        "wav_folder": {"sample_rate": 8000, "length": 64}, "clip_folder": {"frames": 2, "side": 4, "rate": 10.0},
        "clip_shards": {"frames": 2, "side": 4, "rate": 10.0}, "mesh_clouds": {"points": 3},
    }  # fmt: skip
    path = data / paths[name]
    path.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    frames = [Image.fromarray(picture) for picture in stored.PICTURES]
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=100)
    if path.suffix == ".png":
        content.write(PICTURE)
    elif path.suffix == ".tar":
        members = {"0.gif": gif.getvalue()} if name == "clip_shards" else {"0.png": PICTURE}
        tar(path, members)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"image": [{"bytes": PICTURE, "path": "a.png"}]}), path)
    elif path.suffix == ".array_record":
        array_record(path, PICTURE)
    elif path.suffix == ".npy":
        np.save(path, np.random.default_rng(0).normal(size=(8, 3)))
    elif path.suffix == ".wav":
        with wave.open(content, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(256))
    else:
        content = gif
    if content.getvalue():
        path.write_bytes(content.getvalue())
    return path, options.get(name, {})


FOLDERS = ["class_folders", "picture_folder", "tar_shards", "tar_stream", "parquet", "parquet_stream", "array_records",
           "arrays", "wav_folder", "clip_folder", "clip_shards", "mesh_clouds"]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_out_of_the_folder_is_not_followed(data, name):
    path, options = folder_of(name, data)
    read(name, data, **options)
    path.rename(data.parent / f"moved{path.suffix}")
    path.symlink_to(data.parent / f"moved{path.suffix}")
    refused("leads out of its folder", lambda: read(name, data, **options))
    if name not in ("class_folders", "picture_folder"):
        read(name, path, **options)  # which the user names


@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_no_file_is_not_read(data, name, kind):
    path, options = folder_of(name, data)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    refused(
        r"is not a file|leads out of its folder|holds neither films|pictures are not in",
        lambda: read(name, data, **options),
    )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "a.txt"])
def test_a_table_and_a_caption_may_not_be_links_out(data, name):
    (data / "a.png").write_bytes(PICTURE)
    content = {"metadata.csv": "file_name,caption\na.png,a\n", "a.txt": "a"}
    (data.parent / "other").write_text(content.get(name, '{"file_name": "a.png"}'))
    (data / name).symlink_to("../other")
    refused("leads out of its folder", lambda: read("picture_folder", data))


def test_a_prepared_folder_of_pictures_leads_nowhere(data):
    (data / "metadata.csv").write_text("file_name,caption\na.png,a\n")
    (data / "a.png").symlink_to("../secret.png")
    refused("leads out of its folder", lambda: image_folder.prepare(data, "mine", data.parent / "made"))


def test_series_are_read_from_plain_files(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    refused("is not a file", lambda: sources.series.read_series(str(tmp_path / "a.csv")))
    (tmp_path / "b.csv").symlink_to("/dev/zero")
    refused("is not a file", lambda: sources.series.read_series(str(tmp_path / "b.csv")))


# ==== Memory and time ====


@pytest.mark.parametrize("label", [10**12, 2**62, 2**63])
@pytest.mark.parametrize("name", ["tar_shards", "arrays", "array_records"])
def test_a_label_that_would_make_as_many_classes_is_refused(data, name, label):
    if name == "tar_shards":
        tar(data / "a.tar", {"0.png": PICTURE, "0.cls": str(label).encode()})
    elif name == "arrays":
        np.save(data / "x.npy", np.zeros((1, 2), np.float32))
        np.save(data / "label.npy", np.array([label], np.uint64))
    else:
        array_record(data / "a.array_record", json.dumps({"x": [0.5], "label": label}).encode())
    refused(rf"its label is {label}\. Valid: integers from 0 to 999,?999", lambda: read(name, data))


def test_pictures_numbered_far_apart_are_refused(data):
    for number in (0, 999_999_999_999):
        (data / f"{number}.png").write_bytes(PICTURE)
    refused("lacks frame 1: its pictures are numbered 0 to 999999999999",
            lambda: read("clip_folder", data, frames=1, side=4))  # fmt: skip


def test_a_sound_that_declares_more_than_it_has_is_refused(data):
    head = b"WAVE" + b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    sound = b"RIFF" + struct.pack("<I", 2**32 - 1) + head + b"data" + struct.pack("<I", 2**32 - 2) + bytes(64)
    (data / "a.wav").write_bytes(sound)
    assert len(sound) == 108
    refused(r"a\.wav is truncated: its header states 2147483647 samples, but it holds 32",
            lambda: read("wav_folder", data, sample_rate=8000, length=1))  # fmt: skip


def gif(width, height, frames, size=None):
    """A GIF of flat frames; each of `size`, which is that of the picture by default."""
    own = size or (width, height)
    codes = io.BytesIO()
    Image.new("P", own).save(codes, "GIF")
    content = codes.getvalue()
    start = content.index(b",", 13)  # of the picture's block, which the first frame's is
    block = content[start:-1]
    control = b"!\xf9\x04\0\x0a\0\0\0"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + (control + block) * frames + b";"


@pytest.mark.extended
@pytest.mark.parametrize("where", ["clip_folder", "clip_shards"])
@pytest.mark.parametrize("sides", [(8000, 8000, 1), (3000, 3000, 40), (16, 16, 200_000)])
def test_a_gif_that_unpacks_without_measure_is_refused(data, where, sides):
    content = gif(*sides) if sides[2] < 1000 else gif(16, 16, sides[2], (1, 1))
    if where == "clip_folder":
        (data / "a.gif").write_bytes(content)
    else:
        tar(data / "a.tar", {"0.gif": content})
    frames = min(sides[2], 100)
    refused("gif (unpacks to|holds more than)", lambda: read(where, data, frames=frames, side=8, rate=10.0))


@pytest.mark.extended
def test_a_compressed_member_that_unpacks_without_measure_is_refused(data):
    """A header of 3 GiB, and as many zeros: 3 MB of gzip, of which a part is enough here."""
    header = tarfile.TarInfo("0.npy")
    header.size = 3 * 2**30
    with gzip.open(data / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        for _ in range(300):
            file.write(bytes(2**20))
    refused(r"a\.tar\.gz unpacks to 3 GiB or more, but at most \S+ MiB are read",
            lambda: read("tar_stream", data))  # fmt: skip


def test_the_members_of_one_record_share_its_budget(data, monkeypatch):
    """Each alone was within it, and a record is held whole; a record after it has a budget of its own."""
    monkeypatch.setattr(budgets, "FLOOR", 3000)
    members = {f"{record}.{part}": bytes(1000) for record in range(3) for part in "abc"}
    tar(data / "a.tar.gz", members, "w:gz")
    monkeypatch.setattr(budgets, "RATIO", 1)
    assert [len(values) for _, values in file_streams.tar_records(data / "a.tar.gz", 0)] == [3, 3, 3]
    tar(data / "b.tar.gz", {**members, "2.d": b"0"}, "w:gz")
    refused(r"b\.tar\.gz unpacks to \S+ KiB or more", lambda: list(file_streams.tar_records(data / "b.tar.gz", 0)))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["parquet", "parquet_stream"])
def test_a_dictionary_that_unpacks_without_measure_is_refused(data, name):
    of_child(
        f"""column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array([bytes(4 * 2**20)]))
pq.write_table(pa.table({{"image": column}}), {str(data / "a.parquet")!r}, compression="zstd", store_schema=False)"""
    )
    assert (data / "a.parquet").stat().st_size < 50_000
    refused("unpacks to .* or more", lambda: read(name, data))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["parquet", "parquet_stream"])
def test_a_page_that_unpacks_without_measure_is_refused(data, name):
    of_child(
        f"""pq.write_table(pa.table({{"x": [bytes(2**27 + 1)]}}), {str(data / "a.parquet")!r}, compression="zstd",
        use_dictionary=False, write_statistics=False)"""
    )
    refused("unpacks to .* or more", lambda: read(name, data))


@pytest.mark.extended
def test_a_row_count_without_rows_is_refused(data):
    """Run-length encoding holds 2 10^7 equal numbers in some bytes."""
    of_child(f"pq.write_table(pa.table({{'x': np.zeros(2 * 10**7, np.int32)}}), {str(data / 'a.parquet')!r})")
    refused("unpacks to .* or more", lambda: read("parquet", data))


@pytest.mark.extended
def test_arrays_in_a_record_unpack_with_measure(data):
    of_child(f"np.savez_compressed({str(data / 'a.npz')!r}, x=np.zeros(2**27 + 1, np.uint8))")
    array_record(data / "a.array_record", (data / "a.npz").read_bytes())
    refused("unpacks to .* or more", lambda: read("array_records", data))


# ==== Damaged ====


def test_labels_that_are_lists_of_different_lengths_are_refused(data):
    rows = [{"file_name": f"{k}.png", "label": label} for k, label in enumerate((1, [2], {}))]
    for row in rows:
        (data / row["file_name"]).write_bytes(PICTURE)
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refused(r"data: the labels in column 'label' are object", lambda: read("picture_folder", data))


def test_the_json_of_a_first_record_that_is_none_is_named(data):
    tar(data / "a.tar", {"0.png": PICTURE, "0.json": b"{"})
    refused(r"a\.tar, record '0' at byte \d+: its json .*is not valid JSON", lambda: read("tar_shards", data))


def test_a_first_record_of_no_kind_is_named(data):
    array_record(data / "a.array_record", b"some words")
    refused(r"a\.array_record, record 0 cannot be read: a record begins with", lambda: read("array_records", data))


def npy(shape, kind="<f4", data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize("shape", [(10**12,), (10**12, 0), (0, 10**12), (2**70, 2**70), (-4, 2), (10**6, 10**6)])
@pytest.mark.parametrize("name", ["arrays", "tar_shards", "array_records", "mesh_clouds", "npz"])
def test_an_array_of_another_size_than_its_file_is_refused(data, name, shape):
    content = npy(shape)
    options = {}
    if name in ("arrays", "mesh_clouds"):
        (data / "x.npy").write_bytes(content)
    elif name == "tar_shards":
        tar(data / "a.tar", {"0.npy": content})
    else:
        if name == "npz":
            import zipfile

            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("x.npy", content)
            content, name = buffer.getvalue(), "array_records"
        array_record(data / "a.array_record", content)
    refused("declares|shape|no rows|holds no records", lambda: read(name, data, **options))


@pytest.mark.parametrize("content", [b"PK\3\4", b"PK\5\6" + bytes(18), b"PK" + bytes(100)])
def test_a_broken_npz_in_a_record_is_refused(data, content):
    array_record(data / "a.array_record", content)
    refused("record 0|not a valid .npz|has the columns , and none of them", lambda: read("array_records", data))


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("name", ["array_records", "tar_shards", "picture_folder", "parquet"])
def test_json_without_a_floor_is_refused(data, name):
    text = b'{"a": ' + DEEP + b"}"
    (data / "a.png").write_bytes(PICTURE)
    if name == "array_records":
        array_record(data / "a.array_record", text)
    elif name == "tar_shards":
        tar(data / "a.tar", {"0.json": text, "0.png": PICTURE})
    elif name == "picture_folder":
        (data / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "a": ' + DEEP + b"}")
    else:
        table = pa.table({"image": [{"bytes": PICTURE}], "label": [0]})
        pq.write_table(table.replace_schema_metadata({"huggingface": text}), data / "a.parquet")
        assert sources.parquet(str(data)).spec.classes == ("0",)
        return
    refused("not valid JSON|is no JSON", lambda: read(name, data))


@pytest.mark.parametrize("value", [["a.png"], {"a": 1}, None, 3, True])
def test_a_file_name_that_is_no_text_is_refused(data, value):
    (data / "a.png").write_bytes(PICTURE)
    (data / "metadata.jsonl").write_text(json.dumps({"file_name": value}))
    refused(r"line 1: its file_name is .*\. Valid: a text, the name of a file", lambda: read("picture_folder", data))


@pytest.mark.parametrize("cell", ["x" * 200_000, "ch\xe2t"])
@pytest.mark.parametrize("name", ["metadata.csv", "captions", "series"])
def test_cells_that_are_too_long_or_in_latin_1_are_refused(data, name, cell):
    (data / "a.png").write_bytes(PICTURE)
    head = {"series": "time", "captions": "file_name,caption"}.get(name, "file_name,caption")
    row = cell if name == "series" else f"a.png,{cell}"
    path = data / ("series.csv" if name == "series" else "metadata.csv")
    path.write_bytes(f"{head}\n{row}\n".encode("latin-1"))
    call = {
        "metadata.csv": lambda: read("picture_folder", data),
        "captions": lambda: image_folder.read_metadata(data),
        "series": lambda: sources.series.read_series(str(path)),
    }[name]
    refused(r"\.csv.*((is not a CSV file|cannot be read as CSV): field larger than|line 2 has the byte 0xe2)", call)


def header(name, size, kind=b"0"):
    """A header of a member with that field of its size, 12 bytes, and a sum that fits."""
    content = bytearray(tarfile.TarInfo(name).tobuf())
    content[124:136] = size
    content[156:157] = kind
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content)


NEGATIVE = b"\xff" * 12  # in base 256: -1
FAR_BACK = b"\xff" * 4 + struct.pack(">q", -1536)


@pytest.mark.parametrize("size", [NEGATIVE, FAR_BACK, b"\x80" + b"\xff" * 11])
@pytest.mark.parametrize("name", ["tar_shards", "tar_stream"])
def test_a_member_of_a_negative_size_is_refused(data, name, size):
    (data / "a.tar").write_bytes(header("0.png", size) + bytes(4096))
    refused(r"a\.tar", lambda: read(name, data))


@pytest.mark.parametrize("sparse", ["old", "pax", "pax 1.0"])
@pytest.mark.parametrize("name", ["tar_shards", "tar_stream"])
def test_a_sparse_member_is_refused(data, name, sparse):
    if sparse == "old":
        content = bytearray(header("0.npy", b"00000000000\0", b"S"))
        for k, (start, length) in enumerate([(0, 0)] * 4):
            content[386 + 24 * k : 410 + 24 * k] = b"%011o\0%011o\0" % (start, length)
        content[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content)
        whole = bytes(content) + bytes(1024)
    else:
        pax = {"GNU.sparse.size": str(2**40), "GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1"}
        if sparse == "pax 1.0":
            pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "0.npy",
                   "GNU.sparse.realsize": str(2**40)}  # fmt: skip
        info = tarfile.TarInfo("0.npy")
        info.pax_headers = pax
        info.size = 512
        whole = info.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n0\n".ljust(512, b"\0") + bytes(1024)
    (data / "a.tar").write_bytes(whole)
    refused(r"a\.tar.*(sparse|is damaged|no whole tar)", lambda: read(name, data))


def test_a_file_that_tfds_would_open_is_a_plain_one_in_its_folder(tmp_path):
    from tests.data.made import image_feature, write

    root = write(tmp_path, {"image": image_feature()}, [{"image": PICTURE}] * 2)
    (path,) = (path for path in pathlib.Path(root).rglob("*array_record*") if path.is_file())
    sources.open_source("made", "train", str(root))
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    refused("leads out of its folder", lambda: sources.open_source("made", "train", str(root)))


def test_what_is_sound_is_read_as_before(data):
    """The limits are not in the way: a label of a thousand, frames of some megapixels, members of some megabytes."""
    tar(data / "a.tar", {"0.png": png(np.zeros((1500, 1500, 3), np.uint8)), "0.cls": b"999"})
    record = read("tar_shards", data)
    assert record["image"].shape == (1500, 1500, 3) and record["label"] == 999
    with contextlib.suppress(DamagedRecord):
        assert limits.memory()


# ==== What is read beside sources ====


def test_pictures_to_compare_with_lie_in_their_folder(data):
    (data / "a.png").symlink_to("../secret.png")
    refused("leads out of its folder", lambda: image_sets.open_set(str(data)))


def test_lines_are_read_from_a_plain_file(data):
    os.mkfifo(data / "metrics.jsonl")
    refused("is not a file, but a named pipe", lambda: json_lines.rows(data / "metrics.jsonl"))


def test_an_array_that_is_kept_is_a_plain_file_of_its_size(data):
    os.mkfifo(data / "a.npy")
    assert ended(lambda: files.array(data / "a.npy")) is None
    (data / "b.npy").write_bytes(npy((10**12,)))
    assert files.array(data / "b.npy") is None
