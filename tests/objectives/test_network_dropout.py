"""The keys of a network's dropout: whom the loss gives which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.objectives import network_dropout
from tests.objectives import few_step_cases

LINE = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(LINE)
KEYS = jax.random.split(jax.random.key(0), 4)


def seen(networks, of):
    """An objective of those networks that records the keys of each call in `of`."""

    def network(name):
        def call(x, t, condition, dropout_keys=None):
            of.append((name, None if dropout_keys is None else jax.random.key_data(dropout_keys)))
            return x

        return call

    return {name: network(name) for name in networks}


def call(objective, networks):
    batch = {"x": jnp.ones((4, 3)), "index": jnp.arange(4)}
    return objective(networks, LINE, KEYS, batch, jnp.int32(0))


def test_the_network_and_its_average_draw_alike_and_a_teacher_not_at_all():
    calls = []

    def loss(networks, schedule, keys, batch, step):
        for name in ("model", "target", "teacher"):
            networks[name](batch["x"], jnp.ones(4), None)
        return jnp.zeros(4), {"t": jnp.ones(4)}

    call(objectives.with_dropout(objectives.Objective(loss)), seen(("model", "target", "teacher"), calls))
    (_, first), (_, second), (_, third) = calls
    np.testing.assert_array_equal(first, second)
    assert third is None
    assert len(np.unique(first, axis=0)) == 4
    used = jax.random.key_data(KEYS)
    assert not (first[:, None] == used).all(-1).any()  # the loss draws by others


def test_the_network_that_the_objective_trains_draws():
    calls = []

    def loss(networks, schedule, keys, batch, step):
        for name in ("model", "fake"):
            networks[name](batch["x"], jnp.ones(4), None)
        return jnp.zeros(4), {"t": jnp.ones(4)}

    trained = objectives.Objective(loss, network=objectives.Trained(name="fake"))
    call(objectives.with_dropout(trained), seen(("model", "fake"), calls))
    assert [keys is None for _, keys in calls] == [True, False]


@pytest.mark.extended
@pytest.mark.parametrize("name", few_step_cases.MEMBERS)
def test_every_objective_of_few_steps_draws_in_what_it_trains(name):
    member = few_step_cases.MEMBERS[name]
    draws = {}

    def network(name, plain):
        def call(*inputs, dropout_keys=None, **settings):
            draws[name] = dropout_keys is not None
            return plain(*inputs, **settings)

        return call

    players = few_step_cases.networks(member, few_step_cases.parameters_of(member), jnp.float32)
    drawing = objectives.with_dropout(few_step_cases.OBJECTIVES[name])
    batch = few_step_cases.batch_of(6)
    keys = jax.random.split(jax.random.key(0), 6)
    loss = lambda batch: drawing(
        {name: network(name, of) for name, of in players.items()}, member.schedule, keys, batch, 3
    )
    jax.eval_shape(loss, batch)
    assert draws == {name: name in (member.trained, "target") for name in players}


def test_copies_of_the_batch_draw_as_the_batch_and_another_number_is_refused():
    calls = []

    def loss(networks, schedule, keys, batch, step, rows=8):
        x = jnp.concatenate([batch["x"], batch["x"]])[:rows]
        networks["model"](x, jnp.ones(len(x)), None)
        return jnp.zeros(4), {"t": jnp.ones(4)}

    call(objectives.with_dropout(objectives.Objective(loss)), seen(("model",), calls))
    ((_, keys),) = calls
    np.testing.assert_array_equal(keys[:4], keys[4:])
    for rows in (3, 6):
        other = objectives.Objective(lambda *inputs, rows=rows: loss(*inputs, rows=rows))
        with pytest.raises(ValueError, match=f"on {rows} examples, but there are keys for 4"):
            call(objectives.with_dropout(other), seen(("model",), []))


def test_the_examples_of_a_pytree_are_counted():
    call = network_dropout._drawing(lambda x, t, condition, dropout_keys: jax.random.key_data(dropout_keys), KEYS)
    x = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 3, 1))}
    np.testing.assert_array_equal(call(x, jnp.ones(4), None), jax.random.key_data(KEYS))


def test_the_loss_is_that_of_the_objective_with_the_rest_of_the_keys():
    flow = objectives.flow_matching(DENSITY)
    networks = {"model": lambda x, t, condition, dropout_keys=None: 0 * x}
    losses, metrics = call(objectives.with_dropout(flow), networks)
    rest = jax.vmap(lambda key: jax.random.split(key, 2)[1])(KEYS)
    batch = {"x": jnp.ones((4, 3)), "index": jnp.arange(4)}
    expected, other = flow(networks, LINE, rest, batch, jnp.int32(0))
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(metrics["t"], other["t"])
