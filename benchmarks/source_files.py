"""Writes the same JPEG pictures in every file format that a source reads, for benchmarks/input_pipeline.py."""

import functools
import io
import pathlib
import tarfile
from collections.abc import Callable

import numpy as np
import pyarrow
import pyarrow.parquet
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from diffusion.data import sources

SIDE, STORED, CLASSES = 64, (160, 120), 10  # STORED: width and height


def written(folder: str, number: int) -> dict[str, tuple[Callable[[], sources.Source], str]]:
    """Writes the pictures.

    Args:
        folder: an empty folder.
        number: the number of pictures.

    Returns:
        {source: (a function that opens it, the format that the peer reads in comparison: "files", "tar" or "array")}.
    """
    root = pathlib.Path(folder)
    pictures = [_jpeg(k) for k in range(number)]
    for k, content in enumerate(pictures):
        path = root / "files" / f"{k % CLASSES}" / f"{k:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with tarfile.open(root / "train.tar", "w") as archive:
        for k, content in enumerate(pictures):
            for suffix, data in (("jpg", content), ("cls", str(k % CLASSES).encode())):
                info = tarfile.TarInfo(f"{k:06}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    rows = {"image": [{"bytes": content, "path": None} for content in pictures]}
    rows["label"] = [k % CLASSES for k in range(number)]
    pyarrow.parquet.write_table(pyarrow.table(rows), root / "train.parquet", row_group_size=256)
    writer = ArrayRecordWriter(str(root / "train.array_record"), "group_size:1")
    for content in pictures:
        writer.write(content)
    writer.close()
    opened: dict[str, tuple[Callable[[], sources.Source], str]] = {
        "class_folders": (functools.partial(sources.class_folders, str(root / "files"), side=SIDE), "files"),
        "picture_folder": (functools.partial(sources.picture_folder, str(root / "files"), side=SIDE), "files"),
        "tar_shards": (functools.partial(sources.tar_shards, str(root / "train.tar"), side=SIDE), "tar"),
        "parquet": (functools.partial(sources.parquet, str(root / "train.parquet"), side=SIDE), "files"),
        "array_records": (
            functools.partial(sources.array_records, str(root / "train.array_record"), side=SIDE),
            "files",
        ),
        "arrays": (functools.partial(sources.arrays, str(root / "array.npy")), "array"),
    }
    squares = opened["class_folders"][0]()
    np.save(root / "array.npy", np.stack([squares[row]["image"] for row in range(number)]))
    return opened


def _jpeg(number: int) -> bytes:
    """A JPEG file of enlarged noise, which is about as compressible as a photograph."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(STORED, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
