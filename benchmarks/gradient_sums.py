"""Measures the rounding errors of sums of gradients over many chips in bfloat16.

    python -m benchmarks.gradient_sums --chips=64

Each of N chips has the gradient of its examples. A ring adds the gradients one after the other, and rounds each of the
N - 1 partial sums to bfloat16. A torus of 4 x 4 x 4 chips adds along one side after the other, with 9 roundings. The
gradients are those of a DiT whose layers are not initially zero, for 4 examples per chip, and three kinds of random
ones.

Theory: rounding to the nearest number leaves an error of r |s| in a sum s, with r = 2^-7 / sqrt(12) 0.74 = 0.0017, for
a spacing of 2^-7 in [1, 2) and numbers whose logarithms are spread evenly. If gradients are only noise, partial sums
grow as sqrt(k), and the errors of sums and values add up to r sqrt((N + 3) / 2) of the sum. If gradients are equal,
partial sums grow as k, and the errors add up to r sqrt(N / 3) as long as they are independent.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_integer("chips", 64, "number N of chips, a cube such as 8, 27 or 64")
    command_line.require_value("chips", lambda k: (k + 2) ** 3, "a cube")
    command_line.begin()

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

ROUNDING = 2**-7 / 12**0.5 * ((1 - 1 / 4) / (2 * np.log(2))) ** 0.5  # r
EXAMPLES = 4  # examples on each chip, as in a batch of 256 on 64 chips
VALUES = 50_000  # numbers in a random gradient


def rounded(x: np.ndarray) -> np.ndarray:
    """The array x, rounded to bfloat16, as float32."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def ring(parts: np.ndarray) -> np.ndarray:
    """The sum of parts [N, ...] over the first axis, one after the other; each partial sum is rounded to bfloat16."""
    total = rounded(parts[0])
    for part in parts[1:]:
        total = rounded(total + rounded(part))
    return total


def torus(parts: np.ndarray) -> np.ndarray:
    """The sum of parts [N, ...] by `ring` along the three sides of a cube of chips, one side after the other."""
    side = round(len(parts) ** (1 / 3))
    if side**3 != len(parts):
        raise ValueError(f"chips = {len(parts)}. Valid: a cube, such as 8, 27 or 64.")
    parts = parts.reshape(side, side, side, *parts.shape[1:])
    return ring(ring(ring(parts)))


def once(parts: np.ndarray) -> np.ndarray:
    """The sum of parts that are each rounded to bfloat16 once, to be sent.

    It is summed in float64; the difference from float32 is negligible beside the rounding.
    """
    return rounded(parts).sum(0, dtype=np.float64)


def error(total: np.ndarray, parts: np.ndarray) -> tuple[float, float]:
    """(|total - sum| / |sum|, the component of total - sum along the sum, divided by |sum|), for the exact sum."""
    exact = parts.sum(0, dtype=np.float64)
    left = total - exact
    return float(np.linalg.norm(left) / np.linalg.norm(exact)), float((left * exact).sum() / (exact**2).sum())


def sampling(parts: np.ndarray) -> float:
    """The standard error of the sum due to the choice of examples, |error| / |sum|.

    It says how far the gradient of another batch is from this one.
    """
    spread = parts.std(0, ddof=1, dtype=np.float64) * len(parts) ** 0.5
    return float(np.linalg.norm(spread) / np.linalg.norm(parts.sum(0, dtype=np.float64)))


def drawn(chips: int) -> dict[str, np.ndarray]:
    """Random gradients [chips, VALUES] by their kind."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((chips, VALUES), np.float32)
    signal = random.standard_normal(VALUES, np.float32)
    return {
        "noise alone": noise,
        "signal and noise, equal": signal + noise,
        "the same on every chip": signal + 0 * noise,
    }


def network_gradients(chips: int) -> np.ndarray:
    """The gradients [chips, parameters] of a DiT's flow-matching loss, EXAMPLES examples on each chip."""
    from diffusion.models.dit import DiT

    model = DiT(patch=2, width=64, depth=2, heads=4, num_classes=10)
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (EXAMPLES, 8, 8, 1)
    inputs = (jnp.zeros(shape), jnp.zeros(EXAMPLES), jnp.zeros(EXAMPLES, jnp.int32))
    params = jax.jit(model.init)(keys[0], *inputs)
    leaves, treedef = jax.tree.flatten(params)  # noise is added, since a gate of zero would hide a layer's gradient
    moved = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in
             zip(leaves, jax.random.split(keys[1], len(leaves)))]  # fmt: skip
    params = jax.tree.unflatten(treedef, moved)

    def loss(params, key):
        x_key, noise_key, t_key = jax.random.split(key, 3)
        x = jnp.tanh(jax.random.normal(x_key, (EXAMPLES, 1, 1, 1)) + jnp.linspace(-2, 2, 64).reshape(8, 8, 1))
        noise = jax.random.normal(noise_key, shape)
        t = jax.random.uniform(t_key, (EXAMPLES,))
        mixed = (1 - t[:, None, None, None]) * x + t[:, None, None, None] * noise
        return jnp.square(model.apply(params, mixed, t, jnp.arange(EXAMPLES)) - (noise - x)).mean()

    gradient = jax.jit(jax.grad(loss))
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return np.stack([flat(gradient(params, key)) for key in jax.random.split(keys[2], chips)])


def main(argv: list[str]) -> None:
    """Prints one table: the errors of each kind of sum, and the error that is due to the choice of the batch."""
    chips = flags.FLAGS.chips
    table = Table("gradients", "ring", "torus", "rounded once, then summed", "along the sum: ring, torus",
                  "of the batch")  # fmt: skip
    for name, parts in {**drawn(chips), "a DiT's, 4 examples a chip": network_gradients(chips)}.items():
        errors = [error(total(parts), parts) for total in (ring, torus, once)]
        along = ", ".join(f"{value:+.2%}" for _, value in errors[:2])
        table.add_row(name, *(f"{value:.2%}" for value, _ in errors), along, f"{sampling(parts):.0%}")
    Console(width=140).print(table)
    noise, equal = ROUNDING * ((chips + 3) / 2) ** 0.5, ROUNDING * (chips / 3) ** 0.5
    print(f"theory, ring: noise alone {noise:.2%}, equal with independent errors {equal:.2%}")


if __name__ == "__main__":
    command_line.run(main)
