"""Denoising diffusion restoration: combines the measured value and the estimate in each singular direction."""

__all__ = ["ddrm"]

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_floats
from diffusion.arrays.square_roots import root
from diffusion.guidance.measurements import Measurement, require_measurement
from diffusion.package import public
from diffusion.samplers.sample import Sampler, State, start


def ddrm(
    measurement: Measurement,
    y: Array,
    noise_std: float = 0.0,
    eta: float = 0.85,
    eta_b: float = 1.0,
    smallest: float = 1e-3,
) -> Sampler:
    """DDRM, a sampler of p(x_0 | y) for y = A x_0 + sigma_y n.

    Along a singular direction with the value a, where the noise of y in x_s is l = alpha_s sigma_y / a and the measured
    value is Y = (A^+ y), x_s is

        alpha_s x0 + sqrt(1 - eta^2) sigma_s eps + eta sigma_s z                    where a = 0,
        alpha_s x0 + sqrt(1 - eta^2) sigma_s alpha_s (Y - x0) / l + eta sigma_s z   where sigma_s < l,
        alpha_s ((1 - eta_b) x0 + eta_b Y) + sqrt(sigma_s^2 - eta_b^2 l^2) z        where sigma_s >= l.

    For a perfect x0, x_s follows N(alpha_s x0, sigma_s^2 I), as in the process. The start is drawn from the prior; the
    paper adds the mean alpha_T Y.

    Facts:
        kind: stochastic
        nfe: steps
        accepts: any schedule; a denoiser that need not be differentiable
        paper: Kawar et al. 2022, "Denoising Diffusion Restoration Models", eq. 7 and 8

    Args:
        measurement: the operator A with the field `filtered`, such as `measurements.pooled(4)`.
        y: the measurements `[B, ...]` of the samples, in their order; that of one example if all samples share it.
        noise_std: standard deviation sigma_y of the noise, >= 0.
        eta: share of fresh noise in the directions where y is missing or noisier than x_s, in [0, 1].
        eta_b: share of the measured value in the estimate in the other directions, in [0, 1].
        smallest: largest singular value of directions that count as not measured, >= 0; at least 1e-3 for
            `measurements.blurred`, whose A^+ is 0 up to there.

    Raises:
        TypeError: if the measurement is no `Measurement`, or y is no array of floating-point numbers.
        ValueError: if a number is out of range, or the measurement has no `filtered`; when called, if y has another
            shape than A x.
    """
    require_measurement(measurement)
    require_floats(y, "y")
    if not (noise_std >= 0 and 0 <= eta <= 1 and 0 <= eta_b <= 1 and smallest >= 0):
        raise ValueError(
            f"ddrm: noise_std = {noise_std} and smallest = {smallest} must be at least 0, and eta = {eta} and eta_b = "
            f"{eta_b} in [0, 1]"
        )
    filtered = measurement.filtered
    if filtered is None:
        raise ValueError(
            "ddrm uses the singular values of the measurement, which this one does not offer (`filtered`). Valid: the "
            "measurements of guidance.measurements, or a Measurement with this function"
        )

    def step(state, denoise, schedule, plan, i, noise):
        s = plan.s[i]
        alpha = schedule.alpha(s)
        sigma = schedule.sigma(s)
        x0, eps = denoise(state.x, plan.t[i])[:2]
        steady = (1 - eta**2) ** 0.5 * sigma

        def level(a):  # noise level of y in x_s
            return alpha * noise_std / jnp.where(a > smallest, a, 1)

        known = lambda a: (a > smallest) & (sigma >= level(a))
        vague = lambda a: (a > smallest) & (sigma < level(a))
        pull = lambda a: steady * alpha / jnp.where(vague(a), level(a), 1)
        x = filtered(x0, lambda a: jnp.where(known(a), (1 - eta_b) * alpha, alpha - jnp.where(vague(a), pull(a), 0)))
        measured = measurement.inverse(y, x0)
        x += filtered(measured, lambda a: jnp.where(known(a), eta_b * alpha, jnp.where(vague(a), pull(a), 0)))
        x += filtered(eps, lambda a: jnp.where(a > smallest, 0, steady))
        fresh = lambda a: jnp.where(known(a), root(sigma**2 - (eta_b * level(a)) ** 2), eta * sigma)
        return State(x + filtered(noise[0], fresh), x0)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps)


public.declare(__name__)
