"""Annealed importance sampling: from a density that can be sampled to an unnormalised density."""

__all__ = ["LogDensity", "Point", "annealed", "annealing_ladder", "hamiltonian", "leapfrog", "looker"]

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import is_count, require_shape
from diffusion.package import public
from diffusion.samplers.sample import normal
from diffusion.samplers.sample_checks import check_start
from diffusion.sampling.steering.particles import Particles, advance, check_groups
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling, effective_size, systematic
from diffusion.schedules.noise_schedule import as_float

LogDensity = Callable[[Array], Array]
"""x `[B, ...]` -> log-density `[B]`, differentiable, where number b depends only on example b."""
ACCEPTED = 0.65  # target acceptance rate of a pilot run: Beskos et al. 2013, for Hamiltonian Monte Carlo
RUNGS = 1000  # largest number of rungs in a pilot run


class Point(NamedTuple):
    """Particles, with the values and gradients of both log-densities."""

    x: Array
    base: Array
    density: Array
    base_gradient: Array
    density_gradient: Array

    def log_weight(self, rise: ArrayLike) -> Array:
        """rise log(gamma / p) `[B]`; 0 if rise is 0, wherever the particles are."""
        return jnp.where(jnp.asarray(rise) > 0, rise * (self.density - self.base), 0)


def annealed(
    log_base: LogDensity,
    log_density: LogDensity,
    x: Array,
    keys: Array,
    ladder: Sequence[float] | np.ndarray,
    step_sizes: np.ndarray | float,
    *,
    number: int,
    leapfrogs: int = 1,
    resample: Resampling = USUAL,
) -> Particles:
    """Carries groups of K particles from samples of p to an unnormalised density gamma, along

        pi_k = p^(1 - b_k) gamma^(b_k),    w <- w (gamma / p)^(b_k+1 - b_k)(x),

    where a Hamiltonian move that preserves pi_k precedes each weight except the first. For any ladder, step size and K,
    the exponential of `log_normaliser` is an unbiased estimate of the integral of gamma, and weighted means converge as
    K grows. Without resampling this is annealed importance sampling; with resampling it is sequential Monte Carlo.

    Facts:
        nfe: 1 + leapfrogs (N - 1) values and gradients of gamma per particle, for a ladder of N + 1 numbers
        paper: Neal 2001, "Annealed Importance Sampling", eq. 2 to 4; Del Moral et al. 2006, "Sequential Monte Carlo
            Samplers", section 3.3.2.3; Neal 2011, "MCMC using Hamiltonian Dynamics", eq. 5.18 to 5.20 and section 5.2

    Args:
        log_base: log-density of p, normalised.
        log_density: log gamma, not normalised; -inf outside of the support.
        x: samples of p `[G K, ...]`; the K particles of a group are consecutive.
        keys: random keys `[G K]`.
        ladder: numbers b `[N + 1]` from 0 to 1, which must not decrease; repeating a number adds a move. See
            `annealing_ladder`.
        step_sizes: step sizes of the moves, > 0: one for each rung `[N + 1]`, or one number.
        number: number K of particles in a group, >= 1.
        leapfrogs: number of leapfrog steps in a move, >= 1; 1 gives the Metropolis-adjusted Langevin algorithm (MALA).
        resample: the resampling of a group; systematic resampling if the effective size is below K / 2 by default.

    Returns:
        The weighted particles of gamma. There is no move after the last weight.

    Raises:
        ValueError: if the ladder or a step size is invalid, number does not divide the batch, or log-densities do not
            have the shape `[B]`.
    """
    check_start(x, keys)
    rungs = np.asarray(ladder, np.float64)
    if rungs.ndim != 1 or len(rungs) < 2 or rungs[0] != 0 or rungs[-1] != 1 or (np.diff(rungs) < 0).any():
        raise ValueError(f"annealed: ladder = {ladder} must be numbers from 0 to 1 that do not fall")
    positive = (np.asarray(step_sizes) > 0) & np.isfinite(step_sizes)
    if not positive.all() or np.shape(step_sizes) not in ((), rungs.shape):
        raise ValueError(
            f"annealed: step_sizes = {step_sizes} must be positive and finite, one number or one for each of the "
            f"{len(rungs)} rungs"
        )
    if not is_count(leapfrogs):
        raise ValueError(f"annealed: leapfrogs = {leapfrogs} must be an integer of at least 1")
    check_groups(x, number)
    x = as_float(x)
    look = looker(log_base, log_density)
    b = jnp.asarray(rungs, x.dtype)
    rises = jnp.asarray(np.diff(rungs), x.dtype)
    sizes = jnp.broadcast_to(jnp.asarray(step_sizes, x.dtype), b.shape)

    def move(point, i, step_keys):
        stay = lambda: point
        point = jax.lax.cond(i > 0, lambda: hamiltonian(look, point, b[i], sizes[i], leapfrogs, step_keys)[0], stay)
        return point, point.log_weight(rises[i])

    steps = len(rungs) - 1
    begin = (look(x), jnp.zeros(x.shape[0], x.dtype))
    point, log_weights, effective_sizes = advance(begin, move, keys, steps, steps - 1, number, resample)
    return Particles(point.x, log_weights, effective_sizes)


def annealing_ladder(
    log_base: LogDensity,
    log_density: LogDensity,
    x: Array,
    key: Array,
    step_size: float,
    *,
    share: float = 0.9,
    leapfrogs: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """A ladder and step sizes for `annealed`, by a pilot run of one group.

    Each rung is the farthest number at which the effective size of the weights is still the given share of the
    particles. The step size grows while more than 65 % of the moves are accepted, and shrinks otherwise. The estimate
    of the normaliser in a later run stays unbiased because its ladder comes from other particles; it would be biased if
    the run chose its own ladder.

    Facts:
        nfe: 1 + leapfrogs N values and gradients of gamma per particle
        paper: Zhou et al. 2016, "Toward Automatic Model Comparison: An Adaptive Sequential Monte Carlo Approach",
            section 3.3.2; Beskos et al. 2016, "On the Convergence of Adaptive Sequential Monte Carlo Methods"

    Args:
        log_base, log_density, leapfrogs: arguments of `annealed`.
        x: samples of p `[K, ...]`, not traced.
        key: random key.
        step_size: step size of the first move, > 0.
        share: effective size of each rung's weights, as a share of the particles, in (0, 1).

    Returns:
        (numbers b `[N + 1]` from 0 to 1, step sizes `[N + 1]`).

    Raises:
        ValueError: if share, step_size or leapfrogs is out of range, or the ladder does not reach 1 within 1,000 rungs.
    """
    if not is_count(leapfrogs):
        raise ValueError(f"annealing_ladder: leapfrogs = {leapfrogs} must be an integer of at least 1")
    if not 0 < share < 1 or not step_size > 0:
        raise ValueError(f"annealing_ladder: share = {share} must be in (0, 1), step_size = {step_size} positive")
    look = looker(log_base, log_density)
    point = look(as_float(x))
    uneven = jax.jit(lambda point, rise: effective_size(point.log_weight(rise)) < share * x.shape[0])

    @jax.jit
    def moved(point, b, rise, size, key):
        resampling, moving = jax.random.split(key)
        ancestors, _ = systematic(resampling, point.log_weight(rise))
        point = jax.tree.map(lambda leaf: leaf[ancestors], point)
        point, accepted = hamiltonian(look, point, b, size, leapfrogs, jax.random.split(moving, len(ancestors)))
        return point, accepted.mean()

    ladder, sizes, size = [0.0], [step_size], step_size
    while ladder[-1] < 1:
        if len(ladder) > RUNGS:
            raise ValueError(
                f"annealing_ladder: {RUNGS} rungs reach b = {ladder[-1]:.3g} only. Valid: a density nearer to the "
                "base, or a smaller share"
            )
        rise = 1 - ladder[-1]
        low, high = (0.0, rise) if uneven(point, rise) else (rise, rise)
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if uneven(point, middle) else (middle, high)
        ladder.append(1.0 if low == rise else ladder[-1] + low)
        point, accepted = moved(point, ladder[-1], low, size, jax.random.fold_in(key, len(ladder)))
        size *= float(np.exp(2 * (accepted - ACCEPTED)))
        sizes.append(size)
    return np.array(ladder), np.array(sizes)


def hamiltonian(
    look: Callable[[Array], Point], point: Point, b: ArrayLike, size: ArrayLike, leapfrogs: int, keys: Array
) -> tuple[Point, Array]:
    """A move that preserves p^(1 - b) gamma^b; returns (particles, Bool `[B]`: whether each was accepted).

    Args:
        look: x -> `Point`, with values and gradients.
        point: the particles.
        b: the rung, in [0, 1].
        size: step size.
        leapfrogs: number of leapfrog steps.
        keys: random keys `[B]`.
    """
    momentum_keys, test_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    momentum = normal(momentum_keys, 1, point.x)[0]
    after, pushed = leapfrog(look, point, momentum, b, size, leapfrogs)
    kinetic = lambda p: jnp.sum(p**2, axis=tuple(range(1, p.ndim))) / 2
    energy = lambda point, p: kinetic(p) - (point.base + point.log_weight(b))
    test = jax.vmap(lambda key: jax.random.uniform(key, (), point.x.dtype))(test_keys)
    accepted = jnp.log(test) < energy(point, momentum) - energy(after, pushed)  # False where an energy is NaN
    chosen = lambda new, old: jnp.where(accepted.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
    return jax.tree.map(chosen, after, point), accepted


def leapfrog(
    look: Callable[[Array], Point], point: Point, momentum: Array, b: ArrayLike, size: ArrayLike, number: int
) -> tuple[Point, Array]:
    """Leapfrog steps for the energy -log(p^(1 - b) gamma^b).

    Args:
        look: x -> `Point`, with values and gradients.
        point: the particles.
        momentum: their momentum, of the shape of x.
        b: the rung, in [0, 1].
        size: step size.
        number: number of steps.

    Returns:
        (particles, momentum).
    """
    push = lambda point: size / 2 * ((1 - b) * point.base_gradient + b * point.density_gradient)

    def step(carry, _):
        point, momentum = carry
        momentum = momentum + push(point)
        point = look(point.x + size * momentum)
        return (point, momentum + push(point)), None

    return jax.lax.scan(step, (point, momentum), length=number)[0]


def looker(log_base: LogDensity, log_density: LogDensity) -> Callable[[Array], Point]:
    """The function x -> `Point`."""

    def look(x):
        values, pull = jax.vjp(lambda x: (log_base(x), log_density(x)), x)
        for value in values:
            require_shape(value, x.shape[:1], "the log-densities, one number for each sample,")
        ones, zeros = jnp.ones_like(values[0]), jnp.zeros_like(values[0])
        return Point(x, *values, *pull((ones, zeros)), *pull((zeros, ones)))

    return look


public.declare(__name__)
