"""The Gaussian process that underlies a uniform one: the symbol is the argmax of noised one-hot data.

    w_t = alpha~_t onehot(x_0) + sigma~_t eps,    x_t = argmax w_t,    alpha~^2 + sigma~^2 = 1

x_t has the marginals of the uniform process with alpha_t = T(alpha~_t). The paths differ: the argmax of w_t does not
follow that process's jumps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_keys
from diffusion.discrete.categorical import normal
from diffusion.discrete.processes import Process, check_symbols
from diffusion.schedules import left_broadcast

NODES = np.arange(-144, 145) / 16  # nodes of the trapezoidal rule, for a smooth function that vanishes at both ends
WEIGHTS = np.exp(-(NODES**2) / 2) / np.sqrt(2 * np.pi) / 16
RATIOS = np.arange(4097) / 256  # alpha~ / sigma~; at 16 another symbol is the largest with probability 1e-20


def diffusion_transformation(alpha: ArrayLike, size: int) -> np.ndarray:
    """T: maps the alpha~ of Gaussian latents to the alpha of the uniform process of their argmax.

        T(alpha~) = K / (K - 1) (integral of phi(z - alpha~ / sigma~) Phi(z)^(K - 1) dz - 1 / K)

    The integral is the probability that the coordinate of the data is the largest. For two symbols T is
    2 Phi(alpha~ / (sqrt(2) sigma~)) - 1.

    Args:
        alpha: coefficients alpha~ of a variance-preserving Gaussian process, in [0, 1].
        size: number K of symbols, at least 2.

    Returns:
        T(alpha~), float64 in alpha's shape, exact up to rounding; 0 at 0 and 1 at 1.

    Raises:
        ValueError: if alpha or size is out of range.

    The paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 11, its Diffusion Transformation operator.
    """
    alpha = np.asarray(alpha, np.float64)
    if size < 2 or not np.all((alpha >= 0) & (alpha <= 1)):
        raise ValueError(f"diffusion_transformation: {size} symbols, alpha = {alpha}. Valid: at least 2, in [0, 1]")
    with np.errstate(divide="ignore"):
        return 1 - _replaced(alpha / np.sqrt((1 - alpha) * (1 + alpha)), size)


def underlying_gaussian(process: Process, t: ArrayLike) -> tuple[Array, Array]:
    """The coefficients of the Gaussian process whose argmax has the marginals of a uniform process.

        T(alpha~_t) = alpha_t,    alpha~_t^2 + sigma~_t^2 = 1

    T is inverted by interpolation between 4,097 exact values.

    Args:
        process: a uniform process.
        t: times in [0, 1].

    Returns:
        alpha~ and sigma~, float32 in t's shape; alpha~ is 0 at t = 1.

    Raises:
        ValueError: if the process is not uniform.

    The paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 11, solved for alpha~.
    """
    check_uniform("underlying_gaussian", process)
    log_replaced = jnp.log(process.keeping.replaced(t))
    ratio = jnp.interp(log_replaced, _log_replaced(process.size)[::-1], RATIOS[::-1])
    sigma = 1 / jnp.sqrt(1 + ratio**2)
    return ratio * sigma, sigma


def gaussian_latents(process: Process, noise: Array, x0: Array, t: ArrayLike) -> Array:
    """The Gaussian latents w_t, whose argmax is x_t, float32 `[B, ..., K]`.

        w_t = alpha~_t onehot(x_0) + sigma~_t eps

    Equal noise at several times gives a deterministic path, on which a symbol changes once, to the data's symbol.

    Args:
        process: a uniform process.
        noise: float `[B, ..., K]` standard normal numbers, from `latent_noise`.
        x0: int `[B, ...]` symbols of the data.
        t: `[B]` times in [0, 1].

    Raises:
        ValueError: if the process is not uniform, or symbols are out of range.

    The paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 7, and eq. 22 for a path.
    """
    check_symbols(process, x0, "x0")
    alpha, sigma = (left_broadcast(number, noise) for number in underlying_gaussian(process, t))
    return alpha * jax.nn.one_hot(x0, process.size, dtype=noise.dtype) + sigma * noise


def latent_noise(process: Process, keys: Array, x0: Array) -> Array:
    """The noise of `gaussian_latents`, float32 `[B, ..., K]`, drawn for each example from its key."""
    require_keys(keys, len(x0), "noise needs one key for each example")
    return normal(keys, (*x0.shape[1:], process.size))


def check_uniform(name: str, process: Process) -> None:
    """Refuses a process that is not the argmax of Gaussian latents.

    Raises:
        ValueError: if the process is not uniform.
    """
    if not (isinstance(process, Process) and np.allclose(process.prior, 1 / process.size)):
        raise ValueError(f"{name}: only uniform processes have Gaussian latents. Valid: discrete.uniform")


def _replaced(ratio: np.ndarray, size: int) -> np.ndarray:
    """1 - T as a function of alpha~ / sigma~, exact where it is small."""
    from scipy import special  # imported here: few runs need it, and it takes a tenth of a second

    beaten = -np.expm1((size - 1) * special.log_ndtr(NODES + ratio[..., None]))
    return beaten @ WEIGHTS * size / (size - 1)


@functools.cache
def _log_replaced(size: int) -> np.ndarray:
    return np.log(_replaced(RATIOS, size))
