"""Guidance of symbols by a classifier of noised symbols: each replacement of one symbol is weighed by the class."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.discrete.predictions import Predictor, from_ratios
from diffusion.discrete.processes import Process
from diffusion.discrete.rate_processes import AnyProcess, RateProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.token_masks import TokenMasks
from diffusion.guidance import LogProbability
from diffusion.timesteps import Plan

LEAST = 1e-3  # of alpha: nearer to the noise than this, float32 ratios say nothing of x_0
LARGEST = 60.0  # of a logarithm of ratios, whose sums over symbols stay finite in float32


def classifier(
    predict: Predictor,
    process: Process | TokenMasks,
    log_probability: LogProbability,
    scale: float = 1.0,
    exact: bool = False,
) -> Predictor:
    """Classifier guidance: the concrete score of p_t(x) p(c | x_t = x)^w.

        p_t(y) / p_t(x_t) (p(c | y) / p(c | x_t))^w,    y = x_t but for one position

    The rates of the reversed jumps change by the same factor. Under masks a position's law is divided by its sum, so
    that every step unmasks as many symbols as without guidance. With the exact p(c | x_t), `exact` and w = 1, it is
    the predictor of p(x_0 | c).

    Without `exact` the first-order series in one-hot symbols gives the change of log p(c | x_t). Where alpha is below
    1e-3 and the process has no mask, the change at alpha = 1e-3 stands for it: at alpha = 0 all ratios are 1.

    Facts:
        nfe: 1 call of the network, and 1 gradient of the classifier; if exact, (positions times symbols) calls of it
        neutral: w = 0, the predictor exactly
        paper: Nisonoff et al. 2024, "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models", exact and
            Taylor-approximated guidance; Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion
            Models", D-CBG, which normalises each position too

    Args:
        predict: the predictor to be guided.
        process: absorbing, uniform, a mixture, or token masks.
        log_probability: (x_t, t) -> log p(c_b | x_t) `[B]`, where number b depends on example b alone. With `exact` x_t
            is int `[B, ...]`; else it is float `[B, ..., K]`, symbols as one-hot rows, by which it is differentiated.
        scale: guidance scale w.
        exact: whether every symbol at every position is put to the classifier.

    Returns:
        (x_t, t) -> log p(x_0 | x_t). It raises ValueError for a classifier with another number than one an example.

    Raises:
        ValueError: for a process whose ratios do not give the law of x_0 near its noise, and for a path of distances:
            its velocity is no reversal of jumps, so that the factor above would lead to another law.
    """
    if isinstance(process, RateProcess):
        raise ValueError(
            "classifier: the ratios of a RateProcess do not give the law of x_0 near its noise. Valid: absorbing, "
            "uniform, mixture or token_masks, or a sampler of discrete.guided_rates"
        )
    if not isinstance(process, Process | TokenMasks):
        raise ValueError(
            f"classifier: the jumps of a {type(process).__name__} are no reversal of a process, and a class does not "
            "change them by the ratio of its probabilities. Valid: absorbing, uniform, mixture or token_masks"
        )
    if scale == 0:
        return predict
    changes = log_changes if exact else first_order_changes

    def guided(x_t: Array, t: Array) -> Array:
        log_p = predict(x_t, t)
        if isinstance(process, TokenMasks) or process.mask is not None:
            change = scale * changes(log_probability, x_t, t, process.size)
            weighed = jax.nn.log_softmax(jnp.where(log_p > -jnp.inf, log_p + change, -jnp.inf))
            return jnp.where((x_t == process.mask)[..., None], weighed, log_p)
        t = jnp.minimum(t, process.keeping.time(LEAST))
        log_ratios = jnp.log(process.ratios(x_t, jnp.exp(log_p), t))
        log_ratios = log_ratios + scale * changes(log_probability, x_t, t, process.size)
        return from_ratios(process, jnp.minimum(log_ratios, LARGEST), x_t, t)

    return guided


def guided_rates(
    sampler: SymbolSampler, log_probability: LogProbability, scale: float = 1.0, exact: bool = False
) -> SymbolSampler:
    """Classifier guidance of the reversed jumps themselves, for a process of any rates.

        R_t(y, x_t) p_t(y) / p_t(x_t) (p(c | y) / p(c | x_t))^w,    y = x_t but for one position

    With the exact p(c | x_t), `exact` and w = 1, these are the reversed rates of the data of class c, by Bayes' rule:
    the jumps of the noise do not depend on c. No law of x_0 is read from ratios, so that `rate_process` has it too.

    Facts:
        nfe: as many calls of the network as the sampler says, and for each 1 gradient of the classifier; if exact,
            (positions times symbols) calls of it
        neutral: w = 0, the sampler exactly
        paper: Nisonoff et al. 2024, "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models", its
            predictor guidance of rates

    Args:
        sampler: a sampler that reads rates: `euler`, `tau_leaping`, `theta_trapezoidal` or your own.
        log_probability: (x_t, t) -> log p(c_b | x_t) `[B]`, as for `classifier`.
        scale: guidance scale w.
        exact: whether every symbol at every position is put to the classifier; else the first-order series in one-hot
            symbols gives the change of log p(c | x_t).

    Raises:
        ValueError: for a sampler that reads no rates; when it samples, as `classifier`.
    """
    if not sampler.rates:
        raise ValueError(
            "guided_rates: this sampler does not read the rates of jumps. Valid: euler, tau_leaping or "
            "theta_trapezoidal, or discrete.classifier, which guides a prediction"
        )
    if scale == 0:
        return sampler

    def step(state: Any, predict: Predictor, process: Any, plan: Plan, i: ArrayLike, keys: Array) -> Any:
        guided = GuidedJumps(process, log_probability, scale, exact)
        return sampler.step(state, predict, guided, plan, i, keys)

    return sampler._replace(step=step)


class GuidedJumps:
    """A process whose reversed jumps are guided, and which is as it was in all else."""

    def __init__(
        self, process: AnyProcess | TokenMasks, log_probability: LogProbability, scale: float, exact: bool
    ) -> None:
        self.process, self.log_probability, self.scale = process, log_probability, scale
        self.changes = log_changes if exact else first_order_changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def reverse_rates(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        change = self.scale * self.changes(self.log_probability, x_t, t, self.process.size)
        return self.process.reverse_rates(x_t, x0, t) * jnp.exp(jnp.minimum(change, LARGEST))


def log_changes(log_probability: LogProbability, x_t: Array, t: ArrayLike, size: int) -> Array:
    """log p(c | y) - log p(c | x_t) of all y that are x_t but for one position: float32 `[B, ..., K]`.

    Args:
        log_probability: (x_t int `[B, ...]`, t) -> log p(c_b | x_t) `[B]`, called once for each symbol and position.
        x_t: int `[B, ...]` symbols at time t.
        t: times, `[]` or `[B]`.
        size: number K of symbols.
    """
    flat = x_t.reshape(len(x_t), -1)

    def replaced(number: Array) -> Array:
        position, symbol = number // size, number % size
        return _checked(log_probability, flat.at[:, position].set(symbol).reshape(x_t.shape), t)

    every = jnp.moveaxis(jax.lax.map(replaced, jnp.arange(flat.shape[1] * size)), 0, -1)
    every = every.reshape(*x_t.shape, size)
    here = _checked(log_probability, x_t, t).reshape(-1, *[1] * x_t.ndim)
    return jnp.where(every == here, 0.0, every - here)  # equal ones may both be -inf


def first_order_changes(log_probability: LogProbability, x_t: Array, t: ArrayLike, size: int) -> Array:
    """The first-order series of `log_changes` in one-hot symbols: g_y - g_(x_t), of g = grad log p(c | x_t).

    Args:
        log_probability: (x_t float `[B, ..., K]`, t) -> log p(c_b | x_t) `[B]`.
        x_t: int `[B, ...]` symbols at time t.
        t: times, `[]` or `[B]`.
        size: number K of symbols.
    """
    one_hot = jax.nn.one_hot(x_t, size)
    gradient = jax.grad(lambda x: _checked(log_probability, x, t).sum())(one_hot)
    return gradient - jnp.sum(gradient * one_hot, -1, keepdims=True)


def _checked(log_probability: LogProbability, x: Array, t: ArrayLike) -> Array:
    log_p = log_probability(x, t)
    require_shape(log_p, x.shape[:1], "log p(c | x_t), one number an example and of its own c alone,")
    return log_p
