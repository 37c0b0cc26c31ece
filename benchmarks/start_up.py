"""Measures the time before the first step: DiT-XL/2's compilation, scanned and unrolled, and a run's start.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --depth=4 --rounds=2 --out=runs/start_up.json

The train step of configs/imagenet256_dit.py is traced and compiled in float32, each time in a new process, and never
runs. Its blocks are in one scan, or unrolled. The compilation cache is empty for the first compilation of each kind;
the scanned step is then compiled again with the cache that its first compilation filled. At last `diffusion train`
starts the digits recipe twice, in new run folders with one cache. A run prints the seconds until its first step.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from absl import flags

from benchmarks import rows
from diffusion.experiments import command_line

RECIPE, SHAPE, DEPTH = "configs/imagenet256_dit.py", (32, 32, 4), 28
PRINTED = re.compile(r"first step after ([0-9.]+) s")


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    args = flags.FLAGS
    seconds = {}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            caches = {name: pathlib.Path(folder) / name for name in ("scanned", "unrolled", "digits")}
            for name, unroll in (("scanned", 1), ("unrolled", args.depth)):
                seconds.setdefault(name, []).append(compiled(args.depth, unroll, caches[name]))
            seconds.setdefault("scanned again", []).append(compiled(args.depth, 1, caches["scanned"]))
            for name in ("digits", "digits again"):
                run = pathlib.Path(folder) / name.replace(" ", "_")
                seconds.setdefault(name, []).append(first_step("configs/digits.py", run, caches["digits"]))
    model = f"{RECIPE}" if args.depth == DEPTH else f"{RECIPE}, depth {args.depth}"
    rows.report(
        [
            rows.Row(
                f"compile the step of {model}, scanned",
                "s",
                False,
                tuple(seconds["scanned"]),
                peer="unrolled",
                theirs=tuple(seconds["unrolled"]),
                note="aim: 4 times",
            ),
            rows.Row(
                f"compile the step of {model}, scanned, warm cache",
                "s",
                False,
                tuple(seconds["scanned again"]),
                peer="cold cache",
                theirs=tuple(seconds["scanned"]),
                note="aim: 3 times",
            ),
            rows.Row(
                "first step of configs/digits.py, warm cache",
                "s",
                False,
                tuple(seconds["digits again"]),
                peer="cold cache",
                theirs=tuple(seconds["digits"]),
                note="as the run prints it; aim: 3 times",
            ),
        ],
        "from the start to the first step",
        args.out,
    )


def compiled(depth: int, unroll: int, cache: pathlib.Path) -> float:
    """The seconds in which a new process traces and compiles the step.

    Args:
        depth: the number of blocks of the network.
        unroll: the number of blocks in one iteration of the scan; with `depth` there is no scan.
        cache: the folder of the compilation cache, made if missing.
    """
    words = ["--compile_only", f"--depth={depth}", f"--unroll={unroll}"]
    return json.loads(output(["benchmarks.start_up", *words], cache).splitlines()[-1])


def first_step(file: str, folder: pathlib.Path, cache: pathlib.Path) -> float:
    """The seconds until the first step, as printed by a run of a recipe that ends after two steps."""
    steps = ["--config.train.steps=2", "--config.checkpoint.every=1000", "--config.optimizer.decay=constant"]
    printed = output(["diffusion", "train", f"--config={file}", f"--workdir={folder}", *steps], cache)
    return float(PRINTED.search(printed).group(1))


def output(words: list[str], cache: pathlib.Path) -> str:
    """The output of a command of this project, with a folder as compilation cache; ends this process if it fails."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-m", *words], env=environment, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"python -m {' '.join(words)} ended with status {done.returncode}.")
    return done.stdout


def compile_only(depth: int, unroll: int) -> None:
    """Traces and compiles the step, allocates nothing, and prints the seconds."""
    from diffusion.experiments.run import program
    from diffusion.recipe import Recipe, recipes
    from diffusion.training import sharding
    from diffusion.training.runtime import compilation_cache

    config = recipes.load(RECIPE)
    config.update_from_flattened_dict({"train.dtype": "float32", "model.depth": depth})
    config.model.unroll = unroll
    compilation_cache.enable()
    mesh = sharding.make_mesh({axis: config.mesh[axis] for axis in sharding.AXES})
    began = time.perf_counter()
    built = program.build(Recipe.from_config(config, SHAPE), mesh)
    built.step.lower(built.target, built.batch, built.seed).compile()
    print(json.dumps(time.perf_counter() - began))


def command(argv: list[str]) -> None:
    """Runs the benchmark, or with --compile_only one of its compilations."""
    if flags.FLAGS.compile_only:
        compile_only(flags.FLAGS.depth, flags.FLAGS.unroll)
    else:
        main(argv)


if __name__ == "__main__":
    flags.DEFINE_integer("depth", DEPTH, "number of blocks of the compiled network", 1)
    flags.DEFINE_integer("rounds", 1, "number of rounds, each of which measures everything in turn", 1)
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    flags.DEFINE_bool("compile_only", False, "compile once and exit; the benchmark starts itself with this flag")
    flags.DEFINE_integer("unroll", 1, "number of blocks in one iteration of the scan, for --compile_only", 1)
    command_line.begin()
    command_line.run(command)
