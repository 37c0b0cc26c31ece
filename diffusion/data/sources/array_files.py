"""The arrays of a .npz or .npy file, or of a folder of .npy files: row i of each is record i.

    np.savez("points.npz", x=points, label=labels)       # float32 [N, 2], int [N]

An array that is stored as it is (.npy, and .npz of `np.savez`) is mapped into memory and may be larger than it; one of
`np.savez_compressed` is read whole.
"""

__all__ = ["Arrays", "arrays", "mapped"]


import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import limits, npz


def arrays(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
) -> Records:
    """Opens arrays as a source of records.

    Args:
        path: of a .npz file, a .npy file, or a folder of .npy files of one length.
        split: all of it is "train"; a part as `splits.parse` reads it.
        x: the array that is the example, uint8 or floating-point of any rank, or several, whose example is a pytree;
            "" for "x" or "image", or the only one.
        label, classes, condition: as in `table_records.Records`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if arrays differ in length, or one that is named is not there.
    """
    return Records(Arrays(path, split), split, x=x, label=label, classes=classes, condition=condition)


class Arrays:
    """Arrays `[N, ...]` as a table."""

    def __init__(self, path: str, split: str = "train"):
        file = pathlib.Path(path).expanduser()
        self.where = str(file)
        self.name = file.name
        base = split.partition("[")[0]
        if base != "train":
            raise ValueError(
                f"{file} has no split {base!r}: all of it is 'train'. Valid: a part, e.g. 'train[:90%]' to train on "
                "and 'train[90%:]' to compare with; or another file."
            )
        if not file.exists():
            raise FileNotFoundError(f"{file}: there is no such file or folder of arrays.")
        self._files = sorted(file.glob("*.npy")) if file.is_dir() else [file]
        self._arrays = _zipped(file) if file.suffix == ".npz" else {each.stem: mapped(each) for each in self._files}
        if file.suffix == ".npy":
            self._arrays = {"x": self._arrays[file.stem]}
        if not self._arrays:
            raise ValueError(f"{file} holds no arrays.")
        scalars = [name for name, array in self._arrays.items() if not array.ndim]
        lengths = {name: len(array) for name, array in self._arrays.items() if array.ndim}
        if scalars or len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} ({'no rows' if name in scalars else lengths[name]})" for name in self._arrays)
            raise ValueError(f"{file}: the arrays of a source have one row for each record, and these have {listed}.")
        self._arrays = {name: np.asarray(array) for name, array in self._arrays.items()}  # a row of a memmap is slow
        self.columns = tuple(self._arrays)

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return [{name: np.asarray(self._arrays[name][row]) for name in columns} for row in rows]

    def place(self, row: int) -> str:
        return f"{self.where}, row {row}"

    def column(self, name: str) -> Sequence[Any]:
        array = self._arrays[name]
        return array.tolist() if array.dtype.kind in "US" else cast(Sequence[Any], np.asarray(array))

    def stamp(self) -> Any:
        return stamp_of(self._files)


def mapped(file: pathlib.Path) -> np.ndarray:
    """The array of a .npy file, mapped into memory.

    Raises:
        ValueError: if the file is damaged, or holds objects.
    """
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is no sound array: {error}") from error


def _zipped(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file: mapped where they are stored as they are, else read."""
    found = npz.headers(file)
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    arrays = {}
    for name, header in found.items():
        info = infos[name]
        if info.compress_type != zipfile.ZIP_STORED or not all(header.shape):
            arrays |= npz.load(file, (name,))
            continue
        with open(file, "rb") as content:
            content.seek(info.header_offset)
            local = content.read(30)
        if len(local) < 30:
            raise limits.Refused(f"{file} is cut short.")
        extra = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        start = info.header_offset + 30 + extra + header.start
        arrays[name] = np.memmap(file, header.dtype, "r", start, header.shape)
    return arrays
