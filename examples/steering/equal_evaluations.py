"""Methods that raise the reward, at equal numbers of evaluations, on a mixture with an exact tilted distribution."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.metrics import vector_distances
from examples.restoration import exact, methods

STEPS = 20  # evaluations of one plain sample
DERIVATIVE = 3  # cost of an evaluation with its derivative, in evaluations
CENTRE, WIDTH = np.array([1.2, 0.8]), 0.7
MIXTURE = exact.random_mixture(3, 6, 2, 0.25)
TILTED = exact.posterior(MIXTURE, np.eye(2), CENTRE, WIDTH)
SCHEDULE = schedules.cosine()
DENOISE = exact.denoiser(MIXTURE, SCHEDULE)
PLAN = timesteps.plan(timesteps.uniform(SCHEDULE, STEPS))

Way = Callable[[int, Array], Callable[[Array, Array], Array] | None]
"""A function evaluations per sample -> the method (x_T `[B, 2]`, keys `[B]`) -> samples, or None for too few."""


def log_reward(x: Array) -> Array:
    """-|x - c|^2 / (2 w^2) `[B]`, which tilts a mixture of Gaussians into another."""
    return -jnp.sum((x - CENTRE) ** 2, -1) / (2 * WIDTH**2)


def generate(x: Array) -> Array:
    """The samples of the deterministic sampler from noise `[B, 2]`."""
    keys = jax.random.split(jax.random.key(0), len(x))
    return samplers.sample(samplers.ddim(), DENOISE, SCHEDULE, x, PLAN, keys)


def best_of(evaluations: int):
    """The best of N independent noises; the evaluations that make its sample again do not count."""
    return _searched(evaluations, evaluations // STEPS - 1, 1.0)


def search(evaluations: int):
    """Rounds of three noises near the best one so far."""
    return _searched(evaluations, 3, 0.4)


def _searched(evaluations: int, trials: int, distance: float):
    """A search over starting noise within a number of evaluations; None if this is too small for a round."""
    rounds = (evaluations // STEPS - 1) // max(trials, 1)
    if rounds < 1:
        return None

    def run(x, keys):
        best, _ = steering.searched_noise(
            generate, log_reward, x, keys, rounds=rounds, trials=trials, distance=distance
        )
        return generate(best)

    return run


def noise_optimisation(evaluations: int):
    """Gradient ascent on the noise, which is kept near the norm of standard normal noise."""
    updates = (evaluations - STEPS) // (DERIVATIVE * STEPS)
    if updates < 1:
        return None

    def run(x, keys):
        best, _ = steering.optimised_noise(generate, log_reward, x, optax.sgd(0.2), steps=updates, prior=0.5)
        return generate(best)

    return run


def gradient_guidance(evaluations: int):
    """Ancestral sampling with the reward's gradient at the estimate of x_0; more evaluations give shorter steps."""
    steps = evaluations // DERIVATIVE
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, steps))
    pulled = guidance.posterior_sampling(DENOISE, SCHEDULE, log_reward)
    return lambda x, keys: samplers.sample(samplers.ddpm(), pulled, SCHEDULE, x, plan, keys)


def path_search(evaluations: int):
    """Ancestral sampling that continues each step from the candidate whose estimate has the largest reward."""
    number = evaluations // STEPS
    if number < 2:
        return None

    def run(x, keys):
        noise, walks, _ = _particles(keys, number)
        return steering.searched_paths(
            samplers.ddpm(), DENOISE, SCHEDULE, noise, PLAN, walks, log_reward, number=number
        )[0]

    return run


def rejection(evaluations: int):
    """Samples that are accepted with the probability exp(reward); the last one if none is accepted."""
    trials = evaluations // STEPS
    if trials < 2:
        return None

    @jax.jit
    def tried(keys):
        draw = lambda keys: generate(samplers.prior(SCHEDULE, keys, (2,)))
        return steering.rejected(draw, log_reward, keys, trials=trials).x

    return lambda x, keys: tried(keys)


def _particles(keys: Array, number: int) -> tuple[Array, Array, Array]:
    """The first noise and the keys of particles, and the keys that draw one particle of each group."""
    starts, walks, draws = methods.particle_keys(keys, number)
    return samplers.prior(SCHEDULE, starts, (2,)), walks, draws


def particles(evaluations: int):
    """Twisted particles, of which one is drawn in proportion to its weight."""
    number = evaluations // STEPS
    if number < 2:
        return None

    def run(x, keys):
        noise, walks, draws = _particles(keys, number)
        twist = steering.tilt(log_reward)
        groups = steering.twisted(samplers.ddpm(), DENOISE, SCHEDULE, noise, PLAN, walks, twist, number=number)
        return steering.drawn(groups, draws)

    return run


WAYS = {
    "best of N": best_of,
    "search near the best noise": search,
    "search over paths": path_search,
    "noise optimisation": noise_optimisation,
    "gradient guidance": gradient_guidance,
    "particles (SMC)": particles,
    "rejection": rejection,
}


def curves(
    budgets: tuple[int, ...], number: int, known: Mapping[str, list[dict[str, float]]] | None = None
) -> dict[str, list[dict[str, float]]]:
    """The mean reward and the distance to the tilted law of each method at each number of evaluations.

    Args:
        budgets: the numbers of evaluations per sample.
        number: the number of samples.
        known: earlier curves, which are reused.

    Returns:
        {method: [{"evaluations", "reward", "distance"}]}; "the tilted law" and "the model" have one entry each.
    """
    first, keys = jax.random.split(jax.random.key(1), (2, number))
    x = samplers.prior(SCHEDULE, first, (2,))
    reference = exact.draw(TILTED, number, 7)

    def figures(evaluations: int, samples: Array | np.ndarray) -> dict[str, float]:
        samples = np.asarray(samples)
        reward = float(log_reward(jnp.asarray(samples)).mean())
        return {"evaluations": evaluations, "reward": reward, "distance": distance(samples, reference)}

    points = {
        "the tilted law": [figures(0, exact.draw(TILTED, number, 8))],
        "the model": [figures(STEPS, jax.jit(generate)(x))],
    }
    for name, way in WAYS.items():
        if name in (known or {}):
            points[name] = (known or {})[name]
            continue
        runs = {evaluations: run for evaluations in budgets if (run := way(evaluations)) is not None}
        points[name] = [figures(evaluations, jax.jit(run)(x, keys)) for evaluations, run in runs.items()]
    return points


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """The sliced 2-Wasserstein distance of two point clouds `[N, 2]`."""
    angles = np.linspace(0, np.pi, 32, endpoint=False)
    along = np.stack([np.cos(angles), np.sin(angles)], 1)
    return float(vector_distances.sliced_wasserstein(x, y, along) ** 0.5)
