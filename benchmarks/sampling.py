"""Measures sampling with a guided DiT and with a U-Net, and diffusers' loop over its own network with torch.compile.

    make fixtures; python -m benchmarks.sampling --torch_python=.venv-peers/bin/python
    python -m benchmarks.sampling --cases=unet --rounds=5 --out=runs/sampling.json

The weights are drawn here, written as a folder of diffusers (diffusion.models.interchange), and loaded by the other
program. Both programs start from the same noise and follow the same DPM-Solver++(2M) grid; they must end in the same
samples before anything is timed. The limit is the time that the network's matrix products and convolutions would take
at the rate of a matrix product of 2048^3, which is measured in the same round.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("cases", ["dit", "unet"], "cases to measure: dit, unet")
    flags.DEFINE_integer("batch_size", 1, "number of samples at once")
    flags.DEFINE_integer("rounds", 3, "number of rounds, each of which measures everything in turn")
    flags.DEFINE_string(
        "torch_python", None, "python of the environment with diffusers; by default only ours is measured"
    )
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import functools
import math
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from benchmarks import rows
from diffusion import guidance, parameterizations, samplers, schedules, timesteps
from diffusion.models import interchange
from diffusion.models.dit import DiT, dit_preset
from diffusion.models.unet import UNet, unet_preset

SCALE = 4.0  # scale of the guidance
AGREEMENT = 1e-3  # largest difference of both programs' samples, divided by the largest number in a sample
SIDE = 2048  # side of the matrices whose product is the limit


class Case(NamedTuple):
    """A network to sample.

    Attributes:
        what: a phrase for the network, for the table.
        network: the network's module.
        shape: the shape of one sample.
        steps: the numbers of steps to measure, the least first.
    """

    what: str
    network: DiT | UNet
    shape: tuple[int, int, int]
    steps: tuple[int, ...]


CASES = {
    "dit": Case(
        "DiT-S/2, 32x32x4, guidance",
        dit_preset("S/2", 1000, frequency_shift=1, shape=(32, 32, 4)),
        (32, 32, 4),
        (20, 50),
    ),
    "unet": Case("DDPM's U-Net, 32x32x3", unet_preset("ddpm-cifar10", dropout=0.0), (32, 32, 3), (20,)),
}


def main(argv: list[str]) -> None:
    """Measures each case, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    results = []
    for name in args.cases:
        results += measured(CASES[name], args.batch_size, args.rounds, args.torch_python)
    rows.report(results, f"sampling, batch {args.batch_size}, jax {jax.__version__}, {os.cpu_count()} cores", args.out)


def measured(case: Case, batch_size: int, rounds: int, torch_python: str | None) -> list[rows.Row]:
    """The rows of one case; without the peer's Python, they have only our times and the limit."""
    start = initial(case, batch_size)
    runs = {f"ours {steps}": functools.partial(_wait, ours(case, steps), *start) for steps in case.steps}
    square = jnp.ones((SIDE, SIDE))
    runs["product"] = functools.partial(_wait, jax.jit(jnp.matmul), square, square)
    for run in runs.values():
        run()
    timed = {name: rows.seconds(run) for name, run in runs.items()}
    peer = None
    if torch_python:
        with tempfile.TemporaryDirectory() as folder:
            peer = started(torch_python, case, start, pathlib.Path(folder))
            check(case, peer, runs[f"ours {case.steps[0]}"](), pathlib.Path(folder))
        peer.ask(f"compiled {case.steps[0]}")  # the first call compiles
        lines = (*(f"compiled {steps}" for steps in case.steps), f"eager {case.steps[0]}")
        timed |= {line: functools.partial(_answer, peer, line) for line in lines}
    times = rows.interleaved(timed, rounds)
    if peer:
        peer.close()
    return table(case, batch_size, times, operations(one_call(case), *start), peer.about if peer else "")


def table(case: Case, batch_size: int, times: dict[str, tuple[float, ...]], flops: float, about: str) -> list[rows.Row]:
    """A row for each number of steps beside the compiled peer, and one for the least number beside the eager peer.

    Args:
        case: the case that was sampled.
        batch_size: the number of samples at once.
        times: the seconds of "ours STEPS", "compiled STEPS", "eager STEPS" and "product", one number for each round.
        flops: the operations of one call of the network.
        about: the peer's versions.
    """
    least = [flops / (2 * SIDE**3) * seconds for seconds in times["product"]]  # seconds of one call, by round
    results = []
    for how, steps in (*(("compiled", steps) for steps in case.steps), ("eager", case.steps[0])):
        theirs = times.get(f"{how} {steps}", ())
        if theirs or how == "compiled":
            results.append(
                rows.Row(
                    f"{case.what}, {steps} steps of {batch_size}",
                    "s",
                    False,
                    times[f"ours {steps}"],
                    f"{about}, {how}" if theirs else "",
                    theirs,
                    tuple(steps * seconds for seconds in least),
                )
            )
    return results


def initial(case: Case, batch_size: int) -> tuple[Any, jax.Array, jax.Array | None]:
    """(parameters, none of which is zero; noise; labels, None for a network without classes)."""
    x = jax.random.normal(jax.random.key(0), (batch_size, *case.shape))
    labels = jnp.arange(batch_size) if case.network.num_classes else None
    params = jax.jit(case.network.init)(jax.random.key(1), x[:1], jnp.zeros(1), None if labels is None else labels[:1])
    leaves, tree = jax.tree.flatten(params["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.02 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(tree, leaves), x, labels


def ours(case: Case, steps: int):
    """The compiled sampler, (params, x, labels) -> samples."""
    schedule = schedules.linear_beta()
    parameterization = parameterizations.epsilon(parameterizations.steps())
    grid = timesteps.linspace(schedule, steps + 1)  # diffusers too leaves the last index out
    plan = timesteps.plan(np.append(grid[:-2], 0.0))

    @jax.jit
    def sampled(params, x, labels):
        network = lambda x, clock, condition: case.network.apply({"params": params}, x, clock, condition)
        if labels is None:
            denoise = parameterizations.denoiser(network, schedule, parameterization)
        else:
            null = jnp.full_like(labels, case.network.num_classes)
            branches = guidance.together(network, schedule, parameterization, (labels, null))
            denoise = guidance.classifier_free(branches, SCALE)
        keys = jax.random.split(jax.random.key(3), len(x))
        return samplers.sample(samplers.dpmpp_2m(), denoise, schedule, x, plan, keys)

    return sampled


def one_call(case: Case):
    """The call of the network in a step, (params, x, labels) -> output; with guidance, on twice as many examples."""

    def call(params, x, labels):
        if labels is not None:
            null = jnp.full_like(labels, case.network.num_classes)
            x = jnp.concatenate([x, x])
            labels = jnp.concatenate([labels, null])
        return case.network.apply({"params": params}, x, jnp.full(len(x), 500.0), labels)

    return call


def operations(function, *args) -> int:
    """The FLOPs of the matrix products and convolutions of a function; a multiply-add counts as two.

    Products with a single column are left out, since means are written as such products.
    """

    def counted(jaxpr) -> int:
        total = 0
        for equation in jaxpr.eqns:
            out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
            if equation.primitive.name == "dot_general" and equation.outvars[0].aval.shape[-1] > 1:
                (contracted, _), _ = equation.params["dimension_numbers"]
                total += 2 * out * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            elif equation.primitive.name == "conv_general_dilated":
                kernel = equation.invars[1].aval.shape
                total += 2 * out * math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += times * sum(counted(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
        return total

    return counted(jax.make_jaxpr(function)(*args).jaxpr)


def started(python: str, case: Case, start: tuple, folder: pathlib.Path) -> rows.Peer:
    """Starts the peer's program, which reads the same network and noise from the folder."""
    params, x, labels = start
    interchange.save(folder, case.network, params)
    tensors = {"x": np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1))}
    if labels is not None:
        tensors |= {"labels": np.asarray(labels, np.int64), "scale": np.float32([SCALE])}
    safetensors.numpy.save_file(tensors, folder / "start.safetensors")
    return rows.Peer(python, "benchmarks.peers.sampling", str(folder), str(os.cpu_count()))


def check(case: Case, peer: rows.Peer, mine: jax.Array, folder: pathlib.Path) -> None:
    """Ends this process if the samples of both programs differ, since their times then do not compare."""
    peer.ask(f"write {folder / 'samples.safetensors'} {case.steps[0]}")
    theirs = np.moveaxis(safetensors.numpy.load_file(folder / "samples.safetensors")["samples"], 1, -1)
    away = np.abs(np.asarray(mine) - theirs).max() / np.abs(theirs).max()
    if not away < AGREEMENT:
        raise SystemExit(f"{case.what}: the samples of both programs differ by {away:.1e} of their largest number")
    print(f"{case.what}: the samples of both programs agree to {away:.0e} of their largest number")


def _wait(run, *args) -> jax.Array:
    return jax.block_until_ready(run(*args))


def _answer(peer: rows.Peer, line: str) -> float:
    return float(peer.ask(line))


if __name__ == "__main__":
    command_line.run(main)
