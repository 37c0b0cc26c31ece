"""Training on an unnormalised density without data, by the variance of the log-weights of paths."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import in_blocks
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.objective_facts import Examples
from diffusion.objectives.unnormalised_targets import Target
from diffusion.parameterizations import Parameterization, denoiser
from diffusion.samplers.path_weights import path_weights
from diffusion.timesteps import plan


def log_variance(
    parameterization: Parameterization, grid: Sequence[float], target_density: Target, group: int, data_std: float = 1.0
) -> Objective:
    """The variance of log w over the paths of a group, which is 0 if the paths follow the noised target.

        loss = K / (K - 1) (log w - mean log w)^2,    w as in `samplers.path_weights`

    The model draws the paths, through which no gradient flows. The expected gradient is twice the gradient of
    KL(model's paths | target's paths), and at the optimum it has no variance. The batch defines only the shape of
    samples. A group consists of `group` consecutive examples. The trained network is an ordinary denoiser, for any
    sampler.

    Facts:
        loss: K / (K - 1) (log w - mean log w)^2, of the K paths of a group
        networks: model
        optimum: the denoiser of the target in the limit of short steps; for N(m, data_std^2 I) in any number of steps,
            if alpha_T = 0
        paper: Richter and Berner 2024, "Improved Sampling via Learned Diffusions", the log-variance loss of the
            time-reversed diffusion sampler (DIS); Berner et al. 2024, "An Optimal Control Perspective on
            Diffusion-Based Generative Modeling"

    Args:
        parameterization: parameterization of the network "model".
        grid: `[N + 1]` times from t_max down to 0. In a config it is the grid of config.sample (grid, steps, shift).
        target_density: the density, such as `objectives.funnel()`.
        group: number K of paths that are compared, at least 2; it divides the batch.
        data_std: standard deviation of the target, > 0, from which the variance of a step is computed.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", the first time, and "log_weight",
        whose mean is a lower bound of the target's log-normaliser.

    Raises:
        ValueError: if group is below 2 or data_std is not positive; when called, if group does not divide the batch, or
            the examples do not have the shape of the target's samples.
    """
    if group < 2 or not (traced(data_std) or data_std > 0):
        raise ValueError(f"log_variance: group = {group} must be at least 2, data_std = {data_std} positive")
    steps = plan(np.asarray(grid))
    log_density, shape = target_density.log_density, target_density.shape

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        require_shape(batch["x"], (len(keys), *shape), "the examples, like the target's samples,")
        denoise = denoiser(player(networks, "model"), schedule, parameterization, batch.get("condition"))
        _, log_weights = path_weights(denoise, schedule, steps, keys, shape, log_density, data_std)
        grouped = in_blocks(log_weights, group)
        away = (grouped - grouped.mean(1, keepdims=True)).ravel()
        metrics = {"t": jnp.full(keys.shape, steps.t[0], away.dtype), "log_weight": jax.lax.stop_gradient(log_weights)}
        return group / (group - 1) * away**2, metrics

    return Objective(loss, reads=Denoises(parameterization), examples=Examples(block=group))
