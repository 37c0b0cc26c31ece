"""Adjoint sampling: adjoint matching for an unnormalised density, with one gradient of the density per sample."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.inputs import normal, split, times, weigh, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.replay_buffer import draw, replay_buffer
from diffusion.objectives.rollouts import rollouts
from diffusion.objectives.unnormalised_targets import Target
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, predict
from diffusion.samplers.ddpm import ddpm
from diffusion.schedules import at_each, left_broadcast
from diffusion.timesteps import Density


def adjoint_sampling(
    parameterization: Parameterization,
    weighting: Weighting,
    density: Density,
    grid: Sequence[float],
    target_density: Target,
    data_std: float = 1.0,
    noises: int = 4,
    buffer: int = 0,
    every: int = 1,
    max_norm: float = float("inf"),
) -> Objective:
    """Regresses the model's x0 on the gradient of log gamma at its own samples, which are noised afresh.

        loss = w(t) |x0 - (alpha r^2 / sigma^2) x_t - r^2 (grad log gamma(x_0) + x_0 / s^2)|^2,
        x_t = alpha x_0 + sigma eps,    1 / r^2 = 1 / s^2 + alpha^2 / sigma^2

    This is adjoint matching with the reference data N(0, s^2 I) and the reward log gamma + |x_0|^2 / (2 s^2), for which
    the lean adjoint is linear and has this closed form. The model generates x_0 by ancestral sampling. The reciprocal
    projection then draws x_t from q(x_t | x_0), which is also the optimum's distribution, so the trajectory to x_0 is
    not needed and one gradient of log gamma serves several noises. With a buffer it also serves several training steps:
    the model generates samples at the steps 0, every, 2 every, ..., and the other steps draw from the `buffer` newest
    samples. The batch defines only the shape of x_0.

    The vector grad log gamma(x_0) + x_0 / s^2 is clipped to the length `max_norm`, as in the paper's code. Where log
    gamma falls faster than quadratically, training without this limit diverges: a sample that lies too far out is sent
    even further out on the other side. The optimum is the target's denoiser only if no vector is clipped there.

    Facts:
        loss: w(t) |x0 - (alpha r^2 / sigma^2) x_t - r^2 (grad log gamma(x_0) + x_0 / s^2)|^2
        networks: model
        optimum: the denoiser of the target, in the limit of small steps
        paper: Havens et al. 2025, "Adjoint Sampling: Highly Scalable Diffusion Samplers via Adjoint Matching",
            reciprocal adjoint matching and algorithm 1

    Args:
        parameterization: parameterization of the network "model".
        weighting: (schedule, t) -> weight on the squared difference of x0.
        density: density of the training times.
        grid: `[N + 1]` times from t_max down to 0. In a config it is the grid of config.sample (grid, steps, shift).
        target_density: the density gamma, such as `objectives.funnel()`.
        data_std: standard deviation s of the reference's data, > 0.
        noises: number of noise draws for each sample, all at one time, at least 1.
        buffer: number of samples that are stored with their gradients, at least 1; or 0, with every = 1, to store none.
        every: number of steps from one batch of new samples to the next, at least 2 with a buffer, and 1 without.
        max_norm: largest length of grad log gamma(x_0) + x_0 / s^2 along the last axis, > 0; 50 in the paper's code,
            where this axis holds the coordinates of one atom.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", and "log_density" of the
        samples.

    Raises:
        ValueError: if an argument is out of range; when called, if the grid does not lead from t_max to 0, or the
            examples do not have the shape of the target's samples.
    """
    if noises < 1 or not (traced(data_std) or data_std > 0):
        raise ValueError(f"adjoint_sampling: noises = {noises} must be at least 1, data_std = {data_std} positive")
    if not traced(max_norm) and not max_norm > 0:
        raise ValueError(f"adjoint_sampling: max_norm = {max_norm} must be positive")
    if every < 1 or buffer < 0 or (buffer > 0) != (every > 1):
        raise ValueError(
            f"adjoint_sampling: buffer = {buffer} and every = {every} do not go together. Valid: buffer >= 1 and "
            "every >= 2; or buffer = 0 and every = 1, without stored samples"
        )
    log_density, shape = target_density.log_density, target_density.shape
    number = jax.ShapeDtypeStruct((), jnp.float32)
    sample = jax.ShapeDtypeStruct(shape, jnp.float32)
    replay = replay_buffer({"x": sample, "pull": sample, "log_density": number}, buffer, every) if buffer else None

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        require_shape(batch["x"], (len(keys), *shape), "the examples, like the target's samples,")
        condition = batch.get("condition")
        path_keys, time_keys, *noise_keys = split(keys, 2 + noises)
        network = player(networks, "model")
        model = frozen(networks, "model")

        def samples():
            x_0 = rollouts(model, schedule, parameterization, grid, ddpm(), path_keys, shape, condition)[-1]
            values, back = jax.vjp(log_density, x_0)
            pull = back(jnp.ones_like(values))[0] + x_0 / data_std**2
            length = jnp.linalg.norm(pull, axis=-1, keepdims=True)
            long = length > max_norm
            pull = jnp.where(long, max_norm / jnp.where(long, length, 1), 1) * pull
            return {"x": x_0, "pull": pull, "log_density": values}

        if replay and "buffer" in batch:
            used = jax.lax.cond(step % every == 0, samples, lambda: draw(batch["buffer"], path_keys))
        else:
            used = samples()
        x_0, pull = used["x"], used["pull"]
        t, importance = (at_each(schedule, value, x_0) for value in times(density, time_keys, batch))
        alpha, sigma = (left_broadcast(f(t), x_0) for f in (schedule.alpha, schedule.sigma))
        spread = (alpha * data_std) ** 2 + sigma**2
        weight = weigh(importance, weighting(schedule, t))

        def error(noise_keys):
            x_t = alpha * x_0 + sigma * normal(noise_keys, x_0)
            aim = data_std**2 / spread * (alpha * x_t + sigma**2 * pull)
            return weighted_mean_square(
                weight, predict(network, schedule, parameterization, x_t, t, condition).x0 - aim
            )

        losses = jnp.stack([error(one) for one in noise_keys])
        metrics: dict[str, Any] = {"t": t, "log_density": used["log_density"]}
        if replay:
            metrics["buffer"] = used
        return losses.mean(0), metrics

    return Objective(loss, reads=Denoises(parameterization), density=density, buffer=replay)
