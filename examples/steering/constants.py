"""Estimates the normalizing constants of standard densities with several methods, at equal numbers of evaluations."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion import objectives, parameterizations, samplers, schedules, steering, timesteps, weightings
from diffusion.training.step import example_keys

ESTIMATES = 8  # independent estimates of each constant
PARTICLES = 512
GRID = tuple(np.linspace(1, 0, 33).tolist())  # times of paths
BATCH, GROUP = 256, 64
WAVES = 8  # sines of time that the networks receive, and cosines
BUFFER, EVERY = 4096, 20  # samples in the buffer of adjoint sampling, and steps between new ones
MAX_NORM = 50.0  # largest norm of adjoint sampling's gradients; without it the training with a buffer diverges
SHARE = 0.75  # share of a trained method's evaluations that its training takes
SCHEDULE = schedules.trigonometric()
V = parameterizations.v(parameterizations.time())


class Density(NamedTuple):
    """A standard density, in units of about its standard deviation.

    Attributes:
        target: the density.
        scale: the unit.
    """

    target: objectives.Target
    scale: float


DENSITIES = {
    "mixture of 40": Density(objectives.gaussian_mixture(), 23.0),
    "funnel": Density(objectives.funnel(), 3.0),
    "many-well": Density(objectives.many_well(), 1.7),
    "DW-4": Density(objectives.dw4(), 2.5),
}


class Estimates(NamedTuple):
    """Estimates of one constant.

    Attributes:
        log_normalisers: the estimates of log Z, `[ESTIMATES]`.
        effective: the mean effective sample size of the final weights, as a share of their number.
    """

    log_normalisers: np.ndarray
    effective: float


def unit(density: Density) -> objectives.Target:
    """The density of x / scale, which has the same integral."""
    target, scale = density
    volume = math.prod(target.shape) * math.log(scale)
    log_density = lambda x: target.log_density(scale * x) + volume
    return objectives.Target(log_density, target.shape, target.log_normaliser)


def log_base(x: Array) -> Array:
    """The log-density of N(0, I) `[B]`."""
    return -jnp.sum(x**2, -1) / 2 - x.shape[-1] * math.log(2 * math.pi) / 2


def normal(key: Array, number: int, shape: tuple[int, ...]) -> Array:
    """Standard normal samples `[number, *shape]`."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(jax.random.split(key, number))


def estimates_of(log_weights: Array) -> Estimates:
    """The estimates of groups of log-weights `[ESTIMATES, K]`."""
    sizes = steering.effective_size(log_weights) / log_weights.shape[1]
    return Estimates(np.asarray(steering.log_normaliser(log_weights)), float(sizes.mean()))


def importance(target: objectives.Target, evaluations: int) -> Estimates:
    """Importance sampling from N(0, I)."""

    def one(key):
        x = normal(key, evaluations, target.shape)
        return target.log_density(x) - log_base(x)

    return estimates_of(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), ESTIMATES)))


def annealed(target: objectives.Target, evaluations: int, resample: steering.Resampling) -> Estimates:
    """Annealing from N(0, I) by MALA, with temperatures from a pilot run, whose evaluations count too."""
    pilot = normal(jax.random.key(1), PARTICLES // 2, target.shape)
    rungs, sizes = steering.annealing_ladder(log_base, target.log_density, pilot, jax.random.key(2), 0.5, share=0.8)
    number = max(evaluations - len(pilot) * len(rungs), evaluations // 2) // PARTICLES  # evaluations of each particle
    at = np.linspace(0, len(rungs) - 1, number + 1)
    ladder, sizes = (np.interp(at, np.arange(len(rungs)), values) for values in (rungs, sizes))
    keys = jax.random.split(jax.random.key(3), ESTIMATES * PARTICLES)
    x = normal(jax.random.key(4), len(keys), target.shape)
    run = functools.partial(
        steering.annealed, log_base, target.log_density, ladder=ladder, step_sizes=sizes, number=PARTICLES
    )
    return estimates_of(jax.jit(lambda x, keys: run(x, keys, resample=resample).log_weights)(x, keys))


def trained(
    objective: objectives.Objective,
    target: objectives.Target,
    evaluations: int,
    build: Callable[[Any], parameterizations.Network] = lambda params: functools.partial(network, params),
    every: int = 1,
) -> Estimates:
    """The estimates from the weights of paths, by a network that is trained with a share of the evaluations.

    Args:
        objective: the objective.
        target: the density.
        evaluations: the number of evaluations of the density; a path counts as one.
        build: a function parameters -> network.
        every: the number of training steps that use one batch of evaluations.
    """
    params = train(objective, target.shape, every * (int(SHARE * evaluations) // BATCH), build)
    number = evaluations - int(SHARE * evaluations)
    denoise = parameterizations.denoiser(build(params), SCHEDULE, V)
    paths = lambda keys: samplers.path_weights(
        denoise, SCHEDULE, timesteps.plan(np.array(GRID)), keys, target.shape, target.log_density
    )[1]
    keys = jax.random.split(jax.random.key(7), (ESTIMATES, number))
    return estimates_of(jax.jit(lambda keys: jax.lax.map(paths, keys))(keys))


def train(
    objective: objectives.Objective,
    shape: tuple[int, ...],
    steps: int,
    build: Callable[[Any], parameterizations.Network],
) -> Any:
    """The parameters of a network of 64 units after `steps` batches."""
    sizes = (math.prod(shape) + 2 * WAVES, 64, 64, 64, math.prod(shape))
    draw = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) / rows**0.5
    layers = [draw(jax.random.key(k), *pair) for k, pair in enumerate(itertools.pairwise(sizes))]
    layers[-1] = 0 * layers[-1]  # the zero network is the exact denoiser of N(0, I)
    gate = jnp.zeros((2 * WAVES, sizes[-1]))
    params = {"layers": [(layer, jnp.zeros(layer.shape[1])) for layer in layers], "gate": gate}
    buffer = objective.buffer
    rate = optax.cosine_decay_schedule(2e-3, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def update(carry, step):
        params, state, replay = carry
        keys = example_keys(jax.random.key(5), step, jnp.arange(BATCH))

        def loss(params):
            batch = {"x": jnp.zeros((BATCH, *shape))} | ({} if buffer is None else {"buffer": replay})
            losses, metrics = objective({"model": build(params)}, SCHEDULE, keys, batch, step)
            return losses.mean(), metrics

        slope, metrics = jax.grad(loss, has_aux=True)(params)
        change, state = optimizer.update(slope, state, params)
        replay = replay if buffer is None else buffer.update(replay, metrics["buffer"], step)
        return (optax.apply_updates(params, change), state, replay), None

    run = jax.jit(lambda carry: jax.lax.scan(update, carry, jnp.arange(steps))[0])
    return run((params, optimizer.init(params), None if buffer is None else buffer.init()))[0]


def waves_of(t: Array) -> Array:
    """Sines and cosines of times `[B]`, `[B, 2 WAVES]`."""
    waves = jnp.reshape(t, (-1, 1)) * jnp.arange(1, WAVES + 1) * math.pi
    return jnp.concatenate([jnp.sin(waves), jnp.cos(waves)], -1)


def network(params: Any, x: Array, t: Array, condition: Any) -> Array:
    """The prediction v of a small network from x `[B, D]` and waves of t."""
    waves = waves_of(t)
    h = jnp.concatenate([x, jnp.broadcast_to(waves, (len(x), waves.shape[1]))], -1)
    for weights, bias in params["layers"][:-1]:
        h = jax.nn.gelu(h @ weights + bias)
    weights, bias = params["layers"][-1]
    return h @ weights + bias


def log_variance(target: objectives.Target, evaluations: int) -> Estimates:
    """Paths that are trained to have equal weights."""
    return trained(objectives.log_variance(V, GRID, target, GROUP), target, evaluations)


def log_variance_with_gradient(target: objectives.Target, evaluations: int) -> Estimates:
    """As many paths by a network that receives the density's gradient in each step, so 33 times the evaluations."""

    def build(params):
        gate = lambda t: waves_of(t) @ params["gate"]
        return objectives.with_density_gradient(functools.partial(network, params), target.log_density, gate)

    return trained(objectives.log_variance(V, GRID, target, GROUP), target, evaluations, build)


def adjoint_sampling(target: objectives.Target, evaluations: int, every: int = 1) -> Estimates:
    """Paths that are trained by the gradients at their ends; with a buffer, each gradient is used in several steps."""
    objective = objectives.adjoint_sampling(
        V,
        weightings.constant(V),
        timesteps.uniform_density(SCHEDULE),
        GRID,
        target,
        buffer=BUFFER if every > 1 else 0,
        every=every,
        max_norm=MAX_NORM,
    )
    return trained(objective, target, evaluations, every=every)


NEVER = steering.where_uneven(steering.systematic, 1e-9)
METHODS: Mapping[str, Callable[[objectives.Target, int], Estimates]] = {
    "importance sampling": importance,
    "annealed importance sampling": functools.partial(annealed, resample=NEVER),
    "sequential Monte Carlo": functools.partial(annealed, resample=steering.where_uneven(steering.systematic)),
    "log-variance": log_variance,
    "log-variance, gradient as an input": log_variance_with_gradient,
    "adjoint sampling": adjoint_sampling,
    "adjoint sampling, buffer": functools.partial(adjoint_sampling, every=EVERY),
}


def table(
    evaluations: int, known: Mapping[str, Mapping[str, dict[str, float | None]]] | None = None
) -> dict[str, dict[str, dict[str, float | None]]]:
    """{density: {method: {"error", the root mean square of log Z, "effective", the share of the effective size}}}.

    The error is None where a training diverged.

    Args:
        evaluations: number of evaluations of the density by each method.
        known: an earlier table, whose cells are reused.
    """
    rows: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, density in DENSITIES.items():
        target = unit(density)
        for method, estimate in METHODS.items():
            cell = (known or {}).get(name, {}).get(method)
            if cell is None:
                estimates = estimate(target, evaluations)
                error = float(np.mean((estimates.log_normalisers - target.log_normaliser) ** 2) ** 0.5)
                cell = {"error": error if math.isfinite(error) else None, "effective": estimates.effective}
            rows.setdefault(name, {})[method] = cell
            print(f"{name}, {method}: log Z off by {cell['error']}, effective size {cell['effective']:.2%}", flush=True)
    return rows
