"""Measures a train step and samples of masked diffusion of symbols, ours and those of a plain program in PyTorch.

    python -m benchmarks.symbols --torch_python=.venv-peers/bin/python --out=runs/bench/symbols.json
    python -m benchmarks.symbols --chunks=0,256,32     # memory at 50,000 symbols, of compiled programs that never run

The network is that of MDLM, in a size for two cores. A train step computes the masked bound and its gradient, and
applies AdamW and the moving average. A sample takes ancestral steps of one evaluation each. PyTorch runs eagerly and
with torch.compile. Before anything is timed, it receives our weights, and its logits must agree with ours to 1e-4.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_integer("rounds", 5, "number of rounds, each of which measures everything in turn")
    flags.DEFINE_string(
        "torch_python", None, "python of the environment of `make fixtures`; by default only ours is measured"
    )
    flags.DEFINE_list(
        "chunks", [], "print only the memory of the step for these numbers of positions per chunk; 0 means all"
    )
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rows
from diffusion import discrete, schedules, timesteps
from diffusion.io import leaf_names
from diffusion.models import SymbolTransformer
from diffusion.training import ema, optimizers, state
from diffusion.training.step import make_train_step

THREADS = 2  # threads of PyTorch, as many as there are cores
SIZE, LENGTH, WIDTH, DEPTH, HEADS, BATCH, STEPS = 8192, 128, 256, 4, 4, 8, 16
MANY = 50_000  # symbols of the step whose memory is read
SHAPE = f"{DEPTH} x {WIDTH}, {SIZE:,} symbols, {LENGTH} positions, batch {BATCH}"
PROCESS = discrete.absorbing(discrete.linear(), SIZE)
KEY = jax.random.key(2)
NETWORK = SymbolTransformer(SIZE, WIDTH, DEPTH, HEADS, clock="none")


def main(argv: list[str]) -> None:
    """Measures in turn, and prints one table."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    for chunk in map(int, args.chunks):
        print(f"{MANY:,} symbols, {chunk or 'all'} positions at once: {step_memory(chunk) / 1e6:,.0f} MB")
    if args.chunks:
        return
    cases = {"train": rows.seconds(train_step()), "sample": rows.seconds(samples())}
    version = ""
    if args.torch_python:
        weights = tempfile.NamedTemporaryFile(suffix=".npz")
        write_weights(weights.name)
        words = map(str, (weights.name, SIZE, LENGTH, WIDTH, DEPTH, HEADS, BATCH, STEPS, THREADS))
        peer = rows.Peer(args.torch_python, "benchmarks.peers.symbols", *words)
        version = peer.about
        if (difference := float(peer.ask("difference"))) > 1e-4:
            raise SystemExit(f"the logits of both differ by {difference:.2g}: they are not the same network")
        for what in ("train", "sample"):
            for form in ("compiled", "eager"):
                cases[f"{what} {form}"] = lambda line=f"{what} {form}": float(peer.ask(line))
                cases[f"{what} {form}"]()  # the first call compiles
    taken = rows.interleaved({name: rows.second(case) for name, case in cases.items()}, args.rounds)
    milliseconds = {name: tuple(1000 * one for one in seconds) for name, seconds in taken.items()}
    phrases = {"train": f"train step, masks, {SHAPE}", "sample": f"{STEPS} ancestral steps, {SHAPE}"}
    lines = [
        rows.Row(phrases[what], "ms", False, milliseconds[what], f"{version} {form}", milliseconds[f"{what} {form}"])
        for what in phrases
        for form in ("compiled", "eager")
        if version
    ] or [rows.Row(phrases[what], "ms", False, milliseconds[what]) for what in phrases]
    rows.report(lines, f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {args.rounds} rounds", args.out)


def write_weights(path: str) -> None:
    """Writes weights, symbols and their logits; no weight is zero, so that the logits depend on all of them."""
    x = jax.random.randint(jax.random.key(1), (2, LENGTH), 0, SIZE - 1)
    moved = lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    variables = jax.tree.map(moved, NETWORK.init(jax.random.key(0), x))
    leaves = leaf_names.leaves_of(variables["params"])
    np.savez(path, symbols=x, logits=NETWORK.apply(variables, x), **leaves)


def train_step() -> Callable[[], None]:
    """A function that does one update by the masked bound."""
    schedule = schedules.rectified_flow()
    objective = discrete.masked_diffusion(PROCESS, timesteps.uniform_density(schedule))
    optimizer, average = optimizers.adamw(1e-4, steps=1000), ema.exponential_moving_average()
    step = jax.jit(make_train_step(objective, NETWORK.apply, schedule, optimizer, average), donate_argnums=0)
    x = jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, SIZE - 1)
    carried = [state.create(NETWORK.init(jax.random.key(0), x), optimizer, average)]
    batch = {"x": x, "index": jnp.arange(BATCH)}

    def run() -> None:
        carried[0], metrics = step(carried[0], batch, jax.random.key(2))
        jax.block_until_ready(metrics)

    run()
    return run


def step_memory(chunk: int) -> int:
    """The temporary bytes of a compiled update with `MANY` symbols and logits of `chunk` positions at once.

    They include the gradients, but not the parameters, their moments or their average.
    """
    schedule = schedules.rectified_flow()
    process, network = discrete.absorbing(discrete.linear(), MANY), NETWORK.clone(size=MANY)
    objective = discrete.masked_diffusion(process, timesteps.uniform_density(schedule), chunk=chunk)
    optimizer, average = optimizers.adamw(1e-4, steps=1000), ema.exponential_moving_average()
    step = jax.jit(make_train_step(objective, network.apply, schedule, optimizer, average), donate_argnums=0)
    batch = {"x": jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32), "index": jax.ShapeDtypeStruct((BATCH,), jnp.int32)}
    begun = jax.eval_shape(lambda key, x: state.create(network.init(key, x), optimizer, average), KEY, batch["x"])
    return step.lower(begun, batch, KEY).compile().memory_analysis().temp_size_in_bytes


def samples() -> Callable[[], None]:
    """A function that draws a batch of samples."""
    masks = jnp.full((BATCH, LENGTH), PROCESS.mask)
    variables = NETWORK.init(jax.random.key(0), masks)
    plan = timesteps.plan(np.linspace(1, 0, STEPS + 1))
    network = lambda variables: lambda x, t, condition: NETWORK.apply(variables, x, t, condition)
    predict = lambda variables: discrete.predictor(network(variables), PROCESS, discrete.from_logits)
    sample = jax.jit(
        lambda variables, keys: discrete.sample(discrete.ancestral(), predict(variables), PROCESS, masks, plan, keys)
    )
    keys = jax.random.split(jax.random.key(1), BATCH)
    run = lambda: jax.block_until_ready(sample(variables, keys))
    run()
    return run


if __name__ == "__main__":
    command_line.run(main)
