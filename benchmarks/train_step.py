"""Measures the whole train step of two DiTs, PyTorch's step, and the machine's limit, a large matrix product.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --torch_python=.venv-peers/bin/python --out=runs/bench/train_step.json

A step does flow matching, AdamW and the moving average in float32. Our step, PyTorch's (the same network in plain code,
benchmarks/peers/dit.py, eager and with torch.compile) and the limit are measured in turn. The FLOPs of a step are three
times those of the forward pass, by the formula of diffusion.models.budget.flops.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_integer("rounds", 5, "number of rounds, each of which measures everything in turn")
    flags.DEFINE_integer("batch_size", 16, "batch size of the DiT-S/2")
    flags.DEFINE_integer("accumulate", 0, "number of micro-batches of the DiT-S/2; 0 for the number that a run takes")
    flags.DEFINE_string(
        "torch_python", None, "python of the environment of `make fixtures`; by default only ours is measured"
    )
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import jax
import jax.numpy as jnp

from benchmarks import rows
from diffusion import objectives, schedules, timesteps
from diffusion.models.budget.flops import flops
from diffusion.models.dit import DiT, dit_preset
from diffusion.training import ema, micro_batches, optimizers, sharding, state
from diffusion.training.step import make_train_step

THREADS = 2  # threads of PyTorch, as many as there are cores


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    small = dit_preset("S/2", num_classes=1000)
    demo = DiT(patch=2, width=128, depth=4, heads=4, num_classes=10)
    limit, limit_work = matmul(2048, 3)
    parts = args.accumulate or chosen(args.batch_size)
    run, work = train_step(small, (32, 32, 4), args.batch_size, parts)
    demo_run, demo_work = train_step(demo, (8, 8, 1), 64, chosen(64))
    cases = {"limit": rows.seconds(limit), "ours": rows.seconds(run), "demo": rows.seconds(demo_run)}
    peer = None
    if args.torch_python:
        peer = rows.Peer(args.torch_python, "benchmarks.peers.train_step", str(small.width), str(small.depth),
                         str(small.heads), str(args.batch_size), str(THREADS))  # fmt: skip
        for form in ("compiled", "eager"):
            cases[form] = lambda form=form: float(peer.ask(form))
            cases[form]()  # the first call compiles
    seconds = rows.interleaved({name: rows.second(case) for name, case in cases.items()}, args.rounds)
    rate = lambda name, amount: tuple(amount / taken for taken in seconds[name])
    images = [name for name in ("compiled", "eager") if name in seconds]
    peak = rate("limit", limit_work / 1e9)
    what = f"train step, DiT-S/2, 32x32x4, batch {args.batch_size} in {parts} micro-batches"
    lines = [
        rows.Row(what, "GFLOP/s", True, rate("ours", work / 1e9), limit=peak, note="limit: 2048^3 matrix product"),
        rows.Row("train step, digits DiT, 8x8x1, batch 64", "GFLOP/s", True, rate("demo", demo_work / 1e9), limit=peak),
    ]
    for form in images:
        lines.append(
            rows.Row(
                what,
                "images/s",
                True,
                rate("ours", args.batch_size),
                f"{peer.about} {form}",
                rate(form, args.batch_size),
            )
        )
    rows.report(lines, f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {args.rounds} rounds", args.out)


def chosen(batch_size: int) -> int:
    """The number of micro-batches that a run takes on one device of this machine."""
    return micro_batches.number(batch_size, sharding.make_mesh({"data": 1}, jax.devices()[:1]))


def matmul(size: int, count: int, dtype: str = "float32"):
    """(run, FLOPs) of a chain of square matrix products."""
    a = (jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(dtype)
    chain = products(count)
    jax.block_until_ready(chain(a))
    return lambda: jax.block_until_ready(chain(a)), 2 * size**3 * count


def products(count: int):
    """The compiled chain of `count` products, a -> a^(count + 1)."""
    return jax.jit(lambda a: jax.lax.fori_loop(0, count, lambda i, x: x @ a, a))


def train_step(model: DiT, shape: tuple[int, ...], batch_size: int, accumulate: int = 1):
    """(run, FLOPs) of one update by flow matching."""
    schedule = schedules.rectified_flow()
    density = timesteps.uniform_density(schedule)
    optimizer = optimizers.adamw(1e-4, steps=1000)
    average = ema.exponential_moving_average()
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
    command_line.run(main)
