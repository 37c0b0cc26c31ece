"""Discrete flow matching on the mixture path: draws between two ends, the velocity, the sampler and the loss.

    q(x_t | x_0, x_1) = alpha_t 1[x_t = x_0] + (1 - alpha_t) 1[x_t = x_1]

independently for each position. alpha is the paper's kappa with reversed time: kappa(1 - t) = alpha(t). If the ends are
independent and x_1 follows the prior, these are the marginals of a `Process`. The velocity below generates them by
other jumps than the reversed process, and is finite at t = 1.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_keys
from diffusion.arrays.parameters import traced
from diffusion.discrete.keeping import Keeping
from diffusion.discrete.predictions import Predictor, check_normalised
from diffusion.discrete.processes import over_positions
from diffusion.discrete.rate_processes import AnyProcess, RateProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.steps import Law, stepped
from diffusion.schedules import left_broadcast


def between(keeping: Keeping, keys: Array, x0: Array, x1: Array, t: Array) -> Array:
    """Draws x_t between two ends, which may be coupled in any way.

    Args:
        keeping: schedule alpha(t), which is the paper's kappa.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data.
        x1: int `[B, ...]` symbols of the source, in the same shape.
        t: `[B]` times in [0, 1].

    Returns:
        int32 `[B, ...]`, at each position the symbol of x0 or of x1. Example i depends only on row i of the arguments.

    Raises:
        ValueError: if the ends have different shapes, or there is not one key for each example.

    The paper: Gat et al. 2024, "Discrete Flow Matching".
    """
    if jnp.shape(x0) != jnp.shape(x1):
        raise ValueError(
            f"between: the ends x0 and x1 have the shapes {jnp.shape(x0)} and {jnp.shape(x1)}; both must have one shape"
        )
    require_keys(keys, len(x0), "a path needs one key for each example")
    u = jax.vmap(lambda key: jax.random.uniform(key, jnp.shape(x0)[1:]))(keys)
    return jnp.where(u < left_broadcast(keeping.alpha(t), x0), x0, x1).astype(jnp.int32)


def flow_cross_entropy(predict: Predictor, x0: Array, x_t: Array, t: Array) -> Array:
    """The loss of discrete flow matching: the cross-entropy of every position's clean symbol.

        sum over positions of -log p(x_0 | x_t)

    Its optimum is the exact p(x_0 | x_t) under any coupling of the ends. It is not a bound on -log p(x_0).

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t).
        x0: int `[B, ...]` symbols of the data.
        x_t: int `[B, ...]` symbols on the path, from `between` or `noised`.
        t: `[B]` times in (0, 1).

    Returns:
        The loss, float32 `[B]` in nats per example.

    The paper: Gat et al. 2024, "Discrete Flow Matching".
    """
    log_x0 = jnp.take_along_axis(check_normalised(predict(x_t, t)), x0[..., None], -1)
    return -over_positions(log_x0)


def flow_rates(process: AnyProcess, x_t: Array, x0: Array, t: ArrayLike, stochasticity: float = 0.0) -> Array:
    """The rates at which the flow jumps from x_t to each symbol y as t decreases, 0 at y = x_t.

        (1 + c alpha) (-alpha' / (1 - alpha)) p(y | x_t) + c (-alpha') pi(y)

    With c = 0 this is the velocity of the mixture path. The other terms add jumps towards the noise and towards the
    data that preserve the marginals and correct earlier errors.

    Args:
        process: the process, whose prior is the source.
        x_t: int `[B, ...]` symbols at time t.
        x0: float `[B, ..., K]` probabilities of x_0 given x_t.
        t: times in (0, 1], `[]` or `[B]`.
        stochasticity: factor c, at least 0.

    Returns:
        Rates float32 `[B, ..., K]`, in jumps per unit of time.

    Raises:
        ValueError: if the process is a `RateProcess`, whose marginals are not those of a mixture path.

    The paper: Gat et al. 2024, "Discrete Flow Matching"; the divergence-free part follows the authors' library
    flow_matching, here with the factor c alpha, so that no rate is infinite at t = 1.
    """
    towards_data, towards_noise = _rates(process, x0, t, stochasticity)
    rates = towards_data * x0 + towards_noise * jnp.asarray(process.prior)
    return jnp.where(jax.nn.one_hot(x_t, process.size, dtype=bool), 0.0, rates)


def flow(stochasticity: float = 0.0) -> SymbolSampler:
    """Draws x_0 from the prediction, and jumps towards it with the rates at t; first order.

    A step to t = 0 draws from the prediction. A plan may begin at t = 1. A `RateProcess` is refused: its marginals are
    not those of a mixture path.

    Facts:
        nfe: steps
        paper: Gat et al. 2024, "Discrete Flow Matching"; the probability of a jump as in the authors' library
            flow_matching, its `MixtureDiscreteEulerSolver`

    Args:
        stochasticity: factor c of `flow_rates`, at least 0.

    Raises:
        ValueError: if stochasticity is below 0.
    """
    return stepped(flow_law(stochasticity))


def flow_law(stochasticity: float = 0.0) -> Law:
    """The distribution of a step of `flow`, marginalised over the drawn clean symbol."""
    if not traced(stochasticity) and not stochasticity >= 0:
        raise ValueError(f"flow: stochasticity = {stochasticity}. Valid: a number of at least 0")

    def law(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array) -> Array:
        p = jnp.exp(predict(x, t))
        prior, here = jnp.asarray(process.prior), jax.nn.one_hot(x, process.size)
        step = left_broadcast(t - s, p)
        to_data, to_noise = (step * rate for rate in _rates(process, p, t, stochasticity))
        right = jnp.sum(here * p, -1, keepdims=True)  # the probability that x_t is clean
        leaving = to_noise * (1 - jnp.sum(here * prior, -1, keepdims=True))
        otherwise, clean = _jumped(to_data + leaving), _jumped(leaving)
        jumps = otherwise * (to_data * p + (1 - right) * to_noise * prior) + clean * right * to_noise * prior
        jumps = jnp.where(here > 0, 0.0, jumps)
        stay = 1 - jnp.sum(jumps, -1, keepdims=True)
        return jnp.where(left_broadcast(s, p) > 0, jumps + jnp.maximum(stay, 0.0) * here, p)

    return law


def _rates(process: AnyProcess, x0: Array, t: ArrayLike, stochasticity: float) -> tuple[Array, Array]:
    """The factors of p(y | x_t) and of pi(y), broadcastable against x0."""
    if isinstance(process, RateProcess):
        raise ValueError(
            "flow: the marginals of a RateProcess are not a mixture of the data and the prior. Valid: a process such "
            "as discrete.uniform, or the sampler ancestral, euler, tau_leaping or corrected"
        )
    alpha, replaced, decay = (
        left_broadcast(number(t), x0)
        for number in (process.keeping.alpha, process.keeping.replaced, process.keeping.decay)
    )
    return (1 + stochasticity * alpha) * decay / replaced, stochasticity * decay


def _jumped(total: Array) -> Array:
    """(1 - exp(-total)) / total, 1 at 0."""
    return jnp.where(total > 0, -jnp.expm1(-total) / jnp.where(total > 0, total, 1.0), 1.0)
