"""Measures the images per second of training's input pipeline alone, from CIFAR-10 as TFDS prepares it.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --data_dir=/data/tfds --threads=8 --rounds=5
    python -m benchmarks.input_pipeline --dataset=digits --images=1000
    python -m benchmarks.input_pipeline --torch_python=.venv-peers/bin/python      # each source beside a DataLoader

The first epoch decodes every PNG; from the second epoch on, a dataset of up to 1 GiB is in memory. Both epochs are
measured for each augmentation, round after round. The limit is the rate of copying the same bytes into batches, without
decoding, augmentation or shuffling.

With --torch_python, every source of files reads the same JPEG pictures, which are cut to squares, flipped and cropped.
Each source is compared with PyTorch's DataLoader, which has as many workers as we have threads, and decodes, flips and
crops by the same calls of Pillow and NumPy (benchmarks/peers/input_pipeline.py). Since PyTorch's environment has no
readers of Parquet and ArrayRecord, these sources are compared with a DataLoader that reads the JPEG files.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("dataset", "cifar10", "name of the dataset in TFDS")
    flags.DEFINE_string("data_dir", "", "folder of the prepared dataset; by default TFDS_DATA_DIR")
    flags.DEFINE_integer("images", 10_000, "number of images of each measurement", 1)
    flags.DEFINE_integer("threads", 2, "number of reading threads", 0)
    flags.DEFINE_integer("rounds", 3, "number of rounds, each of which measures everything in turn", 1)
    flags.DEFINE_string(
        "torch_python", None, "python of an environment with PyTorch, to compare every source with a DataLoader"
    )
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import functools
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import rows, source_files
from diffusion.data import pipeline, sources
from diffusion.data.transforms import Augmentation, crop, flip

BATCH = 128
AUGMENTATIONS = {"none": (), "flip": (flip(),), "flip and crop": (flip(), crop(4))}


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.FATAL)
    args = flags.FLAGS
    if args.torch_python:
        return beside_torch(args)
    try:
        sources.describe(args.dataset, "train", args.data_dir)
    except FileNotFoundError as error:
        print(f"left out: {error}")
        return rows.report([], args.dataset, args.out)
    steps = -(-args.images // BATCH)
    cases = {"limit": lambda: copied(args.dataset, args.data_dir, steps)}
    for name, augment in AUGMENTATIONS.items():
        for epoch in ("first", "later"):
            cases[f"{name}, {epoch} epoch"] = lambda augment=augment, first=epoch == "first": read(
                args.dataset, args.data_dir, augment, args.threads, steps, first
            )
    measured = rows.interleaved(cases, args.rounds)
    limit = measured.pop("limit")
    lines = [
        rows.Row(f"{args.dataset}, augmentation: {name}", "images/s", True, rates, limit=limit)
        for name, rates in measured.items()
    ]
    rows.report(lines, f"batches of {BATCH}, {args.threads} threads; limit: copying the bytes", args.out)


def beside_torch(args: flags.FlagValues) -> None:
    """Measures every source and a DataLoader in turn, and prints one table."""
    with tempfile.TemporaryDirectory() as folder:
        opened = source_files.written(folder, args.images)
        words = (folder, source_files.SIDE, BATCH, args.threads)
        peer = rows.Peer(args.torch_python, "benchmarks.peers.input_pipeline", *map(str, words))
        ours = opened["class_folders"][0]()
        total = sum(int(ours[row]["image"].astype(np.int64).sum()) for row in range(len(ours)))
        for form in ("files", "tar", "array"):
            assert int(peer.ask(f"sum {form}")) == total, f"{form}: not the same pixels as ours"
        cases: dict[str, Callable[[], float]] = {}
        for form in ("files", "tar", "array"):
            cases[form] = lambda form=form: float(peer.ask(form))
            cases[form]()  # the first epoch starts the workers
        for name, (open_source, _) in opened.items():
            for first in (True, False):
                cases[f"{name}, {_epoch(first)}"] = functools.partial(from_source, open_source, args.threads, first)
        rates = rows.interleaved(cases, args.rounds)
        lines = [
            rows.Row(
                f"{name}, {_epoch(first)}", "images/s", True, rates[f"{name}, {_epoch(first)}"], peer.about, rates[form]
            )
            for name, (_, form) in opened.items()
            for first in (True, False)
        ]
        peer.close()
    size = "{} x {}".format(*source_files.STORED)
    title = (
        f"{args.images:,} JPEG pictures of {size}, squares of {source_files.SIDE}, flip and crop, batches of {BATCH}"
    )
    rows.report(lines, f"{title}, {args.threads} threads; a DataLoader of {args.threads} workers", args.out)


def _epoch(first: bool) -> str:
    return "first epoch" if first else "later epochs"


def from_source(open_source: Callable[[], sources.Source], threads: int, first: bool) -> float:
    """The images per second of training's batches in the first epoch of a source, or in the second one."""
    source = open_source()
    steps = len(source) // BATCH
    data = pipeline.batches(
        source, source.spec, seed=0, batch_size=BATCH, augment=AUGMENTATIONS["flip and crop"], threads=threads
    )
    for _ in range(0 if first else steps + 2 * threads + 1):
        next(data)
    began = time.perf_counter()
    for _ in range(steps):
        next(data)
    seconds = time.perf_counter() - began
    data.close()
    return steps * BATCH / seconds


def read(name: str, folder: str, augment: Sequence[Augmentation], threads: int, steps: int, first: bool) -> float:
    """The images per second of training's batches, from the start of an epoch.

    Args:
        name: the name of the dataset.
        folder: the folder of the prepared dataset.
        augment: the augmentations of each image.
        threads: the number of threads that read.
        steps: the number of batches that are timed.
        first: whether this is the first epoch; otherwise all images are decoded before.
    """
    source, spec = sources.open_source(name, "train", folder)
    if not first:
        for batch in pipeline.batches(source, spec, seed=0, batch_size=BATCH, threads=0):
            if batch["index"][-1] >= (steps + 2 * threads) * BATCH:
                break
    data = pipeline.batches(source, spec, seed=0, batch_size=BATCH, augment=augment, threads=threads)
    began = time.perf_counter()  # the threads start with the first batch, so that none has been read ahead
    for _ in range(steps):
        next(data)
    seconds = time.perf_counter() - began
    data.close()
    return steps * BATCH / seconds


def copied(name: str, folder: str, steps: int) -> float:
    """The images per second that one thread copies into batches, for arrays of the dataset's shape."""
    spec = sources.describe(name, "train", folder)
    images = list(np.zeros((BATCH, *spec.shape), np.uint8))
    began = time.perf_counter()
    for _ in range(steps):
        np.stack(images)
    return steps * BATCH / (time.perf_counter() - began)


if __name__ == "__main__":
    command_line.run(main)
