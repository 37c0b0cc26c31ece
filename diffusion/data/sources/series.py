"""Series of which a part is given: draws of a Gaussian process, or windows of the user's own files."""

import csv
import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diffusion.data import gaussian_processes, identities, series_masks
from diffusion.data.gaussian_processes import GaussianProcess
from diffusion.data.series_masks import Hiding
from diffusion.data.sources.sequences import SEEDS, Records, check_made
from diffusion.io import limits, npy, npz, opener

COPIES = 4  # float64 arrays that are in memory at once while series are drawn
APART = 1  # second number of the seed of the hidden parts; not 0, because numpy's seeds s and (s, 0) are equal


class SeriesWindows(Sequence):
    """Records of series of one length, made by `series_masks.record`, or without `hide` {"x": the whole series}.

    The hidden part of a series is a function of the seed and of the number of the series, so that it is the same in
    every epoch.

    Attributes:
        rows: the numbers of the series that are records, int64 [n].
        left_out: number of series that are no records, because nothing of them would be given, or nothing hidden.
    """

    def __init__(
        self, values: Sequence[np.ndarray], hide: Hiding | None, seed: int | tuple[int, ...], name: str = "series"
    ):
        """Wraps series.

        Args:
            values: the series, each float32 `[L, C]`, NaN where a value is missing.
            hide: the choice of the hidden part of a series; None hides nothing.
            seed: the seed of the hidden parts.
            name: the word for a series in messages.

        Raises:
            ValueError: if a value is missing and nothing is hidden.
        """
        self._values, self._hide, self._name = values, hide, name
        self._seed = seed if isinstance(seed, tuple) else (seed,)
        holes = np.array([np.isnan(series).any() for series in values])
        if hide is None and holes.any():
            raise ValueError(
                f"{name} {int(np.argmax(holes))} has missing values, but no part of the series is hidden. Valid: set "
                'hide, e.g. hide = {"name": "gaps"}; the model then learns from the values that are there'
            )
        is_record = np.ones(len(values), bool)
        # Hidden parts are drawn again when a series is read. Whether a series without missing values is a record does
        # not depend on the series, so that one of them is asked for all.
        if hide is not None:
            is_record[holes] = [self._is_record(row) for row in np.flatnonzero(holes).tolist()]
            is_record[~holes] = holes.all() or self._is_record(int(np.argmin(holes)))
        self.rows = np.flatnonzero(is_record)
        self.left_out = int((~is_record).sum())

    def _hidden(self, row: int) -> np.ndarray:
        assert self._hide is not None
        return self._hide(np.random.default_rng((*self._seed, row)), ~np.isnan(self._values[row]))

    def _is_record(self, row: int) -> bool:
        hidden = self._hidden(row)
        return bool(hidden.any() and (~np.isnan(self._values[row]) & ~hidden).any())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        number = int(self.rows[row])
        if self._hide is None:
            return {"x": self._values[number]}
        return series_masks.record(self._values[number], self._hidden(number), f"{self._name} {row}")


class ExactSeries(Records):
    """Records of series of a Gaussian process, together with the process.

    Attributes:
        process: the process from which the series are drawn.
    """

    def __init__(self, process: GaussianProcess, split: str, number: int, hide: Hiding | None, apart: bool = True):
        rng = np.random.default_rng(SEEDS[split])
        drawn = gaussian_processes.draw(np.zeros(len(process.covariance)), process.covariance, number, rng)
        values = drawn.astype(np.float32).reshape(number, *process.shape)
        seed = (SEEDS[split], APART) if apart else SEEDS[split]
        super().__init__(SeriesWindows(list(values), hide, seed), 0, split)
        self.process = process


def gaussian_series(
    split: str = "train",
    *,
    length: int = 48,
    channels: int = 1,
    number: int = 20_000,
    hide: Hiding | None = None,
    correlation: float = 0.6,
    noise: float = 0.05,
    share: float = 0.5,
    scale: float = 10.0,
    period: float = 12.0,
    apart: bool = True,
) -> Records:
    """Series of a Gaussian process (trend, season and noise), whose conditional distributions are all known.

    Args:
        split: "train" or "test".
        length: number of steps L of a series.
        channels: number of channels C of a series.
        number: how many series to draw, at least 1.
        hide: the choice of the part that is hidden and to be predicted, e.g. {"name": "forecast", "horizon": 16}; None
            hides nothing, for an unconditional model.
        correlation, noise, share, scale, period: the parameters of the process, see `gaussian_processes.stationary`.
        apart: whether the hidden parts have a separate random stream. If not, as in runs up to version 21 of
            config.json, the hidden part of row 0 is drawn from the same random numbers as the first series.

    Returns:
        Records of series float32 `[L, C]`, with the `process`; see `series_masks.record`.

    Raises:
        ValueError: for another split, a number out of range, or more than fits into memory.
    """
    check_made("these series", split, number)
    parameters = {"correlation": correlation, "noise": noise, "share": share, "scale": scale, "period": period}
    needed = 8 * COPIES * length * channels * max(length * channels, number)
    if needed > limits.memory():
        raise ValueError(
            f"length = {length}, channels = {channels} and number = {number}: the series or their covariance take "
            f"{limits.size(needed)} while they are drawn, and this machine has {limits.size(limits.memory())} of "
            "memory. Valid: smaller numbers"
        )
    return ExactSeries(gaussian_processes.stationary(length, channels, **parameters), split, number, hide, apart)


class StandardSeries(Records):
    """Windows of a file's series, in units of each column's standard deviation about its mean.

    Attributes:
        mean, std: mean and standard deviation of each column, float64 `[C]`: `x * std + mean` is in the file's units.
        series: the file's series by name, float64 `[T, C]`, in the file's units; NaN where a value is missing.
        columns: names of the channels if the file is a .csv with a header; () otherwise.
        places: (the name of its series, the number of its first step in the series) of each record.
    """

    mean: np.ndarray
    std: np.ndarray
    series: dict[str, np.ndarray]
    columns: tuple[str, ...]
    places: list[tuple[str, int]]

    def identities(self) -> np.ndarray:
        """The identities of windows of the file, see `data.identities`."""
        file = ["series", self.where, *self.columns]
        return np.concatenate([identities.numbered(file, name, [first]) for name, first in self.places])

    def filled(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """The file's series, where the mean of all samples of a missing value stands in its place.

        Args:
            samples: samples in standard units, float `[N, L, C]`; sample i completes record i modulo the number of
                records, as `diffusion sample` makes them. Samples of values that the file has are not used.

        Returns:
            {name: float64 `[T, C]`}, in the file's units; NaN where a missing value has no sample.
        """
        sums = {name: np.zeros_like(one) for name, one in self.series.items()}
        counts = {name: np.zeros(one.shape, int) for name, one in self.series.items()}
        for row, sample in enumerate(samples):
            name, first = self.places[row % len(self)]
            steps = slice(first, first + len(sample))
            is_filled = np.isnan(self.series[name][steps]) & self[row % len(self)]["condition"]["real"]
            sums[name][steps] += np.where(is_filled, sample * self.std + self.mean, 0)
            counts[name][steps] += is_filled
        return {
            name: np.where(counts[name] > 0, sums[name] / np.maximum(counts[name], 1), one)
            for name, one in self.series.items()
        }


def series_windows(
    path: str,
    split: str = "train",
    *,
    length: int,
    stride: int = 1,
    held_out: float = 0.2,
    columns: tuple[str, ...] = (),
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    hide: Hiding | None = None,
) -> Records:
    """Windows of series in a .csv, .npy or .npz file, in which NaN or an empty cell stands for a missing value.

    The windows of "train" are cut from the beginning of each series and those of "test" from its end, and no window has
    steps of both parts. A window in which nothing is given, or nothing is to be predicted, is left out.

    Args:
        path: the file, see `read_series`.
        split: "train" or "test".
        length: number of steps L of a window, at least 2.
        stride: steps between the beginnings of two windows, at least 1; the last window ends where the part ends.
        held_out: share of the steps of each series that are "test", in [0, 1); with 0, both splits are the whole
            series.
        columns: names of a .csv's columns, () for all.
        mean, std: mean and standard deviation of each column, by which values are standardised; () for the values of
            this file's train split. For another file, or another part of this one, pass the values that the model was
            trained with.
        hide: the choice of the hidden part of a window, e.g. {"name": "gaps"}; {"name": "missing"} fills missing
            values. None hides nothing.

    Returns:
        Records of windows float32 `[L, C]` in standard units, with the attributes of `StandardSeries`; see
        `series_masks.record`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a number out of range; if the file holds no series, a series shorter than a window, infinite
            values or a column without two different values, if mean and std do not fit its columns, or if no window is
            left.
    """
    check_made("these windows", split)
    if length < 2 or stride < 1 or not 0 <= held_out < 1:
        raise ValueError(
            f"length = {length} must be at least 2, stride = {stride} at least 1 and held_out = {held_out} in [0, 1)"
        )
    series = read_series(path, columns)
    if channels := sorted({one.shape[1] for one in series.values()} - {next(iter(series.values())).shape[1]}):
        raise ValueError(f"{path}: its series differ in their number of channels; one of them has {channels[0]}")
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    begins = []  # the step of each series at which the split's part begins
    for name, one in series.items():
        cut = len(one) - round(held_out * len(one))
        for part, steps in (("train", one[:cut]), ("test", one[cut:] if held_out else one)):
            needed = length if part == split else int(part == "train")  # the train split standardises the values
            if len(steps) < needed:
                raise ValueError(
                    f"{path}: series {name!r} has {len(steps)} steps in {part!r} (held_out = {held_out}), fewer than "
                    f"length = {length}"
                )
            parts[part].append(steps)
        begins.append((name, cut if split == "test" and held_out else 0))
    center, scale = _units(path, parts["train"], mean, std)
    cut_at = lambda steps: np.unique(np.append(np.arange(0, len(steps) - length + 1, stride), len(steps) - length))
    scaled = [((steps - center) / scale).astype(np.float32) for steps in parts[split]]
    places = [(name, begin, at) for steps, (name, begin) in zip(scaled, begins) for at in cut_at(steps).tolist()]
    by_name = dict(zip((name for name, _ in begins), scaled))
    windows = [by_name[name][at : at + length] for name, _, at in places]  # views: a stride of 1 copies nothing
    records_of_windows = SeriesWindows(windows, hide, SEEDS[split], "window")
    if not len(records_of_windows):
        raise ValueError(f"{path}: no window of {length} steps has both given values and values to predict")
    records = StandardSeries(records_of_windows, 0, split, str(path))
    records.mean, records.std = center, scale
    records.columns = tuple(columns) or _header(path)
    records.series, records.places = series, [(places[row][0], sum(places[row][1:])) for row in records_of_windows.rows]
    return records


def _units(
    path: str, train: list[np.ndarray], mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation of each channel `[C]`, from the arguments or else from the train split."""
    channels = train[0].shape[1]
    if mean or std:
        center, scale = np.array(mean, np.float64), np.array(std, np.float64)
        if not (len(mean) == len(std) == channels and np.isfinite([center, scale]).all() and (scale > 0).all()):
            raise ValueError(
                f"{path}: mean = {mean} and std = {std}. Valid: {channels} finite numbers for each, those for std "
                "positive, or () for both"
            )
        return center, scale
    values = np.concatenate(train)
    center, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    differ = np.nanmax(values, axis=0) > np.nanmin(values, axis=0)  # rounding gives equal values a deviation
    if not differ.all():
        raise ValueError(
            f"{path}: channel {int(np.argmin(differ))} has no two different values, so its scale cannot be learned"
        )
    return center, scale


def read_series(path: str, columns: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The series of a file, float64 `[T, C]` each, by name; NaN where a value is missing.

    Args:
        path: one of three kinds of file. A .csv file holds one series, with a row for each step, and may begin with a
            header of names that are no numbers. A .npy file holds an array `[T]`, `[T, C]` or `[N, T, C]`. In an .npz
            file each array is a series `[T]` or `[T, C]`, of any length.
        columns: names of a .csv's columns, () for all.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind or holds no series, columns are given for a file that is not a .csv,
            or a value is infinite or not a number.
    """
    file = pathlib.Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"{file}: there is no such file.")
    if columns and file.suffix != ".csv":
        raise ValueError(f"{file}: columns = {tuple(columns)} applies only to a .csv file")
    if file.suffix == ".csv":
        arrays = {file.stem: _table(file, columns)}
    elif file.suffix == ".npy":
        array = npy.mapped(file)
        arrays = {str(i): one for i, one in enumerate(array)} if array.ndim == 3 else {file.stem: array}
    elif file.suffix == ".npz":
        arrays = npz.load(file, tuple(npz.names(file)))
    else:
        raise ValueError(f"{file} is no file of series. Valid: a name that ends in .csv, .npy or .npz")
    series = {}
    for name, array in sorted(arrays.items()):
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiub" or not array.size:
            raise ValueError(
                f"{file}: series {name!r} is {array.dtype} {list(array.shape)}. Valid: numbers [T] or [T, C]"
            )
        series[name] = np.array(array, np.float64).reshape(len(array), -1)
        if np.isinf(series[name]).any():
            raise ValueError(
                f"{file}: series {name!r} has infinite values. Valid: finite numbers, and NaN where a value is missing"
            )
    if not series:
        raise ValueError(f"{file} holds no series")
    return series


def _table(file: pathlib.Path, columns: Sequence[str]) -> np.ndarray:
    """The numbers in the columns of a .csv file, float64 [rows, columns]; NaN where a cell is empty."""
    rows = list(_rows(file))
    width = len(next(filter(None, rows), []))
    if not width:
        raise ValueError(f"{file} holds no rows")
    if width == 1:
        rows = [row or [""] for row in rows]  # the only cell of a line is empty: a missing value
    while not rows[-1]:
        rows.pop()
    header = not all(_number(cell) is not None for cell in rows[0])
    names = rows[0] if header else [str(i) for i in range(width)]
    numbers = [cell for cell in rows[0] if cell.strip() and _number(cell) is not None]
    # A row of numbers with a bad cell must not be taken for a header, because its numbers would then be lost.
    if header and numbers and not (columns and set(columns) <= set(names)):
        word = next(cell for cell in rows[0] if _number(cell) is None)
        raise ValueError(
            f"{file}, row 1: {numbers[0]!r} is a number, and {word!r} is not, so that the row may be a header or the "
            "first step. Valid: only names as a header, or only numbers, with an empty cell where a value is "
            "missing; if it is a header, name the columns of the series by columns"
        )
    counts_rows = width > 1 and len(rows) > 2 and all(row[:1] == [str(line)] for line, row in enumerate(rows[1:]))
    if counts_rows and not rows[0][0].strip() and not (header and columns):
        raise ValueError(
            f"{file}: its first column has no name and counts the rows, as the index that pandas writes. Valid: a file "
            "without it (to_csv(index=False)), or, where the others have names, the columns of the series by columns"
        )
    fractions = any("." in cell for row in rows[1:] for cell in row)
    if width > 1 and rows[0] == [str(column) for column in range(width)] and fractions:
        raise ValueError(
            f"{file}, row 1: it counts the columns, as the header that pandas writes where they have no names, so that "
            "the row may be a header or the first step. Valid: a file without it (to_csv(header=False)), or names; if "
            f"it is a step, numbers as the others: {', '.join(f'{column}.0' for column in range(width))}"
        )
    for name in columns:
        if names.count(name) != 1:
            held = "no column" if name not in names else f"{names.count(name)} columns"
            raise ValueError(f"{file} has {held} {name!r}. Valid: {', '.join(names)}, each of them once")
    chosen = [names.index(name) for name in columns] or list(range(len(names)))
    body = rows[header:]
    values = np.empty((len(body), len(chosen)))
    for line, row in enumerate(body, 1 + header):
        if len(row) != width:
            raise ValueError(f"{file}, row {line}: it has {len(row)} cells, but the first row has {width}")
        for k, column in enumerate(chosen):
            number = _number(row[column])
            if number is None:
                raise ValueError(
                    f"{file}, row {line}: {row[column]!r} in column {names[column]!r} is not a number. Valid: "
                    "numbers, or an empty cell where a value is missing; if the column is not part of the series, "
                    "name the others by columns"
                )
            values[line - 1 - header, k] = number
    return values


def _rows(file: pathlib.Path) -> Iterator[list[str]]:
    """The cells of each line of a .csv file."""
    text = opener.text_of(opener.read(file), file)
    try:
        yield from csv.reader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise ValueError(f"{file} is not a CSV file: {error}.") from None


def _header(path: str) -> tuple[str, ...]:
    """The names of a .csv's columns; () without a header, or for another kind of file."""
    file = pathlib.Path(path).expanduser()
    if file.suffix != ".csv":
        return ()
    first = next(_rows(file))
    return () if all(_number(cell) is not None for cell in first) else tuple(first)


def _number(cell: str) -> float | None:
    """The number in a cell, NaN for an empty cell; None for a cell that holds no number."""
    try:
        return float(cell) if cell.strip() else float("nan")
    except ValueError:
        return float("nan") if cell.strip() in ("NA", "null") else None
