"""What the network of a run receives beside the condition: guidance as an input, and the mask of padding."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion import guidance, schedules
from diffusion.experiments.sampling import run_denoiser
from diffusion.recipe.sections import sectioned

LABELS = np.array([3, 1])


def run(strength=True, interval=False, chosen=None, **parts):
    usual = {"null": 10, "structure": None}
    recipe = types.SimpleNamespace(
        **sectioned(usual | parts), schedule=schedules.rectified_flow(), parameterization=None
    )
    inputs = types.SimpleNamespace(strength=strength, interval=interval)
    recipe.objective = types.SimpleNamespace(condition=inputs)
    entry = {"scale": 2.5} if chosen is None else {"scale": 2.5, "interval": chosen}  # another entry may lack it
    sample = types.SimpleNamespace(guidance=ConfigDict(entry))
    recipe.config = types.SimpleNamespace(sample=sample)
    return recipe


@pytest.mark.parametrize("chosen, expected", [(None, (0.0, 1.0)), ((0.25, 0.75), (0.25, 0.75))])
def test_a_network_that_takes_its_guidance_receives_the_scale_and_the_interval_of_the_config(chosen, expected):
    """Of each example; without an interval it is guided at all times."""
    assert run_denoiser.received_condition(run(strength=False), LABELS) is LABELS
    condition = run_denoiser.received_condition(run(), LABELS)
    assert set(condition) == {"label", "strength"} and condition["label"] is LABELS
    np.testing.assert_array_equal(condition["strength"], [2.5, 2.5])
    condition = run_denoiser.received_condition(run(interval=True, chosen=chosen), LABELS)
    np.testing.assert_array_equal(condition["interval"], [expected, expected])


def test_the_branch_without_a_condition_is_padded_as_the_other(monkeypatch):
    """The null condition of data with padding says that all is real, which these examples are not."""
    null = {"label": np.int32(10), "real": np.ones(4, bool)}
    real = np.array([[True, True, False, False], [True, True, True, False]])
    recipe = run(depths=(), conditions=None, shape=(4,), null=null)
    monkeypatch.setattr(guidance, "together", lambda network, schedule, parameterization, both: both)
    condition = {"label": LABELS, "real": jnp.asarray(real)}
    both = run_denoiser._branches(recipe, {}, None, None, None, (condition,))
    np.testing.assert_array_equal(both[0]["label"], LABELS)
    np.testing.assert_array_equal(both[1]["label"], [10, 10])
    for branch in both:
        np.testing.assert_array_equal(branch["real"], real)
