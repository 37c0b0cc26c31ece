"""A linear velocity that training must find, and distances of clouds by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.experiments.remake.point_training import squared_transport, train


def test_the_distance_is_that_of_the_best_pairs():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    assert squared_transport(x, x[[2, 0, 1]]) == 0
    assert squared_transport(x, x[::-1] + [1.0, 2.0]) == pytest.approx(5)  # a shift is the best pairing
    assert squared_transport(np.array([[0.0], [10.0]]), np.array([[11.0], [2.0]])) == pytest.approx((4 + 1) / 2)


def test_every_step_has_its_number_and_the_optimizer_its_memory():
    """Gradients 1, 2 and 3, a momentum of 0.5 and a weight decay of 0.1: m = 1, 2.4 and 3.86, of sum 7.26."""

    def loss(networks, schedule, keys, batch, step):
        return (step + 1) * networks["model"](batch["x"], None, None), {}

    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0, momentum=0.5))
    apply = lambda params, x, clock, condition: jnp.broadcast_to(params, len(x))
    batch = lambda key: {"x": jnp.zeros((5, 1))}
    objective = objectives.Objective(loss)
    trained = train(objective, None, apply, jnp.zeros(()), optimizer, batch, 3, jax.random.key(0))
    assert float(trained) == pytest.approx(-7.26)


def test_training_finds_the_constant_that_minimises_the_loss():
    """Of data at m, the velocity eps - m has the mean -m, which is the best constant."""
    m = jnp.array([1.0, -2.0])
    schedule = schedules.rectified_flow()
    objective = objectives.flow_matching(timesteps.uniform_density(schedule))
    apply = lambda params, x, clock, condition: jnp.broadcast_to(params, x.shape)
    batch = lambda key: {"x": jnp.broadcast_to(m, (64, 2))}
    constant = train(objective, schedule, apply, jnp.zeros(2), optax.sgd(0.5), batch, 200, jax.random.key(0))
    np.testing.assert_allclose(constant, -m, atol=0.35)  # about three standard deviations of the last step's noise


def test_each_step_has_a_batch_and_draws_of_its_own():
    """Step k moves row k of the parameters by its noise and its data, which plain descent thus writes down."""

    def loss(networks, schedule, keys, batch, step):
        noise = jax.vmap(jax.random.uniform)(keys)
        return networks["model"](noise, batch["x"], step), {}

    apply = lambda params, noise, x, step: params[step, 0] * noise + params[step, 1] * x
    batch = lambda key: {"x": jax.random.uniform(key, (3,))}
    objective, start = objectives.Objective(loss), jnp.zeros((2, 2))
    with jax.disable_jit():
        draws = -train(objective, None, apply, start, optax.sgd(1.0), batch, 2, jax.random.key(0))
    assert 0 < draws.min() < draws.max() < 1 and len(np.unique(np.round(draws, 4))) == 4
