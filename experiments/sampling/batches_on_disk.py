"""Samples on disk, batch by batch: each batch is written as soon as it is made, so that a killed command can continue.

OUT/.samples-KEY/00000250.npy holds the batch that begins with image 250. KEY is a hash of the weights, the config, and
all labels and seeds. 00000250.work.npy beside it holds `generate.Generator.work` of the batch, if that is not zero.
Image i depends only on its own label and seed, so that it is the same whichever command makes it.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import files
from diffusion.recipe.values import config_hash


@contextlib.contextmanager
def held(out: pathlib.Path) -> Iterator[None]:
    """Locks the samples in a folder for this process; the kernel releases them however the process ends.

    Without it, two commands could sample into one folder, and the first to end would remove the batches of the other.

    Args:
        out: the folder of the samples, which exists. The folder itself is locked, since its run may hold its own lock.

    Raises:
        WorkdirError: if another process samples into it.
    """
    descriptor = os.open(out, os.O_RDONLY)
    try:
        files.lock(descriptor, out)
    except BlockingIOError as error:
        raise WorkdirError(
            f"{out} is in use: another process writes samples there. Wait until it has ended, stop it, or choose "
            "another --out."
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def key(config: Mapping, identity: Any, description: str, labels: Any, seeds: np.ndarray) -> str:
    """A name for samples, of 16 hexadecimal digits, which is the same for the same arguments.

    Args:
        config: the config of the run.
        identity: the identity of the weights, as in `run_samples.Weights`.
        description: the version of the weights and how they are stored, as text.
        labels: the classes, int [N], or conditions, a pytree of arrays [N, ...].
        seeds: the seeds, uint32 [N].
    """
    source = json.dumps([config_hash(config), description, identity], sort_keys=True).encode()
    conditions = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(labels))
    return hashlib.sha256(source + conditions + seeds.tobytes()).hexdigest()[:16]


def digest(conditions: Any) -> str:
    """A hash of conditions, classes int `[N]` or a pytree of arrays `[N, ...]`, as 16 hexadecimal digits."""
    leaves = [(str(leaf.dtype), leaf.shape, leaf.tobytes()) for leaf in map(np.asarray, jax.tree.leaves(conditions))]
    return hashlib.sha256(repr(leaves).encode()).hexdigest()[:16]


def images(
    make: Callable[..., np.ndarray],
    params: Any,
    labels: Any,
    seeds: np.ndarray,
    batch_size: int,
    folder: pathlib.Path,
    advance: Callable[[int], None],
    share: tuple[int, int] = (0, 1),
    work: Callable[[], np.ndarray] = lambda: np.zeros(3, np.int64),
) -> np.ndarray:
    """Makes the samples that the folder lacks, and returns all samples, or the share of a process.

    Args:
        make: `generate.Generator.images`.
        params: the weights.
        labels: the classes, int [N], or the conditions, a pytree of arrays [N, ...].
        seeds: the seeds, uint32 [N].
        batch_size: the number of images in a batch.
        folder: the folder of the batches, OUT/.samples-KEY; made if missing.
        advance: a function that receives the number of images done.
        share: (p, P), for process p of P: every P-th batch from batch p on, and at least one; (0, 1) for all.
        work: `generate.Generator.work`; the counts of each batch are stored beside it.
    """
    folder.mkdir(exist_ok=True)
    batches = []
    for first in list(range(0, len(seeds), batch_size))[share[0] :: share[1]] or [0]:
        rows = slice(first, min(first + batch_size, len(seeds)))
        file = folder / f"{first:08}.npy"
        batch = files.array(file)
        if batch is None or not batch.ndim or len(batch) != len(seeds[rows]):
            before = work()
            batch = make(params, jax.tree.map(lambda leaf, rows=rows: leaf[rows], labels), seeds[rows])
            if (cost := work() - before).any():
                # The counts come before the batch, since a batch that exists is not made again.
                with files.atomic(folder / f"{first:08}.work.npy") as handle:
                    np.save(handle, cost)
            with files.atomic(file) as handle:
                np.save(handle, batch)
        batches.append(batch)
        advance(rows.stop)
    return np.concatenate(batches)


def work(folder: pathlib.Path) -> np.ndarray:
    """The counts of `generate.Generator.work`, `[3]`, summed over all batches in a folder and all processes."""
    total = np.zeros(3, np.int64)
    for count in map(files.array, sorted(folder.glob("*.work.npy"))):
        if count is not None:
            total = total + np.pad(count, (0, 3 - len(count)))  # earlier versions wrote two counts
    return total


def clear(out: pathlib.Path) -> None:
    """Removes all batches in a folder, also those of other, unfinished samples."""
    for folder in out.glob(".samples-*"):
        shutil.rmtree(folder, ignore_errors=True)
