"""Pairs of a preferred and a rejected example with the same condition."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffusion.data import fingerprints, identities
from diffusion.data.sources.spec import DamagedRecord, Derived, Source, class_of, require_same_classes
from diffusion.data.sources.streams import Stream


def preferences(of: Sequence[Any]) -> "Preferences":
    """Pairs of examples: the records of a first source, with the examples of a second source as "rejected".

    Args:
        of: the source of the preferred examples and the source of the rejected ones, both with random access. Row i of
            the one and row i of the other are a pair, and have the same condition.

    Raises:
        ValueError: if there are not two sources, one is a stream, or they differ in their number, shape, type, classes
            or condition.
    """
    if len(of) != 2 or any(isinstance(source, Stream) for source in of):
        raise ValueError(
            "preferences takes two sources with random access, the preferred examples and the rejected ones; got "
            f"{', '.join(source.spec.name for source in of) or 'none'}."
        )
    kind = lambda source: (
        len(source),
        source.spec.shape,
        source.spec.dtype,
        source.spec.num_classes,
        source.spec.condition,
    )
    if kind(of[0]) != kind(of[1]):
        raise ValueError(
            "the sources of preferred and rejected examples must agree in their number, shape, type, number of "
            f"classes and condition; {of[0].spec.name} has {kind(of[0])}, but {of[1].spec.name} has {kind(of[1])}."
        )
    require_same_classes(of[0].spec, of[1].spec)
    return Preferences(*of)


class Preferences:
    """A `Source` of examples, each with a rejected example beside it."""

    def __init__(self, preferred: Source, rejected: Source):
        self._both = preferred, rejected
        self.where = f"{preferred.where} and {rejected.where}"
        name = f"{preferred.spec.name} preferred to {rejected.spec.name}"
        self.spec = preferred.spec._replace(name=name, pairs=True)

    def __len__(self) -> int:
        return len(self._both[0])

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record, with "rejected" beside its example.

        Raises:
            DamagedRecord: if the two examples are equal, or have different conditions.
        """
        preferred, rejected = (source[row] for source in self._both)
        entry = self.spec.entry
        if _same(preferred[entry], rejected[entry]):
            raise DamagedRecord(
                f"record {row} of {self.spec.name} shows no preference: the preferred and the rejected example are "
                "the same.",
                "Leave it out of both sources",
            )
        if class_of(preferred) != class_of(rejected) or not _same(
            preferred.get("condition"), rejected.get("condition")
        ):
            raise DamagedRecord(
                f"record {row} of {self.spec.name} has a preferred and a rejected example of different conditions, so "
                "they cannot be compared.",
                "Put the rows of both sources in one order",
            )
        return {**preferred, "rejected": rejected[entry]}

    def captions(self) -> list[str]:
        """The caption of each pair.

        Raises:
            ValueError: if the two examples of a pair have different captions.
        """
        preferred, rejected = (source.captions() for source in self._both)  # type: ignore[attr-defined]
        for row, (ours, theirs) in enumerate(zip(preferred, rejected, strict=True)):
            if ours != theirs:
                raise ValueError(
                    f"record {row} of {self.spec.name} has a preferred and a rejected example with different "
                    f"captions, {ours[:60]!r} and {theirs[:60]!r}, so they cannot be compared. Put the rows of both "
                    "sources in the same order."
                )
        return preferred

    def identities(self) -> np.ndarray | None:
        """The identities of the preferred examples, see `data.identities`."""
        return identities.stated(self._both[0])

    def stamp(self) -> str:
        """A digest of the stamps of both sources."""
        return fingerprints.digest([source.stamp().encode() for source in self._both])  # type: ignore[attr-defined]

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprints of both sources."""
        return {"records": len(self), "of": [source.fingerprint() for source in self._both]}


class Rejected(Derived):
    """A `Source` of the rejected examples of pairs, as separate records."""

    def __init__(self, pairs: Source):
        """Wraps a source of pairs."""
        super().__init__(pairs)
        self.spec = pairs.spec._replace(pairs=False, condition=None)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record; raises the errors of the source of pairs."""
        record = self._of[row]
        return {self.spec.entry: record["rejected"], "label": class_of(record)}

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the pairs, as the entry "rejected"."""
        return {"rejected": super().fingerprint()}


def _same(a: Any, b: Any) -> bool:
    """Whether two pytrees have the same values."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )
