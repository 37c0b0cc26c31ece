"""The samplers of DDPM and DDIM, for any schedule and any pair of times."""

import jax.numpy as jnp

from diffusion.samplers.posterior import posterior_mean, posterior_variance, transition_variance
from diffusion.samplers.sample import Sampler, State, start

VARIANCES = ("small", "large", "learned")


def ddpm(variance: str = "small") -> Sampler:
    """Ancestral sampling: x_s ~ N(mean of q(x_s | x_t, x0_hat), variance I).

    Stochastic; one evaluation a step, NFE = steps. Exact for data at a single point with "small", and as the steps
    shrink for any data with each. Ho et al. 2020, "Denoising Diffusion Probabilistic Models", algorithm 2, eq. 7.

    Args:
      variance: "small", that of the posterior q(x_s | x_t, x_0) (beta tilde); "large", that of q(x_t | x_s) (beta);
        "learned", between the two in the logarithm by `Prediction.variance` (Nichol and Dhariwal 2021, eq. 15). The
        step onto t = 0 adds no noise.

    Raises:
      ValueError: if the variance's name is unknown.
    """
    if variance not in VARIANCES:
        raise ValueError(f"ddpm: unknown variance {variance!r}; valid are {', '.join(VARIANCES)}")

    def step(state, denoise, schedule, plan, i, noise):
        t, s = plan.t[i], plan.s[i]
        prediction = denoise(state.x, t)
        mean = posterior_mean(schedule, t, s, state.x, prediction.x0)
        small, large = posterior_variance(schedule, t, s), transition_variance(schedule, t, s)
        if variance == "learned":
            if prediction.variance is None:
                raise ValueError("ddpm(variance='learned') needs a network with learned variance: wrap its "
                                 "parameterization in learned_variance(...), or use variance='small'")
            std = small ** ((1 - prediction.variance) / 2) * large ** (prediction.variance / 2)
        else:
            std = jnp.sqrt(small if variance == "small" else large)
        x = mean + jnp.where(schedule.sigma(s) > 0, std, 0) * noise[0]
        return State(x, prediction.x0)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps)


def ddim(eta: float = 0.0) -> Sampler:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z,    c^2 = eta^2 Var q(x_s | x_t, x_0).

    One evaluation a step, NFE = steps. Deterministic at eta = 0, where it is Euler's method in sigma / alpha, order 1,
    and inverts on a plan that goes up; at eta = 1 it is `ddpm`. Song et al. 2021, "Denoising Diffusion Implicit
    Models", eq. 12 and 16.

    Args:
      eta: in [0, 1].

    Raises:
      ValueError: if eta is not in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim: eta = {eta} must be in [0, 1]; 0 is deterministic, 1 is ddpm")

    def step(state, denoise, schedule, plan, i, noise):
        t, s = plan.t[i], plan.s[i]
        x0, eps = denoise(state.x, t)[:2]
        if eta == 0:
            return State(schedule.alpha(s) * x0 + schedule.sigma(s) * eps, x0)
        c_squared = eta**2 * posterior_variance(schedule, t, s)
        direction = jnp.sqrt(jnp.maximum(schedule.sigma(s) ** 2 - c_squared, 0))
        return State(schedule.alpha(s) * x0 + direction * eps + jnp.sqrt(c_squared) * noise[0], x0)

    return Sampler(start, step, draws=0 if eta == 0 else 1, nfe=lambda steps: steps)
