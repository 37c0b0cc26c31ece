"""The variational bound on the log-likelihood in continuous time, for fixed and learned schedules."""

import functools
import math

import jax
import jax.numpy as jnp

from diffusion.arrays import padding
from diffusion.arrays.arguments import require_shape
from diffusion.arrays.parameters import traced
from diffusion.objectives.decoders import Decoder, levels
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import noised, normal, split, weigh, weighted_mean, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.objective_facts import Examples, Trained
from diffusion.objectives.weightings import error_scale
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.schedules import left_broadcast
from diffusion.schedules.noise_schedule import as_float, inside_times, prior_std
from diffusion.timesteps import Density


def variational_bound(
    parameterization: Parameterization, density: Density, t_start: float | None = None, decoder: Decoder | None = None
) -> Objective:
    """An upper bound on -log p(x_0), in bits per dimension, as the sum of three terms.

        prior           KL(q(x_{t_max} | x_0) || N(0, s^2 I))
        reconstruction  -log p(x_0 | x_{t_start})
        diffusion       -(t_max - t_start) / 2  SNR'(t) |x_0 - x0_hat(x_t, t)|^2,    t uniform in (t_start, t_max)

    Every term is differentiable in the schedule. A schedule that is built from parameters inside the loss,
    `variational_bound(...)(networks, learned(parameters), ...)`, therefore receives the bound's gradient. Between fixed
    ends, a schedule changes only the variance of the estimate, not its mean.

    Facts:
        loss: prior + reconstruction + diffusion, in bits per dimension
        networks: model
        optimum: E[target | x_t], and schedule ends that minimise the sum of the other two terms
        paper: Kingma et al. 2021, "Variational Diffusion Models", eq. 11 and 17

    Args:
        parameterization: parameterization of the network "model".
        density: density of t: timesteps.uniform_density(schedule, t_min=t_start), which is uniform in (t_start, t_max),
            or another density whose importance weights correct for the difference.
        t_start: smallest time, where sigma > 0; the schedule's t_min if None.
        decoder: (x_0, noise, sigma / alpha) -> log p(x_0 | x_{t_start}) for each number of x_0, see
            `objectives.decoders`; `decoders.levels()`, for bytes, if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "prior", "reconstruction", "diffusion", `[B]`.

    Raises:
        ValueError: when called, if sigma vanishes at t_start.
    """
    decoder = decoder or levels()

    @entry(parameterization, real=True)
    def loss(networks, schedule, keys, batch, step):
        start = schedule.t_min if t_start is None else t_start
        if not traced(start) and start <= 0:
            raise ValueError(
                f"variational_bound: at t_start = {start:g} there is no noise, and p(x_0 | x_t) has no finite "
                "density. Valid: t_start > 0, such as 1e-3"
            )
        diffusion_keys, decoder_keys = split(keys, 2)
        x_0, eps, x_t, t, importance = noised(schedule, density, diffusion_keys, batch)
        output, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, batch.get("condition"))
        inside = inside_times(schedule, t)  # at alpha = 0, the product of slope and SNR is its limit
        log_snr, slope = jax.jvp(schedule.log_snr, (inside,), (jnp.ones_like(t),))
        per_output = error_scale(schedule, inside, parameterization)
        weight = -(schedule.t_max - start) / 2 * slope * jnp.exp(log_snr) * per_output
        error = output - parameterization.target(schedule, t, x_0, eps)

        ratio = jnp.exp(-schedule.log_snr(jnp.full_like(t, start)) / 2)
        decoded = decoder(x_0, normal(decoder_keys, x_0), left_broadcast(ratio, x_0))
        require_shape(decoded, x_0.shape, "the log-probabilities of the decoder, one for each number of x,")
        share = padding.share(batch["real"], x_0) if "real" in batch else jnp.ones(len(x_0), as_float(x_0).dtype)
        terms = {
            "prior": weighted_mean(share, _prior(schedule, x_0)),
            "reconstruction": -weighted_mean(share, decoded),
            "diffusion": weighted_mean_square(weigh(importance, weight), error),
        }
        terms = {name: term / math.log(2) for name, term in terms.items()}
        return functools.reduce(jnp.add, terms.values()), {"t": t, **terms}

    return Objective(
        loss,
        reads=Denoises(parameterization),
        density=density,
        network=Trained(schedule=True),
        examples=Examples(real=True),
    )


def _prior(schedule, x_0):
    """KL(q(x_T | x_0) || N(0, s^2)) for each number, s = `prior_std`."""
    end = jnp.asarray(schedule.t_max, as_float(x_0).dtype)
    alpha = schedule.alpha(end)
    sigma = schedule.sigma(end)
    s = prior_std(schedule, end)
    return (((alpha * x_0) ** 2 + sigma**2) / s**2 - 1) / 2 - jnp.log(sigma / s)
