"""Adjoint sampling: adjoint matching toward an unnormalised density, with one gradient of it for each sample."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.arrays.arguments import require_shape
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
    """The gradient of log gamma at a sample of the model is regressed on, from fresh noise on this sample.

        loss = w(t) |x0 - (alpha r^2 / sigma^2) x_t - r^2 (grad log gamma(x_0) + x_0 / s^2)|^2,
        x_t = alpha x_0 + sigma eps,    1 / r^2 = 1 / s^2 + alpha^2 / sigma^2

    It is adjoint matching whose reference has the data N(0, s^2 I) and the reward log gamma + |x_0|^2 / (2 s^2): the
    lean adjoint is linear there and has this closed form. The reciprocal projection draws x_t from q(x_t | x_0), which
    the optimum keeps. The path to x_0 is then forgotten, and one gradient of gamma serves several noises. With a
    buffer it also serves several steps: the model makes samples at the steps 0, every, 2 every, ..., and the steps
    between draw from the `buffer` newest ones. The model makes x_0 by ancestral sampling. A batch gives the shape of
    x_0 alone.

    The vector grad log gamma(x_0) + x_0 / s^2 is shortened to `max_norm` where it is longer, as the paper's code does.
    Where log gamma falls like a power of x above the second, a training without this limit diverges: a sample too far
    out is sent further out on the other side. The optimum is the target's denoiser only as far as no vector is
    shortened there.

    Facts:
        loss: w(t) |x0 - (alpha r^2 / sigma^2) x_t - r^2 (grad log gamma(x_0) + x_0 / s^2)|^2
        networks: model
        optimum: the denoiser of the target, up to the length of the steps
        paper: Havens et al. 2025, "Adjoint Sampling: Highly Scalable Diffusion Samplers via Adjoint Matching",
            reciprocal adjoint matching and algorithm 1

    Args:
        parameterization: parameterization of the network "model".
        weighting: (schedule, t) -> weight on the squared difference of x0.
        density: density of the training times.
        grid: `[N + 1]` times from t_max down to 0. In a config it is the grid of config.sample (grid, steps, shift).
        target_density: the density, such as `objectives.funnel()`.
        data_std: standard deviation s of the reference's data, > 0.
        noises: number of noises on each sample, at one time, at least 1.
        buffer: number of samples that are kept with their gradients, at least 1 if every > 1; 0 keeps none.
        every: number of steps from one batch of new samples to the next, at least 1.
        max_norm: largest length of grad log gamma(x_0) + x_0 / s^2 along the last axis, > 0; 50 in the paper's code,
            where this axis holds the coordinates of one atom.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", and "log_density" of the
        samples.

    Raises:
        ValueError: for a number that is out of range; when called, for examples of another shape than the target's.
    """
    if noises < 1 or not data_std > 0:
        raise ValueError(f"adjoint_sampling: noises = {noises} must be at least 1, data_std = {data_std} positive")
    if not max_norm > 0:
        raise ValueError(f"adjoint_sampling: max_norm = {max_norm} must be positive")
    if every < 1 or buffer < 0 or (buffer > 0) != (every > 1):
        raise ValueError(
            f"adjoint_sampling: buffer = {buffer} and every = {every} do not go together. Valid: buffer >= 1 and "
            "every >= 2, or 0 and 1"
        )
    log_density, shape = target_density.log_density, target_density.shape
    number = jax.ShapeDtypeStruct((), jnp.float32)
    sample = jax.ShapeDtypeStruct(shape, jnp.float32)
    replay = replay_buffer({"x": sample, "pull": sample, "log_density": number}, buffer, every) if buffer else None

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        require_shape(batch["x"], (len(keys), *shape), "examples of the shape of the target's samples")
        condition = batch.get("condition")
        path_keys, time_keys, *noise_keys = split(keys, 2 + noises)
        network = player(networks, "model")
        model = frozen(networks, "model")

        def samples():
            x_0 = rollouts(model, schedule, parameterization, grid, ddpm(), path_keys, shape, condition)[-1]
            values, back = jax.vjp(log_density, x_0)
            pull = back(jnp.ones_like(values))[0] + x_0 / data_std**2
            length = jnp.linalg.norm(pull, axis=-1, keepdims=True)
            pull = jnp.where(length > max_norm, max_norm / length, 1) * pull
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
