"""Batches from a source of records, through Grain: their order, and the rows that each process reads.

The examples of a run are numbered 0, 1, 2, ... without end. Example i is the record that `records_at` returns,
augmented by draws that depend only on (seed, i). Batches and processes divide this one sequence, so a position in the
sequence is a single number, valid for any batch size and number of processes.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from diffusion.arrays import pytrees
from diffusion.data import packing
from diffusion.data.keyed_permutation import ROUNDS, keyed_permutation
from diffusion.data.sources import DamagedRecord, DataSpec, IndexedRecords
from diffusion.data.sources.spec import class_of, mask_sides, read_many
from diffusion.data.transforms import Augmentation

Batch = dict[str, Any]
"""A batch, {name: array `[b, ...]`}; "condition" is a pytree of such arrays."""


class Batches(Protocol):
    """An iterator of batches, which threads prepare until `close()` stops them."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


DAMAGED = ("stop", "skip")  # the ways to treat a damaged record
SKIPS = 100  # the most consecutive damaged records that are skipped; more suggest that a file is lost

ORDER = 2  # the version of the order of records, see `records_at`
SORTED = 2**24  # up to this size an epoch's order is sorted, in 0.3 GiB and 3 s; above, it is a keyed permutation

# The uses of a seed's random words; each use has a separate stream.
_ORDER, _AUGMENTATION, BUCKETS, _KEYS = 0, 1, 2, 3


def batches(
    source: IndexedRecords,
    spec: DataSpec,
    *,
    seed: int,
    batch_size: int,
    start: int = 0,
    positions: Sequence[int] | np.ndarray | None = None,
    augment: Sequence[Augmentation] = (),
    shuffle: bool = True,
    threads: int = 2,
    damaged: str = "stop",
    order: int = ORDER,
) -> Batches:
    """Returns the endless training batches from example `start` on, with the rows that this process reads.

    A row depends only on its position in the global batch, and not on the process that reads it. Every epoch is a new
    permutation of all records, and a batch may span two epochs.

    Args:
        source: the records.
        spec: the spec of the records, from `sources.open_source`.
        seed: the seed of the order and the augmentations, in 0..2^64 - 1.
        batch_size: the number of examples in a global batch.
        start: the global index of the first example, >= 0: 0 for a new run, the number of examples read so far for a
            resumed run.
        positions: the positions in every global batch of the rows that this process reads, [b] in 0..batch_size - 1;
            None for all rows.
        augment: functions (rng, image) -> image, applied in this order, each with its own rng. If the condition is a
            picture of the example's sides, each needs the attribute `moves`, see `transforms.Augmentation`.
        shuffle: whether every epoch has a new order; otherwise it has the order of the source.
        threads: the number of threads that prepare batches in advance; 0 to prepare each batch when it is requested.
        damaged: the way to treat a damaged record: "stop", or "skip", with which the next undamaged record in the order
            of the source replaces it, with the same global example index and draws.
        order: the version of the order, see `records_at`.

    Returns:
        An iterator of {"image": uint8 [b, ...] (or "x": float32 [b, ...]; [b, D] for pytrees), "label": int32 [b]
        (zeros without classes), "index": int64 [b] (global example index)}. Records with a condition add {"condition":
        pytree of [b, ...]}, records with features {"features": [b, N, D]}, pairs {"rejected": as the example}, and
        records with metadata {"metadata": {name: [b, ...]}}. With damaged="skip", each batch also has {"skipped": int32
        [b]}, which is 1 if another record replaced a damaged one. The iterator's `close()` stops the threads.

    Raises:
        ValueError: if an argument is out of range, or (from the iterator) a record does not fit `spec`.
        DamagedRecord: (from the iterator) if a record is damaged; with "skip", if the next `SKIPS` records, or all
            others, are damaged too.
    """
    if damaged not in DAMAGED:
        raise ValueError(f"damaged must be one of {', '.join(DAMAGED)}, got {damaged!r}.")
    mine = positions_of(batch_size, positions)
    _check(source, spec, seed, start, threads)
    size = len(source)

    def read(step: int) -> Batch:
        index = start + step * batch_size + mine
        rows = records_at(index, size, seed, order) if shuffle else index % size
        records, skipped = _skipping(source, rows) if damaged == "skip" else (fetch(source, rows), None)
        batch = assembled(records, spec, index, seed, augment)
        return batch if skipped is None else batch | {"skipped": skipped}

    return iterate(sys.maxsize, read, threads)


def assembled(
    records: Sequence[Mapping[str, Any]], spec: DataSpec, index: np.ndarray, seed: int, augment: Sequence[Augmentation]
) -> Batch:
    """The batch of some records, after augmentation.

    Args:
        records: the records of the batch's rows.
        spec: the spec of the records.
        index: the global example index of each row, int64 [b].
        seed, augment: the arguments of `batches`.
    """
    examples = [record[spec.entry] for record in records]
    rejected = [record["rejected"] for record in records] if spec.pairs else []
    for position, function in enumerate(augment):
        examples = augmented(function, rngs_of(seed, index, position), examples)
        # The rejected example gets the same draws as the preferred one.
        rejected = augmented(function, rngs_of(seed, index, position), rejected)
        if spec.masks:
            records = [_moved(function, spec, *pair) for pair in zip(rngs_of(seed, index, position), records)]
    batch = {spec.entry: _stack(examples, spec), "label": _labels(records, spec), "index": index}
    pairs = {"rejected": _stack(rejected, spec)} if spec.pairs else {}
    return (
        batch | pairs | stacked_conditions(records) | _metadata(records) | _features(records, rngs_of(seed, index, 0))
    )


def epoch(source: IndexedRecords, spec: DataSpec, batch_size: int, *, threads: int = 2) -> Iterator[Batch]:
    """Returns every record once, in the order of the source, unaugmented; the last batch may be smaller.

    Args:
        source: the records.
        spec: the spec of the records, from `sources.open_source`.
        batch_size: number of records in a batch.
        threads: the number of threads that prepare batches in advance; 0 to prepare each batch when it is requested.

    Returns:
        An iterator of batches as in `batches`; "index" is the row in the source.

    Raises:
        ValueError: if an argument is out of range, or (from the iterator) a record does not fit `spec`.
    """
    positions_of(batch_size, None)
    size = len(source)
    runs = [range(first, min(first + batch_size, size)) for first in range(0, size, batch_size)]
    return rows(source, spec, runs, threads=threads)


def rows(source: IndexedRecords, spec: DataSpec, runs: Sequence[range], *, threads: int = 2) -> Iterator[Batch]:
    """Returns a batch, without augmentation, for each group of rows.

    Args:
        source: the records.
        spec: the spec of the records, from `sources.open_source`.
        runs: the rows of each batch.
        threads: the number of threads that prepare batches in advance; 0 to prepare each batch when it is requested.

    Returns:
        An iterator of batches as in `epoch`.

    Raises:
        ValueError: under the conditions of `epoch`.
    """
    _check(source, spec, 0, 0, threads)

    def read(step: int) -> Batch:
        index = np.asarray(runs[step], np.int64)
        records = fetch(source, index)
        examples = _stack([record[spec.entry] for record in records], spec)
        return {spec.entry: examples, "label": _labels(records, spec), "index": index}

    return iterate(len(runs), read, threads)


def records_at(index: np.ndarray, size: int, seed: int, order: int = ORDER) -> np.ndarray:
    """Returns the rows of the records for some examples of a run; each epoch visits every record once, in a new order.

    Args:
        index: global index of the examples, int64 [b]; the epoch is index // size.
        size: number of records, >= 1.
        seed: the seed of the order, in 0..2^64 - 1.
        order: version of the order. Version 1 is `permutation`, which takes about 20 bytes per record and seconds per
            epoch. Version 2 is the same up to `SORTED` records, and `keyed_permutation`, which takes no memory, above.

    Returns:
        The rows, int64 [b] in 0..size - 1.
    """
    epochs, rows = np.divmod(index, size)
    for epoch in np.unique(epochs).tolist():
        now = epochs == epoch
        if order == 1 or size <= SORTED:
            rows[now] = permutation(size, seed, epoch)[rows[now]]
        else:
            rows[now] = keyed_permutation(rows[now], size, _words(seed, _KEYS, epoch).random_raw(ROUNDS))
    return rows


@functools.lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order in which an epoch visits the records.

    The function sorts random words instead of asking NumPy for a permutation, since the words of a bit generator are
    the same in every version of NumPy. Seeds and epochs select separate streams; if they were added, epoch 1 of seed 0
    would equal epoch 0 of seed 1.

    Args:
        size: number of records, >= 1.
        seed: the seed of the order, in 0..2^64 - 1.
        epoch: the number of the epoch, >= 0.

    Returns:
        A permutation of 0..size - 1, int64 [size].
    """
    return shuffled(size, seed, _ORDER, epoch)


def shuffled(size: int, seed: int, use: int, epoch: int, part: int = 0) -> np.ndarray:
    """Returns a permutation of 0..size - 1, int64 [size], which is different for each (seed, use, epoch, part)."""
    return np.argsort(_words(seed, use, epoch, part).random_raw(size), kind="stable")


def _words(seed: int, use: int, number: int, part: int = 0) -> np.random.Philox:
    """Returns the stream of random words for (seed, use, number, part), by Philox (Salmon et al. 2011)."""
    # A stream counts up in the lowest word of its counter, so streams that differ in a higher word never meet.
    return np.random.Philox(key=np.array([seed, use], np.uint64), counter=np.array([0, number, part, 0], np.uint64))


def rngs_of(seed: int, indices: np.ndarray, position: int) -> Iterator[np.random.Generator]:
    """Yields a generator for each example and the augmentation at `position`; it is valid until the next is yielded."""
    words = _words(seed, _AUGMENTATION, 0, position)
    rng = np.random.Generator(words)
    state = words.state
    for index in indices.tolist():
        state["state"]["counter"][1] = index
        words.state = state  # this takes an eighth of the time of a new generator
        yield rng


def augmented(
    function: Augmentation, rngs: Iterable[np.random.Generator], images: Sequence[np.ndarray]
) -> Sequence[np.ndarray]:
    """Augments images, each with a separate generator.

    If all images have the same shape and the function has `of_batch`, they are augmented at once.
    """
    augment_batch = getattr(function, "of_batch", None)
    if augment_batch and len({np.shape(image) for image in images}) == 1:
        return augment_batch(rngs, images if isinstance(images, np.ndarray) else np.stack(images))
    return [function(rng, image) for rng, image in zip(rngs, images)]


def sound(source: IndexedRecords, rows: Sequence[int]) -> list[dict[str, Any] | None]:
    """Reads records, with None in place of a damaged record, of which it warns once.

    Args:
        source: the records.
        rows: the rows to read, each in 0..len(source) - 1.

    Returns:
        The records, in the order of `rows`.
    """
    try:
        return [*fetch(source, np.asarray(rows))]
    except DamagedRecord as error:
        if len(rows) > 1:
            return [sound(source, [row])[0] for row in rows]
        # All warnings come from this one line, so that Python prints each text once.
        warnings.warn(f"left out: {error.where_none_is_left_out()}", stacklevel=1)
        return [None]


def _moved(
    function: Augmentation, spec: DataSpec, rng: np.random.Generator, record: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The record, whose condition's pictures and clips are moved like its example."""
    if not hasattr(function, "moves"):
        raise ValueError(
            f"the condition of {spec.name} is a picture, and the augmentation {function.__qualname__} does not say "
            "whether it moves the condition too. Set its attribute moves = True (a geometric change, applied to both "
            "with the same draws) or moves = False (a change of the colours alone)"
        )
    if not function.moves:
        return record
    start = rng.bit_generator.state

    def leaf(array: np.ndarray) -> np.ndarray:
        if not (sides := mask_sides(array.shape, spec.shape)):
            return array
        rng.bit_generator.state = start  # the draws of the example
        return function(rng, array.reshape(*sides, -1)).reshape(array.shape)

    return {**record, "condition": jax.tree.map(leaf, record["condition"])}


def conditions(source: IndexedRecords, spec: DataSpec, rows: Sequence[int] | np.ndarray) -> Batch:
    """The labels and conditions of records, without their examples.

    Args:
        source: the records.
        spec: the spec of the records, from `sources.open_source`.
        rows: the numbers of the records, [b].

    Returns:
        {"label": int32 [b]}, and {"condition": pytree of [b, ...]} if the records have one, as in `batches`.
    """
    records = fetch(source, np.asarray(rows))
    return {"label": _labels(records, spec), **stacked_conditions(records)}


def fetch(source: IndexedRecords, rows: np.ndarray) -> list[dict[str, Any]]:
    """Reads records, all at once if the source can."""
    return read_many(source, rows.tolist())


def _skipping(source: IndexedRecords, rows: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
    """(the records, int32 [b] with 1 for rows where the next undamaged record replaced a damaged one)."""
    records = sound(source, rows.tolist())
    skipped = np.array([record is None for record in records], np.int32)
    return [_next_sound(source, int(row)) if record is None else record for record, row in zip(records, rows)], skipped


def _next_sound(source: IndexedRecords, row: int) -> dict[str, Any]:
    """Returns the first undamaged record after `row` in the order of the source."""
    for step in range(1, min(SKIPS + 1, len(source))):
        (record,) = sound(source, [(row + step) % len(source)])
        if record is not None:
            return record
    lost = f"the {min(SKIPS, len(source) - 1)} records after record {row} are damaged too"
    raise DamagedRecord(f"{lost}. Skipping more would hide the loss of a whole file: prepare the dataset again.")


def _labels(records: Sequence[Mapping[str, Any]], spec: DataSpec) -> np.ndarray:
    """Returns the labels, int32 [b]; 0 if there are no classes."""
    return np.array([class_of(record) if spec.num_classes else 0 for record in records], np.int32)


def stacked_conditions(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns {"condition": pytree of [b, ...]} for records that have one, see `data.captions`, otherwise {}.

    Raises:
        ValueError: if conditions have different shapes, integers do not fit into JAX's type for them, or the mask of
            padding, the entry "real", marks a complete example as padding.
    """
    conditions = [record["condition"] for record in records if "condition" in record]
    if not conditions:
        return {}
    try:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *conditions)
    except ValueError as error:
        shapes = sorted({str(pytrees.shapes_of(condition)) for condition in conditions})
        raise ValueError(f"all conditions must have one shape; these have {' and '.join(shapes[:2])}.") from error
    for leaf in jax.tree.leaves(stacked):
        if leaf.dtype.kind in "iu":
            _require_range("a condition", leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    if isinstance(stacked, Mapping) and "real" in stacked:
        is_kept = [leaf.reshape(len(leaf), -1).any(axis=1) for leaf in jax.tree.leaves(stacked["real"])]
        empty = ~np.any(is_kept, axis=0)
        if empty.any():
            row = int(np.argmax(empty))
            raise ValueError(
                f'the mask "real" of record {row} of a batch is empty: it marks the whole example as padding.'
            )
    return {"condition": stacked}


def _metadata(records: Sequence[Mapping[str, Any]]) -> Batch:
    """{"metadata": {name: [b, ...]}} for records with facts about their captions, else {}."""
    facts = [record["metadata"] for record in records if "metadata" in record]
    return {"metadata": jax.tree.map(lambda *leaves: np.stack(leaves), *facts)} if facts else {}


def view(rng: np.random.Generator, views: np.ndarray) -> np.ndarray:
    """One of the views `[V, ...]` of a picture. It is the first draw of an example's first augmentation."""
    return views[rng.integers(len(views))] if len(views) > 1 else views[0]


def _features(records: Sequence[Mapping[str, Any]], rngs: Iterable[np.random.Generator]) -> Batch:
    """{"features": [b, N, D]} for records with features `[V, N, D]` of each view, else {}.

    Args:
        records: the records of a batch.
        rngs: the generators of the first augmentation, which draws the view of the example.
    """
    if not records or "features" not in records[0]:
        return {}
    return {"features": np.stack([view(rng, record["features"]) for rng, record in zip(rngs, records)])}


def _stack(examples: Sequence[Any], spec: DataSpec) -> np.ndarray:
    """Stacks examples; each must have the dataset's type and shape after augmentation."""
    if isinstance(examples, np.ndarray):
        _packed(examples[0], spec)
        stacked = examples
    else:
        stacked = np.stack([_packed(example, spec) for example in examples])
    _require_range(f"{spec.name} ({spec.split}): an example", stacked, np.dtype(spec.dtype))
    return stacked.astype(spec.dtype, copy=False)


def _require_range(what: str, numbers: np.ndarray, dtype: np.dtype) -> None:
    """Refuses integers that do not fit into a narrower type, since the conversion would change them."""
    if numbers.dtype.kind not in "iu" or numbers.dtype.itemsize <= dtype.itemsize or not numbers.size:
        return
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    if outside := [int(number) for number in (numbers.min(), numbers.max()) if not least <= number <= most]:
        raise ValueError(f"{what} holds the integer {outside[0]}. Valid: {least} .. {most}, as {dtype} holds.")


def _packed(example: Any, spec: DataSpec) -> np.ndarray:
    """An example as one array, after a check of its type and shape."""
    kind = np.dtype(spec.dtype).kind
    if isinstance(example, np.ndarray) and example.shape == spec.shape and example.dtype.kind == kind:
        return example
    description = f"{getattr(example, 'dtype', '')} {pytrees.shapes_of(example)}".strip()
    try:
        if not isinstance(example, np.ndarray):
            return packing.pack(example, spec.shape)
    except ValueError:
        pass
    raise ValueError(
        f"{spec.name} ({spec.split}): an {'image' if spec.entry == 'image' else 'example'} is {description}, but "
        f"expected is {spec.dtype} {spec.shape}. Sources and augmentations must keep the type and shape of the "
        "dataset's images."
    )


def positions_of(batch_size: int, positions: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Returns the positions as int64 [b], after a check; all positions for None.

    Raises:
        ValueError: if the batch size is below 1, or a position is not in 0..batch_size - 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    rows = np.arange(batch_size, dtype=np.int64) if positions is None else np.asarray(positions, np.int64)
    if outside := [x for x in rows.tolist() if not 0 <= x < batch_size]:
        raise ValueError(f"positions must be in 0..batch_size - 1 = {batch_size - 1}, got {outside[0]}.")
    return rows


def _check(source: IndexedRecords, spec: DataSpec, seed: int, start: int, threads: int) -> None:
    """Refuses arguments out of range."""
    if not len(source):
        raise ValueError(f"{spec.name} ({spec.split}) is empty: it has no records.")
    for name, value, end in (("seed", seed, 2**64), ("start", start, 2**63), ("threads", threads, 1025)):
        if not 0 <= value < end:
            raise ValueError(f"{name} must be in 0..{end - 1}, got {value}.")


def iterate(steps: int, read: Callable[[int], Batch], threads: int) -> Batches:
    """Yields `read(0)`, ..., `read(steps - 1)`, in order.

    Args:
        steps: number of batches.
        read: a function from the number of a batch to the batch.
        threads: number of threads that prepare batches; up to twice as many batches are prepared in advance.
    """
    import grain  # imported here: Grain takes half a second, and sampling reads no batches

    # Each element of Grain is a batch, since Grain's cost per element would dominate for small images.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.range(steps).map(read).to_iter_dataset(options))
