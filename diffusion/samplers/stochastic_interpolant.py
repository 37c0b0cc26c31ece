"""The reverse stochastic differential equation with any amount of noise, by the Euler-Maruyama method."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.arrays.square_roots import root
from diffusion.parameterizations import derivatives
from diffusion.samplers.posterior import posterior_mean, posterior_variance
from diffusion.samplers.sample import Sampler, State, start
from diffusion.schedules import NoiseSchedule

Diffusion = Callable[[NoiseSchedule, ArrayLike], Array]
"""(schedule, t) -> the strength w(t) of the noise."""

DIFFUSIONS: dict[str, Diffusion] = {
    "sigma": lambda schedule, t: 2 * schedule.sigma(t),
    "constant": lambda schedule, t: 2 * jnp.ones_like(t),
    "linear": lambda schedule, t: 2 * jnp.asarray(t),
    "decreasing": lambda schedule, t: (1 - jnp.cos(jnp.pi * jnp.asarray(t))) ** 2 / 2,
    "increasing-decreasing": lambda schedule, t: 2 * jnp.sin(jnp.pi * jnp.asarray(t)) ** 2,
    "sbdm": lambda schedule, t: schedule.diffusion(t) ** 2,
    "flow_grpo": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t),
}


def interpolant_sde(w: str | Diffusion = "sigma", scale: float = 1.0, last: str = "tweedie") -> Sampler:
    """Euler-Maruyama for dx = (v - w/2 score) dt + sqrt(w) dW, from noise to data, with any w(t) >= 0:

        x_s = x_t - (t - s) (alpha' x0 + (sigma' + w / (2 sigma)) eps) + sqrt(w (t - s)) z.

    Every w gives the marginals of the process; w = 0 is `euler`, and w = g^2 ("sbdm") is `euler_maruyama`. The step to
    sigma(s) = 0 adds no noise. If w or a slope of the process is infinite, as g^2 is at alpha(t) = 0, the step draws
    from q(x_s | x_t, x0) instead.

    Facts:
        kind: stochastic
        order: weak 1; with "flow_grpo" from alpha(t) = 0, `scale` if that is less than 1
        nfe: steps
        accepts: any schedule
        paper: Ma et al. 2024, "SiT", eq. 4; Albergo et al. 2023, "Stochastic Interpolants", for any w; Liu et al. 2025,
            "Flow-GRPO: Training Flow Matching Models via Online RL", eq. 9, for w = a^2 t / (1 - t)

    Args:
        w: (schedule, t) -> w(t) >= 0, or a name. The names of SiT's code, whose noise is sqrt(2 D) dW, so that w = 2 D,
            are "sigma" (2 sigma), "constant" (2), "linear" (2 t), "decreasing" ((1 - cos(pi t))^2 / 2),
            "increasing-decreasing" (2 sin^2(pi t)) and "sbdm" (g^2, the process's own). "flow_grpo" is sigma / alpha,
            with scale = a^2 = 0.49 in Flow-GRPO.
        scale: factor of w, >= 0.
        last: the step to sigma(s) = 0, by its name in SiT's code: "tweedie" returns the estimate of x_0; "mean" returns
            the step's mean, as for SiT's published results.

    Raises:
        ValueError: if a name is unknown or scale is negative.
    """
    if isinstance(w, str) and w not in DIFFUSIONS:
        raise ValueError(
            f"interpolant_sde: unknown diffusion {w!r}. Valid: {', '.join(DIFFUSIONS)}, or a function (schedule, t) "
            "-> w"
        )
    if not traced(scale) and not scale >= 0:
        raise ValueError(f"interpolant_sde: scale = {scale} must not be negative")
    if last not in ("tweedie", "mean"):
        raise ValueError(f"interpolant_sde: last = {last!r}. Valid: 'tweedie', 'mean'")
    diffusion = DIFFUSIONS[w] if isinstance(w, str) else w

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        x = state.x
        x0, eps = denoise(x, t)[:2]
        rates = (diffusion(schedule, t), *(jnp.squeeze(rate) for rate in derivatives(schedule, t, t)))
        finite = jnp.isfinite(jnp.stack(rates)).all()
        w_t, alpha_dot, sigma_dot = (jnp.where(finite, rate, 0) for rate in rates)
        w_t = scale * w_t
        drift = alpha_dot * x0 + (sigma_dot + w_t / (2 * schedule.sigma(t))) * eps
        mean = x - (t - s) * drift
        moved = mean + root(w_t * (t - s)) * noise[0]
        drawn = posterior_mean(schedule, t, s, x, x0) + root(posterior_variance(schedule, t, s)) * noise[0]
        arrived = jnp.where(finite, moved, drawn)
        clean = jnp.where(finite, mean, schedule.alpha(s) * x0) if last == "mean" else schedule.alpha(s) * x0
        return State(jnp.where(schedule.sigma(s) > 0, arrived, clean), x0)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps)


def euler_maruyama() -> Sampler:
    """Euler-Maruyama for the reverse equation dx = (f x - g^2 score) dt + g dW, from noise to data:

        x_s = x_t - (t - s) (f x_t + g^2 eps / sigma) + g sqrt(t - s) z.

    It is `interpolant_sde("sbdm")`, since f x - g^2 score = v - g^2/2 score. The step onto sigma(s) = 0 returns the
    estimate of x_0; the step from alpha(t) = 0, where f and g are infinite, draws from q(x_s | x_t, x0).

    Facts:
        kind: stochastic
        order: weak 1
        nfe: steps
        accepts: any schedule
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 6
    """
    return interpolant_sde("sbdm")
