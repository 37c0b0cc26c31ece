"""Pictures of several sizes and aspect ratios in one run: all pictures of a batch have the size of one bucket.

    sizes = buckets.within(1024 * 1024)                          # SDXL's
    order = buckets.Order.from_buckets(buckets.nearest(pictures, sizes), len(sizes), batch_size=256, seed=0)
    for batch in buckets.batches(source, order, sizes, start=step): ...

The pictures of a step depend only on (seed, step), so a run can continue from any step, and processes can share the
rows of a batch in any way. Each bucket has an endless sequence of its pictures, one permutation after the other.
Pictures that do not fill a batch at the end of an epoch begin the bucket's first batch of the next epoch, so no picture
is left out.
"""

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffusion.data import pipeline, sources
from diffusion.data.sources.spec import class_of
from diffusion.data.transforms import Augmentation
from diffusion.io import files

Size = tuple[int, int]
"""Height and width."""


def within(area: int, multiple: int = 64, least: int = 512, most: int = 2048, share: float = 0.9) -> tuple[Size, ...]:
    """All sizes of nearly the same area, as in the training of SDXL.

    Args:
        area: the largest number of pixels of a size, 1024 * 1024 for SDXL.
        multiple: the number that divides every side: 64, or the autoencoder's factor times the patch.
        least: the least side in pixels.
        most: the largest side in pixels.
        share: the least share of the area that a size fills. 0.9 gives the list of SDXL and also 1344 x 704, which SDXL
            leaves out, though it has 704 x 1344.

    Returns:
        The (height, width) pairs, from the tallest to the widest.

    Raises:
        ValueError: if there is no such size.

    Reference: Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", 2023,
    section 2.3 and appendix I.
    """
    sides = range(-(-least // multiple) * multiple, most + 1, multiple)
    return _sorted((h, w) for h, w in itertools.product(sides, sides) if share * area <= h * w <= area)


def widest(area: int, multiple: int = 64, least: int = 256, most: int = 1024) -> tuple[Size, ...]:
    """The sizes of buckets: the greatest height for each width, the greatest width for each height, the largest square.

    Args:
        area: the largest number of pixels of a size, 512 * 768 for NovelAI.
        multiple: the number that divides every side.
        least: the least side in pixels.
        most: the largest side in pixels.

    Returns:
        The (height, width) pairs, from the tallest to the widest.

    Raises:
        ValueError: if there is no such size.

    Reference: NovelAI, "Improvements on Stable Diffusion", 2022, "Aspect Ratio Bucketing", as in kohya's scripts.
    """
    sizes = set()
    least, most = -(-least // multiple) * multiple, most // multiple * multiple
    square = min(int(area**0.5) // multiple * multiple, most)
    if square >= least:
        sizes.add((square, square))
    for side in range(least, most + 1, multiple):
        other = min(most, area // side // multiple * multiple)
        if other >= least:
            sizes |= {(side, other), (other, side)}
    return _sorted(sizes)


def _sorted(sizes) -> tuple[Size, ...]:
    """The distinct sizes, from the tallest to the widest."""
    ordered = tuple(sorted(set(sizes), key=lambda size: (size[1] / size[0], size)))
    if not ordered:
        raise ValueError(
            "no size fits: the area is too small for sides between least and most that are multiples of `multiple`"
        )
    return ordered


def nearest(pictures: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """The bucket of the nearest aspect ratio for each picture, by |log(ratio / ratio of the bucket)|.

    With logarithms, a picture that is twice too wide is as far away as one that is twice too tall. Of equally near
    buckets, the one with the largest area is chosen.

    Args:
        pictures: heights and widths of the pictures, int [N, 2], >= 1.
        sizes: the sizes of the buckets.

    Returns:
        The index of the bucket of each picture, int64 [N].

    Raises:
        ValueError: if `pictures` has another shape, or a side is not positive.
    """
    pictures = np.asarray(pictures)
    table = np.asarray(sizes)
    if pictures.ndim != 2 or pictures.shape[1] != 2 or (pictures < 1).any():
        raise ValueError(
            f"pictures must be an array [N, 2] of heights and widths of at least 1; got shape {pictures.shape}"
        )
    ratio = lambda size: np.log(size[:, 1] / size[:, 0])
    by_area = np.argsort(-table.prod(1), kind="stable")
    distance = np.abs(ratio(pictures)[:, None] - ratio(table[by_area]))
    return by_area[np.argmin(np.round(distance, 12), axis=1)]


def measured(source: Any, threads: int = 2, rows: int = 1024) -> np.ndarray:
    """The heights and widths of all pictures of a source, in the order of its records.

    Every record is read once, and only the header of its picture is decoded.

    Args:
        source: a source with `sizes(rows) -> int64 [n, 2]`, such as `sources.Records`.
        threads: the number of threads that read.
        rows: the number of pictures that are read at a time.

    Returns:
        The heights and widths, int64 [N, 2].
    """
    runs = [range(first, min(first + rows, len(source))) for first in range(0, len(source), rows)]
    read: Callable[[int], Any] = lambda step: source.sizes(runs[step])
    return np.concatenate([np.asarray(sizes) for sizes in pipeline.iterate(len(runs), read, threads)])


def measured_once(source: Any, threads: int = 2) -> np.ndarray:
    """The sizes that `measured` returns, which are stored in DIFFUSION_CACHE until a file of the source changes.

    Args:
        source: the source, as in `measured`, with `stamp() -> str`, which changes if a file changes.
        threads: the number of threads that read.

    Returns:
        The heights and widths, int64 [N, 2].
    """
    path = files.cache("sizes") / f"{source.stamp()}.npy"
    sizes = files.array(path)
    if sizes is not None and sizes.shape == (len(source), 2) and sizes.dtype == np.int64 and sizes.min() >= 1:
        return sizes
    sizes = measured(source, threads)
    with contextlib.suppress(OSError):  # without the stored file, the sizes are only measured again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each process writes a separate file with the same content, and the last one to finish replaces the others.
        process_path = path.with_name(f"{os.getpid()}.{path.name}")
        with files.atomic(process_path) as file:
            np.save(file, sizes)
        os.replace(process_path, path)
    return sizes


class Order(NamedTuple):
    """The order of a run: the pictures that each step reads.

    Attributes:
        members: the rows of the pictures in each bucket k, int64 [n_k].
        batch_size: the number B of pictures in a batch.
        seed: the seed of the order, in 0..2^64 - 1.
    """

    members: tuple[np.ndarray, ...]
    batch_size: int
    seed: int

    @classmethod
    def from_buckets(cls, assigned: np.ndarray, buckets: int, batch_size: int, seed: int) -> "Order":
        """The order of pictures whose buckets are known.

        Args:
            assigned: the bucket of each picture, int [N], from `nearest`.
            buckets: the number of buckets.
            batch_size: the global batch size.
            seed: the run's seed.

        Raises:
            ValueError: if there are no pictures, or the batch size is below 1.
        """
        if batch_size < 1 or not len(assigned):
            raise ValueError(
                f"an order needs pictures and a batch size of at least 1; got {len(assigned)} pictures "
                f"and batch_size = {batch_size}"
            )
        return cls(tuple(np.flatnonzero(np.asarray(assigned) == k) for k in range(buckets)), batch_size, seed)

    def batches_before(self, epoch: int) -> int:
        """The number of batches in the epochs before `epoch`: the sum over buckets of floor(epoch n_k / B)."""
        return sum(epoch * len(rows) // self.batch_size for rows in self.members)

    def epoch_of(self, step: int) -> int:
        """The epoch of a step: the last epoch that begins at the step or before."""
        low, high = 0, 1
        while self.batches_before(high) <= step:
            low = high
            high = 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.batches_before(middle) <= step else (low, middle)
        return low

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """The pictures of a step.

        Args:
            step: the number of the step, >= 0.

        Returns:
            (the bucket; the rows of the pictures, int64 [B]).
        """
        epoch = self.epoch_of(step)
        position = step - self.batches_before(epoch)
        before = [epoch * len(rows) // self.batch_size for rows in self.members]
        after = [(epoch + 1) * len(rows) // self.batch_size for rows in self.members]
        turns = np.repeat(np.arange(len(self.members)), np.subtract(after, before))
        turns = turns[_shuffled(len(turns), self.seed, epoch, 0)]
        bucket = int(turns[position])
        number = before[bucket] + int((turns[:position] == bucket).sum())
        rows = self.members[bucket]
        positions = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        chosen = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(positions // len(rows)).tolist():
            now = positions // len(rows) == epoch
            chosen[now] = rows[_shuffled(len(rows), self.seed, epoch, bucket + 1)[positions[now] % len(rows)]]
        return bucket, chosen


@functools.lru_cache(maxsize=256)
def _shuffled(size: int, seed: int, epoch: int, part: int) -> np.ndarray:
    """A permutation for an epoch: of the pictures of a bucket (part 1, 2, ...), or of the buckets' turns (part 0)."""
    return pipeline.shuffled(size, seed, pipeline.BUCKETS, epoch, part)


def fit(image: np.ndarray, size: Size, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Resizes a picture until it just covers a bucket, and crops it to the bucket's size.

    Args:
        image: the picture, uint8 [H, W, C]; the last of four channels is opacity, which weights colours when pixels are
            averaged.
        size: (h, w) of the bucket.
        rng: the generator that draws the position of the crop; None for the middle.

    Returns:
        (the picture, uint8 [h, w, C]; the entry "size" of `diffusion.models.layers.conditions`, float32 [6]: H, W, top
        and left of the crop in the resized picture, h, w).

    Reference: Podell et al. 2023, section 2.2 (conditioning on the size and on the crop), section 2.3 (buckets).
    """
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    covering = [max(round(side * scale), least) for side, least in zip((height, width), size)]
    if covering != [height, width]:
        resized = lambda part: np.asarray(Image.fromarray(part).resize(covering[::-1], Image.Resampling.BICUBIC))
        if image.shape[2] == 4:  # Pillow multiplies colours by their opacity, so that hidden ones do not show
            image = resized(image)
        else:
            image = np.stack([resized(image[..., c]) for c in range(image.shape[2])], axis=-1)
    room = [covering[i] - size[i] for i in (0, 1)]
    top, left = (excess // 2 for excess in room) if rng is None else (int(rng.integers(excess + 1)) for excess in room)
    size_condition = np.array([height, width, top, left, *size], np.float32)
    return image[top : top + size[0], left : left + size[1]], size_condition


def batches(
    source: sources.Source,
    order: Order,
    sizes: Sequence[Size],
    *,
    start: int = 0,
    positions: Sequence[int] | np.ndarray | None = None,
    augment: Sequence[Augmentation] = (),
    with_sizes: bool = True,
    threads: int = 2,
) -> pipeline.Batches:
    """Returns the endless training batches from a step on, with the rows of each batch that this process reads.

    Args:
        source: a source of records {"image": uint8 [H, W, C] of any size, "label": int}, without "label" if there are
            no classes.
        order: the run's order.
        sizes: the sizes of the buckets.
        start: the first step.
        positions: the positions in every batch of the rows that this process reads, [b] in 0..B - 1; None for all rows.
        augment: functions (rng, image) -> image of the same size, applied in this order after `fit`.
        with_sizes: whether the batches have the entry "size", for networks that receive it.
        threads: the number of threads that prepare batches in advance; 0 to prepare each batch when it is requested.

    Returns:
        An iterator of {"image": uint8 [b, h, w, C], "size": float32 [b, 6], "label": int32 [b], "index": int64 [b], the
        global example index}, and "condition" if the records have one; h and w are the sides of the batch's bucket.
    """
    mine = pipeline.positions_of(order.batch_size, positions)

    def read(number: int) -> pipeline.Batch:
        step = start + number
        bucket, rows = order.batch(step)
        index = step * order.batch_size + mine
        records = pipeline.fetch(source, rows[mine])
        pictures = [record["image"] for record in records]
        rngs = pipeline.rngs_of(order.seed, index, 0)
        fitted = [fit(image, sizes[bucket], rng) for rng, image in zip(rngs, pictures)]
        examples = [image for image, _ in fitted]
        size_conditions = np.stack([size for _, size in fitted])
        for position, function in enumerate(augment, 1):
            examples = pipeline.augmented(function, pipeline.rngs_of(order.seed, index, position), examples)
        images = np.asarray(examples)
        labels = np.array([class_of(record) for record in records], np.int32)
        batch = {"image": images, "label": labels, "index": index} | pipeline.stacked_conditions(records)
        return batch | ({"size": size_conditions} if with_sizes else {})

    return pipeline.iterate(sys.maxsize, read, threads)
