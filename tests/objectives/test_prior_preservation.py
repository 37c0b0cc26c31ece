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


def test_a_negative_weight_and_a_batch_without_the_class_are_refused():
    plain = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
    with pytest.raises(ValueError, match=r"weight = -1 must be at least 0"):
        objectives.with_prior_preservation(plain, -1)
    both = objectives.with_prior_preservation(plain)
    batch = {"x": jnp.zeros((2, 3)), "index": jnp.arange(2)}
    with pytest.raises(ValueError, match='the batch has no entry "prior"'):
        both({"model": lambda x, clock, condition: x}, SCHEDULE, jax.random.split(jax.random.key(0), 2), batch, 0)
