"""The samplers of DDPM and DDIM, for any schedule and any pair of times."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.square_roots import root
from diffusion.samplers.ancestral import euler_ancestral
from diffusion.samplers.posterior import (
    check_eta,
    posterior_mean,
    posterior_variance,
    posterior_weight,
    transition_variance,
)
from diffusion.samplers.sample import Sampler, State, start

VARIANCES = ("small", "large", "learned", "analytic")


def ddpm(variance: str = "small", error: Callable[[Array], Array] | None = None) -> Sampler:
    """Ancestral sampling: x_s ~ N(mean of q(x_s | x_t, x0_hat), v I), with

        small = Var q(x_s | x_t, x_0) (beta tilde),    large = Var q(x_t | x_s) (beta),
        learned: v = small^(1 - f) large^f, f = `Prediction.variance`,
        analytic: v = small + (alpha_s (1 - SNR_t / SNR_s))^2 error(log-SNR_t), the best for any data.

    Facts:
        kind: stochastic
        order: weak 1; exact in any step for data at a single point with "small", for N(0, I) in a variance-preserving
            process with "large", and for N(mu, c I) with "analytic"
        nfe: steps
        accepts: any schedule; "learned" needs a network with learned variance
        paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", algorithm 2; Nichol and Dhariwal 2021, eq.
            15, for learned; Bao et al. 2022, "Analytic-DPM", theorem 1, for analytic

    Args:
        variance: "small", "large", "learned" or "analytic". The step onto t = 0 adds no noise.
        error: log-SNR -> mean squared error of the denoiser per dimension, >= 0, which "analytic" needs; see
            `denoising_error`. The paper's statistic Gamma = E |score|^2 / D is equivalent: for a perfect denoiser
            error = (sigma / alpha)^2 (1 - sigma^2 Gamma).

    Raises:
        ValueError: if the variance is unknown, "analytic" has no `error`, or another variance has one.
    """
    if variance not in VARIANCES:
        raise ValueError(f"ddpm: unknown variance {variance!r}. Valid: {', '.join(VARIANCES)}")
    if (variance == "analytic") != (error is not None):
        raise ValueError(
            f"ddpm: variance={variance!r} and error={error!r}. Valid: with 'analytic' an error as a function of the "
            "log-SNR, such as samplers.denoising_error(...); with the other variances none"
        )

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)
        mean = posterior_mean(schedule, t, s, state.x, prediction.x0)
        small = posterior_variance(schedule, t, s)
        large = transition_variance(schedule, t, s)
        if variance == "learned":
            if prediction.variance is None:
                raise ValueError(
                    "ddpm(variance='learned') needs a network with learned variance: wrap its "
                    "parameterization in learned_variance(...), or use variance='small'"
                )
            safe = jnp.where(small > 0, small, 1)  # the step to sigma(s) = 0 adds no noise
            std = safe ** ((1 - prediction.variance) / 2) * large ** (prediction.variance / 2)
        elif error is not None:  # "analytic"
            std = root(small + posterior_weight(schedule, t, s) ** 2 * error(schedule.log_snr(t)))
        else:
            std = root(small if variance == "small" else large)
        x = mean + jnp.where(schedule.sigma(s) > 0, std, 0) * noise[0]
        return State(x, prediction.x0)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps, reads_variance=variance == "learned")


def ddim(eta: float = 0.0) -> Sampler:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z,    c^2 = eta^2 Var q(x_s | x_t, x_0).

    Facts:
        kind: deterministic at eta = 0, stochastic above
        order: 1 in sigma / alpha at eta = 0, where it is Euler's method; weak 1 above, and at eta = 1 it is `ddpm`
        nfe: steps
        accepts: any schedule; plans that go up invert at eta = 0
        paper: Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16

    Args:
        eta: share of the posterior's noise, in [0, 1]; 0 is deterministic.

    Raises:
        ValueError: if eta is not in [0, 1].
    """
    check_eta("ddim", eta)
    return euler_ancestral(eta)
