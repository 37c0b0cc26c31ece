"""Short trainings on a two-dimensional mixture, which test whether a trained network generates samples of the data.

    networks = short_training.train({"model": Player(objective, "model", short_training.optimizer())},
                                    {"model": short_training.parameters()}, schedule)
    samples = short_training.generate(networks["ema"], schedule, parameterization)
    assert short_training.distance(samples) < short_training.BOUND

`train` takes any number of players, frozen networks, averages and clocks; `generate` is for networks that are read as
a denoiser. An exact teacher is `oracles.mean_x0` and `mean_eps` of DATA.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import parameterizations, samplers, timesteps
from diffusion.training.alternating import Average, alternating
from diffusion.training.ema import exponential_moving_average
from diffusion.training.optimizers import adamw
from tests import oracles

# Three islands, none alike.
DATA = oracles.mixture(
    [0.5, 0.3, 0.2],
    [[0.9, -0.5], [-1.0, 0.7], [-0.4, -1.2]],
    [[[0.06, 0.03], [0.03, 0.04]], [[0.03, 0.0], [0.0, 0.08]], [[0.05, -0.02], [-0.02, 0.03]]],
)
SAMPLES = 4096
# Two sets of SAMPLES data points are 0.025 apart, a Gaussian of the data's mean and covariance 0.25, and flow matching
# comes to 0.02.
BOUND = 0.06
WIDTH, FREQUENCIES = 96, 6


def draw(key, size):
    """`[size, 2]` points of the data."""
    component_key, noise_key = jax.random.split(key)
    k = jax.random.choice(component_key, len(DATA.weights), (size,), p=jnp.asarray(DATA.weights, jnp.float32))
    data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), DATA)
    z = jax.random.normal(noise_key, (size, 2)) * jnp.sqrt(data.variances[k])
    return data.means[k] + jnp.einsum("bij,bj->bi", data.axes[k], z)


def parameters(seed=0, outputs=2, clocks=1, width=WIDTH):
    """Those of `network`: a perceptron with three hidden layers; `clocks` is 2 for networks of two times."""
    sizes = [2 + clocks * 2 * FREQUENCIES, width, width, width, outputs]
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    scale = [1.0] * (len(sizes) - 2) + [1e-2]
    return [
        {"kernel": s * jax.random.normal(key, (a, b)) / np.sqrt(a), "bias": jnp.zeros(b)}
        for key, a, b, s in zip(keys, sizes[:-1], sizes[1:], scale)
    ]


def network(params, x, clock, condition=None):
    """(x [B, 2], clock [B] or a tuple of such, no condition) -> [B, outputs]."""
    clocks = clock if isinstance(clock, tuple) else (clock,)
    angles = [c[:, None] * 2.0 ** jnp.arange(-2, FREQUENCIES - 2) for c in clocks]
    h = jnp.concatenate([x, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=1)
    for layer in params[:-1]:
        h = jax.nn.silu(h @ layer["kernel"] + layer["bias"])
    return h @ params[-1]["kernel"] + params[-1]["bias"]


def optimizer(learning_rate=3e-3, steps=2000):
    return adamw(learning_rate, warmup=50, decay="cosine", steps=steps, clip=1.0)


def train(players, params, schedule, steps=2000, size=256, averages=None, apply=None, extend=None, seed=0):
    """Trains, and returns {name: (x, clock, condition) -> output} of every network; "ema" is the average of "model".

    Args:
        players: {name: Player}; see `diffusion.training.alternating`.
        params: {network: parameters} of every network but the averages.
        schedule: the process.
        steps: the number of training steps.
        size: the number of examples in a batch.
        averages: {network: Average} in addition to "ema".
        apply: {network: function} for networks other than `network`.
        extend: a function (key, batch) -> the batch with further entries, such as "noise".
        seed: the seed of data, noise and times.
    """
    apply = {**dict.fromkeys(params, network), **(apply or {})}
    averages = {"ema": Average("model", exponential_moving_average(0.99)), **(averages or {})}
    init, step = alternating(players, apply, schedule, averages)

    def body(state, i):
        key = jax.random.fold_in(jax.random.key(seed + 1), i)
        batch = {"x": draw(key, size), "index": i * size + jnp.arange(size)}
        if extend is not None:
            batch = extend(jax.random.fold_in(key, 1), batch)
        return step(state, batch, jax.random.key(seed))[0], None

    state, _ = jax.jit(lambda state: jax.lax.scan(body, state, jnp.arange(steps)))(init(params))
    assert int(state.failed_at) == -1, f"step {int(state.failed_at)} was not finite"
    apply = {**apply, **{name: apply[average.source] for name, average in averages.items()}}
    return {name: functools.partial(apply[name], state.networks[name]) for name in apply}


def generate(model, schedule, parameterization=None, sampler=None, steps=32, grid=None):
    """`[SAMPLES, 2]` samples of a network that is read as a denoiser; by velocity and Heun's method by default."""
    parameterization = parameterization or parameterizations.velocity()
    grid = timesteps.uniform(schedule, steps) if grid is None else grid
    keys = jax.random.split(jax.random.key(7), (2, SAMPLES))

    @jax.jit
    def run(keys):
        denoise = parameterizations.denoiser(model, schedule, parameterization)
        x = samplers.prior(schedule, keys[0], (2,))
        return samplers.sample(sampler or samplers.heun(), denoise, schedule, x, timesteps.plan(grid), keys[1])

    return run(keys)


def distance(samples):
    """Mean over 64 directions of the Wasserstein-1 distance between the projections of the samples and of new data."""
    angles = np.pi * np.arange(64) / 64
    directions = np.stack([np.cos(angles), np.sin(angles)])
    samples, data = (np.asarray(a, np.float64) @ directions for a in (samples, draw(jax.random.key(99), len(samples))))
    return np.abs(np.sort(samples, axis=0) - np.sort(data, axis=0)).mean()
