"""A minimal training: a perceptron for points, and a loop of Adam steps in one compiled program."""

import jax
import jax.numpy as jnp
import optax


def init(key, dims: int, width: int = 128, times: int = 1):
    """Parameters of a perceptron with two hidden layers, for points with `dims` coordinates and one or two times."""
    sizes = [dims + 16 * times, width, width, dims]
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def perceptron(params, x, t, condition=None):
    """A network (x_t `[B, D]`, t `[B]` or a pair of them) -> `[B, D]`; it ignores the condition."""
    times = t if isinstance(t, tuple) else (t,)
    hidden = jnp.concatenate([x, *map(waves, times)], axis=1)
    for weight, bias in params[:-1]:
        hidden = jax.nn.silu(hidden @ weight + bias)
    weight, bias = params[-1]
    return hidden @ weight + bias


def waves(t):
    """Sines and cosines of t `[B]`, `[B, 16]`."""
    phases = t[:, None] * jnp.pi * 2.0 ** jnp.arange(-2, 6)
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=1)


def train(objective, schedule, params, draw, steps=2000, batch=256, seed=0, network=perceptron, rate=2e-3):
    """Trains by an objective and returns (parameters, losses `[steps]`).

    Args:
        objective: one of `diffusion.objectives`, or your own.
        schedule: the process.
        params: the initial parameters of the network.
        draw: (key, number) -> data `[number, D]`, or {"x": data, "condition": their conditions}.
        steps: number of steps of Adam; the learning rate follows a cosine to zero.
        batch: number of examples per step.
        seed: seed of data, times and noise.
        network: (params, x_t, t, condition) -> output.
        rate: initial learning rate of Adam.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def update(carry, key):
        params, state = carry
        data_key, noise_key = jax.random.split(key)
        drawn = draw(data_key, batch)
        examples = drawn if isinstance(drawn, dict) else {"x": drawn}
        keys = jax.random.split(noise_key, batch)  # one key per example

        def loss(params):
            losses, _ = objective({"model": lambda *inputs: network(params, *inputs)}, schedule, keys, examples, 0)
            return losses.mean()

        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, change), state), value

    run = jax.jit(lambda params, keys: jax.lax.scan(update, (params, optimizer.init(params)), keys))
    (params, _), losses = run(params, jax.random.split(jax.random.key(seed), steps))
    return params, losses
