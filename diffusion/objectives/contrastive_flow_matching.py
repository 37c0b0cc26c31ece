"""Contrastive flow matching: training towards an example's velocity, and away from another example's velocity."""

import math

import jax.numpy as jnp

from diffusion.arrays.parameters import traced
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import in_blocks, noised, pairing, weigh, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.parameterizations import Clock, evaluate, velocity
from diffusion.timesteps import Density


def contrastive_flow_matching(
    density: Density, weight: float = 0.05, block: int = 2, coupling: Coupling | None = None, clock: Clock | None = None
) -> Objective:
    """Flow matching, minus a multiple of the squared error with respect to another example's target.

        loss = mean |u - (alpha' x_0 + sigma' eps)|^2 - weight mean |u - (alpha' x_0~ + sigma' eps~)|^2

    where u is evaluated at (x_t, t), and (x_0~, eps~) is the next example in the same block of consecutive examples;
    the authors' code draws any other example of the batch. The minimiser deviates from flow matching's minimiser by
    weight / (1 - weight) times its distance from the mean target, even if the condition says nothing about x_0, so the
    method is for conditional training. With a mask of padding, the second term sums over the values that are real in
    both examples. Like the first term, it is divided by the number of real values of the example itself.

    Facts:
        loss: |u - target|^2 - weight |u - another target|^2
        networks: model
        optimum: (E[target | x_t, condition] - weight E[target]) / (1 - weight)
        paper: Stoica et al. 2025, "Contrastive Flow Matching"

    Args:
        density: distribution of t.
        weight: lambda of the paper, in [0, 1).
        block: number of consecutive examples that are contrasted with each other; it divides the batch.
        coupling: `Coupling` of data and noise; if None, each x_0 keeps the noise of the batch or the drawn noise.
        clock: the time that the network "model" receives; t itself if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "positive" and "negative", each `[B]`.

    Raises:
        ValueError: if weight or block is out of range; when called, if block does not divide the batch.
    """
    if not traced(weight) and not 0 <= weight < 1:
        raise ValueError(f"contrastive_flow_matching: weight = {weight} must be in [0, 1); 0.05 in the paper")
    if block < 2:
        raise ValueError(
            f"contrastive_flow_matching: block = {block} must be at least 2, so that there are examples to contrast"
        )
    parameterization = velocity(clock)
    another = lambda x: jnp.roll(in_blocks(x, block), -1, axis=1).reshape(x.shape)

    @entry(parameterization, real=True)
    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch, coupling)
        u, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, batch.get("condition"))
        real = batch.get("real")
        # The other pair's target at this example's time. For the rectified flow, whose target does not depend on t,
        # these are the authors' shuffled targets.
        target = parameterization.target(schedule, t, x_0, eps)
        other = parameterization.target(schedule, t, *(another(a) for a in (x_0, eps)))
        # The model must not move away from the padding of the other example.
        share = importance if real is None else weigh(importance, another(real).astype(importance.dtype))
        positive = weighted_mean_square(importance, u - target)
        negative = weighted_mean_square(share, u - other)
        return positive - weight * negative, {"t": t, "positive": positive, "negative": negative}

    examples = pairing(coupling)
    examples = examples._replace(block=math.lcm(block, 1 if coupling is None else coupling.block))
    return Objective(loss, reads=Denoises(parameterization), density=density, examples=examples)
