"""Kinds of fuzzed files of data: tar, Parquet, ArrayRecord, npy, CSV, JSON, WAV, GIF and MP4.

An error must name the file. A reader may open files only in the folder of the input, and no socket; see `watched`.
"""

import contextlib
import io
import json
import os
import pathlib
import random
import struct
import sys
import tarfile
import wave
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import ExifTags, Image

from diffusion.data import image_folder, sources
from diffusion.io import clips, films as film_reader, pictures
from tests.data import made as made_datasets
from tests.reliability.fuzzing import MEMORY, ODD, SECONDS, Kind, Reader, altered, as_json, spoilt

ROOT = pathlib.Path(__file__).parents[2]
ERRORS = (ValueError, OSError)
HOSTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")
# The folders of Python and its packages, and of facts about the system, which readers may read.
ELSEWHERE = tuple({str(ROOT), sys.prefix, sys.base_prefix, "/usr/lib", "/usr/share", "/proc", "/sys"})


# ==== Files and sockets that readers open ====

_watching: list[tuple[str, list[str]]] = []  # (the folder, the files opened outside it and the sockets)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    folder, strange = _watching[-1]
    if event in HOSTS:
        strange.append(f"{event} {arguments[1:]}")
    elif event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR) if isinstance(arguments[2], int) else 0
        compiled = "/__pycache__/" in path and path.startswith(ELSEWHERE)  # written at a module's first import
        if path == os.devnull or compiled:
            return
        if not path.startswith((folder,) if writes else (folder, *ELSEWHERE)):
            strange.append(f"open {path}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(folder: pathlib.Path) -> Iterator[None]:
    """Raises a RuntimeError at the end if a file outside the folder was opened, or a socket."""
    strange: list[str] = []
    _watching.append((os.path.realpath(folder), strange))
    try:
        yield
    finally:
        _watching.pop()
        if strange:
            raise RuntimeError(f"opened {strange[:3]}")


def records(folder: pathlib.Path, call: Callable[[], Any]) -> None:
    """Opens a source and reads its first records and its fingerprint; each error must name a file of the folder."""
    with watched(folder.parent):
        try:
            source = call()
            if isinstance(source, dict | list):
                return
            if hasattr(source, "records"):
                list(source.records(4))
                return
            if len(source) > 10**7:
                raise RuntimeError(f"{len(source)} records of a small file")
            for row in range(min(len(source), 4)):
                source[row]
            source.fingerprint()
        except ERRORS as error:
            if str(folder) not in str(error) and folder.name not in str(error):
                raise RuntimeError(f"it names no file: {error!r}") from error
            raise


@contextlib.contextmanager
def of_child() -> Iterator[None]:
    """Raises a RuntimeError if the process that decodes films exceeds `MEMORY` or `SECONDS` for one input."""
    child = film_reader._reader.child
    place = pathlib.Path(f"/proc/{child.process.pid}") if child and child.process.poll() is None else None
    if place is None:
        yield
        return
    (place / "clear_refs").write_text("5")
    before = _spent(place)
    try:
        yield
    finally:
        after = _spent(place)
        if after and before and (after[0] - before[0] > MEMORY or after[1] - before[1] > SECONDS):
            raise RuntimeError(f"the child took {after[0] - before[0]:,} bytes and {after[1] - before[1]} s")


def _spent(place: pathlib.Path) -> tuple[int, float] | None:
    """(the peak of a process's memory in bytes, its processor time in seconds); None if the process has ended."""
    try:
        status, times = (place / "status").read_text(), (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0")
    return int(peak.split()[1]) * 1024, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


# ==== Kinds ====


def png(side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(3 * side * side, dtype=np.uint8).reshape(side, side, 3)).save(file, "PNG")
    return file.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_altered(content: bytes, rng: random.Random) -> bytes:
    """A .npy file with a false header, or with spoilt bytes."""
    if rng.random() < 0.4:
        return spoilt(content, rng)
    numbers = (0, 1, 2, 3, -1, 10**6, 10**12, 2**31, 2**63, 10**30)
    shape = rng.choice((tuple(rng.choice(numbers) for _ in range(rng.randrange(4))), rng.choice(ODD)))
    kind = rng.choice(("<f4", "<f8", "|u1", "|O", "<U4", ">i2", "|V8", "<M8[s]", "f4,f4", "", "<f4000000000", 3, None))
    header = repr({"descr": kind, "fortran_order": rng.choice((False, True, 1)), "shape": shape})
    text = header.encode("utf-8", "replace")[:60_000] + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content[128:]


def in_folder(folder: pathlib.Path) -> pathlib.Path:
    """The folder of an input; the file outside.png beside it must not be read."""
    (folder / "outside.png").write_bytes(png())
    os.environ["DIFFUSION_CACHE"] = str(folder / "cache")
    (folder / "data").mkdir(exist_ok=True)
    return folder / "data"


def members(rng: random.Random | None) -> dict[str, bytes]:
    """The members of a tar file with two records; a generator may alter one member."""
    whole: dict[str, bytes] = {}
    for k in range(2):
        about = {"a": 1, "image": {"bytes": None, "path": "outside.png"}}
        whole |= {f"{k}.png": png(), f"{k}.cls": str(k).encode(), f"{k}.txt": b"a cat"}
        whole |= {f"{k}.json": json.dumps(about).encode(), f"{k}.npy": npy_bytes(np.ones((2, 3), np.float32))}
    if rng and rng.random() < 0.5:
        name = rng.choice(list(whole))
        kind = name[2:]
        if kind == "json":
            whole[name] = as_json(json.loads(whole[name]), rng)
        elif kind == "npy":
            whole[name] = npy_altered(whole[name], rng)
        elif kind == "cls":
            whole[name] = str(rng.choice(ODD)).encode("utf-8", "replace")
        else:
            whole[name] = spoilt(whole[name], rng)
    return whole


def tar_altered(content: bytes, rng: random.Random) -> bytes:
    """A tar file with an altered field in a member's header, whose checksum is made to fit."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2))):
        at = 512 * rng.randrange(len(data) // 512)
        start, length = rng.choice(
            ((124, 12), (124, 12), (156, 1), (0, 100), (345, 155), (257, 8), (483, 12), (386, 96))
        )
        values = [b"\xff" * length, b"\x80" + rng.randbytes(length)[1:], rng.randbytes(length), bytes(length)]
        values += [
            b"%0*o" % (length - 1, rng.choice((0, 1, 512, 8**9))),
            rng.choice((b"S", b"x", b"g", b"L", b"K", b"5")),
        ]
        value = rng.choice(values)
        data[at + start : at + start + length] = value[:length].ljust(length, b"\0")
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def tar(folder: pathlib.Path) -> Reader:
    place = in_folder(folder)

    def read(rng: random.Random | None) -> None:
        file = io.BytesIO()
        kind = rng.choice(("w", "w", "w:gz", "w:bz2")) if rng else "w"
        form = rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)) if rng else tarfile.PAX_FORMAT
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, content in members(rng).items():
                info = tarfile.TarInfo("x" * 120 + name if rng and rng.random() < 0.05 else name)
                info.size = len(content)
                if rng and form == tarfile.PAX_FORMAT and rng.random() < 0.1:
                    key = rng.choice(("size", "path", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "mtime"))
                    info.pax_headers = {key: rng.choice(("-1", "1", "0,0", str(2**70), "x", "../a", "0", "1e999"))}
                archive.addfile(info, io.BytesIO(content))
        content = file.getvalue()
        if rng and rng.random() < 0.6:
            content = rng.choice((tar_altered, spoilt))(content, rng)
        if kind != "w":
            import bz2
            import gzip

            content = (gzip if kind == "w:gz" else bz2).compress(content)
            content = spoilt(content, rng) if rng and rng.random() < 0.3 else content
        (place / "a.tar").write_bytes(content)
        options = (
            {"x": rng.choice(("png", "npy", "json.image", "json.a"))} if rng and rng.random() < 0.3 else {"x": "png"}
        )
        if rng and rng.random() < 0.5:
            records(place, lambda: sources.tar_stream(str(place), window=2, classes=("0", "1"), **options))
        else:
            records(place, lambda: sources.tar_shards(str(place), **options))

    return read


def parquet(folder: pathlib.Path) -> Reader:
    place = in_folder(folder)
    pictures = [{"bytes": png(), "path": "a.png"} for _ in range(4)]
    columns = {
        "image": pictures,
        "label": [0, 1, 0, 1],
        "text": ["a", "b", "a", "a"],
        "z": [[1.0, 2.0], [3.0], [], [4.0]],
    }
    about = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}})}
    table = pa.table(columns).replace_schema_metadata(about)
    whole = []
    for packed in ("none", "snappy", "gzip", "zstd"):
        for words in (True, False):
            file = io.BytesIO()
            pq.write_table(table, file, compression=packed, use_dictionary=words, row_group_size=2)
            whole.append(file.getvalue())

    def read(rng: random.Random | None) -> None:
        content = rng.choice(whole) if rng else whole[0]
        if rng and rng.random() < 0.2:
            value = {
                "bytes": rng.choice((None, png(), b"", spoilt(png(), rng))),
                "path": rng.choice(("../outside.png", "a")),
            }
            file = io.BytesIO()
            labels = rng.choice(([10**12], [-1], ["a"], [0.5], [None]))
            pq.write_table(pa.table({"image": [value], "label": labels, "text": ["a"], "z": [[1.0]]}), file)
            content = file.getvalue()
        elif rng:
            length = int.from_bytes(content[-8:-4], "little")  # of the footer, in which most of the structure lies
            start = rng.choice((0, len(content) - 8 - length))
            end = len(content) - rng.choice((8, 0))
            content = content[:start] + spoilt(content[start:end], rng) + content[end:]
        (place / "a.parquet").write_bytes(content)
        options = {"x": rng.choice(("image", "z", "label"))} if rng else {}
        if rng and rng.random() < 0.5:
            records(place, lambda: sources.parquet_stream(str(place), window=2, classes=("a", "b"), **options))
        else:
            records(place, lambda: sources.parquet(str(place), **options))

    return read


def array_record(folder: pathlib.Path) -> Reader:
    place = in_folder(folder)
    path = place / "a.array_record"
    file = io.BytesIO()
    np.savez_compressed(file, x=np.ones((2, 2), np.float32), label=1)
    stored = [file.getvalue(), npy_bytes(np.ones((2, 3), np.float32)), png(), json.dumps({"x": [0.5, 1.0]}).encode()]

    def read(rng: random.Random | None) -> None:
        record = rng.choice(stored) if rng else stored[0]
        path.unlink(missing_ok=True)
        writer = ArrayRecordWriter(str(path), rng.choice(("group_size:1", "group_size:2")) if rng else "group_size:1")
        for _ in range(3):
            changed = record
            if rng and rng.random() < 0.4:
                if record[:1] == b"{":
                    changed = as_json(json.loads(record), rng)
                else:
                    changed = npy_altered(record, rng) if record[:1] == b"\x93" else spoilt(record, rng)
            writer.write(changed)
        writer.close()
        if rng and rng.random() < 0.5:
            path.write_bytes(spoilt(path.read_bytes(), rng))
        records(place, lambda: sources.array_records(str(place)))

    return read


def npy(folder: pathlib.Path) -> Reader:
    place = in_folder(folder)
    whole = {"x": npy_bytes(np.ones((4, 3), np.float32)), "label": npy_bytes(np.array([0, 1, 0, 1]))}

    def read(rng: random.Random | None) -> None:
        chosen = rng.choice(list(whole)) if rng else ""
        for name, content in whole.items():
            (place / f"{name}.npy").write_bytes(npy_altered(content, rng) if rng and name == chosen else content)
        if rng and rng.random() < 0.3:
            records(place, lambda: sources.series.read_series(str(place / f"{chosen}.npy")))
        elif rng and rng.random() < 0.3:
            records(place, lambda: sources.mesh_clouds(str(place), points=2))
        else:
            records(place, lambda: sources.arrays(str(place)))

    return read


def table(folder: pathlib.Path, form: str) -> Reader:
    place = in_folder(folder)
    for k in range(3):
        (place / f"{k}.png").write_bytes(png())
    rows = [{"file_name": f"{k}.png", "caption": "a cat, a dog", "label": k % 2, "age": k / 2} for k in range(3)]

    def cell(value: Any) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    def read(rng: random.Random | None) -> None:
        changed = altered(rows, rng) if rng and rng.random() < 0.7 else rows
        if form == "csv":
            good = [row for row in changed if isinstance(row, dict)] if isinstance(changed, list) else []
            names = list(good[0]) if good else ["file_name"]
            lines = [",".join(names), *(",".join(cell(row.get(name)) for name in names) for row in good)]
            content = "\n".join(lines).encode("utf-8", "replace")
        else:
            lines = changed if isinstance(changed, list) else [changed]
            content = "\n".join(map(json.dumps, lines)).encode()
        if rng and rng.random() < 0.4:
            content = spoilt(content, rng)
        (place / f"metadata.{form}").write_bytes(content)
        if form == "csv" and rng and rng.random() < 0.2:
            (place / "metadata.csv").rename(place / "series.csv")
            records(place, lambda: sources.series.read_series(str(place / "series.csv")))
            return
        if form == "csv" and rng and rng.random() < 0.2:
            records(place, lambda: list(image_folder.read_metadata(place)))
        records(place, lambda: sources.picture_folder(str(place)))

    return read


def wav(folder: pathlib.Path) -> Reader:
    place = in_folder(folder)
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(range(256)))
    whole = file.getvalue()

    def read(rng: random.Random | None) -> None:
        content = whole
        if rng and rng.random() < 0.5:
            at, length = rng.choice(((4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (32, 2), (34, 2), (40, 4)))
            value = rng.choice((0, 1, 2, 3, 8, 24, 2**16 - 1, 2**31, 2**32 - 1, rng.randrange(2**32))) % 256**length
            content = content[:at] + value.to_bytes(length, "little") + content[at + length :]
        content = spoilt(content, rng) if rng and (content is whole or rng.random() < 0.3) else content
        (place / "a.wav").write_bytes(content)
        records(place, lambda: sources.wav_folder(str(place), sample_rate=8000, length=16))

    return read


def films(folder: pathlib.Path, ending: str) -> Reader:
    place = in_folder(folder)
    frames = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    clips.write(place / "a", frames, 10) if ending == "mp4" else clips.write_gif(place / f"a.{ending}", frames, 10)
    whole = (place / f"a.{ending}").read_bytes()

    def read(rng: random.Random | None) -> None:
        content = spoilt(whole, rng) if rng else whole
        if rng and ending == "mp4" and rng.random() < 0.5:  # most of the structure is at the end
            start = whole.rindex(b"moov") - 4
            content = whole[:start] + spoilt(whole[start:], rng)
        elif rng and ending == "gif" and rng.random() < 0.3:
            content = whole[:6] + rng.randbytes(4) + whole[10:]
        (place / f"a.{ending}").write_bytes(content)
        (place / "a.tar").unlink(missing_ok=True)
        if rng and rng.random() < 0.3:
            with tarfile.open(place / "a.tar", "w") as archive:
                info = tarfile.TarInfo(f"0.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        with of_child():
            if rng and (place / "a.tar").exists():
                records(place, lambda: sources.clip_shards(str(place), frames=2, side=8, rate=10.0))
            else:
                records(place, lambda: sources.clip_folder(str(place), frames=2, side=8, rate=10.0))

    return read


def pictures_of(folder: pathlib.Path) -> Reader:
    """Pictures of each format, with EXIF data that turn them, opacity, palettes and 16 bits."""
    place = in_folder(folder)
    pixels = np.arange(3 * 48, dtype=np.uint8).reshape(8, 6, 3)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    colours = Image.fromarray(pixels)
    clear = Image.merge("RGBA", (*colours.split(), Image.fromarray(pixels[..., 0])))
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    made = {
        "PNG": (colours, clear, colours.convert("P"), deep),
        "JPEG": (colours, colours.convert("CMYK")),
        "WEBP": (colours, clear),
        "TIFF": (colours, clear, deep),
        "BMP": (colours, colours.convert("P")),
    }
    whole = []
    for form, several in made.items():
        for picture in several:
            file = io.BytesIO()
            picture.save(file, form, **({} if form == "BMP" else {"exif": turned}))
            whole.append(file.getvalue())
    sound = [content for content in whole if pictures.opened(content).mode in ("RGB", "CMYK", "P", "RGBA")]
    readers = (pictures.read, pictures.read_with_alpha, lambda path: pictures.read_mask(path, (6, 8)))

    def read(rng: random.Random | None) -> None:
        for content in [rng.choice(whole)] if rng else sound:
            (place / "a.png").write_bytes(spoilt(content, rng) if rng else content)
            if rng is None or rng.random() < 0.5:
                options = {"side": 4} if rng and rng.random() < 0.5 else {"varied": (4, 4)}
                records(place, lambda options=options: sources.picture_folder(str(place), **options))
            else:
                with watched(folder):
                    rng.choice(readers)(place / "a.png")

    return read


def tfds(folder: pathlib.Path) -> Reader:
    """A dataset that TFDS prepared: its descriptions, and its file of records."""
    place = in_folder(folder)
    label = tensorflow_datasets.features.ClassLabel(num_classes=2)
    examples = [{"image": io.BytesIO(png()), "label": k % 2} for k in range(3)]
    made_datasets.write(place, {"image": made_datasets.image_feature(), "label": label}, examples)
    content = {path: path.read_bytes() for path in sorted((place / "made").rglob("*")) if path.is_file()}

    def read(rng: random.Random | None) -> None:
        for path, data in content.items():
            path.write_bytes(data)
        if rng:
            path = rng.choice(sorted(content))
            small = path.suffix == ".json" and rng.random() < 0.85
            path.write_bytes(as_json(json.loads(content[path]), rng) if small else spoilt(content[path], rng))
        records(place / "made", lambda: sources.open_source("made", "train", str(place))[0])

    return read


KINDS = {
    "pictures": Kind(pictures_of, ERRORS),
    "tfds": Kind(tfds, ERRORS),
    "tar": Kind(tar, ERRORS),
    "parquet": Kind(parquet, ERRORS),
    "array_record": Kind(array_record, ERRORS),
    "npy": Kind(npy, ERRORS),
    "csv": Kind(lambda folder: table(folder, "csv"), ERRORS),
    "json": Kind(lambda folder: table(folder, "jsonl"), ERRORS),
    "wav": Kind(wav, ERRORS),
    "gif": Kind(lambda folder: films(folder, "gif"), ERRORS),
    "mp4": Kind(lambda folder: films(folder, "mp4"), ERRORS),
}
