"""Measures the cost of each sampler beyond the calls of the network, which run in turn as a compiled loop alone.

    python -m benchmarks.samplers
    python -m benchmarks.samplers --steps=10 --rounds=2 --width=64 --depth=2 --out=runs/samplers.json

The calls alone are the limit: a sampler that costs nothing reaches 100 % of it.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("samplers", ["dpmpp_2m", "euler", "heun", "ddpm", "unipc"], "functions of diffusion.samplers")
    flags.DEFINE_integer("steps", 50, "number of steps of each sampler")
    flags.DEFINE_integer("rounds", 15, "number of rounds, each of which measures everything in turn")
    flags.DEFINE_integer("batch_size", 8, "number of images at once")
    flags.DEFINE_integer("width", 256, "width of the DiT")
    flags.DEFINE_integer("depth", 6, "depth of the DiT")
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import functools
import os

import jax
import jax.numpy as jnp

from benchmarks import rows
from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.models.dit import DiT

SHAPE, CLASSES = (16, 16, 4), 10


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    lines = measured(args.samplers, args.steps, args.batch_size, args.width, args.depth, args.rounds)
    title = f"DiT of width {args.width} and depth {args.depth}, batch {args.batch_size}, {args.steps} steps"
    rows.report(lines, f"{title}, jax {jax.__version__}, {os.cpu_count()} cores", args.out)


def measured(names: list[str], steps: int, batch_size: int, width: int, depth: int, rounds: int) -> list[rows.Row]:
    """A row for each sampler."""
    model = DiT(patch=2, width=width, depth=depth, heads=width // 64 or 1, num_classes=CLASSES)
    x = jax.random.normal(jax.random.key(0), (batch_size, *SHAPE))
    labels = jnp.arange(batch_size) % CLASSES
    params = model.init(jax.random.key(1), x[:1], jnp.zeros(1), labels[:1])
    plan = timesteps.plan(timesteps.uniform(schedules.linear_beta(), steps))
    runs, evaluations = {}, {}
    for name in names:
        sampler = getattr(samplers, name)()
        evaluations[name] = sampler.nfe(steps)
        for part, function in (("loop", loop(sampler, model, plan)), ("calls", calls(model, evaluations[name]))):
            runs[f"{name} {part}"] = functools.partial(_wait, function, params, x, labels)
    for run in runs.values():
        run()
    times = rows.interleaved({name: rows.seconds(run) for name, run in runs.items()}, rounds)
    ms = {name: tuple(1e3 * seconds for seconds in numbers) for name, numbers in times.items()}
    return [
        rows.Row(f"{name}, {evaluations[name]} calls", "ms", False, ms[f"{name} loop"], limit=ms[f"{name} calls"])
        for name in names
    ]


def loop(sampler, model: DiT, plan):
    """The compiled sampler, (params, x, labels) -> samples."""
    schedule = schedules.linear_beta()
    parameterization = parameterizations.epsilon(parameterizations.steps())

    @jax.jit
    def sampled(params, x, labels):
        network = lambda x, clock, condition: model.apply(params, x, clock, condition)
        denoise = parameterizations.denoiser(network, schedule, parameterization, labels)
        return samplers.sample(sampler, denoise, schedule, x, plan, jax.random.split(jax.random.key(3), len(x)))

    return sampled


def calls(model: DiT, count: int):
    """`count` compiled calls of the network, one after the other: (params, x, labels) -> the last output."""

    @jax.jit
    def several(params, x, labels):
        # Each call has another time, since XLA would compute embedding and modulation of a single time only once.
        one = lambda i, x: model.apply(params, x, jnp.full(len(x), 999.0 - i), labels)
        return jax.lax.fori_loop(0, count, one, x)

    return several


def _wait(run, *args) -> jax.Array:
    return jax.block_until_ready(run(*args))


if __name__ == "__main__":
    command_line.run(main)
