"""Ancestral steps that may mask a symbol again, so that a later step can correct it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.steps import Law, stepped
from diffusion.schedules import left_broadcast

Remasking = Callable[[Array], Array]
"""Largest valid probability of masking again, `[B]` in [0, 1] -> probability in a step, `[B]`."""


def remasking(share: Remasking) -> SymbolSampler:
    """Ancestral steps in which an unmasked symbol is masked again with probability sigma.

        x_t shows:       P(x_s = mask) = sigma
        x_t is a mask:   P(x_s = y) = (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t) p(y | x_t)

    with sigma at most min(1, (1 - alpha_s) / alpha_t). Every sigma preserves the marginals q(x_s | x_0). All unmasked
    symbols may be masked again, also known ones; use `infilling` to keep those.

    Facts:
        nfe: steps
        paper: Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling", ReMDM

    Args:
        share: sigma as a function of its largest valid value, such as `capped(...)` or `rescaled(...)`.
    """
    return stepped(remasking_law(share), masked=True)


def remasking_law(share: Remasking) -> Law:
    """The distribution of a step of `remasking`."""

    def law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
        alpha_t = process.keeping.alpha(t)
        masked_t, masked_s = process.keeping.replaced(t), process.keeping.replaced(s)
        sigma = share(jnp.minimum(1.0, masked_s / jnp.maximum(alpha_t, jnp.finfo(jnp.float32).tiny)))
        still = left_broadcast((masked_s - sigma * alpha_t) / masked_t, x)
        again = left_broadcast(sigma, x)
        stays_masked = jnp.where(x == process.mask, still, again)[..., None]
        shown = jnp.exp(predict(x, t)) * (1 - stays_masked)  # x_t where it is not masked
        return shown + stays_masked * jax.nn.one_hot(process.mask, process.size)

    return law


def capped(limit: float) -> Remasking:
    """sigma = min(limit, its largest value): the paper's "cap".

    Args:
        limit: largest probability, in [0, 1]; 0 is `ancestral`.

    Raises:
        ValueError: if limit is not in [0, 1].
    """
    _check_share("capped", "limit", limit)
    return lambda greatest: jnp.minimum(limit, greatest)


def rescaled(factor: float) -> Remasking:
    """sigma = factor times its largest value: the paper's "rescale".

    Args:
        factor: share of the largest value, in [0, 1]; 0 is `ancestral`.

    Raises:
        ValueError: if factor is not in [0, 1].
    """
    _check_share("rescaled", "factor", factor)
    return lambda greatest: factor * greatest


def _check_share(name: str, what: str, value: float) -> None:
    if not traced(value) and not 0 <= value <= 1:
        raise ValueError(f"{name}: {what} = {value}. Valid: a number in [0, 1]")
