"""Makes records of the columns of a file format: the example, label, condition and text of each."""

import pathlib
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from diffusion.arrays import pytrees
from diffusion.data import transforms
from diffusion.data.sources.spec import (
    IMAGE_LIMIT,
    DataSpec,
    Leaf,
    check_finite,
    number_type,
    warn_of_channels_first,
    warn_of_range,
)
from diffusion.io import limits, opener, pictures
from diffusion.package.public import nearest

MODES = {"1": 1, "L": 1, "P": 3, "RGB": 3, "RGBA": 4, "CMYK": 3, "YCbCr": 3, "LA": 4}  # channels by Pillow's mode
# The columns that are the example, the label and the caption unless the user names others.
EXAMPLE = ("image", "x", "images", "jpg", "jpeg", "png", "webp", "img")
LABEL = ("label", "labels", "cls")
CAPTION = ("caption", "captions", "text", "txt", "prompt")
ENCODED = 2**29  # the most bytes of an encoded picture, twice the limit of a decoded one
CLASSES = 10**6  # the most classes; the largest label determines their number


class PictureFile(NamedTuple):
    """The file of an encoded picture.

    Attributes:
        path: the encoded file.
        within: the folder in which the file must lie; None if the user named the file itself.
    """

    path: pathlib.Path
    within: pathlib.Path | None = None


class Columns:
    """The roles of a file's columns in a record, and the records that the columns make.

    Attributes:
        names: the names of all columns.
        example: the column of the example, or several columns, which make a pytree.
        label: the column of the label; "" for none.
        condition: the column that the network receives, or several; "" or () for none.
        channels: number of channels of the example's picture; 0 if it is not a picture, or not yet known.
        varied: (H, W) of the samples if pictures keep their sizes; () if all have one size.
    """

    def __init__(
        self,
        where: str,
        names: Sequence[str],
        *,
        x: str | Sequence[str] = "",
        label: str | None = None,
        condition: str | Sequence[str] = (),
        caption: str = "",
        side: int = 0,
        varied: tuple[int, ...] = (),
        viewed: bool = False,
    ):
        """Finds the columns.

        Args:
            where: the file or folder of the data, for messages.
            names: the names of all columns.
            x: the column of the example, or several, which make the pytree {column: array}; "" for the first column of
                `EXAMPLE` that exists, or the only column.
            label: the column of the label; None for the first column of `LABEL` that exists; "" for no labels.
            condition: the column that the network receives, or several, which make {column: array}; for the column of
                the label the network receives the number of the class.
            caption: the column of the text that a network receives; "" for the first column of `CAPTION` that exists.
            side: height and width of the squares to which pictures are cropped and scaled; 0 for pictures of one size.
            varied: (H, W) of the samples if pictures keep their sizes, as in `tfds_records.open_source`; () if all have
                one size.
            viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

        Raises:
            ValueError: if a column does not exist (the message lists the columns), or `side` is not valid.
        """
        transforms.check_side(side)
        self.where = where
        self.names = tuple(names)
        self.example = self._example(x)
        self.condition = self.known(condition, "condition")
        self.label = self._label(label)
        self.varied = varied
        self.channels = 0
        self._caption = self.known(caption, "caption")
        self._side = side
        self.viewed = viewed

    def pixels(self) -> dict[str, str]:
        """The entries of a fingerprint about how pictures are read; {} for the way in which earlier versions read."""
        return {"pixels": "viewed"} if self.viewed and self.channels else {}

    @property
    def wanted(self) -> list[str]:
        """The columns from which a record is made, except the label."""
        parts = ((part,) if isinstance(part, str) else part for part in (self.example, self.condition))
        return list(dict.fromkeys(name for part in parts for name in part if name))

    @property
    def caption(self) -> str:
        """The column of the text.

        Raises:
            ValueError: if there is none; the message lists the columns.
        """
        if not self.text:
            raise ValueError(
                f"{self.where} has the columns {', '.join(self.names)}, and none of them is called "
                f"{', '.join(CAPTION)}. Name the column of the text by caption = COLUMN."
            )
        return self.text

    @property
    def text(self) -> str:
        """The column of the text; "" if there is none."""
        return str(self._caption) or next((name for name in CAPTION if name in self.names), "")

    def text_of(self, stored: Mapping[str, Any]) -> str:
        """The text of a record.

        Raises:
            ValueError: if there is no such column, or it holds no text.
        """
        if self.caption not in stored:
            raise ValueError(f"it has no column {self.caption}, only {', '.join(stored)}")
        value = stored[self.caption]
        text = value if isinstance(value, str) else np.asarray(value).item()
        if not isinstance(text, str):
            raise ValueError(f"its {self.caption} is {text!r}; a caption must be a text")
        return text

    def known(self, names: str | Sequence[str], what: str) -> tuple[str, ...] | str:
        """The names, after a check that they are columns.

        Raises:
            ValueError: if a name is not a column; the message suggests the nearest column.
        """
        for name in (names,) if isinstance(names, str) else names:
            if name and name not in self.names:
                near = nearest(name, self.names, alike=0.6)
                hint = f" Did you mean {near!r}?" if near else ""
                raise ValueError(
                    f"{self.where} has no column {name!r} for {what}; its columns are {', '.join(self.names)}.{hint}"
                )
        return names if isinstance(names, str) else tuple(names)

    def _example(self, x: str | Sequence[str]) -> str | tuple[str, ...]:
        if x:
            return self.known(x, "x")
        candidates = [name for name in EXAMPLE if name in self.names]
        candidates = candidates or list(self.names if len(self.names) == 1 else ())
        if not candidates:
            raise ValueError(
                f"{self.where} has the columns {', '.join(self.names)}, and none of them is called "
                f"{', '.join(EXAMPLE)}. Name the column of the example by x = COLUMN."
            )
        return candidates[0]

    def _label(self, label: str | None) -> str:
        if label:
            self.known(label, "label")
            if label == self.example:
                raise ValueError(
                    f"{self.where}: label = {label!r} is the column of the example. Valid: another column, or "
                    '"" for no labels'
                )
        free = [name for name in LABEL if name in self.names and name != self.example]
        return (free[0] if free else "") if label is None else label

    # ==== Records ====

    def channels_of(self, value: Any) -> int:
        """The channels of an encoded picture; 0 for another value."""
        data = encoded(value)
        if data is None:
            return 0
        with opened(data) as image:
            return 4 if image.has_transparency_data else MODES.get(image.mode, 3)

    def record(self, stored: Mapping[str, Any], number: int | None = None) -> dict[str, Any]:
        """The record of some stored values.

        Args:
            stored: the values of the `wanted` columns, by column.
            number: the number of the record's class; None without labels.

        Raises:
            ValueError: if a value is neither a picture nor an array of numbers. Errors of a picture's decoder are not
                caught.
        """
        if isinstance(self.example, str):
            example = self._value(stored[self.example], self.channels)
            entry = "image" if number_type(example.dtype) == "uint8" else "x"
        else:
            example = {name: numeric(stored[name]) for name in self.example}
            entry = "x"
        record: dict[str, Any] = {entry: example}
        if self.condition:
            several = not isinstance(self.condition, str)
            value = lambda name: np.asarray(number, np.int32) if name == self.label else self._value(stored[name], 0)
            record["condition"] = {name: value(name) for name in self.condition} if several else value(self.condition)
        return record if number is None else record | {"label": number}

    def _value(self, value: Any, channels: int) -> np.ndarray:
        data = encoded(value)
        if data is None:
            return numeric(value)
        channels = channels or self.channels_of(value)
        content = content_of(data)
        if self._side:
            picture = transforms.decode_square(content, self._side, channels, IMAGE_LIMIT, self.viewed)
        else:
            picture = transforms.decode_any(content, channels, IMAGE_LIMIT, self.viewed)
        picture.flags.writeable = False  # the same array may be returned again
        return picture

    def described(
        self, record: Mapping[str, Any], name: str, split: str, classes: tuple[str, ...], size: int
    ) -> DataSpec:
        """The description of a dataset of records like this one.

        Args:
            record: a record, such as the first.
            name: the name of the dataset.
            split: the split of the dataset.
            classes: the names of the classes.
            size: the number of records; -1 for a stream.

        Raises:
            ValueError: if the example is an encoded picture whose bytes are stored as numbers, or if there is a `side`
                but no encoded picture.
        """
        example = record["image"] if "image" in record else record["x"]
        shape = pytrees.shapes_of(example)
        shape = (*self.varied, shape[-1]) if self.varied else shape
        condition = None
        if "condition" in record:
            condition = jax.tree.map(lambda leaf: Leaf(leaf.shape, str(leaf.dtype)), record["condition"])
        dtype = number_type(example.dtype) if isinstance(example, np.ndarray) else "float32"
        warn_of_channels_first(self.where, shape, dtype)
        warn_of_range(self.where, example)
        _refuse_bytes_as_numbers(self.where, self.example, example)
        arrays = jax.tree.leaves((example, record.get("condition")))
        if self._side and not any(np.shape(array)[:2] == (self._side, self._side) for array in arrays):
            raise ValueError(
                f"{self.where}: side = {self._side} makes squares of encoded pictures, but {self.example!r} holds "
                f"arrays of the shape {shape}. Valid: side = 0, or pictures stored as PNG, JPEG or WebP."
            )
        return DataSpec(name, split, shape, len(classes), size, "", dtype, condition, classes)

    def check(self, record: Mapping[str, Any], spec: DataSpec) -> None:
        """Refuses a record with another shape than the first record, or with a NaN or infinity.

        Raises:
            ValueError: if the shapes differ (the message states both), or the example or condition is not finite.
        """
        if self.varied:
            return
        example = record["image"] if "image" in record else record["x"]
        shape = pytrees.shapes_of(example)
        if shape != spec.shape or ("image" in record) != (spec.dtype == "uint8"):
            advice = "; set side = N to make squares of all" if self.channels else ""
            raise ValueError(f"its example has the shape {shape}, but the first one has {spec.shape}{advice}")
        if spec.condition is not None:
            shapes = pytrees.shapes_of(record["condition"])
            first = jax.tree.map(lambda leaf: leaf.shape, spec.condition, is_leaf=lambda x: isinstance(x, Leaf))
            if shapes != first:
                raise ValueError(f"its condition has the shape {shapes}, but the first one has {first}")
            check_finite(record["condition"], "condition")
        check_finite(example)


class ClassTable:
    """The numbers of classes by their names."""

    def __init__(self, names: tuple[str, ...], what: str):
        """Numbers the names from 0 on.

        Args:
            names: the names of the classes in the order of their numbers.
            what: the name of the labels in messages.

        Raises:
            ValueError: if a class is named twice.
        """
        if len(set(names)) < len(names):
            twice = next(name for name, number in Counter(names).items() if number > 1)
            raise ValueError(f"{what}: classes names {twice!r} twice. Valid: each class once, at its number")
        self.names = names
        by_name: dict[Any, int] = {name: k for k, name in enumerate(names)}
        self._numbers = by_name | {k: k for k in range(len(names))}

    def numbers(self, labels: Sequence[Any], place: Callable[[int], str]) -> np.ndarray:
        """The class number of each label, int64 [N]; beside a text, an integer is the name of a class too.

        Args:
            labels: names, or numbers.
            place: a function from a row to the row's name in messages.

        Raises:
            ValueError: if a label is missing or names no class; the message names its place.
        """
        keys = _labels(labels, place, empty="" in self._numbers)
        if any(isinstance(key, str) for key in keys):
            keys = [str(key) for key in keys]
        for row, key in enumerate(keys):
            if not isinstance(key, Hashable) or key not in self._numbers:
                near = nearest(key, self.names, alike=0.6)
                hint = f" Did you mean {near!r}?" if near else ""
                raise ValueError(
                    f"{place(row)}: its label is {key!r}, which is not one of the {len(self.names)} classes "
                    f"{', '.join(self.names[:10])}{' ...' if len(self.names) > 10 else ''}.{hint}"
                )
        return np.array([self._numbers[key] for key in keys], np.int64)


def _labels(values: Sequence[Any], place: Callable[[int], str], empty: bool) -> list[Any]:
    """Labels as plain values; refuses those that are missing, as is an empty text unless a class has this name."""
    labels = [
        value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value for value in values
    ]
    for row, label in enumerate(labels):
        if label is None or (isinstance(label, str) and not label and not empty):
            raise ValueError(
                f'{place(row)}: it has no label. Valid: a label in every record, or label = "" for no labels at all'
            )
    return labels


def class_numbers(
    values: Sequence[Any], classes: tuple[str, ...], place: Callable[[int], str], what: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """(the names of the classes, the class number of each label, int64 [N]).

    Warns if a number below the largest label does not occur, as 0 if classes are numbered from 1, and if labels are
    texts of digits whose order as texts differs from their order as numbers.

    Args:
        values: the labels, texts or integers.
        classes: the names of the classes in the order of their numbers; () for all labels that occur, sorted.
        place: a function from a row to the row's name in messages.
        what: the name of the labels in messages.

    Raises:
        ValueError: if a class is named twice; or if a label is missing, names no class, or is neither a text nor an
            integer from 0 to `CLASSES` - 1; the message then names its place.
    """
    if classes:
        return classes, ClassTable(classes, what).numbers(values, place)
    values = _labels(values, place, empty=False)
    if any(isinstance(value, str) for value in values):
        names = tuple(sorted({str(value) for value in values}))
        by_number = sorted(names, key=int) if all(map(str.isdecimal, names)) else list(names)
        if by_number != list(names):
            first = next(k for k, name in enumerate(names) if name != by_number[k])
            warnings.warn(
                f"{what}: the classes are numbered in the order of their names as texts, so that the class "
                f"{names[first]!r} has the number {first}. Give their names in order by classes = (...), or write them "
                "with the same number of digits",
                stacklevel=2,
            )
        return names, ClassTable(names, what).numbers(values, place)
    try:
        numbers = np.asarray(values)
    except ValueError:  # lists of different lengths
        numbers = np.asarray(values, object)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iub":
        raise ValueError(
            f"{what} are {numbers.dtype} {numbers.shape[1:]}. Valid: texts, or integers from 0 on; other numbers can "
            "only be a condition."
        )
    if numbers.min() < 0:
        row = int(numbers.argmin())
        raise ValueError(f"{place(row)}: its label is {numbers[row]}. Valid: integers from 0 on.")
    if numbers.max() >= CLASSES:
        row = int(numbers.argmax())
        raise ValueError(
            f"{place(row)}: its label is {numbers[row]}. Valid: integers from 0 to {CLASSES - 1:,}, one for each class."
        )
    count = int(numbers.max()) + 1
    if number := count - len(np.unique(numbers)):
        unused = np.setdiff1d(np.arange(count), numbers)
        listed = f"{', '.join(map(str, unused[:10]))}{' ...' if number > 10 else ''}"
        warnings.warn(
            f"{what}: of the classes 0 to {count - 1}, {number} have no record ({listed}), so that a model does "
            "not learn them, but samples of all classes contain them. Number the classes from 0 on without gaps",
            stacklevel=2,
        )
    return tuple(map(str, range(count))), numbers.astype(np.int64)


def encoded(value: Any) -> bytes | PictureFile | None:
    """The content or the file of an encoded picture; None for a value of another kind.

    Raises:
        limits.Refused: if the value names a file, since it could name any file that the user can read.
    """
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"]
        if not isinstance(value, bytes):
            raise limits.Refused(
                "it names a file instead of holding a picture, and the name could lead to any file. Valid: {'bytes': "
                "the encoded picture}"
            )
    return value if isinstance(value, (bytes, PictureFile)) else None


def opened(data: bytes | PictureFile) -> Image.Image:
    """A picture whose header alone has been read."""
    if isinstance(data, PictureFile):
        return pictures.opened(data.path, "its image", within=data.within)
    return pictures.opened(data, "its image")


def content_of(data: bytes | PictureFile) -> bytes:
    """The bytes of an encoded picture."""
    return opener.read(data.path, within=data.within, most=ENCODED) if isinstance(data, PictureFile) else data


def numeric(value: Any) -> np.ndarray:
    """A stored value as an array of numbers.

    Raises:
        ValueError: if the value is a text, a ragged list or None.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"its value {str(value)[:40]!r} is not an array of numbers")
    return array


def _refuse_bytes_as_numbers(where: str, column: Any, example: Any) -> None:
    """Refuses an encoded picture that is stored as a list of its bytes' numbers, since it would be read as numbers."""
    numbers = (
        np.asarray(example[: pictures.HEAD]) if isinstance(example, np.ndarray) and example.ndim == 1 else np.zeros(0)
    )
    if numbers.dtype.kind not in "iu" or not ((numbers >= 0) & (numbers < 256)).all():
        return
    if name := pictures.format_of(numbers.astype(np.uint8).tobytes()):
        raise ValueError(
            f"{where}: column {column!r} holds lists of {len(example)} numbers that begin as the bytes of a {name} "
            "file. Valid: encoded pictures as binary values, in pyarrow pa.array([bytes(row) for row in "
            "column.to_pylist()], pa.binary())."
        )


def stored_bytes(value: Any) -> bytes:
    """A stored value as bytes, for a digest."""
    data = encoded(value)
    if data is not None:
        return content_of(data)
    return value.encode() if isinstance(value, str) else np.asarray(value).tobytes()
