"""Solvers of du/ds = f(s, u) for a batch of independent examples.

A solver has a first and a last time; the caller passes the function from time to the integration variable s. The
adaptive solver chooses the steps of each example by that example's error, so a result does not depend on the batch. A
general-purpose solver would control the error of the whole batch, or would have to be mapped over examples, which is
impossible for a denoiser that holds the condition of the whole batch.
"""

__all__ = ["Flow", "Solver", "dormand_prince", "dormand_prince_between", "runge_kutta"]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.not_a_number import nan_unless
from diffusion.package import public
from diffusion.schedules import left_broadcast

Flow = Callable[[Array, Any], Any]
"""(s `[]` or `[B]`, state) -> slope; both are pytrees of arrays `[B, ...]`."""


class Solver(NamedTuple):
    """An integration method between two times.

    Attributes:
        start: first time.
        end: last time.
        solve: (flow, variable, state) -> (state at the end, number of evaluations of the flow), with variable: t -> s.
    """

    start: float
    end: float
    solve: Callable[[Flow, Callable[[Array], Array], Any], tuple[Any, ArrayLike]]


def runge_kutta(grid: ArrayLike) -> Solver:
    """The classical Runge-Kutta method of order 4 (Kutta 1901), with four evaluations per step.

    Args:
        grid: `[N + 1]` increasing times.

    Raises:
        ValueError: if the times do not increase.
    """
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or grid.size < 2 or not np.all(np.diff(grid) > 0):
        raise ValueError(f"the grid must be at least two increasing times, starting near the data; got {grid}")

    def solve(flow, variable, state):
        s = variable(jnp.asarray(grid, jax.tree.leaves(state)[0].dtype))

        def step(state, ends):
            s = ends[0]
            h = ends[1] - ends[0]
            k1 = flow(s, state)
            k2 = flow(s + h / 2, _moved(state, h / 2, [1], [k1]))
            k3 = flow(s + h / 2, _moved(state, h / 2, [1], [k2]))
            k4 = flow(s + h, _moved(state, h, [1], [k3]))
            return _moved(state, h / 6, [1, 2, 2, 1], [k1, k2, k3, k4]), None

        return jax.lax.scan(step, state, (s[:-1], s[1:]))[0], 4 * (grid.size - 1)

    return Solver(float(grid[0]), float(grid[-1]), solve)


# Dormand and Prince 1980, "A family of embedded Runge-Kutta formulae", table 2: order 5 with an error of order 4. The
# last row of A is the step itself, so that its last evaluation is the first of the next step.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dormand_prince(start: float, end: float, rtol: float = 1e-5, atol: float = 1e-5, most: int = 1000) -> Solver:
    """Adaptive steps of order 5, chosen for each example by its error, with six evaluations per attempted step.

    A step is accepted if the root mean square of error / (atol + rtol |u|) is at most 1 for every array of the state.
    After each attempt, the step size is multiplied by 0.9 error^(-1/5), limited to [1/5, 5] (Hairer, Norsett and Wanner
    1993, "Solving Ordinary Differential Equations I", section II.4).

    Args:
        start: first time.
        end: last time, > start.
        rtol: relative tolerance, > 0; 1e-5 in Song et al. 2021, as atol.
        atol: absolute tolerance, > 0.
        most: largest number of attempted steps, >= 1; an example that does not reach the end within them is NaN.

    Raises:
        ValueError: if end is not after start, a tolerance is not positive, or most is below 1.
    """
    if not start < end:
        raise ValueError(f"the end must come after the start, got {start} to {end}")
    if not (rtol > 0 and atol > 0 and most >= 1):
        raise ValueError(f"rtol = {rtol}, atol = {atol}, most = {most}. Valid: rtol > 0, atol > 0, most >= 1")

    def solve(flow, variable, state):
        like = jax.tree.leaves(state)[0]
        first, last = (variable(jnp.asarray(t, like.dtype)) for t in (start, end))
        state, attempts = dormand_prince_between(flow, first, last, state, rtol, atol, most)
        return state, 1 + 6 * attempts.max(initial=0)

    return Solver(float(start), float(end), solve)


def dormand_prince_between(
    flow: Flow, first: Array, last: Array, state: Any, rtol: ArrayLike, atol: ArrayLike, most: int
) -> tuple[Any, Array]:
    """The integration of `dormand_prince` between two values of its variable, first < last.

    Returns:
        (state at the end, NaN for an example that does not reach it; number of attempts of each example `[B]`, each
        with six evaluations after an initial one).
    """
    like = jax.tree.leaves(state)[0]

    def attempt(carry):
        s, h, state, slope, attempts = carry
        final = h >= last - s
        h = jnp.where(final, last - s, h)
        slopes, new = [slope], state
        for node, row in zip(_NODES, _A):
            new = _moved(state, h, row, slopes)
            slopes.append(flow(s + node * h, new))
        error = _relative(_moved(jax.tree.map(jnp.zeros_like, state), h, _ERROR, slopes), state, new, rtol, atol)
        taken = error <= 1
        factor = jnp.clip(0.9 * error**-0.2, 0.2, 5.0)
        moved = jnp.where(final, last, s + h)
        pick = lambda new, old: jnp.where(left_broadcast(taken, old), new, old)
        state = jax.tree.map(pick, new, state)
        slope = jax.tree.map(pick, slopes[-1], slope)
        attempts = attempts + (s < last).astype(jnp.int32)
        return pick(moved, s), h * jnp.where(moved > s, factor, 1), state, slope, attempts

    s = jnp.broadcast_to(first, like.shape[:1])
    begin = (s, jnp.full_like(s, (last - first) / 100), state, flow(s, state), jnp.zeros(s.shape, jnp.int32))
    going = lambda carry: jnp.any(carry[0] < last) & (carry[-1].max(initial=0) < most)
    s, _, state, _, attempts = jax.lax.while_loop(going, attempt, begin)
    arrived = lambda a: nan_unless(left_broadcast(s >= last, a), a)
    return jax.tree.map(arrived, state), attempts


def _moved(state, h, weights, slopes):
    """state + h sum_i weights[i] slopes[i], with h of shape `[]` or `[B]`."""
    total = lambda u, *k: u + left_broadcast(h, u) * sum(w * a for w, a in zip(weights, k) if w)
    return jax.tree.map(total, state, *slopes)


def _relative(error, old, new, rtol, atol) -> Array:
    """`[B]` the largest root mean square of error / tolerance over the arrays; infinite instead of NaN."""

    def size(e, a, b):
        ratio = (e / (atol + rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)))) ** 2
        return jnp.sqrt(flattened(ratio).mean(axis=1))

    sizes = jnp.stack(jax.tree.leaves(jax.tree.map(size, error, old, new)))
    largest = sizes.max(axis=0)
    return jnp.where(jnp.isnan(largest), jnp.inf, largest)


public.declare(__name__)
