"""The loss of prior preservation is the weighted sum of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings
from diffusion.objectives.inputs import split

SCHEDULE = schedules.linear_beta()


@pytest.mark.extended
def test_the_loss_is_the_weighted_sum_of_both():
    parameterization = parameterizations.epsilon()
    plain = objectives.denoising(
        parameterization, weightings.constant(parameterization), timesteps.uniform_density(SCHEDULE)
    )
    both = objectives.with_prior_preservation(plain, 0.25)
    networks = {"model": lambda x, clock, condition: x * condition["a"][:, None] + clock[:, None]}
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))
    condition = lambda a: {"a": jnp.full(3, a)}
    batch = {"x": x[0], "condition": condition(1.0), "index": jnp.arange(3)}
    prior = {"x": x[1], "condition": condition(2.0)}
    losses, metrics = both(networks, SCHEDULE, keys, {**batch, "prior": prior}, 0)
    first, second = split(keys, 2)
    one, _ = plain(networks, SCHEDULE, first, batch, 0)
    other, _ = plain(networks, SCHEDULE, second, {**batch, **prior}, 0)
    np.testing.assert_allclose(losses, one + 0.25 * other, rtol=1e-6)
    np.testing.assert_array_equal(metrics["prior"], other)
    assert np.abs(one - other).min() > 1e-3


def test_an_example_of_the_class_receives_nothing_that_belongs_to_the_batchs_example():
    """Its noise would be another picture's pair, its features another picture's; an index and a density are shared."""
    received = []

    def loss(networks, schedule, keys, batch, step):
        received.append(batch)
        return jnp.zeros(2), {"t": jnp.zeros(2)}

    x = jnp.arange(6.0).reshape(2, 3)
    of_examples = {"noise": x, "start": x, "rejected": x, "features": x[:, None], "metadata": {"number": x[:, 0]}}
    of_examples |= {"data_condition": jnp.arange(2)}
    shared = {"index": jnp.arange(2) + 5, "density": {"losses": jnp.ones(4)}}
    prior = {"x": -x, "condition": jnp.zeros(2, int)}
    batch = {"x": x, "condition": jnp.ones(2, int), **of_examples, **shared, "prior": prior}
    keys = jax.random.split(jax.random.key(0), 2)
    objectives.with_prior_preservation(objectives.Objective(loss))({}, SCHEDULE, keys, batch, 0)
    first, second = received
    assert set(first) == set(batch) - {"prior"}
    assert set(second) == {"x", "condition", *shared}
    np.testing.assert_array_equal(second["x"], -x)
    objectives.with_prior_preservation(objectives.Objective(loss))(
        {}, SCHEDULE, keys, batch | {"prior": prior | {"noise": 2 * x}}, 0
    )
    np.testing.assert_array_equal(received[-1]["noise"], 2 * x)  # but its own


def test_a_negative_weight_and_a_batch_without_the_class_are_refused():
    plain = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
    with pytest.raises(ValueError, match=r"weight = -1 must be at least 0"):
        objectives.with_prior_preservation(plain, -1)
    both = objectives.with_prior_preservation(plain)
    batch = {"x": jnp.zeros((2, 3)), "index": jnp.arange(2)}
    with pytest.raises(ValueError, match='the batch has no entry "prior"'):
        both({"model": lambda x, clock, condition: x}, SCHEDULE, jax.random.split(jax.random.key(0), 2), batch, 0)
