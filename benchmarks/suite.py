"""Runs all timing benchmarks on this machine, one after the other, and prints one table; `make bench` runs it.

    python -m benchmarks.suite
    python -m benchmarks.suite --only=train_step,sampling --out=runs/bench

Each benchmark (`python -m benchmarks.NAME --help`) runs in a separate process, and writes its rows to OUT/NAME.json. If
a benchmark fails, the others still run, and the command names it at the end. With the environment of `make fixtures`,
the benchmarks also measure PyTorch and diffusers. `python -m benchmarks.programs`, in the environment of
`make accelerators-env`, compiles our programs for GPUs and TPUs, and measures nothing.
"""

import pathlib
import subprocess
import sys
import time

from absl import app, flags
from rich.console import Console

from benchmarks import rows
from diffusion.experiments import command_line

PEERS = pathlib.Path(".venv-peers/bin/python")
BENCHMARKS = {  # {name: its arguments}; PEER stands for the flag of the environment with the other library
    "train_step": ("PEER", "--rounds=3"),
    "sampling": ("PEER", "--rounds=2"),
    "text_to_image": ("PEER", "--rounds=2"),
    "samplers": ("--rounds=5", "--samplers=dpmpp_2m,ddpm"),
    "loop": ("--rounds=3",),
    "input_pipeline": ("--rounds=2",),
    "start_up": (),
    "growth": ("--rounds=2", "--figure={out}/growth.png"),
}
COMPARED = ("text_to_image",)  # benchmarks that need the other library, which draws the weights


def main(argv: list[str]) -> None:
    """Runs the benchmarks, and prints one table."""
    args = flags.FLAGS
    out = pathlib.Path(args.out)
    unknown = set(args.only) - set(BENCHMARKS)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise app.UsageError(f"--only={names}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    peer = (f"--torch_python={PEERS}",) if PEERS.exists() else ()
    if not peer:
        print("No environment with PyTorch and diffusers (`make fixtures` makes it): ours alone.")
    failed = []
    for name in args.only or BENCHMARKS:
        if name in COMPARED and not peer:
            continue
        words = [word.format(out=out) for word in BENCHMARKS[name] if word != "PEER"]
        words += peer if "PEER" in BENCHMARKS[name] else ()
        began = time.perf_counter()
        print(f"benchmarks.{name} {' '.join(words)}", flush=True)
        (out / f"{name}.json").unlink(missing_ok=True)
        ended = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", f"--out={out / name}.json", *words])
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
        if ended.returncode:
            failed.append(name)
    all_rows = [row for name in BENCHMARKS if (file := out / f"{name}.json").exists() for row in rows.read(file)[1]]
    Console(width=140).print(rows.table(all_rows, "all"))
    print("Programs for GPUs and TPUs: make accelerators-env; .venv-accelerators/bin/python -m benchmarks.programs")
    if failed:
        sys.exit(f"These ended with an error, see above: {', '.join(failed)}")


if __name__ == "__main__":
    flags.DEFINE_list("only", [], "names of the benchmarks to run; by default all")
    flags.DEFINE_string("out", "runs/bench", "folder for the rows of each benchmark")
    command_line.begin()
    command_line.run(main)
