"""Guidance by a classifier of noised symbols: each replacement of a symbol is weighted by its class probability."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.broadcasting import flattened, left_broadcast
from diffusion.arrays.parameters import is_number
from diffusion.discrete.predictions import Predictor, from_ratios
from diffusion.discrete.processes import Process
from diffusion.discrete.rate_processes import AnyProcess, RateProcess
from diffusion.discrete.sampling_loop import SymbolSampler, require_symbol_sampler
from diffusion.discrete.token_masks import TokenMasks
from diffusion.guidance import LogProbability
from diffusion.timesteps import Plan

LEAST = 1e-3  # smallest alpha; nearer to the noise, float32 ratios have no information about x_0
LARGEST = 60.0  # largest log-ratio, for which sums over symbols remain finite in float32


def classifier(
    predict: Predictor,
    process: Process | TokenMasks,
    log_probability: LogProbability,
    scale: ArrayLike = 1.0,
    exact: bool = False,
) -> Predictor:
    """Classifier guidance: the concrete score of p_t(x) p(c | x_t = x)^w.

        p_t(y) / p_t(x_t) (p(c | y) / p(c | x_t))^w,    y = x_t but for one position

    The rates of the reversed jumps change by the same factor. For masks, the distribution at each position is
    normalised, so every step unmasks as many symbols as without guidance. A position keeps its prediction if the class
    excludes all symbols that it predicts. With the exact p(c | x_t), `exact` and w = 1, this is the predictor of
    p(x_0 | c).

    Without `exact`, the change of log p(c | x_t) is approximated by a first-order Taylor series in one-hot symbols. If
    alpha is below 1e-3 and the process has no mask, the change at alpha = 1e-3 is used, because all ratios are 1 at
    alpha = 0.

    Facts:
        nfe: 1 call of the network, and 1 gradient of the classifier, or, if exact, (positions times symbols) calls of
            it
        neutral: w = 0, the predictor exactly
        paper: Nisonoff et al. 2024, "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models", exact and
            Taylor-approximated guidance; Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion
            Models", D-CBG, which also normalises each position

    Args:
        predict: the predictor to be guided.
        process: an absorbing, uniform or mixture process, or token masks.
        log_probability: (x_t, t) -> log p(c_b | x_t) `[B]`, where number b depends only on example b. With `exact`, x_t
            is int `[B, ...]`; otherwise it is float `[B, ..., K]`, one-hot symbols, with respect to which it is
            differentiated.
        scale: guidance scale w, a number or one for each example `[B]`, which may be traced.
        exact: whether the classifier is evaluated for every symbol at every position.

    Returns:
        (x_t, t) -> log p(x_0 | x_t). It raises a ValueError if the classifier does not return one number for each
        example.

    Raises:
        ValueError: if the process is a `RateProcess`, whose ratios do not determine x_0 near the noise, or a metric
            path, whose velocity is not the reversal of a jump process, so that this factor would be wrong.
    """
    if isinstance(process, RateProcess):
        raise ValueError(
            "classifier: the ratios of a RateProcess do not give the law of x_0 near its noise. Valid: absorbing, "
            "uniform, mixture or token_masks, or a sampler of discrete.guided_rates"
        )
    if not isinstance(process, Process | TokenMasks):
        raise ValueError(
            f"classifier: the jumps of a {type(process).__name__} do not reverse a process, and a class does not "
            "change them by the ratio of its probabilities. Valid: absorbing, uniform, mixture or token_masks"
        )
    if is_number(scale, 0):
        return predict
    changes = log_changes if exact else first_order_changes

    def guided(x_t: Array, t: Array) -> Array:
        log_p = predict(x_t, t)
        if isinstance(process, TokenMasks) or process.mask is not None:
            change = _scaled_to_finite(scale, changes(log_probability, x_t, t, process.size))
            weighed = jnp.where(log_p > -jnp.inf, log_p + change, -jnp.inf)
            excluded = (weighed == -jnp.inf).all(-1, keepdims=True)
            weighed = jax.nn.log_softmax(jnp.where(excluded, log_p, weighed))
            return jnp.where((x_t == process.mask)[..., None], weighed, log_p)
        t = jnp.minimum(t, process.keeping.time(LEAST))
        log_ratios = jnp.log(process.ratios(x_t, jnp.exp(log_p), t))  # -inf of a symbol that nothing leads to
        log_ratios = log_ratios + _scaled_to_finite(scale, changes(log_probability, x_t, t, process.size))
        return from_ratios(process, jnp.minimum(log_ratios, LARGEST), x_t, t)

    return guided


def guided_rates(
    sampler: SymbolSampler, log_probability: LogProbability, scale: ArrayLike = 1.0, exact: bool = False
) -> SymbolSampler:
    """Classifier guidance of the reversed jump rates, for any process.

        R_t(y, x_t) p_t(y) / p_t(x_t) (p(c | y) / p(c | x_t))^w,    y = x_t but for one position

    With the exact p(c | x_t), `exact` and w = 1, these are the reversed rates for data of class c, by Bayes' rule,
    because the forward jumps do not depend on c. The distribution of x_0 is not needed, so this also works for
    `rate_process`.

    Facts:
        nfe: the sampler's calls of the network, each with 1 gradient of the classifier, or, if exact, (positions times
            symbols) calls of it
        neutral: w = 0, the sampler exactly
        paper: Nisonoff et al. 2024, "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models", its
            predictor guidance of rates

    Args:
        sampler: sampler that uses rates, such as `euler`, `tau_leaping` or `theta_trapezoidal`.
        log_probability: (x_t, t) -> log p(c_b | x_t) `[B]`, as for `classifier`.
        scale: guidance scale w, a number or one for each example `[B]`, which may be traced.
        exact: whether the classifier is evaluated for every symbol at every position; otherwise a first-order Taylor
            series in one-hot symbols approximates the change of log p(c | x_t).

    Raises:
        ValueError: if the sampler uses no rates; when sampling, under the conditions of `classifier`.
    """
    require_symbol_sampler(sampler)
    if not sampler.rates:
        raise ValueError(
            "guided_rates: this sampler does not read the rates of jumps. Valid: euler, tau_leaping or "
            "theta_trapezoidal, or discrete.classifier, which guides a prediction"
        )
    if is_number(scale, 0):
        return sampler

    def step(state: Any, predict: Predictor, process: Any, plan: Plan, i: ArrayLike, keys: Array) -> Any:
        guided = GuidedJumps(process, log_probability, scale, exact)
        return sampler.step(state, predict, guided, plan, i, keys)

    return sampler._replace(step=step)


class GuidedJumps:
    """A process with guided reverse rates, and otherwise unchanged."""

    def __init__(
        self, process: AnyProcess | TokenMasks, log_probability: LogProbability, scale: ArrayLike, exact: bool
    ) -> None:
        self.process, self.log_probability, self.scale = process, log_probability, scale
        self.changes = log_changes if exact else first_order_changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def reverse_rates(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        change = _scaled_to_finite(self.scale, self.changes(self.log_probability, x_t, t, self.process.size))
        return self.process.reverse_rates(x_t, x0, t) * jnp.exp(change)


def log_changes(log_probability: LogProbability, x_t: Array, t: ArrayLike, size: int) -> Array:
    """log p(c | y) - log p(c | x_t) for all y that differ from x_t at one position: float32 `[B, ..., K]`.

    Args:
        log_probability: (x_t int `[B, ...]`, t) -> log p(c_b | x_t) `[B]`, called once for each symbol and position.
        x_t: int `[B, ...]` symbols at time t.
        t: times, `[]` or `[B]`.
        size: number K of symbols.
    """
    flat = flattened(x_t)

    def replaced(number: Array) -> Array:
        position, symbol = number // size, number % size
        return _checked(log_probability, flat.at[:, position].set(symbol).reshape(x_t.shape), t)

    every = jnp.moveaxis(jax.lax.map(replaced, jnp.arange(flat.shape[1] * size)), 0, -1)
    every = every.reshape(*x_t.shape, size)
    here = _checked(log_probability, x_t, t).reshape(-1, *[1] * x_t.ndim)
    return jnp.where(every == here, 0.0, every - here)  # both may be -inf


def first_order_changes(log_probability: LogProbability, x_t: Array, t: ArrayLike, size: int) -> Array:
    """The first-order Taylor series of `log_changes` in one-hot symbols: g_y - g_(x_t), g = grad log p(c | x_t).

    Args:
        log_probability: (x_t float `[B, ..., K]`, t) -> log p(c_b | x_t) `[B]`.
        x_t: int `[B, ...]` symbols at time t.
        t: times, `[]` or `[B]`.
        size: number K of symbols.
    """
    one_hot = jax.nn.one_hot(x_t, size)
    gradient = jax.grad(lambda x: _checked(log_probability, x, t).sum())(one_hot)
    return gradient - jnp.sum(gradient * one_hot, -1, keepdims=True)


def _scaled_to_finite(scale: ArrayLike, change: Array) -> Array:
    """scale times change, at most LARGEST; at scale 0 it is 0 also where the change is infinite.

    A change is infinite where p(c | x_t) = 0 but not p(c | y).
    """
    scale = left_broadcast(scale, change)
    return jnp.minimum(jnp.where(scale == 0, 0.0, scale * change), LARGEST)


def _checked(log_probability: LogProbability, x: Array, t: ArrayLike) -> Array:
    log_p = log_probability(x, t)
    require_shape(log_p, x.shape[:1], "log p(c | x_t), one number for each example,")
    return log_p
