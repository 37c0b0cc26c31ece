"""Trains masked diffusion on characters; prints bits per character of held-out text, samples and an infilled line.

    python -m examples.symbols.characters --steps=2000

This file contains the complete program: the network, the bound, one jitted optax step, the estimate and the samplers.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_integer("steps", 2000, "number of training steps", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "number of windows per step", lower_bound=1)
    flags.DEFINE_integer("length", 96, "number of characters per window", lower_bound=8)
    flags.DEFINE_integer("width", 128, "number of features per character, a multiple of 32", lower_bound=32)
    flags.DEFINE_integer("depth", 4, "number of layers", lower_bound=1)
    flags.DEFINE_integer("windows", 200, "number of held-out windows for the estimate", lower_bound=2)
    flags.DEFINE_integer("times", 32, "number of times at which each window is masked", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of the run", lower_bound=0)
    command_line.require_multiple("width", 32)
    command_line.begin()

import functools
import lzma
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import discrete, models, timesteps
from diffusion.data import english_prose as prose
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError

MASK = len(prose.SYMBOLS)  # the last symbol
SIZE = MASK + 1
PROCESS = discrete.absorbing(discrete.linear(), SIZE)
FIRST_HITTING = discrete.first_hitting()
Loss = Callable[[Any, jax.Array, Any], jax.Array]
"""A function (params, key, batch, such as x0 int `[B, L]`) -> nats per symbol, `[B]`."""


class Estimate(NamedTuple):
    """A bound on the bits per character, as a mean over windows and times.

    Attributes:
        bits: the mean.
        error: its standard error over the windows.
    """

    bits: float
    error: float


def network_of(width: int, depth: int) -> models.SymbolTransformer:
    """A network that does not read the time, as the share of masks shows it."""
    return models.SymbolTransformer(SIZE, width, depth, heads=width // 32, clock="none", tied=True)


def predictor(
    network: nn.Module, params: Any, process: discrete.Process = PROCESS, read: discrete.Reading = discrete.from_logits
) -> discrete.Predictor:
    """The function (x_t, t) -> log p(x_0 | x_t) of a network, for masks or another process."""

    def logits(x: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
        output = network.apply({"params": params}, x, t, condition)
        assert isinstance(output, jax.Array)
        return output

    return discrete.predictor(logits, process, read)


def loss(network: models.SymbolTransformer, params: Any, key: jax.Array, x0: jax.Array) -> jax.Array:
    """The masked bound in nats per character, `[B]`, at times spread evenly over (0, 1)."""
    keys, t = keys_and_times(key, len(x0))
    return discrete.masked_bound(predictor(network, params), PROCESS, keys, x0, t) / x0.shape[1]


def keys_and_times(key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """A key for each example, and times `[B]` that are spread evenly over (0, 1)."""
    time_key, noise_key = jax.random.split(key)
    t = (jnp.arange(number) + jax.random.uniform(time_key, (number,), minval=1e-3)) / number
    return jax.random.split(noise_key, number), t


def initial(network: nn.Module, length: int, seed: int) -> Any:
    """The initial parameters of a network for texts of `length` symbols."""
    return network.init(jax.random.key(seed), jnp.zeros((1, length), jnp.int32), jnp.ones(1))["params"]


def train(params: Any, loss: Loss, draw: Callable[[np.random.Generator], Any], steps: int, seed: int) -> Any:
    """Trains parameters by AdamW on a loss in nats per symbol; prints and checks the loss about ten times.

    Args:
        params: the initial parameters.
        loss: the loss.
        draw: a function (rng) -> a batch of the loss.
        steps: the number of steps.
        seed: the seed of the batches and the noise.

    Returns:
        The trained parameters.

    Raises:
        ValueError: if a printed loss is not finite.
    """
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 2e-3, steps // 20 + 1, steps + 1), 0.9, 0.98)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, key: jax.Array, batch: Any) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(lambda params: loss(params, key, batch).mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, rng, begin = optimizer.init(params), np.random.default_rng(seed), time.monotonic()
    for i in range(steps):
        params, state, value = step(params, state, jax.random.fold_in(jax.random.key(seed + 1), i), draw(rng))
        if (i + 1) % max(steps // 10, 1) == 0:
            if not math.isfinite(value):
                raise ValueError(f"the loss of step {i + 1} is {float(value)}, so the training cannot continue")
            print(f"step {i + 1}: {float(value) / math.log(2):.3f} bits, {time.monotonic() - begin:.0f} s", flush=True)
    return params


def windows_of(text: np.ndarray, batch: int, length: int) -> Callable[[np.random.Generator], jax.Array]:
    """A function (rng) -> int32 `[batch, length]`, random windows of a text."""

    def draw(rng: np.random.Generator) -> jax.Array:
        starts = rng.integers(0, len(text) - length + 1, batch)
        return jnp.asarray(text[starts[:, None] + np.arange(length)], jnp.int32)

    return draw


def held_out_windows(text: np.ndarray, number: int, length: int) -> np.ndarray:
    """The first `number` windows of a held-out text, or all if there are fewer, int32 `[N, length]`.

    Raises:
        ConfigError: if there are fewer than two windows, as a standard error needs two.
    """
    number = min(number, len(text) // length)
    if number < 2:
        raise ConfigError(
            f"--length={length}: the held-out text has {len(text)} characters, and the estimate needs two windows. "
            f"Valid: at most {len(text) // 2}."
        )
    return text[: number * length].reshape(number, length).astype(np.int32)


def mean_bits(loss: Loss, params: Any, rows: Any, times: int) -> Estimate:
    """The mean of a bound over rows, each at evenly spread times.

    Args:
        loss: the bound in nats per symbol, which receives copies of a row and gives each its own time.
        params: the network's parameters.
        rows: a pytree of arrays `[N, ...]`, N >= 2, a batch of the loss.
        times: the number of times at which each row is noised, at least 1.

    Raises:
        ValueError: if the bound of a row is NaN.
    """
    copies = lambda leaf: jnp.broadcast_to(leaf, (times, *leaf.shape))
    one = jax.jit(lambda key, row: loss(params, key, jax.tree.map(copies, row)).mean())
    rows = jax.tree.map(jnp.asarray, rows)
    number = len(jax.tree.leaves(rows)[0])
    keys = jax.random.split(jax.random.key(0), number)
    bits = np.array([one(keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], rows)) for i in range(number)]) / math.log(2)
    if lost := int(np.isnan(bits).sum()):
        raise ValueError(
            f"the bound of {lost} of {number} rows is NaN, as the network returns values that are not finite"
        )
    return Estimate(float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(number)))


def xz_bits(text: np.ndarray) -> float:
    """Bits per character of a text that xz compresses on its own."""
    return 8 * len(lzma.compress(prose.decode(text).encode(), preset=9)) / len(text)


def infilled(
    predict: discrete.Predictor,
    line: str,
    key: jax.Array,
    start: jax.Array | int = MASK,
    process: discrete.Process = PROCESS,
    sampler: discrete.SymbolSampler = FIRST_HITTING,
) -> str:
    """Fills in the underscores of a line, and keeps its letters and spaces.

    Args:
        predict: the predictor.
        line: the line, of L lower-case letters, spaces and underscores. Any other character is filled in, too.
        key: the key of the sampler.
        start: the noise at t = 1, symbols int `[1, L]`, which is used in the gaps; masks by default.
        process: the process.
        sampler: the sampler of the gaps.
    """
    symbols = encoded(line)[None]
    known = symbols >= 0
    infilling = discrete.infilling(sampler, jnp.where(known, symbols, 0), known)
    plan = timesteps.plan(np.linspace(1, 0, len(line) + 1))
    x = jnp.where(known, symbols, start)
    return decoded(discrete.sample(infilling, predict, process, x, plan, key[None])[0])


def sampled(
    sampler: discrete.SymbolSampler,
    predict: discrete.Predictor,
    process: discrete.Process,
    keys: jax.Array,
    length: int,
    steps: int,
) -> jax.Array:
    """Draws samples int `[B, length]` of a process, each from its own key `[B]`, on an even grid of steps."""
    first, keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    plan = timesteps.plan(np.linspace(1, 0, steps + 1))
    return discrete.sample(sampler, predict, process, discrete.prior(process, first, (length,)), plan, keys)


def encoded(line: str) -> jax.Array:
    """The symbols of a line, int `[L]`; -1 for any character except lower-case letters and spaces."""
    return jnp.asarray([prose.SYMBOLS.find(letter) for letter in line])


def decoded(symbols: jax.Array) -> str:
    """The line of symbols int `[L]`."""
    return prose.decode(np.asarray(symbols))


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    data = prose.read()
    rows = held_out_windows(data.held_out, values.windows, values.length)
    print(f"{len(data.train):,} characters to train on, {len(data.held_out):,} held out, of {data.versions}")
    network = network_of(values.width, values.depth)
    masked_loss = functools.partial(loss, network)
    windows = windows_of(data.train, values.batch, values.length)
    params = initial(network, values.length, values.seed)
    params = train(params, masked_loss, windows, values.steps, values.seed)

    held_out = rows.ravel()
    bits = mean_bits(masked_loss, params, rows, values.times)
    counts = np.bincount(data.train, minlength=SIZE - 1) / len(data.train)
    print(f"held out: at most {bits.bits:.3f} +- {bits.error:.3f} bits per character (masked bound in continuous time, "
          f"{len(rows)} windows of {values.length}, {values.times} times each)")  # fmt: skip
    print(f"for comparison: {-np.log2(counts[held_out]).mean():.3f} by the frequencies of the letters, "
          f"{xz_bits(held_out):.3f} by xz")  # fmt: skip

    predict = predictor(network, params)
    masked = jnp.full((2, values.length), MASK)
    keys = jax.random.split(jax.random.key(values.seed + 2), 2)
    for bound in (8.0, 0.0):
        x, evaluations = discrete.until_unmasked(discrete.low_entropy(bound), predict, PROCESS, masked, keys)
        for row, number in zip(np.asarray(x), np.asarray(evaluations)):
            print(f"at most {bound} nats of dependence, {number} evaluations: {decoded(row)}")
    line = "the function returns an array of the ______ ____ as the _____ of the matrix"
    print(f"infilled: {line}\n          {infilled(predict, line, jax.random.key(values.seed + 3))}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
