"""The description of a source's records, the protocol of a source, and what sources with random access share."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from diffusion.arrays import pytrees
from diffusion.data import fingerprints, identities
from diffusion.io import failures, pictures

IMAGE_LIMIT = 2**28  # bytes of one decoded image: 8192 x 8192 x 4
FAR = 30.0  # a larger absolute value is very unlikely in data of about unit variance
MEMORY_LIMIT = 2**30  # a split whose decoded records have at most so many bytes is kept in memory


class DamagedRecord(ValueError):
    """A record cannot be read, or does not fit its dataset's description; the message names it and the reason.

    Attributes:
        why: the name of the record, and the reason why it cannot be used.
        mend: the advice to the user, without a full stop; "" where `why` holds it.
    """

    def __init__(self, why: str, mend: str = ""):
        """The error of a record; with `mend`, the message also says that a run can leave the record out."""
        self.why, self.mend = why, mend
        super().__init__(f"{why} {mend}, or leave such records out by --config.data.damaged=skip." if mend else why)

    def __reduce__(self) -> tuple[type["DamagedRecord"], tuple[str, str]]:
        return DamagedRecord, (self.why, self.mend)

    def where_none_is_left_out(self) -> "DamagedRecord":
        """The same error for a run that needs every record."""
        return DamagedRecord(f"{self.why} {self.mend}." if self.mend else self.why)


class Leaf(NamedTuple):
    """One array of a condition: its shape, without the batch, and its dtype."""

    shape: tuple[int, ...]
    dtype: str


class DataSpec(NamedTuple):
    """The description of the records of one split of a dataset.

    Attributes:
        name: the name that was requested: "digits", "cifar10", "imagenet_resized/64x64", or the name of a source of
            files.
        split: "train", "test", or a part of one such as "train[:90%]".
        shape: the shape of an example, of any rank: (height, width, channels) for pictures; a pytree of shapes if an
            example is a pytree of arrays, see `data.packing`.
        num_classes: number of classes; 0 without classes.
        size: number of records; -1 for a stream, whose number is not known.
        version: the version of the dataset, such as "1.0.0"; "" for a dataset without versions.
        dtype: the dtype of an example in a batch: "uint8", which stands for [-1, 1] as `transforms.to_model` says; or
            "float32", which a network receives as it is; or "int32", symbols 0 .. K - 1, see `diffusion.discrete`.
        condition: the shapes and dtypes of a record's "condition", a pytree of `Leaf`; None without conditions.
        classes: the names of the classes; () without names.
        vocabulary: the text of each symbol, in order; () if examples are no symbols, or the texts are unknown.
        pairs: whether a record has a second example, "rejected", that was preferred less.
    """

    name: str
    split: str
    shape: Any
    num_classes: int
    size: int
    version: str = ""
    dtype: str = "uint8"
    condition: Any = None
    classes: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    pairs: bool = False

    @property
    def entry(self) -> str:
        """The name of an example in a record and in a batch: "image" for bytes, otherwise "x"."""
        return "image" if self.dtype == "uint8" else "x"

    @property
    def has_class(self) -> bool:
        """Whether the condition of a record has its class as one of several entries, "label"."""
        label = self.condition.get("label") if isinstance(self.condition, Mapping) else None
        return isinstance(label, Leaf) and label.shape == () and np.issubdtype(label.dtype, np.integer)

    @property
    def null(self) -> Any:
        """The null condition, zeros in the form of one condition; None without conditions."""
        zeros = lambda leaf: np.zeros(leaf.shape, "float32" if leaf.dtype == "uint8" else leaf.dtype)
        return jax.tree.map(zeros, self.condition, is_leaf=lambda node: isinstance(node, Leaf))

    @property
    def masks(self) -> bool:
        """Whether a part of the condition has the sides of a picture or clip, and moves with it, e.g. a mask."""
        leaves = jax.tree.leaves(self.condition, is_leaf=lambda node: isinstance(node, Leaf))
        clips = self.dtype == "uint8" and isinstance(self.shape, tuple) and len(self.shape) == 4  # of any channels
        return (self.pictures or clips) and any(mask_sides(leaf.shape, self.shape) for leaf in leaves)

    @property
    def pictures(self) -> bool:
        """Whether the examples are pictures, uint8 [H, W, C] of 1, 3 or 4 channels."""
        return is_picture(self.shape, self.dtype)

    @property
    def clips(self) -> bool:
        """Whether the examples are clips of pictures, uint8 [F, H, W, C] of 1 or 3 channels."""
        return is_clip(self.shape, self.dtype)


def is_picture(shape: Any, dtype: str) -> bool:
    """Whether examples of that shape and dtype are pictures, uint8 [H, W, C] of 1, 3 or 4 channels."""
    return dtype == "uint8" and isinstance(shape, tuple) and len(shape) == 3 and shape[-1] in (1, 3, 4)


def require_same_classes(one: DataSpec, other: DataSpec) -> None:
    """Refuses two sources in which the number of a class stands for different names; classes without names pass.

    Raises:
        ValueError: if the names differ; the message states the classes of both.
    """
    named = [spec for spec in (one, other) if spec.classes != tuple(map(str, range(spec.num_classes)))]
    if len(named) == 2 and one.classes and other.classes and one.classes != other.classes:
        raise ValueError(
            f"{other.name} has the classes {listed(other.classes)}, but {one.name} has {listed(one.classes)}, so the "
            "same number would mean different classes. Valid: all names in both, classes = (...); or no labels, "
            "label = ''"
        )


def listed(classes: Sequence[str]) -> str:
    """The first ten names of classes, for messages."""
    return ", ".join(classes[:10]) + (" ..." if len(classes) > 10 else "")


def warn_of_channels_first(name: str, shape: Any, dtype: str) -> None:
    """Warns of examples uint8 [C, H, W], or clips [F, C, H, W], whose channels would be taken for pixels.

    Args:
        name: the name of the data, for the message.
        shape, dtype: the shape and the type of an example, as in `DataSpec`.
    """
    ranks = (3, 4) if dtype == "uint8" and isinstance(shape, tuple) else ()
    if len(shape) in ranks and shape[-3] in (1, 3) and shape[-1] > 4:
        warnings.warn(
            f"{name}: its examples have the shape {shape}, as pictures whose channels come first. Here they come last: "
            f"these are learned as {shape[-1]} channels of {shape[-3]} x {shape[-2]} pixels. Move them by "
            "numpy.moveaxis(images, -3, -1)",
            stacklevel=2,
        )


def warn_of_range(name: str, example: Any) -> None:
    """Warns of floats that seem to be a picture in [0, 1] or [0, 255], or are far from unit variance.

    Networks receive floats as they are.

    Args:
        name: the name of the data, for the message.
        example: the first example, an array or a pytree.
    """
    picture = isinstance(example, np.ndarray) and example.dtype.kind == "f" and example.ndim == 3
    if picture and min(example.shape[:2]) >= 8 and example.shape[2] in (1, 3) and 0 <= example.min() < example.max():
        warnings.warn(
            f"{name}: the first example, floats {example.shape}, has values from {example.min():g} to "
            f"{example.max():g}. Networks receive floats as they are: give pictures in [-1, 1], or uint8 in 0 .. 255",
            stacklevel=2,
        )
        return
    floats = [leaf.ravel() for leaf in map(np.asarray, jax.tree.leaves(example)) if leaf.dtype.kind == "f"]
    values = np.concatenate(floats or [np.zeros(0)])
    far = values[np.abs(values) > FAR]
    if far.size:
        warnings.warn(
            f"{name}: the first example holds {far[np.abs(far).argmax()]:g}. Networks receive floats as they are: "
            "scale them to about unit variance",
            stacklevel=2,
        )


def is_clip(shape: Any, dtype: str) -> bool:
    """Whether examples of that shape and dtype are clips of pictures, uint8 [F, H, W, C] of 1 or 3 channels."""
    return dtype == "uint8" and isinstance(shape, tuple) and len(shape) == 4 and shape[-1] in (1, 3)


def mask_sides(shape: tuple[int, ...], example: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a part of a condition that moves with an example; () for a part that does not.

    Args:
        shape: the shape of the part: its sides, optionally followed by channels.
        example: the shape of the example, a picture [H, W, C] or a clip [F, H, W, C].

    Returns:
        The example's (H, W) or (F, H, W), or the (H, W) of a clip's frames.
    """
    fits = lambda sides: shape[: len(sides)] == sides and len(shape) - len(sides) in (0, 1)
    return next(filter(fits, (example[:-1], example[-3:-1])), ())


def class_of(record: Mapping[str, Any]) -> int:
    """The class of a record: the entry "label" of the record or of its condition; 0 without a label.

    Raises:
        ValueError: for a label that is not an integer.
    """
    condition = record.get("condition")
    inside = condition.get("label", 0) if isinstance(condition, Mapping) else 0
    label = record.get("label", inside)
    try:
        number = int(label)
    except (TypeError, ValueError):
        raise ValueError(f"its label is {label!r}. Valid: an integer") from None
    if isinstance(label, (float, np.floating)) and number != label:
        raise ValueError(f"its label is {label}. Valid: an integer")
    return number


class IndexedRecords(Protocol):
    """The part of `Source` that batches need: random access to records."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Any]: ...


class Source(IndexedRecords, Protocol):
    """Random access to records: mappings with "image" (uint8 of any shape) or "x" (numbers of any shape, or a pytree).

    A record has "label", an int in 0..spec.num_classes - 1, if there are classes, and "condition", a pytree of arrays,
    if `spec.condition` says so. It may have "features" `[V, N, D]`, which a frozen encoder computed for each of the V
    views that an augmentation draws of the example, see `pipeline.view`.

    A source that is faster at many rows at once also has `__getitems__(rows)`.

    Attributes:
        spec: the description of the records.
        where: the folder or file that holds them, for messages.
    """

    @property
    def spec(self) -> DataSpec: ...

    @property
    def where(self) -> str: ...

    def fingerprint(self) -> dict[str, Any]:
        """Values that change with the records and are equal on every host: the records' number, a digest of some."""
        ...


def number_type(dtype: Any) -> str:
    """The dtype of a batch of examples of a stored dtype.

    Raises:
        ValueError: for a dtype that examples cannot have.
    """
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return "uint8"
    if kind.kind == "f":
        return "float32"
    if kind.kind == "i":
        return "int32"
    raise ValueError(
        f"examples are {kind}. Valid: uint8, which stands for numbers in [-1, 1]; floating-point numbers; or signed "
        "integers, which stand for symbols"
    )


def check_finite(value: Any, what: str = "example") -> None:
    """Refuses an array or a pytree of arrays with a number that is not finite.

    Args:
        value: the example or the condition of a record.
        what: its name in the message.

    Raises:
        ValueError: for a NaN or infinity, which the message states.
    """
    _refuse_where(lambda leaf: ~np.isfinite(leaf), value, what)


def check_not_infinite(value: Any, what: str = "example") -> None:
    """Refuses infinity as `check_finite` does, but allows NaN, which may stand for a missing value."""
    _refuse_where(np.isinf, value, what)


def _refuse_where(refuses: Callable[[np.ndarray], np.ndarray], value: Any, what: str) -> None:
    for leaf in jax.tree.leaves(value):
        if leaf.dtype.kind == "f" and (refused := refuses(leaf)).any():
            raise ValueError(f"its {what} holds {leaf[refused][0]}")


def blame(place: str, error: Exception, mend: str) -> failures.Unreadable | DamagedRecord:
    """The error of this machine, or of a record, for an exception that was raised while a record was read.

    Args:
        place: the name of the record.
        error: the exception that was raised while the record was read or decoded.
        mend: the advice about a damaged record, without a full stop.
    """
    if failures.is_machine_failure(error):
        return failures.Unreadable(
            f"{place} could not be read: {error}. It may be sound: see that this user may read it and that the disk "
            "answers."
        )
    return DamagedRecord(f"{place} cannot be used: {error}.", mend)


class ManyAtOnce:
    """Records that are read many at a time; a single record is a batch of one."""

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records of many rows."""
        raise NotImplementedError

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record."""
        return self.__getitems__([row])[0]


class Derived:
    """Records that are made from a source's records, row by row.

    A subclass makes the records, and overrides what differs in their description.

    Attributes:
        spec: the description of the records, the source's until a subclass changes it.
        where: the folder or file of the source's records.
    """

    def __init__(self, of: Source):
        self._of, self.spec, self.where = of, of.spec, of.where

    def __len__(self) -> int:
        return len(self._of)

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the source's records."""
        return self._of.fingerprint()


class OneForOne(Derived):
    """Records made one for one from a source's records, so that they have its captions, identities and stamp."""

    def captions(self) -> list[str]:
        """The captions of the source."""
        return self._of.captions()  # type: ignore[attr-defined]

    def column(self, name: str) -> Sequence[Any]:
        """A column of the source."""
        return self._of.column(name)  # type: ignore[attr-defined]

    def identities(self) -> np.ndarray | None:
        """The identities of the source's records, see `data.identities`."""
        return identities.stated(self._of)

    def record_names(self) -> list[str] | None:
        """The names of the source's records, see `identities.names_of`."""
        return identities.names_of(self._of)

    def record_lengths(self) -> list[int] | None:
        """The lengths of the files of the source's records, see `identities.lengths_of`."""
        return identities.lengths_of(self._of)

    def sampled_content(self) -> str | None:
        """The digest of some of the source's examples, see `identities.content_of`."""
        return identities.content_of(self._of)

    def stamp(self) -> str:
        """The stamp of the source."""
        return self._of.stamp()  # type: ignore[attr-defined]


def read_many(source: IndexedRecords, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Records of many rows, which are read in one call if the source has `__getitems__`."""
    at_once = getattr(source, "__getitems__", None)
    return at_once(rows) if at_once else [source[row] for row in rows]


class RandomAccess(ManyAtOnce):
    """Records with random access; a subclass says how they are stored and decoded.

    Attributes:
        spec: the description of the records.
        where: the folder or file that holds them.
    """

    spec: DataSpec
    where: str
    _mend: str  # advice about a damaged record, for its message
    _keep = False  # whether records stay in memory once they have been read

    def __init__(self) -> None:
        self._kept: dict[int, dict[str, Any]] = {}
        self._damaged: dict[int, DamagedRecord] = {}

    # ==== What a format says ====

    def _place(self, row: int) -> str:
        """The name of a record in messages."""
        raise NotImplementedError

    def _stored(self, rows: list[int]) -> list[Any]:
        """Stored records; raises the errors of the format."""
        raise NotImplementedError

    def _record(self, row: int, stored: Any) -> dict[str, Any]:
        """The checked record of a stored one; raises the errors of its decoder."""
        raise NotImplementedError

    def _bytes(self, stored: Any) -> bytes:
        """A stored record as bytes, for a digest."""
        raise NotImplementedError

    # ==== The records ====

    def __len__(self) -> int:
        return self.spec.size

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records of many rows, which are read at once.

        Args:
            rows: the numbers of the records, each in 0..len - 1.

        Returns:
            A list of {"image": uint8 [...], read-only} or {"x": float, or a pytree}, with "label" if there are classes,
            and "condition" if the records have one.

        Raises:
            IndexError: if there is no such row.
            DamagedRecord: if a record is damaged, or differs from the description; the message names the record.
            failures.Unreadable: if this machine could not read the file.
        """
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexError(f"{self.spec.name} ({self.spec.split}): row {row} is not in 0..{len(self) - 1}.")
            if row in self._damaged:  # no epoch reads it again
                raise self._damaged[row]
        new = [row for row in dict.fromkeys(rows) if row not in self._kept]
        read = {row: self._sound(row, stored) for row, stored in zip(new, self._read(new))}
        if self._keep:
            self._kept.update(read)
        return [read[row] if row in read else self._kept[row] for row in rows]

    def _fits_memory(self) -> bool:
        """Whether all records, decoded and with their conditions, may stay in memory."""
        leaves = jax.tree.leaves(self.spec.condition, is_leaf=lambda node: isinstance(node, Leaf))
        parts = [Leaf(pytrees.packed_shape(self.spec.shape), self.spec.dtype), *leaves]
        size = sum(math.prod(part.shape) * np.dtype(part.dtype).itemsize for part in parts)
        return self.spec.size * size <= MEMORY_LIMIT

    def _read(self, rows: list[int]) -> list[Any]:
        """Stored records; if one cannot be read, the error names it."""
        try:
            return self._stored(rows)
        except Exception as error:  # the type of the error depends on the format and on the place of the damage
            if len(rows) == 1 or failures.is_machine_failure(error):
                with self._blamed(rows[0]):
                    raise
            return [self._read([row])[0] for row in rows]

    def _sound(self, row: int, stored: Any) -> dict[str, Any]:
        with self._blamed(row):
            return self._record(row, stored)

    @contextlib.contextmanager
    def _blamed(self, row: int) -> Iterator[None]:
        """Turns an error into one that blames the machine, or one that names the record; the latter is remembered."""
        try:
            yield
        except Exception as error:  # Pillow raises errors of many types, also SyntaxError
            blamed = blame(self._place(row), error, self._mend)
            if isinstance(blamed, DamagedRecord):
                self._damaged[row] = blamed
            raise blamed from error

    # ==== What they are, without decoding them ====

    def _sampled(self, content: Callable[[Any], bytes] | None = None) -> str:
        """A digest of some of the records as they are stored, or of a part of them: stored record -> bytes."""
        rows = fingerprints.rows(len(self))
        parts = [rows[first : first + 16] for first in range(0, len(rows), 16)]
        return fingerprints.digest(digest for part in parts for digest in self._digests(part, content or self._bytes))

    def _digests(self, rows: list[int], content: Callable[[Any], bytes]) -> list[bytes]:
        try:
            return [content(stored) for stored in self._read(rows)]
        except DamagedRecord:
            return [b"damaged"] if len(rows) == 1 else [one for row in rows for one in self._digests([row], content)]

    def _sizes(self, rows: Sequence[int], column: str, opened: Any, viewed: bool = False) -> np.ndarray:
        """The heights and widths of pictures, int64 [n, 2]; of encoded ones `opened` reads only the headers.

        If `viewed`, they are the sides of the picture that a viewer shows, turned as its EXIF data say.
        """
        sizes = []
        for row, stored in zip(rows, self._read(list(rows))):
            with self._blamed(row):
                if isinstance(stored[column], np.ndarray):
                    sizes.append(stored[column].shape[:2])
                    continue
                with opened(stored[column]) as image:
                    width, height = pictures.upright_size(image) if viewed else (image.width, image.height)
                    sizes.append((height, width))
        return np.array(sizes, np.int64).reshape(-1, 2)
