"""Compares the loss of the digits recipe with products in fp8 and with products in bfloat16.

    python -m benchmarks.fp8 --steps=600 --figure=docs/images/fp8.png

Both runs compute in bfloat16 and have the same parameters, batches, times and noise. One run rounds the operands of the
products of tokens with kernels to fp8 (`config.train.products`, emulated on a CPU). The command prints the training
loss as means of 50 steps, and the ratio of both runs.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_integer("steps", 600, "number of steps of each run", 50)
    flags.DEFINE_string("figure", None, "file for the figure, e.g. docs/images/fp8.png; by default none is drawn")
    command_line.begin()

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

PRODUCTS = {"dtype": "bfloat16", "fp8": "fp8"}  # values of `config.train.products`, and their names in the figure


def main(argv: list[str]) -> None:
    """Trains both runs, one after the other, prints a table, and draws the figure."""
    args = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        curves = {name: trained(pathlib.Path(folder) / name, name, args.steps) for name in PRODUCTS}
    steps, plain = curves["dtype"]
    rounded = curves["fp8"][1]
    print("step    bfloat16  fp8       fp8 / bfloat16")
    for step, a, b in zip(steps, plain, rounded):
        print(f"{step:6d}  {a:.5f}   {b:.5f}   {b / a:.4f}")
    half = len(steps) // 2
    print(f"mean of the second half: fp8 / bfloat16 = {np.mean(rounded[half:]) / np.mean(plain[half:]):.4f}")
    if args.figure:
        draw(curves, pathlib.Path(args.figure))


def trained(workdir: pathlib.Path, products: str, steps: int, *changes: str) -> tuple[list[int], list[float]]:
    """(steps, training losses) of a run of the digits recipe in bfloat16."""
    words = [
        "--config=digits", f"--workdir={workdir}", "--config.train.dtype=bfloat16", f"--config.train.steps={steps}",
        f"--config.train.products={products}", f"--config.checkpoint.every={steps}", *changes,
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "diffusion", "train", *words], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    with_loss = [line for line in lines if "loss" in line]
    return [line["step"] for line in with_loss], [line["loss"] for line in with_loss]


def draw(curves: dict[str, tuple[list[int], list[float]]], path: pathlib.Path) -> None:
    """Draws both losses against the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for (name, (steps, losses)), style in zip(curves.items(), ("-", "--")):
        axis.plot(steps, losses, style, label=f"products in {PRODUCTS[name]}", linewidth=1.4)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("training loss, mean of 50 steps")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25, linewidth=0.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    command_line.run(main)
