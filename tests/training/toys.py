"""A two-dimensional problem for the tests of training: a network as a plain function, an objective by its contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.training import ema as ema_lib, optimizers, state
from diffusion.training.step import make_train_step

WIDTH = 8


def init(key):
    k1, k2 = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(k1, (3, WIDTH)) / 2, "bias": jnp.zeros(WIDTH)},
        "out": {"kernel": jax.random.normal(k2, (WIDTH, 2)) / 3},
    }


def apply(params, x, clock, condition):
    inputs = jnp.concatenate([x, clock[:, None]], axis=1)
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"]


def objective(networks, schedule, keys, batch, step):
    """Flow matching on straight lines, written out here so that these tests stand alone."""
    t = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0)))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), (2,)))(keys)
    x_t = (1 - t[:, None]) * batch["x"] + t[:, None] * noise
    output = networks["model"](x_t, t, batch["condition"])
    return jnp.mean((output - (noise - batch["x"])) ** 2, axis=1), {"t": t}


def optimizer(**changes):
    return optimizers.adamw(**{"learning_rate": 1e-2, "warmup": 3, "weight_decay": 0.01, "clip": 1.0, **changes})


def ema(decay=0.99, warmup=True):
    return ema_lib.exponential_moving_average(decay, warmup)


@jax.jit
def make_state(seed=0):
    return state.create(init(jax.random.key(seed)), optimizer(), ema())


def batch(step, size=16):
    """The batch of a step; its numbers depend on the global example index alone."""
    index = np.arange(step * size, (step + 1) * size)
    x = np.stack([np.sin(index * 0.7), np.cos(index * 1.3)], axis=1).astype(np.float32)
    return {"x": x, "index": index.astype(np.int32)}


@functools.cache  # tests share what is compiled
def make_step(objective=objective, schedule=None, **options):
    step = make_train_step(objective, apply, schedule, optimizer(), ema(), **options)
    return jax.jit(step, donate_argnums=0)


def equal(a, b):
    """Whether two pytrees have the same structure and the same bits."""
    same = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(same))
