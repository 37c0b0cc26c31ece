"""A Python sequence of records as a source: its items are mappings, e.g. {"image": uint8 [H, W, C], "label": int}."""

__all__ = [
    "SEEDS",
    "SPLITS",
    "Computed",
    "Records",
    "Rows",
    "caption",
    "check",
    "check_made",
    "describe",
    "describe_record",
    "plain",
]

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion.arrays import pytrees
from diffusion.data import fingerprints, identities
from diffusion.data.sources.spec import (
    DamagedRecord,
    DataSpec,
    Leaf,
    check_not_infinite,
    class_of,
    number_type,
    warn_of_channels_first,
    warn_of_range,
)
from diffusion.io import limits
from diffusion.io.leaf_names import leaves_of
from diffusion.package import public

SEEDS = {"train": 2026, "test": 2027}
"""Seeds of the splits of sources that draw their records."""
SPLITS = tuple(SEEDS)
"""The names of these splits, whose order numbers them."""


def check_made(what: str, split: str, number: int = 1, splits: Iterable[str] = SEEDS) -> None:
    """Refuses a split or a number of records that a source which makes its records does not have.

    Raises:
        ValueError: naming what is valid.
    """
    if split not in splits:
        raise ValueError(f"{what} have no split {split!r}. Valid: {', '.join(splits)}")
    if number < 1:
        raise ValueError(f"number = {number}. Valid: at least 1")


class Computed(Sequence):
    """Records that a function of the row computes."""

    def __init__(self, number: int, make: Callable[[int], Mapping[str, Any]]):
        """Args:
        number: how many records there are.
        make: row -> record; `functools.cache` keeps records in memory.
        """
        self._number, self._make = number, make

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < self._number:
            raise IndexError(row)
        return self._make(int(row))


class Rows(Sequence):
    """Records {"x": a row of an array}, with "label" where there are classes.

    Attributes:
        x: the examples, `[N, ...]`.
        label: the classes of the examples, int `[N]`; None without classes.
    """

    x: np.ndarray
    label: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: Any) -> Any:
        return {"x": self.x[row]} | ({} if self.label is None else {"label": int(self.label[row])})


class Records:
    """The records of a sequence, which may be in memory or read one by one; a `Source`."""

    def __init__(
        self, records: Sequence[Mapping[str, Any]], num_classes: int = 0, split: str = "train", where: str = "memory"
    ):
        """Wraps a sequence.

        Args:
            records: the records, at least one, all with the entries, shapes and types of the first.
            num_classes: number of classes of their labels; 0 where there are none.
            split: the split that a run takes them for.
            where: the place that they come from, for messages.

        Raises:
            ValueError: as in `describe`.
        """
        self._records = records
        self.spec = describe(records, num_classes, split)
        self.where = where

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            record = plain(self._records[row])
            check(record, self.spec)
            return record
        except ValueError as error:
            raise DamagedRecord(f"record {row} of the data cannot be used: {error}.", "Mend or remove it") from error

    def captions(self) -> list[str]:
        """The text of each record, its "caption".

        Raises:
            ValueError: for a record without one.
        """
        texts = []
        for row in range(len(self)):
            try:
                texts.append(caption(self._records[row]))
            except ValueError:
                raise ValueError(f'record {row} of the data has no text under "caption".') from None
        return texts

    def identities(self) -> np.ndarray | None:
        """The identities of records, see `data.identities`, if the sequence has them."""
        return identities.stated(self._records)

    def fingerprint(self) -> dict[str, int | str]:
        """How many records there are, and a digest of some of them."""
        sampled = fingerprints.digest(map(self._stored, fingerprints.rows(len(self))))
        return {"records": len(self), "sha256": sampled}

    def _stored(self, row: int) -> bytes:
        record = self[row]
        leaves = (leaf for key in sorted(record) for leaf in jax.tree.leaves(record[key]))
        return fingerprints.digest(np.asarray(leaf).tobytes() for leaf in leaves).encode()


def caption(record: Mapping[str, Any]) -> str:
    """The text of a record, its "caption".

    Raises:
        ValueError: if it has none.
    """
    text = record.get("caption")
    if not isinstance(text, str):
        raise ValueError('it has no text under "caption"')
    return text


def check(record: Mapping[str, Any], spec: DataSpec) -> None:
    """Refuses a record that is not as described, or whose example or condition holds infinity.

    NaN may stand for a value that is missing. The leaves of a condition are compared by their names and shapes, and by
    whether they are bytes.

    Raises:
        ValueError: the message says what the record has, and what is valid.
    """
    condition = record.get("condition")
    labelled = "label" in record or (isinstance(condition, Mapping) and "label" in condition)
    if spec.entry not in record or (spec.num_classes and not labelled):
        needed = f'"{spec.entry}"{" and a label" if spec.num_classes else ""}'
        raise ValueError(f"it holds {', '.join(sorted(record))}. Valid: {needed}")
    shape = np.shape(example) if isinstance(example := record[spec.entry], np.ndarray) else pytrees.shapes_of(example)
    if shape != spec.shape:
        raise ValueError(f"its example has the shape {shape}, but the first one has {spec.shape}")
    check_not_infinite(example)
    if condition is not None or spec.condition is not None:
        _check_condition(condition, spec.condition)
    if spec.num_classes and not 0 <= class_of(record) < spec.num_classes:
        raise ValueError(f"its label is {class_of(record)}. Valid: 0 to {spec.num_classes - 1}")


def _check_condition(condition: Any, first: Any) -> None:
    """Refuses a condition of another form than the first record's, or with infinity.

    Bytes stand for numbers in [-1, 1], so that a record with other integers would change how a batch is read.
    """
    leaves = {name: Leaf(np.shape(leaf), str(leaf.dtype)) for name, leaf in leaves_of(condition).items()}
    first_leaves = leaves_of(first, lambda node: isinstance(node, Leaf))
    form = lambda leaves: {name: (leaf.shape, leaf.dtype == "uint8") for name, leaf in leaves.items()}
    if form(leaves) != form(first_leaves):
        raise ValueError(f"its condition is {_listed(leaves)}, but that of the first one is {_listed(first_leaves)}")
    check_not_infinite(condition, "condition")


def _listed(leaves: Mapping[str, Leaf]) -> str:
    """The leaves of a condition in words: "control: uint8 [8, 8, 3]"."""
    named = (f"{name}: {leaf.dtype} {list(leaf.shape)}" for name, leaf in leaves.items())
    return ", ".join(named).removeprefix(": ") or "none"


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its example and its condition as arrays or pytrees of arrays; a list of numbers is an array.

    Raises:
        ValueError: for a record that is no mapping.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f'a record of the data is {limits.kind(record)}. Valid: a mapping, e.g. {{"x": array}}')
    is_leaf = lambda node: not isinstance(node, (Mapping, tuple))
    arrays = lambda value: jax.tree.map(np.asarray, value, is_leaf=is_leaf)
    return {key: arrays(value) if key in ("x", "condition") else value for key, value in record.items()}


def describe(records: Sequence[Mapping[str, Any]], num_classes: int = 0, split: str = "train") -> DataSpec:
    """The description of records, by the first of them.

    Args:
        records: the records, at least one.
        num_classes: number of classes of their labels; 0 where there are none.
        split: the split that a run takes them for.

    Raises:
        ValueError: if there is no record, or the first has neither an "image" nor an "x" of a valid type.
    """
    if not len(records):
        raise ValueError("the data has no records: there is nothing to train on")
    spec = describe_record(records[0], type(records).__qualname__, num_classes, split)
    return spec._replace(size=len(records))


def describe_record(record: Mapping[str, Any], name: str, num_classes: int = 0, split: str = "train") -> DataSpec:
    """The description of records like this one, in a source that does not know its size.

    Args:
        record: the first record.
        name: the name of the source.
        num_classes, split: the number of classes and the name of the split, as in `describe`.

    Raises:
        ValueError: as in `describe`.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f'a record of the data is {limits.kind(record)}. Valid: a mapping, e.g. {{"x": array}}')
    entry = "image" if "image" in record else "x"
    if entry not in record or (num_classes and not {"label", "condition"} & set(record)):
        needed = f'"image" or "x"{" and a label" if num_classes else ""}'
        raise ValueError(f"a record of the data holds {', '.join(sorted(record))}. Valid: {needed}")
    example = plain(record)[entry] if entry == "x" else np.asarray(record[entry])
    kinds = {f"{leaf.dtype}": number_type(leaf.dtype) for leaf in jax.tree.leaves(example)}
    symbols = set(kinds.values()) == {"int32"} and isinstance(example, np.ndarray)
    dtype = "uint8" if entry == "image" else "int32" if symbols else "float32"
    if wrong := [stored for stored, kind in kinds.items() if kind != dtype]:
        valid = "uint8" if entry == "image" else "floating-point numbers, or one array of signed integers, symbols"
        raise ValueError(f'the data\'s "{entry}" is {wrong[0]}. Valid: {valid}')
    condition = None
    if "condition" in record:
        condition = jax.tree.map(lambda leaf: Leaf(leaf.shape, str(leaf.dtype)), plain(record)["condition"])
    warn_of_channels_first(name, pytrees.shapes_of(example), dtype)
    warn_of_range(name, example)
    spec = DataSpec(name, split, pytrees.shapes_of(example), num_classes, -1, dtype=dtype, condition=condition)
    if num_classes and condition is not None and not spec.has_class:
        raise ValueError(
            'the network has classes, but a record of the data has a "condition" without its class. Valid: the class '
            'as an entry of the condition, {"label": integer, ...}, or a network with num_classes = 0'
        )
    return spec


public.declare(__name__, renamed={"of_record": "describe_record"})
