"""What the samples of a row cost: evaluations, operations, and the hours of a device."""

from typing import NamedTuple

from diffusion.experiments.planning.machines import MACHINES, product_rate
from diffusion.experiments.run.networks import flops_of
from diffusion.experiments.zoo import checkpoint_file
from diffusion.recipe.recipe import Recipe

UTILISATION = 0.4  # assumed share of the peak; not a measurement


class Cost(NamedTuple):
    """The cost of all samples of a row, by its network alone: the autoencoder and the features come on top.

    Attributes:
        evaluations: the number of evaluations of the network for a sample; guidance doubles it.
        flops: operations in one evaluation of one sample.
        seconds: time of the machine, at UTILISATION of its peak, which is half of bfloat16's for float32
            (TensorFloat-32).
    """

    evaluations: int
    flops: int
    seconds: float


def cost(recipe: Recipe, number: int, machine: str = "h100") -> Cost:
    """The cost of `number` samples; nothing is computed.

    Args:
        recipe: the row's recipe.
        number: the number of samples.
        machine: a key of `MACHINES`.
    """
    branches = 1 if recipe.examples.null is None or recipe.scale == 1 else 2
    evaluations = branches * recipe.sampling.sampler.nfe(recipe.sampling.plan.solved)
    flops = flops_of(recipe.network, checkpoint_file.shapes(recipe), recipe.examples.shape, recipe.examples.null)
    rate = UTILISATION * product_rate(MACHINES[machine], recipe.config.train.dtype)
    return Cost(evaluations, flops, number * evaluations * flops / rate)
