"""Samplers of symbols: steps from x_t back to x_s."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import traced
from diffusion.discrete.categorical import draw
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Plan

Law = Callable[[Predictor, AnyProcess, Array, Array, Array], Array]
"""A function (predict, process, x_t `[B, ...]`, t `[B]`, s `[B]`) -> probabilities of x_s `[B, ..., K]` by position.

If the prediction is NaN, the probabilities must be NaN too. An argmax of NaN would be a symbol, which no sampler could
tell from a valid one.
"""


def stepped(law: Law, rates: bool = False, masked: bool = False) -> SymbolSampler:
    """The sampler that draws every step from a distribution in which positions are independent.

    Args:
        law: the function that computes the probabilities of x_s.
        rates: whether the law uses jump rates.
        masked: whether the law is only for masked processes.
    """

    move = lambda predict, process, x, t, s, keys: draw(keys, law(predict, process, x, t, s))
    return memoryless(move, masked=masked, rates=rates)


def memoryless(move: Callable[..., Array], evaluations: int = 1, **facts: Any) -> SymbolSampler:
    """The sampler without history whose step is a move (predict, process, x_t, t `[B]`, s `[B]`, keys `[B]`) -> x_s.

    Args:
        move: the function that computes a step.
        evaluations: number of network evaluations in a step.
        **facts: other fields of `SymbolSampler`.
    """

    def step(state: Any, predict: Predictor, process: Any, plan: Plan, i: ArrayLike, keys: Array) -> tuple[Array]:
        (x,) = state
        t, s = (jnp.broadcast_to(time[i], (len(x),)) for time in (jnp.asarray(plan.t), jnp.asarray(plan.s)))
        return (move(predict, process, x, t, s, keys),)

    return SymbolSampler(lambda x, process, plan: (x,), step, lambda steps: evaluations * steps, **facts)


def ancestral() -> SymbolSampler:
    """Draws x_s from the mean over x_0 of q(x_s | x_t, x_0), independently for each position.

    The step is exact for one position. For several positions, which a step draws independently, it is exact in the
    limit of small steps.

    Facts:
        nfe: steps
        paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", eq. 4; for masks
            Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models"
    """
    return stepped(ancestral_law)


def ancestral_law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
    """The distribution of a step of `ancestral`."""
    return process.posterior(x, jnp.exp(predict(x, t)), t, s)


def euler() -> SymbolSampler:
    """An Euler step of the reversed jump process with the rates at t; first order.

        P(x_s = y) = (t - s) rate(y) for y != x_t, limited to a sum of 1

    A step to t = 0 fills every mask.

    Facts:
        nfe: steps
        paper: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution", its
            Euler step
    """
    return stepped(euler_law, rates=True)


def euler_law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
    """The distribution of a step of `euler`."""
    jumps = _leaps(predict, process, x, t, s)
    total = jnp.sum(jumps, -1, keepdims=True)
    return _filled(_and_stay(jumps / jnp.maximum(total, 1.0), x), jumps, process, x, s)


def tau_leaping() -> SymbolSampler:
    """Draws the number of jumps in a step with the rates at t; positions with exactly one jump make this jump.

    The number of jumps follows a Poisson distribution. Symbols have no order, so two jumps from the same symbol cannot
    be added; the position then does not change, which is an error of O((t - s)^2).

        P(one jump, to y) = exp(-Lambda) (t - s) rate(y),    Lambda = (t - s) sum_y rate(y)

    A step to t = 0 fills every mask.

    Facts:
        nfe: steps
        paper: Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising Models", tau-leaping
    """
    return stepped(tau_leaping_law, rates=True)


def tau_leaping_law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
    """The distribution of a step of `tau_leaping`."""
    jumps = _leaps(predict, process, x, t, s)
    return _filled(_and_stay(jnp.exp(-jnp.sum(jumps, -1, keepdims=True)) * jumps, x), jumps, process, x, s)


def theta_trapezoidal(theta: float = 0.5) -> SymbolSampler:
    """A two-stage step for masks, whose second stage extrapolates the rates.

    The step is of second order in the distribution of a sample as long as no extrapolated rate is clipped at 0. If one
    unmasked symbol makes another impossible, it is of first order.

        x_r: a step from t to r = t - theta (t - s) at the rates mu_t of x_t
        x_s: a step from r to s at the rates (a mu_r - (a - 1) mu_t)_+,    a = 1 / (2 theta (1 - theta))

    where mu_r are the rates of x_r. In a stage, a mask disappears with probability 1 - exp(-Lambda), as at constant
    rates. A step to t = 0 fills every mask, with the rates mu_r.

    Facts:
        nfe: 2 steps
        paper: Ren et al. 2025, "Fast Solvers for Discrete Diffusion Models: Theory and Applications of High-Order
            Algorithms", the theta-trapezoidal method

    Args:
        theta: share of the first stage, in (0, 1).

    Raises:
        ValueError: if theta is not in (0, 1).
    """
    if not traced(theta) and not 0 < theta < 1:
        raise ValueError(f"theta_trapezoidal: theta = {theta}. Valid: a share in (0, 1), e.g. 0.5")

    def move(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array, keys: Array) -> Array:
        first, second = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        rates = _rates(predict, process, x, t)
        middle = draw(first, first_stage(theta, rates, x, t, s))
        later = _rates(predict, process, middle, t - theta * (t - s))
        end = draw(second, second_stage(theta, rates, later, process, middle, t, s))
        return jnp.where(middle < 0, middle, end)  # -1: see `draw`

    return memoryless(move, evaluations=2, masked=True, rates=True)


def first_stage(theta: float, rates: Array, x: Array, t: Array, s: Array) -> Array:
    """The distribution after the first stage of `theta_trapezoidal`, from the rates `[B, ..., K]` of x_t."""
    return at_constant_rates(theta * left_broadcast(t - s, rates) * rates, x)


def second_stage(
    theta: float, rates: Array, later: Array, process: AnyProcess, middle: Array, t: Array, s: Array
) -> Array:
    """The distribution after the second stage of `theta_trapezoidal`, from the rates of x_t and those of x_r."""
    ahead = 1 / (2 * theta * (1 - theta))
    extrapolated = jnp.maximum(ahead * later - (ahead - 1) * rates, 0.0)
    extrapolated = jnp.where((middle == process.mask)[..., None], extrapolated, 0.0)
    law = at_constant_rates((1 - theta) * left_broadcast(t - s, rates) * extrapolated, middle)
    return _filled(law, later, process, middle, s)


def first_hitting() -> SymbolSampler:
    """Fills in one mask per step, at the time of the reversed process's next jump, so the distribution is exact.

    The next mask is uniform among all masks. Its symbol is drawn from the prediction at the time s with

        alpha_s = 1 - (1 - alpha_t) u^(1 / n),    u uniform in (0, 1), n the number of masks.

    A plan needs as many steps as an example has positions. Only the first of its times is used.

    Facts:
        nfe: steps, one for each position
        paper: Zheng et al. 2024, "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit
            Inaccurate Categorical Sampling"
    """

    def init(x: Array, process: AnyProcess, plan: Plan) -> tuple[Array, Array]:
        positions = math.prod(x.shape[1:])
        if len(plan.t) != positions:
            raise ValueError(f"first_hitting: {len(plan.t)} steps. Valid: {positions}, one for each position")
        return x, jnp.broadcast_to(process.keeping.alpha(plan.t[0]), (len(x),))

    def step(
        state: Any, predict: Predictor, process: AnyProcess, plan: Plan, i: ArrayLike, keys: Array
    ) -> tuple[Array, Array]:
        x, alpha = state
        masked = flattened(x == process.mask)
        number = jnp.sum(masked, -1)
        when, where, what = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        u = jax.vmap(lambda key: jax.random.uniform(key, dtype=alpha.dtype))(when)
        power = (1 / jnp.maximum(number, 1)).astype(alpha.dtype)
        alpha = jnp.where(number > 0, 1 - (1 - alpha) * u**power, alpha)
        position = draw(where, masked.astype(jnp.float32))
        symbols = flattened(draw(what, jnp.exp(predict(x, process.keeping.time(alpha)))))
        filled = masked & (jnp.arange(masked.shape[1]) == position[:, None])
        return jnp.where(filled, symbols, flattened(x)).reshape(x.shape), alpha

    return SymbolSampler(init, step, lambda steps: steps, masked=True)


def _rates(predict: Predictor, process: AnyProcess, x: Array, t: Array) -> Array:
    return process.reverse_rates(x, jnp.exp(predict(x, t)), t)


def _leaps(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
    """(t - s) rate(y), the expected number of jumps to each symbol, `[B, ..., K]`."""
    rates = _rates(predict, process, x, t)
    return left_broadcast(t - s, rates) * rates


def _and_stay(jumps: Array, x: Array) -> Array:
    stay = jnp.maximum(1 - jnp.sum(jumps, -1, keepdims=True), 0.0)
    return jumps + stay * jax.nn.one_hot(x, jumps.shape[-1])


def _filled(law: Array, rates: Array, process: AnyProcess, x: Array, s: Array) -> Array:
    """The law of a step; in a step to s = 0 each mask jumps, to a symbol with probability proportional to its rate.

    At time 0 there are no masks. The rates of masks grow as 1 / t, so a step at constant rates would leave some.
    """
    if process.mask is None:
        return law
    total = jnp.sum(rates, -1, keepdims=True)
    jumps = ((x == process.mask) & (left_broadcast(s, x) <= 0))[..., None] & (total > 0)
    return jnp.where(jumps, rates / jnp.where(total > 0, total, 1.0), law)


def at_constant_rates(leaps: Array, x: Array) -> Array:
    """The distribution if each position jumps at most once: 1 - exp(-Lambda), divided in proportion to the rates."""
    total = jnp.sum(leaps, -1, keepdims=True)
    share = -jnp.expm1(-total) / jnp.where(total > 0, total, 1.0)
    return _and_stay(share * leaps, x)
