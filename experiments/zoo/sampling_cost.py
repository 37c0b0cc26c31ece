"""What the samples of a row cost: evaluations, operations, and the hours of a device."""

from typing import NamedTuple

from diffusion.experiments.planning.machines import MACHINES
from diffusion.experiments.zoo import checkpoint_file
from diffusion.models.budget.counted_flops import counted_flops
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
    flops = counted_flops(recipe.network.apply, checkpoint_file.shapes(recipe), *checkpoint_file.arguments(recipe))
    rate = UTILISATION * MACHINES[machine].flops * (1.0 if recipe.config.train.dtype == "bfloat16" else 0.5)
    return Cost(evaluations, flops, number * evaluations * flops / rate)
