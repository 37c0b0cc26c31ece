"""What sampling costs beyond the network's own calls, and beside diffusers' loop with the same network in PyTorch.

    python -m benchmarks.samplers
    make fixtures; python -m benchmarks.samplers --torch_python=.venv-peers/bin/python
    python -m benchmarks.samplers --steps=10 --rounds=2 --width=64 --depth=2

Measures in turn, round after round: each sampler, compiled; as many calls of the network alone, in one compiled loop;
and in the environment of `make fixtures` the same weights in PyTorch, under DPMSolverMultistepScheduler and alone. The
overhead of a sampler is the median over the rounds of (its time / the network's) - 1, of measurements side by side. The
samples of both programs are compared first.
"""

import json
import pathlib
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import app, flags, logging
from flax.traverse_util import flatten_dict
from rich.console import Console
from rich.table import Table

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.models.dit import DiT

SIDE, CHANNELS, CLASSES = 16, 4, 10
REST = 0.3  # seconds between measurements, in which the threads of one program stop to wait for work
PEER = "dpmpp_2m"  # the sampler that diffusers' scheduler is
AGREEMENT = 1e-3  # of the largest number in a sample, after all steps in float32


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX tells of backends that are not there
    asked = flags.FLAGS
    model, params, x, labels = made(asked.width, asked.depth, asked.batch_size)
    grid = timesteps.linspace(schedules.linear_beta(), asked.steps + 1)  # as diffusers: the last index is left out
    plan = timesteps.plan(np.append(grid[:-2], 0.0))
    cases = {}
    for name in asked.samplers:
        sampler = getattr(samplers, name)()
        cases[name] = (*ours(sampler, model, params, x, labels, plan), sampler.nfe(asked.steps))
    title = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {asked.steps} steps, batch {asked.batch_size}"
    answer = None
    if asked.torch_python:
        with tempfile.TemporaryDirectory() as folder:
            answer, about = peer(asked.torch_python, pathlib.Path(folder), model, params, x, labels, asked.steps)
            title += f"; {about}"
            check(answer, cases[PEER][0]() if PEER in cases else None, pathlib.Path(folder))
    rounds = {name: [] for name in [*cases, "diffusers"]}
    for turn in range(asked.rounds):
        for name, (run, network, _) in cases.items():
            pair = (run, network) if turn % 2 == 0 else (network, run)
            seconds = [timed(function) for function in pair]
            rounds[name].append(seconds if turn % 2 == 0 else seconds[::-1])
        if answer:
            rounds["diffusers"].append([rested(lambda: answer("loop")), rested(lambda: answer("network"))])
    Console(width=120).print(table(title, rounds, {name: case[2] for name, case in cases.items()}, asked.steps))
    if answer and PEER in cases:
        ratios = {part: np.median([theirs[i] / mine[i] for theirs, mine in zip(rounds["diffusers"], rounds[PEER])])
                  for i, part in enumerate(("end to end", "the network alone"))}
        print("; ".join(f"{part}: diffusers' time is {ratio:.2f} times ours" for part, ratio in ratios.items()))


def made(width: int, depth: int, batch_size: int):
    """A DiT, parameters none of which is zero, noise and labels."""
    model = DiT(patch=2, width=width, depth=depth, heads=width // 64 or 1, num_classes=CLASSES, unroll=depth)
    x = jax.random.normal(jax.random.key(0), (batch_size, SIDE, SIDE, CHANNELS))
    labels = jnp.arange(batch_size) % CLASSES
    params = model.init(jax.random.key(1), x[:1], jnp.zeros(1), labels[:1])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [leaf + 0.02 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    return model, jax.tree.unflatten(tree, noisy), x, labels


def ours(sampler, model, params, x, labels, plan):
    """(run the sampler, run as many network calls), each compiled and warm; both return an array."""
    schedule, keys = schedules.linear_beta(), jax.random.split(jax.random.key(3), len(x))
    parameterization = parameterizations.epsilon(parameterizations.steps())

    @jax.jit
    def walk(params, x):
        network = lambda x, clock, condition: model.apply(params, x, clock, condition)
        denoise = parameterizations.denoiser(network, schedule, parameterization, labels)
        return samplers.sample(sampler, denoise, schedule, x, plan, keys)

    @jax.jit
    def calls(params, x):
        # A time of its own for each call: of one time for all, XLA computes embedding and modulation once for the loop.
        one = lambda i, x: model.apply(params, x, jnp.full(len(x), 999.0 - i), labels)
        return jax.lax.fori_loop(0, sampler.nfe(len(plan.t)), one, x)

    runs = [lambda f=f: jax.block_until_ready(f(params, x)) for f in (walk, calls)]
    for run in runs:
        run()
    return runs


def timed(run) -> float:
    """Seconds of one run, after a rest."""
    time.sleep(REST)
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def rested(run) -> float:
    """What a run says, after a rest."""
    time.sleep(REST)
    return run()


def peer(python: str, folder: pathlib.Path, model: DiT, params, x, labels, steps: int):
    """(a function from "loop", "network" or "write PATH" to seconds, versions); the process ends with this one."""
    tensors = {"/".join(path): np.asarray(value) for path, value in flatten_dict(params["params"]).items()}
    sizes = {"patch": model.patch, "width": model.width, "depth": model.depth, "heads": model.heads,
             "num_classes": CLASSES, "side": SIDE, "channels": CHANNELS}  # fmt: skip
    safetensors.numpy.save_file(
        {**tensors, "x": np.asarray(x), "labels": np.asarray(labels, np.int64)}, folder / "weights.safetensors",
        {"sizes": json.dumps(sizes)},
    )  # fmt: skip
    words = ("-m", "tests.peers.diffusers_loop", str(folder / "weights.safetensors"), str(steps))
    process = subprocess.Popen([python, *words], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               cwd=pathlib.Path(__file__).parents[1])  # fmt: skip

    def said():
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(process.args)} ended with status {process.wait()}; what it said is above.")
        return line.strip()

    def answer(asked):
        process.stdin.write(f"{asked}\n")
        process.stdin.flush()
        return float(said())

    return answer, said()


def check(answer, mine, folder: pathlib.Path) -> None:
    """Both programs sample the same thing, or there is nothing to compare."""
    answer(f"write {folder / 'samples.safetensors'}")
    theirs = safetensors.numpy.load_file(folder / "samples.safetensors")["samples"]
    if mine is None:
        return
    away = np.abs(np.asarray(mine) - theirs).max() / np.abs(theirs).max()
    if not away < AGREEMENT:
        raise SystemExit(f"the samples of both programs differ by {away:.1e} of their largest number: other work")
    print(f"the samples of both programs agree to {away:.0e} of their largest number")


def table(title: str, rounds: dict, evaluations: dict[str, int], steps: int) -> Table:
    """Medians, and the overhead with the range of its middle half."""
    made = Table("sampler", "NFE", "ms, median", "network alone", "overhead, median (middle half)", title=title)
    for name, seconds in rounds.items():
        if not seconds:
            continue
        whole, network = np.array(seconds).T
        low, middle, high = np.percentile(whole / network - 1, (25, 50, 75))
        made.add_row(name, str(evaluations.get(name, steps)), f"{1e3 * np.median(whole):.0f}",
                     f"{1e3 * np.median(network):.0f}", f"{middle:.1%} ({low:.1%} to {high:.1%})")
    return made


if __name__ == "__main__":
    flags.DEFINE_list("samplers", ["dpmpp_2m", "euler", "heun", "ddpm", "unipc"], "functions of diffusion.samplers")
    flags.DEFINE_integer("steps", 50, "of each sampler")
    flags.DEFINE_integer("rounds", 15, "how often everything is measured in turn")
    flags.DEFINE_integer("batch_size", 8, "images at once")
    flags.DEFINE_integer("width", 256, "of the DiT")
    flags.DEFINE_integer("depth", 6, "of the DiT")
    flags.DEFINE_string("torch_python", None, "python of the environment with diffusers; ours alone without")
    app.run(main)
