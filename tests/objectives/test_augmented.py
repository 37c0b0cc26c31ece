"""What an objective on augmented examples hands to the one that it wraps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps


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


AUGMENT = objectives.Augmentation(lambda key, x: (x + 1, jnp.ones(1)), 1)
MATCHING = objectives.flow_matching(timesteps.uniform_density(schedules.rectified_flow()))


def test_a_term_on_the_data_around_an_augmentation_is_refused():
    """It would compare the features of an augmented example with the example before, or take the change for noise."""
    augmented = objectives.with_augmentation(MATCHING, AUGMENT)
    v = parameterizations.velocity()
    for term in (objectives.alignment(), objectives.self_alignment(v), objectives.early_prediction(v)):
        with pytest.raises(
            ValueError, match=r"augmented.* Valid: with_augmentation\(added\(objective, term\), augment\)"
        ):
            objectives.added(augmented, term)
        assert objectives.with_augmentation(objectives.added(MATCHING, term), AUGMENT).condition.augmentations == 1
    objectives.added(augmented, objectives.dispersive(1, 2))


def test_features_of_examples_before_their_augmentation_are_refused():
    objective = objectives.with_augmentation(objectives.added(MATCHING, objectives.alignment(1)), AUGMENT)
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3))
    batch = {"x": x, "features": jnp.ones((2, 1, 3))}
    with pytest.raises(ValueError, match='"features" of the batch are those of examples without augmentation'):
        objective({"model": lambda x, t, c: x}, schedules.rectified_flow(), keys, batch, 0)
