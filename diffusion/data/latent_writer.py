"""Writes a cache of latents (`diffusion.data.latent_cache`); an interrupted writing can be continued."""

import fcntl
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from diffusion.data import feature_cache, fingerprints, pipeline, sources
from diffusion.data.latent_cache import (
    BEGUN,
    FORMAT,
    INDEX,
    LABEL,
    CacheError,
    Description,
    differences,
    facts_of,
    parse,
    require_same_order,
)
from diffusion.data.sources import DataSpec
from diffusion.io import files, opener

ANOTHER = "Choose another folder, or remove it to encode all of them again."  # the advice if the pictures differ
PREFIX = "latents-"  # the first letters of the names of files of records
SHARD = 2**28  # the usual bytes of a file; a writing that is killed loses at most one unfinished file


def write(
    folder: str | pathlib.Path,
    source: sources.IndexedRecords,
    spec: DataSpec,
    description: Description,
    encode: Callable[[np.ndarray], np.ndarray],
    *,
    batch_size: int = 64,
    threads: int = 2,
    shard_records: int = 0,
    fingerprint: Mapping[str, Any] | None = None,
    begin: Callable[[int], Callable[[int], None]] = lambda records: lambda done: None,
) -> None:
    """Writes the latents of a split, or continues an interrupted writing; the files are the same in both cases.

    Args:
        folder: the folder of the cache; made if missing.
        source: the source of the pictures.
        spec: the spec of the pictures, from `sources.open_source`.
        description: the description of the cache.
        encode: a function from pictures, uint8 [batch_size, H, W, C], or clips, uint8 [batch_size, F, H, W, C], to
            latents [batch_size, parts, h, w, D]. It is called once for each view of a batch.
        batch_size: the number of pictures in one call; the last batch is filled up with repetitions.
        threads: the number of threads that read and decode pictures in advance.
        shard_records: the number of records in a file; 0 for files of about `SHARD` bytes.
        fingerprint: the fingerprint of the pictures. It is stored in the note, and compared with the stored one if some
            pictures are already encoded; None if the description identifies the pictures.
        begin: a function that is called with the number of records to write; it returns a function that is called with
            the number written so far.

    Raises:
        CacheError: if the folder holds other latents, or an unfinished writing of other latents (the message names the
            differences), or latents of pictures with another fingerprint or order, or other files (see
            `require_folder`), or if another process is writing to it.
        DamagedRecord: if a picture cannot be read.
        ValueError: if latents are not finite in their type on disk, or have another shape.
        OSError: if a file cannot be written.
    """
    folder = pathlib.Path(folder)
    require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    per_file = shard_records or max(1, SHARD // description.record_bytes)
    with _lock(folder):
        per_file, sizes = _settle(folder, description, per_file)
        shards = [folder / name for name in _names(spec.size, per_file)]
        shard_of = lambda number: range(per_file * number, min(per_file * (number + 1), spec.size))
        missing = [
            number
            for number, file in enumerate(shards)
            if not _is_whole(file, len(shard_of(number)), sizes.get(file.name))
        ]
        facts = facts_of(source)
        if len(missing) < len(shards):
            noted = _noted(folder)
            earlier = opener.read_json(noted) if noted else {}
            require_same_order(folder, earlier, facts, ANOTHER)
            facts = {name: earlier.get(name) for name in facts}  # the facts of the latents that are already there
        facts = {"pictures": fingerprint, **facts}
        if len(missing) == len(shards):
            _note(folder / BEGUN, description, per_file, {}, facts)
        elif missing and fingerprint is not None:
            require_same_pictures(folder, fingerprint)
        elif changes := fingerprints.changes(earlier.get("pictures") or {}, fingerprint or {}):
            raise CacheError(f"{folder} holds the latents of other pictures: {'; '.join(changes)}. {ANOTHER}")
        runs = [rows[i : i + batch_size] for rows in map(shard_of, missing) for i in range(0, len(rows), batch_size)]
        advance = begin(sum(map(len, runs)))
        done = 0
        writer = None
        for batch in pipeline.rows(source, spec, runs, threads=threads):
            number = int(batch["index"][0]) // per_file
            last = int(batch["index"][-1]) + 1
            part = folder / f".{shards[number].name}.part"
            writer = writer or ArrayRecordWriter(str(part), "group_size:1,uncompressed")
            for record in _records(batch, description, encode, batch_size):
                writer.write(record)
            if last % per_file == 0 or last == spec.size:
                writer.close()
                writer = None
                _finish(part, shards[number], len(shard_of(number)))
            done += len(batch["index"])
            advance(done)
        _note(folder / INDEX, description, per_file, {path.name: path.stat().st_size for path in shards}, facts)
        (folder / BEGUN).unlink(missing_ok=True)


def _records(batch: Mapping, description: Description, encode: Callable, batch_size: int) -> Iterator[bytes]:
    """The records of a batch of pictures."""
    images = batch["image"]
    rows = len(batch["index"])
    images = images[np.arange(batch_size) % rows]  # all calls have one shape, so that one program is compiled
    views = [images if view == "plain" else images[..., ::-1, :] for view in description.views]
    with np.errstate(over="ignore"):
        latents = np.stack([np.asarray(encode(view))[:rows] for view in views], 1).astype(description.dtype)
    if latents.shape[1:] != description.record:
        raise ValueError(
            f"the encoder returns arrays of shape {latents.shape[1:]} for a picture, but the cache is described with "
            f"{description.record} (views, parts, height, width, channels)"
        )
    if not np.isfinite(latents).all():
        row = int(batch["index"][np.argmin(np.isfinite(latents).reshape(rows, -1).all(1))])
        raise ValueError(
            f"record {row} has values that are not finite in {description.dtype}. Encode in float32; the latents can "
            "be stored in float32 too"
        )
    for label, array in zip(batch["label"].astype(LABEL), latents):
        yield label.tobytes() + array.tobytes()


def _is_whole(file: pathlib.Path, records: int, size: int | None) -> bool:
    """Whether a file exists and is complete.

    Args:
        file: a file of the cache.
        records: the number of records that the file must have.
        size: the number of bytes that a finished writing noted for the file; None if the writing was interrupted. The
            end of the file then decides, which a file that was copied in part lacks.
    """
    return file.is_file() and (_has_records(file, records) if size is None else file.stat().st_size == size)


def _has_records(file: pathlib.Path, number: int) -> bool:
    """Whether the end of a file states this number of records; the end of a truncated file does not."""
    return ArrayRecordReader(str(file)).num_records() == number


def _finish(part: pathlib.Path, file: pathlib.Path, records: int) -> None:
    """Gives a complete file its final name, after its bytes have reached the disk."""
    if not _has_records(part, records):  # the writer does not report a full disk
        raise OSError(
            f"{part} could not be written completely: is the disk full? The same command continues from here."
        )
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, file)


def _noted(folder: pathlib.Path) -> pathlib.Path | None:
    """The path of an earlier writing's note; None if there is none."""
    return next((folder / name for name in (INDEX, BEGUN) if (folder / name).is_file()), None)


def _settle(folder: pathlib.Path, description: Description, records: int) -> tuple[int, dict[str, int]]:
    """Compares the description with the note of an earlier writing, if there is one.

    Returns:
        (the number of records in a file, {name of a file that is known to be complete: its bytes}).

    Raises:
        CacheError: if the note describes other latents; the message names the differences.
    """
    noted = _noted(folder)
    if noted is None:
        return records, {}
    note = opener.read_json(noted)
    if differs := differences(parse(noted, note), description):
        raise CacheError(
            f"{folder} holds other latents than these: {'; '.join(differs)}. Choose another folder, or remove it."
        )
    return note["shard_records"], note["files"]


def require_folder(folder: str | pathlib.Path) -> None:
    """Refuses a folder that holds other files, such as a run folder.

    Args:
        folder: the folder for the cache, which may be new. It may hold hidden files.

    Raises:
        CacheError: if the folder holds files but no cache, finished or begun.
    """
    folder = pathlib.Path(folder)
    others = files.other_names(folder, lambda name: name == feature_cache.FOLDER or name.startswith(PREFIX))
    if others and _noted(folder) is None:
        raise CacheError(
            f"{folder} holds {others}, but no cache of latents. Valid: a new or empty folder, or the folder of a cache."
        )


def require_same_pictures(folder: str | pathlib.Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuses pictures that differ from those of the latents in a folder, or that are read in another way.

    Args:
        folder: the folder of a cache; a folder without a cache is accepted.
        fingerprint: the fingerprint of the pictures.

    Raises:
        CacheError: if the stored fingerprint differs; or if none is stored, and the pictures are now turned as their
            EXIF data say. Earlier versions stored no fingerprint, and did not turn pictures.
    """
    noted = _noted(pathlib.Path(folder))
    if noted is None:
        return
    earlier, now = opener.read_json(noted).get("pictures"), json.loads(json.dumps(fingerprint, default=str))
    if earlier is None and '"pixels": "viewed"' in json.dumps(now):
        raise CacheError(
            f"{folder} holds latents that an earlier version encoded from the stored pixels of the pictures; now they "
            'are turned as their EXIF data say. Continue with "viewed": false in the source, or remove the folder to '
            "encode all pictures again."
        )
    if earlier is not None and earlier != now:
        raise CacheError(
            f"{folder} holds latents of pictures with the fingerprint {json.dumps(earlier)}; now it is "
            f"{json.dumps(now)}. Read the same pictures in the same way, or remove the folder to encode all of them "
            "again."
        )


def require_same_names(folder: str | pathlib.Path, source: sources.IndexedRecords) -> None:
    """Refuses records with other names or lengths, or in another order, than the records of a folder's latents.

    Args:
        folder: the folder of a cache; a folder without a cache is accepted, and one whose records have no names.
        source: the source of the records.

    Raises:
        CacheError: if they differ.
    """
    noted = _noted(pathlib.Path(folder))
    if noted is not None:
        require_same_order(folder, opener.read_json(noted), facts_of(source), ANOTHER)


def _note(
    path: pathlib.Path, description: Description, records: int, sizes: Mapping[str, int], facts: Mapping[str, Any]
) -> None:
    """Writes a note: the description, the files and their sizes, and the known facts about the pictures."""
    content = {"format": FORMAT, **description._asdict(), "shard_records": records, "files": sizes}
    content |= {name: fact for name, fact in facts.items() if fact is not None}
    files.write_text(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")


@contextmanager
def _lock(folder: pathlib.Path) -> Iterator[None]:
    """Holds the folder's lock, which only one process can hold at a time."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CacheError(f"{folder} is being written by another process; wait until it has ended.") from error
        yield


def _names(size: int, records: int) -> list[str]:
    number = math.ceil(size / records)
    return [f"{PREFIX}{i:05}-of-{number:05}.array_record" for i in range(number)]
