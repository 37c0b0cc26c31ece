"""Sets of images to measure, from any place: read batch by batch in a fixed order, with a fingerprint.

`open_set` takes the value of a command line: a file of arrays, a folder of pictures, an array_record file of encoded
pictures, or a prepared dataset as NAME@SPLIT.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from diffusion.data import catalog, sources, transforms
from diffusion.data.sources import picture_files
from diffusion.io import failures, limits, npz, opener, pictures

ARRAYS = ("arr_0", "images", "samples")  # names of images in .npz files: ADM's, ours, and others'
PART = 16  # records of a dataset that a thread reads and decodes at a time
_BLOCK = 2**20


class ImageSetError(ValueError):
    """Images cannot be measured; the message names them, the reason, and the requirement."""


class ImageSet(NamedTuple):
    """Images in a fixed order.

    Attributes:
        count: N, the number of images.
        shape: the shape (H, W, C) of each, C = 1 or 3; (F, H, W, C) for clips (`clip_sets`).
        read: a function (start, stop) -> [stop - start, *shape] as they are stored: uint8, or floating.
        fingerprint: a sha256 that changes with any image.
        record: the set's entry in a report: "images" (the name that was passed), "kind", "dtype"; for a dataset
            "version"; for pictures that were cropped and resized "side".
        stamp: a text that changes with the files of a source whose fingerprint covers only some images; "" otherwise.
            Features on disk are of the same stamp, and reports do not have it, since it changes with a copy too.
    """

    count: int
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    fingerprint: str
    record: dict
    stamp: str = ""


def open_set(spec: str, data_dir: str = "", side: int = 0) -> ImageSet:
    """Opens images.

    Args:
        spec: one of: a .npz file with images [N, H, W, C] named arr_0, images or samples; a folder of PNG or JPEG files
            with its subfolders, in the order of their names; an .array_record file of encoded pictures; a dataset with
            its split as TFDS names it, "cifar10@test" or "cifar10:3.0.2@train[:5000]".
        data_dir: folder of prepared datasets; "" for TFDS's default.
        side: the side of the squares to which the images of a dataset, of a folder or of an .array_record file, which
            may have any size, are cropped and resized, as ADM's code does; 0 for images of one size. A .npz file is
            not resized: its images must already have this side.

    Raises:
        ImageSetError: if it does not exist, is damaged, holds no images that can be measured or, in a .npz file,
            images of another side or two arrays of images.
    """
    path = pathlib.Path(spec)
    try:
        if path.is_dir():
            return _folder(spec, path, side)
        if path.is_file():
            kind = {".npz": _npz, ".array_record": _array_record}.get(path.suffix)
            if kind is None and ".array_record-" not in path.name:
                raise ImageSetError(
                    f"{spec} is not a set of images. Valid: a .npz file, an .array_record file, a folder of pictures, "
                    "or NAME@SPLIT."
                )
            return (kind or _array_record)(spec, path, side)
        if "@" in spec:
            return _dataset(spec, data_dir, side)
    except limits.Refused as error:
        raise ImageSetError(str(error)) from error
    except OSError as error:
        raise ImageSetError(f"{spec} cannot be read: {error}.") from error
    raise ImageSetError(
        f"{spec} does not exist. Name a .npz file, a folder of pictures, an .array_record file, or a "
        "dataset as NAME@SPLIT, e.g. cifar10@train."
    )


def from_array(images: np.ndarray, name: str = "an array") -> ImageSet:
    """The set of the images in memory.

    Args:
        images: images in memory, [N, H, W, C], uint8 or floating.
        name: the set's name, for reports.

    Raises:
        ImageSetError: for another shape or dtype.
    """
    images = np.ascontiguousarray(images)
    _check(name, images.shape, images.dtype)
    return ImageSet(
        len(images),
        images.shape[1:],
        lambda start, stop: images[start:stop],
        hashlib.sha256(images.data).hexdigest(),
        _record(name, "array", images.dtype),
    )


def from_records(spec: str, shape: Sequence[int], read: Callable[[int, int], np.ndarray], fingerprint: str) -> ImageSet:
    """The set of the pictures of a data source, uint8.

    Args:
        spec: the source's name, for reports.
        shape: the shape of the source, [N, H, W, C].
        read: (start, stop) -> [stop - start, H, W, C].
        fingerprint: a text that changes with the pictures; if it covers only some, also give the set a `stamp`.

    Raises:
        ImageSetError: for another shape.
    """
    _check(spec, tuple(shape), np.dtype(np.uint8))
    digest = hashlib.sha256(fingerprint.encode()).hexdigest()
    return ImageSet(shape[0], tuple(shape[1:]), read, digest, _record(spec, "source", np.uint8))


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of pictures in a folder, at all depths, in the order in which a set of them is read.

    Hidden files are left out, and `picture_files.pictures_in` warns of other formats.
    """
    return sorted(folder / name for name in picture_files.pictures_in(folder))


def _record(name, kind, dtype, **more):
    return {"images": name, "kind": kind, "dtype": str(np.dtype(dtype)), **more}


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        raise ImageSetError(
            f"{name}: images have shape {list(shape)}, channels first. Valid: [N, H, W, C]; save them "
            "after images.transpose(0, 2, 3, 1)."
        )
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise ImageSetError(
            f"{name}: images have shape {list(shape)}. Valid: [N, H, W, 3], or [N, H, W, 1] for grey. To remove an "
            "alpha channel, draw the images on a background first."
        )
    if dtype != np.uint8 and dtype.kind != "f":
        raise ImageSetError(f"{name}: images are {dtype}. Valid: uint8 in 0..255, or floats in [-1, 1].")


# ==== Files of arrays ====


def _npz(spec: str, path: pathlib.Path, side: int) -> ImageSet:
    name, header = npz_array(spec, path, "images")
    _check(f"{name} in {spec}", header.shape, header.dtype)
    count, *shape = header.shape
    if side and shape[:2] != [side, side]:
        raise ImageSetError(
            f"{spec} holds images of {shape[0]} x {shape[1]} pixels, and the requested side is {side}. Only pictures "
            "of a folder, an .array_record file or a dataset are resized: save these images as a folder of PNG files."
        )
    record = _record(spec, "npz", header.dtype)
    return ImageSet(count, tuple(shape), npz.rows(path, name), files_digest([path]), record)


def npz_array(spec: str, path: pathlib.Path, noun: str) -> tuple[str, npz.Header]:
    """The name and the header of the images in a .npz file, which the noun calls "images" or "clips"."""
    headers = npz.headers(path)
    names = [name for name in ARRAYS if name in headers]
    if not names:
        raise ImageSetError(
            f"{spec} holds {', '.join(headers) or 'nothing'}, but no {noun}. Valid: an array named {', '.join(ARRAYS)}."
        )
    if len(names) > 1:
        raise ImageSetError(f"{spec} holds {' and '.join(names)}. Valid: a single array of {noun}; save it alone.")
    return names[0], headers[names[0]]


def files_digest(paths: Sequence[pathlib.Path], named: bool = False) -> str:
    """The sha256 of the files one after the other; with `named`, each after its name and size."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {path.stat().st_size}\n".encode() if named else b"")
        with opener.open_file(path) as file:
            while block := file.read(_BLOCK):
                total.update(block)
    return total.hexdigest()


# ==== Encoded pictures ====


def _folder(spec: str, path: pathlib.Path, side: int) -> ImageSet:
    files = files_of(path)
    if not files:
        raise ImageSetError(f"{spec} holds no pictures ({', '.join(picture_files.PICTURES)}).")
    decode = lambda file, shape: _decode(str(file), opener.read(file, within=path), shape, side)
    first = decode(files[0], None)

    def read(start, stop):
        return np.stack([decode(file, first.shape) for file in files[start:stop]])

    digest = _of_side(files_digest(files, len(files) > 1), side)
    return ImageSet(len(files), first.shape, read, digest, _record(spec, "folder", np.uint8, **_resized(side)))


def _array_record(spec: str, path: pathlib.Path, side: int) -> ImageSet:
    try:
        # imported here: few sets are of this format
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        records = ArrayRecordDataSource(str(opener.check(path)))
        count = len(records)
        head = records[0] if count else b""
    except Exception as error:  # the error of a damaged file depends on where the damage is
        raise ImageSetError(f"{spec} is not a valid array_record file ({str(error).splitlines()[0]}).") from error
    if pictures.format_of(head) not in pictures.FORMATS:
        raise ImageSetError(
            f"{spec}: its records are not encoded pictures. To read a prepared dataset, name it as NAME@SPLIT, with "
            "--data_dir."
        )
    decode = lambda row, data, shape: _decode(f"{spec}, record {row}", data, shape, side)
    first = decode(0, head, None)

    def read(start, stop):
        try:
            encoded = records.__getitems__(list(range(start, stop)))
        except Exception as error:
            if failures.is_machine_failure(error):
                raise ImageSetError(f"{spec} could not be read: {str(error).splitlines()[0]}.") from error
            raise ImageSetError(f"{spec} is damaged between records {start} and {stop - 1}.") from error
        return np.stack([decode(start + i, data, first.shape) for i, data in enumerate(encoded)])

    digest = _of_side(files_digest([path]), side)
    return ImageSet(count, first.shape, read, digest, _record(spec, "array_record", np.uint8, **_resized(side)))


def _resized(side: int) -> dict:
    """The entry of a record for pictures that become squares of a side; none for pictures that are not resized."""
    return {"side": side} if side else {}


def _of_side(digest: str, side: int) -> str:
    """The fingerprint of pictures that become squares of a side; side 0 for pictures that are not resized."""
    return hashlib.sha256(f"{digest} side {side}".encode()).hexdigest() if side else digest


def _decode(name: str, data: bytes, shape: tuple[int, ...] | None, side: int) -> np.ndarray:
    """The stored pixels, which EXIF data do not turn: published programs of FID compare these."""
    try:
        picture = pictures.opened(data, name)
    except ValueError as error:
        raise ImageSetError(str(error)) from error
    try:
        with picture:
            if picture.mode in ("P", "1") and "transparency" not in picture.info:
                picture = picture.convert("RGB")
            if picture.mode not in ("RGB", "L"):
                raise ImageSetError(
                    f"{name} has the mode {picture.mode}. Valid: RGB or grey with 8 bits, without an alpha channel."
                )
            image = np.asarray(transforms.square(picture, side) if side else picture)
    except ImageSetError:
        raise
    except pictures.DAMAGED as error:
        raise ImageSetError(f"{name} is not a valid picture ({error}).") from error
    image = image[..., None] if image.ndim == 2 else image
    if shape is not None and image.shape != shape:
        raise ImageSetError(
            f"{name} has the shape {list(image.shape)}, but the first picture has {list(shape)}; all must have one "
            "shape."
        )
    return image


# ==== Prepared datasets ====


def _dataset(spec: str, data_dir: str, side: int) -> ImageSet:
    name, _, split = spec.rpartition("@")
    try:
        records, description = sources.open_source(name, split, data_dir, side)
        folder = catalog.find(name, data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise ImageSetError(f"{spec}: {error}") from error
    _check(spec, (description.size, *description.shape), np.dtype(np.uint8))

    def read(start, stop):  # threads decode without Python's lock: a million photographs are an hour of one core
        parts = [range(first, min(first + PART, stop)) for first in range(start, stop, PART)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack([record["image"] for part in pool.map(records.__getitems__, parts) for record in part])

    # A dataset may be too large to read for a fingerprint: that of its description and its files' sizes replaces it.
    files = sorted((file.name, file.stat().st_size) for file in folder.iterdir() if file.is_file())
    described = [
        json.dumps(
            [name.partition(":")[0], description.version, split, description.size, list(description.shape), files]
        )
    ]
    described += [opener.read_text(folder / file) for file in ("dataset_info.json", "features.json")]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    return ImageSet(
        description.size,
        description.shape,
        read,
        digest,
        _record(spec, "dataset", np.uint8, version=description.version, **_resized(side)),
        records.stamp(),  # files of whole blocks have one size for many pictures
    )
