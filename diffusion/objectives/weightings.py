"""Loss weights, all stated as the weight on the squared error of x0.

Multiplying by `error_scale` converts such a weight to the weight on the squared error of a network's output, so that a
weighting means the same loss under every parameterization. (Implementations of min-SNR often miss this.) A weight w on
x0 is the weight w / SNR on epsilon, and w / (SNR + 1) on v where the variance is preserved.

At the data (sigma = 0) and at alpha = 0 the log-SNR is infinite. There the derivative with respect to t is computed at
a time just inside. Where the limit is finite, as for min-SNR at both ends of the rectified flow, it is the limit to
about four digits. Where the limit is infinite, as for SNR at the data, it is a large number with the limit's sign.
"""

__all__ = [
    "Weighting",
    "at_most",
    "constant",
    "edm",
    "error_scale",
    "min_snr",
    "p2",
    "per_log_snr",
    "sigmoid",
    "snr",
    "soft_min_snr",
    "truncated_snr",
]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_function
from diffusion.arrays.parameters import functions_of, traced
from diffusion.package import public
from diffusion.parameterizations import Parameterization
from diffusion.parameterizations.network_outputs import check_kind
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import inside_times

Weighting = Callable[[NoiseSchedule, ArrayLike], Array]
"""(schedule, t) -> weight of the squared error of x0."""


def _check_weighting(weighting: Any) -> None:
    """Refuses a value that is not a weighting, such as a function of `weightings` that was not called.

    Raises:
        TypeError: if the value is not a function of two arguments; the message names it.
    """
    require_function(weighting, "weighting", "a function (schedule, t) -> weight, such as weightings.snr()", takes=2)


def error_scale(schedule: NoiseSchedule, t: ArrayLike, parameterization: Parameterization) -> Array:
    """The factor between squared errors: |x0_hat - x0|^2 = error_scale |output - target|^2.

    Every parameterization is linear in its output, so the factor is (d x0 / d output)^2.

    Args:
        schedule: the process.
        t: times of any shape.
        parameterization: meaning of the network's output.

    Returns:
        Array of t's shape.

    Raises:
        ValueError: if the parameterization has a learned variance, and thus two outputs.
    """
    return _with_slopes(_squared_rate(parameterization))(schedule, jnp.asarray(t))


def constant(parameterization: Parameterization) -> Weighting:
    """Weight one on the squared error of the output of `parameterization`.

    DDPM's loss is constant(epsilon()), whose weight on x0 is the SNR; progressive distillation's is constant(v()),
    SNR + 1; flow matching is constant(velocity()).

    Facts:
        paper: Ho et al. 2020, eq. 14; Salimans and Ho 2022, section 4; Lipman et al. 2023, eq. 9

    Args:
        parameterization: the parameterization whose output has weight one.
    """
    squared_rate = _squared_rate(parameterization)
    return _with_slopes(lambda schedule, t: 1 / squared_rate(schedule, t))


def snr() -> Weighting:
    """SNR: weight one on the squared error of epsilon. With `per_log_snr` it is twice the likelihood's weight.

    Facts:
        paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 14; Kingma et al. 2021, "Variational
            Diffusion Models", eq. 17
    """
    return _snr


def truncated_snr() -> Weighting:
    """max(SNR, 1).

    Facts:
        paper: Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", section 4
    """
    return lambda schedule, t: jnp.maximum(_snr(schedule, t), 1)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma): divided by SNR it is the weight for epsilon, by SNR + 1 for v.

    Facts:
        paper: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4

    Args:
        gamma: largest weight, > 0; 5 in the paper.

    Raises:
        ValueError: if gamma is not positive.
    """
    if not traced(gamma) and not gamma > 0:
        raise ValueError(f"min_snr: gamma = {gamma} must be positive (5 in the paper)")
    return lambda schedule, t: jnp.minimum(_snr(schedule, t), gamma)


def soft_min_snr(gamma: float = 4.0) -> Weighting:
    """SNR gamma / (SNR + gamma) = 1 / (s^2 + 1 / gamma) with s = sigma / alpha: a smooth min(SNR, gamma).

    Facts:
        paper: Crowson et al. 2024, "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass Diffusion
            Transformers", section 3.3

    Args:
        gamma: limit of the weight, > 0; 4 in the paper, which is 1 / sigma_data^2 for EDM's sigma_data = 0.5, as in the
            authors' code.

    Raises:
        ValueError: if gamma is not positive.
    """
    if not traced(gamma) and not gamma > 0:
        raise ValueError(f"soft_min_snr: gamma = {gamma} must be positive (4 in the paper)")
    return _with_slopes(lambda schedule, t: 1 / (jnp.exp(-schedule.log_snr(t)) + 1 / gamma))


def at_most(weighting: Weighting, most: float) -> Weighting:
    """min(w, most): bounds a weight that grows towards the data.

    For example, `constant(velocity())` has the weight 1 / t^2 on straight paths; a bound of 100 applies below t = 0.1,
    as in FrameFlow.

    Facts:
        paper: Yim et al. 2023, "Fast protein backbone generation with SE(3) flow matching"

    Args:
        weighting: weighting w.
        most: largest weight, > 0.

    Raises:
        ValueError: if most is not positive.
    """
    _check_weighting(weighting)
    if not traced(most) and not most > 0:
        raise ValueError(f"at_most: most = {most} must be positive, because a loss without weight trains nothing")
    return lambda schedule, t: jnp.minimum(weighting(schedule, t), most)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """SNR / (k + SNR)^gamma: the weight of epsilon's error is lowered where the SNR is high.

    Facts:
        paper: Choi et al. 2022, "Perception Prioritized Training of Diffusion Models"

    Args:
        k: constant k, > 0; 1 in the paper.
        gamma: exponent gamma, >= 0, 0 for no change; 1 or 0.5 in the paper.

    Raises:
        ValueError: if k <= 0 or gamma < 0.
    """
    if not traced(k, gamma) and not (k > 0 and gamma >= 0):
        raise ValueError(f"p2: k = {k} must be positive and gamma = {gamma} not negative (1 and 1 in the paper)")

    log_k = functions_of(k).log(k)

    def weight(schedule, t):
        # SNR / (k + SNR) by a sigmoid, because the SNR is infinite at the data.
        return _logistic(schedule.log_snr(t) - log_k) * (k + jnp.exp(schedule.log_snr(t))) ** (1 - gamma)

    return _with_slopes(weight)


def sigmoid(bias: float = 2.0) -> Weighting:
    """SNR sigmoid(bias - log-SNR) = e^bias sigmoid(log-SNR - bias): a sigmoid weight on epsilon's squared error.

    The papers state it as an integral over the log-SNR. With times drawn uniformly, the loss of VDM++ and of simpler
    diffusion is therefore per_log_snr(sigmoid(bias)).

    Facts:
        paper: Kingma and Gao 2023, "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation";
            Hoogeboom et al. 2024, "Simpler Diffusion (SiD2)", where the bias depends on the resolution

    Args:
        bias: log-SNR at which the weight of epsilon's error is a half; 2 in the first paper.
    """
    peak = functions_of(bias).exp(bias)
    return _with_slopes(lambda schedule, t: peak * _logistic(schedule.log_snr(t) - bias))


def per_log_snr(weighting: Weighting) -> Weighting:
    """The weight w(t) (-d log-SNR / dt), which turns a mean over uniform times into an integral over the log-SNR.

        int w(t) (-d log-SNR / dt) |x0_hat - x0|^2 dt = int w |x0_hat - x0|^2 d log-SNR

    so that the loss is the same under every schedule with the same ends. With `snr` it is twice the diffusion loss of
    the likelihood bound, in nats. At alpha = 0 and sigma = 0, where the rate is infinite, it is the weight just inside.

    Facts:
        paper: Kingma and Gao 2023, "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation"

    Args:
        weighting: a weight on the squared error of x0.
    """
    _check_weighting(weighting)

    def weight(schedule, t):
        t = inside_times(schedule, t)
        # g^2 = -sigma^2 d log-SNR / dt.
        return weighting(schedule, t) * (schedule.diffusion(t) / schedule.sigma(t)) ** 2

    return weight


def edm(sigma_data: float = 0.5) -> Weighting:
    """(s^2 + sigma_data^2) / (s sigma_data)^2 with s = sigma / alpha, that is SNR + 1 / sigma_data^2.

    Facts:
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1, lambda

    Args:
        sigma_data: standard deviation of the data, > 0.

    Raises:
        ValueError: if sigma_data is not positive.
    """
    if not traced(sigma_data) and not sigma_data > 0:
        raise ValueError(f"edm weighting: sigma_data = {sigma_data} must be positive (0.5 in the paper)")
    return lambda schedule, t: _snr(schedule, t) + 1 / sigma_data**2


def _squared_rate(parameterization: Parameterization) -> Weighting:
    """(schedule, t) -> (d x0 / d output)^2."""
    check_kind(parameterization)
    if parameterization.channels > 1:
        raise ValueError(
            "a network with learned variance has two outputs, and no single error describes them. Train it with "
            "objectives.hybrid, or pass the parameterization of its first half here"
        )

    def squared_rate(schedule, t):
        one = jnp.ones_like(schedule.alpha(t))
        return parameterization.to_prediction(schedule, t, 0 * one, one).x0 ** 2

    return squared_rate


@jax.custom_jvp
def _logistic(x: Array) -> Array:
    """The sigmoid, whose derivative has its digits for large x too: JAX's own has the factor 1 - sigmoid(x)."""
    return jax.nn.sigmoid(x)


@_logistic.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,) = primals
    return jax.nn.sigmoid(x), jax.nn.sigmoid(x) * jax.nn.sigmoid(-x) * tangents[0]


def _with_slopes(weighting: Weighting) -> Weighting:
    """The weighting with the derivatives of the times just inside, where those at the ends are 0 times infinity."""

    def weight(schedule, t):
        inside = inside_times(schedule, t)
        near = weighting(schedule, inside)
        exact = jax.lax.stop_gradient(weighting(schedule, t))
        return jnp.where(inside == t, near, exact + (near - jax.lax.stop_gradient(near)))

    return weight


_snr = _with_slopes(lambda schedule, t: jnp.exp(schedule.log_snr(t)))
public.declare(__name__)
