"""What an objective on augmented examples hands to the one that it wraps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules


@pytest.mark.parametrize("condition", [None, "label", "mapping"])
def test_the_wrapped_objective_receives_augmented_examples_and_their_numbers(condition):
    x = jnp.arange(6.0).reshape(3, 2)
    label = jnp.array([4, 5, 6])
    keys = jax.random.split(jax.random.key(0), 3)
    mapping = {"label": label, "other": 2 * x}
    with_condition = {None: {}, "label": {"condition": label}, "mapping": {"condition": mapping}}[condition]
    seen = {}
    batch = {"x": x, "index": label, **with_condition}
    schedule = schedules.rectified_flow()
    network = lambda x, t, condition: x

    def wrapped(networks, schedule, keys, batch, step):
        seen.update(batch, keys=keys, rest=(networks, schedule, step))
        return jnp.zeros(3), {}

    augment = lambda key, x: (x + jax.random.uniform(key), jnp.stack([jax.random.uniform(key), 1.0]))
    augmented = objectives.with_augmentation(objectives.Objective(wrapped), objectives.Augmentation(augment, 2))
    assert augmented.condition.augmentations == 2
    augmented({"model": network}, schedule, keys, batch, 7)
    numbers = seen["condition"].pop("augment")
    np.testing.assert_allclose(seen["x"], x + numbers[:, :1], rtol=1e-6)
    np.testing.assert_array_equal(numbers[:, 1], 1)
    assert len(set(numbers[:, 0].tolist())) == 3 and seen["rest"] == ({"model": network}, schedule, 7)
    expected = {} if condition is None else {"label": label}
    expected |= {"other": 2 * x} if condition == "mapping" else {}
    jax.tree.map(np.testing.assert_array_equal, seen["condition"], expected)
    np.testing.assert_array_equal(seen["index"], label)
    used = jax.random.key_data(jnp.stack([*seen["keys"]]))
    assert seen["keys"].shape == (3,) and not (used == jax.random.key_data(keys)).all(1).any()
