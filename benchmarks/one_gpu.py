"""Estimates the least memory and time of the recipes for one card, without a card: the table of docs/scale.md.

    python -m benchmarks.one_gpu
    python -m benchmarks.one_gpu --only=imagenet256_dit:b4

The operations are the products and convolutions in the network's trace, counted three times for a forward and backward
pass. The least hours are the time of these operations at the bfloat16 peak of the data sheet, for all images of the
run, without sampling. The memory holds the state (weights, AdamW's moments, average and gradients in float32, a copy of
the weights in bfloat16) and the residuals of a micro-batch, which the backward pass needs. It is an estimate, since XLA
fuses operations and needs memory for temporaries.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("only", [], "recipes of the table to print; by default all")
    command_line.begin()

from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion.experiments.evaluation import report
from diffusion.experiments.planning.machines import MACHINES
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.recipe import recipes, unknown
from diffusion.recipe.parts import Resolver

CARDS = {"24gb": "rtx4090", "80gb": "h100"}  # {memory: a card with this memory}
RUNS = (  # (recipe and preset, card)
    ("cifar10_flow", "24gb"),
    ("cifar10_flow", "80gb"),
    ("cifar10_edm:one_24gb", "24gb"),
    ("cifar10_edm:one_80gb", "80gb"),
    ("imagenet64_edm:one_24gb", "24gb"),
    ("imagenet64_edm:one_80gb", "80gb"),
    ("imagenet256_dit:b4", "24gb"),
    ("imagenet256_dit:b4", "80gb"),
)
STATE_BYTES = 4 * 5 + 2  # bytes per parameter: weight, two moments, average and gradient; and a copy in bfloat16
HEADER = ("recipe", "card", "batch", "memory, about", "training, GFLOP per image", "least hours")


class Network(NamedTuple):
    """The size of a network.

    Attributes:
        parameters: the number of parameters.
        flops: the operations of the forward pass of one image.
        residuals: the bytes of one image that the forward pass stores for the backward pass.
    """

    parameters: int
    flops: int
    residuals: int


def network_of(config) -> Network:
    """Counts a recipe's network in its trace; nothing is computed."""
    network = Resolver(config).model()
    shape = tuple(config.data.shape)

    def inputs(batch):
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32) if config.model.num_classes else None
        return (jax.ShapeDtypeStruct((batch, *shape), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.float32), labels)

    params = jax.eval_shape(network.init, jax.random.key(0), *inputs(1))

    def kept_bytes(batch):
        backward = lambda params, *inputs: jax.vjp(lambda params: network.apply(params, *inputs), params)[1]
        leaves = jax.tree.leaves(jax.eval_shape(backward, params, *inputs(batch)))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Network(parameters, counted_flops(network.apply, params, *inputs(1)), kept_bytes(2) - kept_bytes(1))


def least_hours(flops: float, images: float, peak: float) -> float:
    """The least hours in which a device can train on the images of a run.

    Args:
        flops: the operations of the forward pass of one image.
        images: the number of images of the run.
        peak: the operations per second of the device.
    """
    return 3 * flops * images / peak / 3600


def row(name: str, card: str) -> tuple[str, ...]:
    """The line of a recipe on a card."""
    config, machine = recipes.load(name), MACHINES[CARDS[card]]
    network, train = network_of(config), config.train
    parts = max(train.accumulate, 1)
    memory = STATE_BYTES * network.parameters + network.residuals * train.batch_size // parts
    hours = least_hours(network.flops, train.steps * train.batch_size, machine.flops)
    batch = f"{train.batch_size}" if parts == 1 else f"{train.batch_size} in {parts} x {train.batch_size // parts}"
    return (
        f"`{name}`",
        f"{CARDS[card]}, {machine.memory / 1e9:.0f} GB",
        batch,
        f"{memory / 1e9:.0f} GB",
        f"{3 * network.flops / 1e9:.1f}",
        f"{hours:.1f}" if hours < 100 else f"{hours:,.0f}",
    )


def main(argv: list[str]) -> None:
    """Prints the table."""
    names = {name for name, _ in RUNS}
    only = flags.FLAGS.only or names
    for name in only:
        if name not in names:
            raise unknown("--only", name, names, "recipe")
    print(report.table(HEADER, [row(name, card) for name, card in RUNS if name in only]))


if __name__ == "__main__":
    command_line.run(main)
