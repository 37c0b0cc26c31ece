"""The arrays of a .npz or .npy file, or of a folder of .npy files: row i of each array belongs to record i.

    np.savez("points.npz", x=points, label=labels)       # float32 [N, 2], int [N]

Uncompressed arrays (.npy, and .npz by `np.savez`) are mapped into memory, so they may be larger than the memory. Files
by `np.savez_compressed` are read completely.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from diffusion.data.sources import splits
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import npy, npz, opener


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
        path: a .npz file, a .npy file, or a folder of .npy files of equal length.
        split: "train" for all records, or a part such as "train[:90%]".
        x: the array of the examples, uint8 or floating-point of any rank, or several arrays, which make a pytree;
            "" for "x" or "image", or the only array.
        label, classes, condition: the array of labels, the names of their classes, and the array or arrays that the
            network receives, as in `table_records.Records`.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if arrays differ in length, or a named array is missing.
    """
    return Records(Arrays(path, split), split, x=x, label=label, classes=classes, condition=condition)


class Arrays:
    """Arrays `[N, ...]` as a table."""

    def __init__(self, path: str, split: str = "train"):
        file = pathlib.Path(path).expanduser()
        self.where = str(file)
        self.name = file.name
        splits.require_train(splits.parse(split).base, str(file))
        if not file.exists():
            raise FileNotFoundError(f"{file}: there is no such file or folder of arrays.")
        self._files = sorted(file.glob("*.npy")) if file.is_dir() else [file]
        if file.is_dir():
            splits.warn_of_others(file, "arrays", sorted(other.name for other in file.glob("*.npz")), (".npy",))
        within = file if file.is_dir() else None
        named = lambda: {path.stem: npy.mapped(path, within) for path in self._files}
        self._arrays = _zipped(file) if file.suffix == ".npz" else named()
        if file.suffix == ".npy":
            self._arrays = {"x": self._arrays[file.stem]}
        if not self._arrays:
            raise ValueError(f"{file} holds no arrays.")
        scalars = [name for name, array in self._arrays.items() if not array.ndim]
        lengths = {name: len(array) for name, array in self._arrays.items() if array.ndim}
        if scalars or len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} ({'no rows' if name in scalars else lengths[name]})" for name in self._arrays)
            raise ValueError(
                f"{file}: the arrays of a source must have one row for each record, but these have {listed}."
            )
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


def _zipped(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file: uncompressed ones are mapped into memory, others are read."""
    headers, starts = npz.headers(file), npz.stored(file)
    arrays = {}
    for name, header in headers.items():
        if name in starts and all(header.shape):
            with opener.open_file(file) as content:
                arrays[name] = np.memmap(content, header.dtype, "r", starts[name] + header.start, header.shape)
        else:
            arrays |= npz.load(file, (name,))
    return arrays
