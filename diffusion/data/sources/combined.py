"""Sources of other sources: mixtures by weight, and records that pass a filter."""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data import fingerprints, identities
from diffusion.data.sound.forms import Sound
from diffusion.data.sources.combined_streams import FilteredStream, MixedStream
from diffusion.data.sources.spec import DataSpec, Derived, ManyAtOnce, Source, read_many, require_same_classes
from diffusion.data.sources.streams import Stream

LONGEST = 2**28  # the most records of an epoch of a mixture
MEANING = ("drawn", "surface", "sound", "backbones", "rate")  # facts of a source that say what its examples represent


def mixture(of: Sequence[Any], weights: Sequence[float] = ()) -> "Mixture | MixedStream":
    """Mixes sources, or streams: every one contributes its share of the records.

    Args:
        of: the sources, at least one, with examples of one kind, all with random access or all streams.
        weights: the weight of every source, above 0; () for weights in proportion to the lengths, which streams do not
            know.

    Raises:
        ValueError: if there is no source, a weight is missing or not positive, the sources do not fit each other or
            number their classes differently, or the epoch would be too long.
    """
    if not of or (weights and len(weights) != len(of)) or any(not 0 < weight < math.inf for weight in weights):
        raise ValueError(
            f"a mixture of {len(of)} sources has the weights {tuple(weights)}. Valid: a weight above 0 for each source."
        )
    kind = lambda spec: (spec.shape, spec.dtype, spec.num_classes, spec.condition, spec.pairs)
    for other in of[1:]:
        if kind(other.spec) != kind(of[0].spec):
            raise ValueError(
                "the sources of a mixture must agree in the shape and type of their examples, their number of "
                f"classes, their condition, and whether they hold pairs; {other.spec.name} has {kind(other.spec)}, "
                f"but {of[0].spec.name} has {kind(of[0].spec)}."
            )
        require_same_classes(of[0].spec, other.spec)
    streams = [source for source in of if isinstance(source, Stream)]
    if streams and len(streams) < len(of):
        (numbered, *_) = (source for source in of if source not in streams)
        raise ValueError(
            f"{streams[0].name} is a stream, but {numbered.spec.name} has random access. Valid: sources of one kind, "
            "e.g. tar_stream instead of tar_shards"
        )
    if streams and not weights:
        raise ValueError(
            f"{streams[0].name} is a stream whose length is not known, so its share cannot be computed. Valid: "
            "weights = (1, ...), one for each source."
        )
    lengths = weights or [len(source) for source in of]
    shares = np.asarray(lengths, float) / sum(lengths)
    name = " and ".join(f"{share:.0%} {source.spec.name}" for share, source in zip(shares, of))
    return MixedStream(of, shares, name) if streams else Mixture(of, shares, name)


def filtered(of: Any, by: Callable[[Mapping[str, Any]], bool]) -> "Filtered | FilteredStream":
    """The records of a source, or of a stream, that pass a filter.

    Args:
        of: the source.
        by: record -> whether to keep it. From a source of columns it receives all columns but the example, which is not
            decoded for it: {"caption": ..., "label": ...}. From a Hugging Face stream it receives the columns that the
            stream reads.

    Raises:
        ValueError: if no record is kept, or the filter reads a column that is not there.
    """

    def keeps(record: Mapping[str, Any]) -> bool:
        try:
            return bool(by(record))
        except KeyError as error:
            raise ValueError(
                f"the filter reads {error}, but the records of {of.spec.name} have only {', '.join(map(str, record))}"
            ) from error

    return FilteredStream(of, keeps) if isinstance(of, Stream) else Filtered(of, keeps)


class Mixture:
    """Several sources, each with its share of an epoch; a `Source`.

    An epoch is just long enough to hold every record once. The records of a source that is too small for its share
    come again, the first ones once more than the last ones.
    """

    def __init__(self, of: Sequence[Source], shares: np.ndarray, name: str):
        """Mixes sources that fit each other.

        Args:
            of: the sources.
            shares: the share of every source, above 0, float64 [K] with the sum 1.
            name: the name of the mixture.

        Raises:
            ValueError: if the epoch would be too long.
        """
        lengths = [len(source) for source in of]
        total = max(length / share for length, share in zip(lengths, shares))
        if total > LONGEST:
            raise ValueError(
                f"one epoch of the mixture would have {total:.3g} records. Valid: at most {LONGEST:,}; make the "
                "weights less uneven."
            )
        self._of = of
        self._ends = np.cumsum(
            [max(length, math.floor(total * share + 0.5)) for length, share in zip(lengths, shares)]
        ).tolist()
        self.where = " and ".join(source.where for source in of)
        self.spec: DataSpec = of[0].spec._replace(name=name, size=len(self))
        if all(getattr(source, "draws", 1) == 1 for source in of):  # metrics find a file's draws by their positions
            stated = {fact: [getattr(source, fact, None) for source in of] for fact in MEANING}
            same = lambda first, *others: all(first == other or _sounds_alike(first, other) for other in others)
            vars(self).update({fact: values[0] for fact, values in stated.items() if values[0] and same(*values)})

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self):
            raise IndexError(f"{self.spec.name} ({self.spec.split}): row {row} is not in 0..{len(self) - 1}.")
        part, row = self._at(row)
        return self._of[part][row]

    def _at(self, row: int) -> tuple[int, int]:
        """The number of a record's source, and its row there."""
        part = bisect.bisect_right(self._ends, row)
        first = self._ends[part - 1] if part else 0
        return part, (row - first) % len(self._of[part])

    def captions(self) -> list[str]:
        """The captions of all records of an epoch."""
        texts = [source.captions() for source in self._of]  # type: ignore[attr-defined]
        return [texts[part][row] for part, row in map(self._at, range(len(self)))]

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """The heights and widths of pictures, as the sources have them."""
        sizes = np.empty((len(rows), 2), np.int64)
        at = np.asarray(rows)
        for source, first, end in zip(self._of, [0, *self._ends], self._ends):
            mine = (first <= at) & (at < end)
            if mine.any():
                sizes[mine] = source.sizes(((at[mine] - first) % len(source)).tolist())  # type: ignore[attr-defined]
        return sizes

    def identities(self) -> np.ndarray | None:
        """The identities of the sources' records, see `data.identities`; None if one source does not know them."""
        parts = [identities.stated(source) for source in self._of]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        sizes = np.diff([0, *self._ends])
        return np.concatenate([part[np.arange(size) % len(part)] for part, size in zip(known, sizes)])

    def record_names(self) -> list[str] | None:
        """The names of all records of an epoch, see `identities.names_of`; None if one source has no names."""
        parts = [identities.names_of(source) for source in self._of]
        known = [[f"{number}/{name}" for name in names] for number, names in enumerate(parts) if names is not None]
        return [known[part][row] for part, row in map(self._at, range(len(self)))] if len(known) == len(parts) else None

    def record_lengths(self) -> list[int] | None:
        """The lengths of all records' files, see `identities.lengths_of`; None if one source has none."""
        known = [lengths for lengths in map(identities.lengths_of, self._of) if lengths is not None]
        return (
            [known[part][row] for part, row in map(self._at, range(len(self)))] if len(known) == len(self._of) else None
        )

    def sampled_content(self) -> str | None:
        """A digest of some of the sources' examples, see `identities.content_of`; None if one source has none."""
        known = [content.encode() for content in map(identities.content_of, self._of) if content is not None]
        ends = np.array(self._ends).tobytes()
        return fingerprints.digest([*known, ends]) if len(known) == len(self._of) else None

    def stamp(self) -> str:
        """A digest of the stamps of the sources and of their ends in the mixture."""
        stamps = [source.stamp().encode() for source in self._of]  # type: ignore[attr-defined]
        return fingerprints.digest([*stamps, np.array(self._ends).tobytes()])

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprints of the sources, and their ends in the mixture."""
        return {"records": len(self), "ends": self._ends, "of": [source.fingerprint() for source in self._of]}


def _sounds_alike(first: Any, second: Any) -> bool:
    """Whether two values are forms of sound that read examples alike.

    `==` would not tell, since equal forms have different function objects.
    """
    return isinstance(first, Sound) and isinstance(second, Sound) and first.reads_alike(second)


class Filtered(Derived, ManyAtOnce):
    """The records of a source that pass a filter; a `Source`."""

    def __init__(self, of: Source, by: Callable[[Mapping[str, Any]], bool]):
        """Applies the filter to every record once; see `filtered`."""
        super().__init__(of)
        columns_of = getattr(of, "metadata", of.__getitem__)
        self._rows = np.array([row for row in range(len(of)) if by(columns_of(row))], np.int64)
        if not len(self._rows):
            raise ValueError(f"the filter keeps none of the {len(of):,} records of {of.spec.name}.")
        self.spec = of.spec._replace(size=len(self._rows))
        if getattr(of, "draws", 1) == 1:  # a filter may keep some of a file's draws, whose metrics need all or one
            vars(self).update({fact: getattr(of, fact) for fact in MEANING if hasattr(of, fact)})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records of many rows; errors as the source's."""
        return read_many(self._of, [int(self._rows[row]) for row in rows])

    def captions(self) -> list[str]:
        """The captions of the records that are kept."""
        texts = self._of.captions()  # type: ignore[attr-defined]
        return [texts[row] for row in self._rows]

    def column(self, name: str) -> list[Any]:
        """A column of the records that are kept."""
        values = self._of.column(name)  # type: ignore[attr-defined]
        return [values[row] for row in self._rows]

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """The heights and widths of pictures, as the source has them."""
        return self._of.sizes(self._rows[list(rows)].tolist())  # type: ignore[attr-defined]

    def identities(self) -> np.ndarray | None:
        """The identities of the records that are kept, see `data.identities`."""
        stated = identities.stated(self._of)
        return None if stated is None else stated[self._rows]

    def record_names(self) -> list[str] | None:
        """The names of the records that are kept, see `identities.names_of`."""
        names = identities.names_of(self._of)
        return None if names is None else [names[row] for row in self._rows]

    def record_lengths(self) -> list[int] | None:
        """The lengths of the files of the records that are kept, see `identities.lengths_of`."""
        lengths = identities.lengths_of(self._of)
        return None if lengths is None else [lengths[row] for row in self._rows]

    def sampled_content(self) -> str | None:
        """A digest of some of the source's examples and of the rows that are kept, see `identities.content_of`."""
        content = identities.content_of(self._of)
        return None if content is None else fingerprints.digest([content.encode(), self._rows.tobytes()])

    def stamp(self) -> str:
        """A digest of the source's stamp and of the rows that are kept."""
        return fingerprints.digest([self._of.stamp().encode(), self._rows.tobytes()])  # type: ignore[attr-defined]

    def fingerprint(self) -> dict[str, Any]:
        """The source's fingerprint, and a digest of the rows that are kept."""
        return super().fingerprint() | {"records": len(self), "kept": fingerprints.digest([self._rows.tobytes()])}
