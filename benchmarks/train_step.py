"""The train step of two DiTs beside the machine's own limit, a large matrix product, interleaved in one run.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --rounds=3 --batch_size=8

Prints, for each, the median time with its range, and the share of the limit's FLOP/s that the forward and backward
pass reach (three times the forward pass's, by the formula of diffusion.models.flops).
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from diffusion import objectives, schedules, timesteps
from diffusion.models.dit import DiT, dit_preset
from diffusion.models.flops import flops
from diffusion.training import ema, optimizers, state
from diffusion.training.step import make_train_step

ROUNDS = flags.DEFINE_integer("rounds", 5, "how often everything is measured in turn")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "of the DiT-S/2")


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX tells of backends that are not there
    demo = DiT(patch=2, width=128, depth=4, heads=4, num_classes=10, unroll=4)
    cases = {
        "matrix products, 2048^3, ten": matmul(2048, 10),
        "digits DiT, 8x8x1, batch 128": train_step(demo, (8, 8, 1), 128),
        f"DiT-S/2, 32x32x4, batch {BATCH_SIZE.value}": train_step(
            dit_preset("S/2", num_classes=1000), (32, 32, 4), BATCH_SIZE.value
        ),
    }
    seconds = {name: [] for name in cases}
    for _ in range(ROUNDS.value):
        for name, (run, _) in cases.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    rates = {name: cases[name][1] / np.median(taken) / 1e9 for name, taken in seconds.items()}
    limit = next(iter(rates.values()))
    table = Table("what", "median ms", "range ms", "GFLOP/s", "of the limit")
    for name, taken in seconds.items():
        ms = 1e3 * np.array(taken)
        table.add_row(name, f"{np.median(ms):.0f}", f"{ms.min():.0f} to {ms.max():.0f}", f"{rates[name]:.0f}",
                      f"{rates[name] / limit:.0%}")
    Console().print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {ROUNDS.value} rounds", table)


def matmul(size: int, count: int):
    """(run, FLOPs) of a chain of square float32 matrix products."""
    a = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, count, lambda i, x: x @ a, a))
    jax.block_until_ready(chain(a))
    return lambda: jax.block_until_ready(chain(a)), 2 * size**3 * count


def train_step(model: DiT, shape: tuple[int, ...], batch_size: int, accumulate: int = 1):
    """(run, FLOPs) of one update by flow matching."""
    schedule = schedules.rectified_flow()
    density = timesteps.uniform_density(schedule)
    optimizer, average = optimizers.adamw(1e-4, steps=1000), ema.exponential_moving_average()
    step = jax.jit(
        make_train_step(
            objectives.flow_matching(density), model.apply, schedule, optimizer, average, accumulate=accumulate
        ),
        donate_argnums=0,
    )
    params = model.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    carried = [state.create(params, optimizer, average)]
    batch = {
        "x": jax.random.normal(jax.random.key(1), (batch_size, *shape)),
        "condition": jnp.arange(batch_size) % model.num_classes,
        "index": jnp.arange(batch_size),
    }

    def run():
        carried[0], metrics = step(carried[0], batch, jax.random.key(2))
        jax.block_until_ready(metrics)

    run()
    return run, 3 * batch_size * flops(model, shape)


if __name__ == "__main__":
    app.run(main)
