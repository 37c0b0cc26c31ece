"""Decoupled annealing: each step draws the data given the measurement, and adds noise again."""

__all__ = ["Draw", "daps", "gaussian_draw", "langevin_draw"]

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import is_count, require_floats, require_shape
from diffusion.guidance.measurement_guidance import total
from diffusion.guidance.measurements import Measurement, check_measurement, require_measurement
from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import check_process
from diffusion.samplers.sample import keys_of_step, normal
from diffusion.samplers.sample_checks import check_start
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import as_float
from diffusion.timesteps import Plan
from diffusion.timesteps.plans import require_plan

Draw = Callable[[Array, Array, Array], Array]
"""(x0 `[B, ...]`, r `[]`, keys `[B]`) -> a sample of N(x0, r^2 I) times the likelihood, normalised."""


def daps(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    draw: Draw,
    *,
    steps: int = 1,
    data_std: float = 1.0,
) -> Array:
    """DAPS: estimates x0 from x_t, draws the data given the measurement, and adds fresh noise to get x_s:

        x_0 ~ N(x0(x_t), r^2 I) p(y | x_0),    x_s = alpha_s x_0 + sigma_s z,    1 / r^2 = 1 / s^2 + alpha^2 / sigma^2.

    x_s depends on x_t only through the draw, so later steps can correct an error of a noisy step, as nonlinear
    measurements require. If N(x0, r^2 I) equals p(x_0 | x_t), x_s follows p(x_s | y) whenever x_t follows p(x_t | y).
    The paper has r = sigma / alpha, which is the limit of a large alpha s / sigma.

    Facts:
        nfe: `steps` evaluations for each of the plan's N steps
        paper: Zhang et al. 2024, "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
            algorithm 1

    Args:
        denoise: the denoiser; it need not be differentiable.
        schedule: the process.
        x: samples at plan.t[0] `[B, ...]`, from `samplers.prior`.
        plan: the N steps, all towards the data.
        keys: random keys `[B]`.
        draw: function that draws the data, such as `gaussian_draw(...)` or `langevin_draw(...)`.
        steps: number of equal DDIM steps from x_t to the end of the plan that compute the estimate, >= 1; with one step
            to t = 0, the estimate is the denoiser's x0.
        data_std: standard deviation s of the data, > 0.

    Returns:
        x at plan.s[-1] `[B, ...]`.

    Raises:
        TypeError: under the conditions of `samplers.sample`.
        ValueError: under the conditions of `samplers.sample`, or if steps or data_std is out of range.
    """
    require_plan(plan)
    if not is_count(steps) or not data_std > 0:
        raise ValueError(f"daps: steps = {steps} must be an integer of at least 1, data_std = {data_std} positive")
    check_process(denoise, schedule)
    check_start(x, keys)
    x = as_float(x)
    t, s = (jnp.asarray(times, x.dtype) for times in (plan.t, plan.s))
    end = s[-1]

    def estimate(x, t):
        def move(x, j):
            a, b = (t * ((steps - k) / steps) + end * (k / steps) for k in (j, j + 1))  # exact at the end
            prediction = checked(denoise)(x, a)
            return schedule.alpha(b) * prediction.x0 + schedule.sigma(b) * prediction.eps, None

        return jax.lax.scan(move, x, jnp.arange(steps, dtype=x.dtype))[0] / schedule.alpha(end)

    def step(x, i):
        alpha = schedule.alpha(t[i])
        sigma = schedule.sigma(t[i])
        r = data_std * sigma / jnp.sqrt((alpha * data_std) ** 2 + sigma**2)
        noise_keys, _, draw_keys = keys_of_step(keys, i)
        x_0 = draw(estimate(x, t[i]), r, draw_keys)
        require_shape(x_0, x.shape, "the draw of the data")
        return schedule.alpha(s[i]) * x_0 + schedule.sigma(s[i]) * normal(noise_keys, 1, x)[0], None

    return jax.lax.scan(step, x, jnp.arange(len(t)))[0]


def gaussian_draw(measurement: Measurement, y: Array, noise_std: float = 0.0) -> Draw:
    """The exact draw for a linear measurement y = A x_0 + sigma_y n: with x' = x0 + r z and y' = y + sigma_y n,

        x_0 = x' + A^T (A A^T + (sigma_y / r)^2 I)^-1 (y' - A x').

    Args:
        measurement: the operator A, such as `measurements.blurred(1.5)`.
        y: the measurement `[B, ...]`.
        noise_std: standard deviation sigma_y of the noise, >= 0.

    Raises:
        TypeError: if the measurement is no `Measurement`, or y is no array of floating-point numbers.
        ValueError: if noise_std is negative; when called, if y has another shape than A x.

    Reference: Doucet 2010, "A Note on Efficient Conditional Simulation of Gaussian Distributions", algorithm 2.
    """
    require_measurement(measurement)
    require_floats(y, "y")
    if not noise_std >= 0:
        raise ValueError(f"gaussian_draw: noise_std = {noise_std} must be at least 0")

    def draw(x0, r, keys):
        data_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = x0 + r * normal(data_keys, 1, x0)[0]
        measured = measurement.forward(x)
        check_measurement(y, measured)
        noisy = jnp.asarray(y, measured.dtype) + noise_std * normal(noise_keys, 1, measured)[0]
        return x + measurement.inverse(noisy - measured, x, (noise_std / r) ** 2)

    return draw


def langevin_draw(log_likelihood: Callable[[Array], Array], *, steps: int, step_size: Callable[[Array], Array]) -> Draw:
    """The draw by Langevin dynamics, for any differentiable likelihood:

        x_0 <- x_0 + h ((x0 - x_0) / r^2 + grad log p(y | x_0)) + sqrt(2 h) z,    from x_0 = x0.

    Args:
        log_likelihood: x_0 `[B, ...]` -> log p(y_b | x_b) `[B]`, such as `guidance.gaussian_likelihood(...)`.
        steps: number of steps, >= 1.
        step_size: r -> step size h > 0. It must be below 2 / (1 / r^2 + L), where L is the largest curvature of the
            negative log-likelihood, |A|^2 / sigma_y^2 for a matrix A. The distribution is exact in the limit h -> 0.

    Raises:
        ValueError: if steps is no integer of at least 1.

    Reference: Zhang et al. 2024, "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing", eq. 9.
    """
    if not is_count(steps):
        raise ValueError(f"langevin_draw: steps = {steps} must be an integer of at least 1")

    def draw(x0, r, keys):
        h = step_size(r)

        def move(x, j):
            gradient = jax.grad(total(log_likelihood))(x)
            z = normal(jax.vmap(jax.random.fold_in, (0, None))(keys, j), 1, x)[0]
            return x + h * ((x0 - x) / r**2 + gradient) + jnp.sqrt(2 * h) * z, None

        return jax.lax.scan(move, x0, jnp.arange(steps))[0]

    return draw


public.declare(__name__)
