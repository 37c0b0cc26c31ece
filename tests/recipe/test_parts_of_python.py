"""The parts of a recipe that Python built: the null condition that is trained is sampled, and slips are named."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps
from diffusion.recipe import Companions, ConfigError, Examples, Recipe, Sampling, Training
from diffusion.training import optimizers

SCHEDULE = schedules.rectified_flow()
FLOW = objectives.flow_matching(timesteps.uniform_density(SCHEDULE))
NULL = {"kind": 3, "size": np.zeros(1, np.float32)}  # kinds are 0, 1 and 2
RECORDS = [{"x": np.ones(2, np.float32), "condition": {"kind": np.int32(1), "size": np.ones(1, np.float32)}}] * 4


class Net(nn.Module):
    """A network that reads both entries of the condition."""

    @nn.compact
    def __call__(self, x, t, condition=None):
        kinds = nn.Embed(4, 2)(condition["kind"])
        return nn.Dense(2)(jnp.concatenate([x, t[:, None], condition["size"], kinds], axis=1))


def _recipe(objective=FLOW, **parts):
    return Recipe(SCHEDULE, objective, Net(), RECORDS, **parts)


def _dropped(null):
    return objectives.with_condition_dropout(FLOW, null=null, rate=0.1)


@pytest.mark.parametrize(
    "recipe",
    [
        lambda: _recipe(_dropped(NULL)),
        lambda: _recipe(_dropped(NULL), examples=Examples(null={"kind": 3})),
        lambda: _recipe(examples=Examples(null={"kind": 3})),
    ],
)
def test_samples_are_guided_away_from_the_trained_null(recipe):
    null = recipe().examples.null
    assert null["kind"] == 3 and null["kind"].dtype == np.int32  # a plain 3 too
    assert null["size"].tolist() == [0] and null["size"].dtype == np.float32


@pytest.mark.parametrize(
    "recipe, words",
    [
        (
            lambda: _recipe(_dropped(NULL), examples=Examples(null={"kind": 2})),
            r"Examples\(null={'kind': 2}\)\) is not the null condition on which the objective trains, {'kind': 3",
        ),
        (
            lambda: _recipe(_dropped({"kind": 3, "size": 0.0})),
            r"the null condition has the shapes .*'size': \(\)}\. Valid: .*'size': \(1,\)}",
        ),
    ],
)
def test_another_null_is_refused(recipe, words):
    with pytest.raises(ValueError, match=words):
        recipe()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: _recipe([FLOW]), "objective must be an Objective.*a value of type list"),
        (
            lambda: _recipe(sampling=Sampling(sampler=samplers.heun)),
            r"sampling=Sampling\(sampler=\.\.\.\) must be a Sampler.*call it: heun\(\)",
        ),
        (
            lambda: _recipe(sampling=Sampling(plan=timesteps.uniform(SCHEDULE, 3))),
            r"sampling=Sampling\(plan=\.\.\.\) must be a Plan.*an array of float64, shape \(4,\)",
        ),
        (lambda: _recipe(parameterization="v"), "parameterization=... must be a Parameterization.*of type str"),
        (lambda: _recipe(training=Training(optimizer=optax.adam)), r"an optimizer, such as .*call it: adam\(\)"),
        (lambda: _recipe(training=Training(average=0.99)), "a moving average, such as .*of type float"),
        (lambda: _recipe(sampling={"plan": 3}), r"sampling=\.\.\. must be a Sampling\(\.\.\.\) of .*of type dict"),
        (lambda: _recipe(config=[1]), "config=... must be a mapping such as .*of type list"),
        (lambda: _recipe(sampling=Sampling(cache="x")), r"Sampling\(cache=\.\.\.\) must be a Cache, .*of type str"),
        (
            lambda: _recipe(sampling=Sampling(driver=3)),
            r"Sampling\(driver=\.\.\.\) must be a function of .*of type int",
        ),
        (
            lambda: _recipe(companions=Companions(teacher="runs/a")),
            r"companions=Companions\(teacher=\.\.\.\) must be a Teacher.*of type str",
        ),
        (lambda: _recipe(companions=Companions(second=FLOW)), r"Companions\(second=\.\.\.\) must be a SecondPlayer"),
        (lambda: Sampling(guides=lambda denoise: denoise), r"guides must be a tuple of functions.*the function"),
        (
            lambda: objectives.Objective(FLOW.loss, reads=parameterizations.v()),
            r"reads must be e\.g\. objectives\.Denoises\(parameterizations\.v\(\)\).*of type Parameterization",
        ),
    ],
)
def test_a_part_of_another_type_is_named(make, words):
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: _recipe(sampling=Sampling(merge=0.9)), r"merge = 0\.9 must be in 0 \.\. 0\.75"),
        (lambda: _recipe(examples=Examples(num_classes=-1)), r"num_classes=\.\.\.\) is -1, but the network has"),
    ],
)
def test_a_number_out_of_range_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_optimizer_of_the_library_or_of_optax_is_one():
    for optimizer in (optimizers.adamw(1e-3, decay="constant"), optax.adam(1e-3)):
        assert _recipe(training=Training(optimizer=optimizer)).training.optimizer is optimizer


def test_numbers_of_numpy_are_settings():
    assert _recipe(config={"train.steps": np.int64(5), "sample.shift": np.float32(2)}).config.train.steps == 5


def test_a_setting_of_another_type_is_named():
    with pytest.raises(ConfigError, match=r"config = {'train.steps': 5.5} is no setting: .*cannot be casted to type"):
        _recipe(config={"train.steps": 5.5})
