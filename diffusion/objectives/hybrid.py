"""Improved DDPM's hybrid objective, for networks that also predict the variance of each step."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import mean_square, noised, output_weight
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, Prediction, evaluate, learned_variance
from diffusion.samplers.posterior import posterior_mean, posterior_variance, transition_variance
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density


def hybrid(
    parameterization: Parameterization,
    density: Density,
    T: int = 1000,
    vlb_weight: float = 1.0,
    weighting: Weighting | None = None,
) -> Objective:
    """The simple loss on the first half of the channels, plus a term of the variational bound for the second half.

        loss = v(t) mean |output - target|^2 + vlb_weight L_t
        L_t = KL(q(x_s | x_t, x_0) || p(x_s | x_t))    for s = t - 1/T > 0
        L_t = -log p(x_0 | x_t)                        for s = 0

    L_t is in bits per dimension, and no gradient flows through its mean. The paper's lambda is vlb_weight / T; DiT's
    code gives weight 1 to L_t, which is one of the T terms of the bound. The term for s = 0 discretises a Gaussian over
    the 256 levels of data in [-1, 1] (Ho et al. 2020, eq. 13).

    Facts:
        loss: |output - target|^2 + vlb_weight L_t
        networks: model, with 2 C channels
        optimum: E[target | x_t], and the variance of q(x_s | x_t)
        paper: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 16

    Args:
        parameterization: parameterization of the first C of the network's 2 C channels.
        density: distribution of t over the times (i + 1) / T.
        T: number of steps of the discrete process.
        vlb_weight: weight of the bound's term, >= 0.
        weighting: (schedule, t) -> weight on the squared error of x0, from which v(t), the weight on the squared error
            of the output, is computed; None for v = 1, as published. MDTv2 uses `min_snr`.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "mse" and "vlb", each `[B]`.
    """
    both = learned_variance(parameterization)

    @entry(both)
    def loss(networks, schedule, keys, batch, step):
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
        output, t = evaluate(player(networks, "model"), schedule, both, x_t, t, batch.get("condition"))
        prediction = both.to_prediction(schedule, t, x_t, output)
        mean_output = jnp.split(output, 2, axis=-1)[0]
        mse = mean_square(mean_output - parameterization.target(schedule, t, x_0, eps))
        if weighting is not None:
            mse = output_weight(weighting, schedule, t, parameterization) * mse
        frozen = Prediction(*jax.lax.stop_gradient(prediction[:2]), prediction.variance)
        vlb = bound_term(schedule, t, x_0, x_t, frozen, T)
        return importance * (mse + vlb_weight * vlb), {"t": t, "mse": mse, "vlb": vlb}

    return Objective(loss, reads=Denoises(both), density=density)


def bound_term(schedule, t, x_0, x_t, prediction: Prediction, T: int):
    """The term of the variational bound for the step from t to t - 1/T.

    Args:
        schedule: a discrete process of T steps.
        t: `[B]` times (i + 1) / T.
        x_0: `[B, ...]` clean data in [-1, 1], on 256 levels if the first step's term is to be a likelihood.
        x_t: `[B, ...]` noised data.
        prediction: the network's prediction, with a variance.
        T: number of steps.

    Returns:
        `[B]`, in bits per dimension.

    Raises:
        ValueError: if the prediction has no variance.
    """
    s = jnp.maximum(jnp.round(t * T) - 1, 0) / T
    first = s == 0
    # The true posterior of the first step has variance 0; the authors' code uses the second step's variance instead.
    smallest = jnp.where(first, posterior_variance(schedule, 2 / T, 1 / T), posterior_variance(schedule, t, s))
    low = left_broadcast(jnp.log(smallest), x_t)
    high = left_broadcast(jnp.log(transition_variance(schedule, t, s)), x_t)
    if prediction.variance is None:
        raise ValueError("hybrid needs a learned variance: wrap the network's parameterization in learned_variance")
    log_var = low + prediction.variance * (high - low)
    mean = posterior_mean(schedule, t, s, x_t, prediction.x0)
    true_mean = posterior_mean(schedule, t, s, x_t, x_0)
    kl = 0.5 * (log_var - low - 1 + jnp.exp(low - log_var) + (true_mean - mean) ** 2 * jnp.exp(-log_var))
    nll = -discretized_gaussian_log_likelihood(x_0, mean, 0.5 * log_var)
    return jnp.mean(jnp.where(left_broadcast(first, x_t), nll, kl), axis=tuple(range(1, x_0.ndim))) / math.log(2)


def discretized_gaussian_log_likelihood(x, mean, log_std):
    """Log-probability of x on the 256 levels of [-1, 1] under N(mean, e^(2 log_std)). Ho et al. 2020, eq. 13.

    Args:
        x: values -1 + 2 k / 255 with k = 0 .. 255, of any shape.
        mean: means, in the shape of x.
        log_std: logarithms of the standard deviations, in the shape of x.

    Returns:
        Log-probabilities in nats, in the shape of x.
    """
    inv_std = jnp.exp(-log_std)
    # By symmetry the probability is the difference of the two tails on the far side, which avoids cancellation.
    distance = jnp.abs(x - mean)
    log_near = log_ndtr((1 / 255 - distance) * inv_std)
    log_far = log_ndtr((-1 / 255 - distance) * inv_std)
    inside = log_near + jnp.log(-jnp.expm1(jnp.minimum(log_far - log_near, -1e-6)))
    # An outermost level also contains the tail beyond it.
    highest = log_ndtr((mean - x + 1 / 255) * inv_std)
    lowest = log_ndtr((x + 1 / 255 - mean) * inv_std)
    return jnp.where(x > 0.999, highest, jnp.where(x < -0.999, lowest, inside))
