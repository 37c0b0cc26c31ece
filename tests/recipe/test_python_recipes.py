"""A recipe of Python: which setting stands for what, by default and in its record, and what it refuses."""

import flax.linen as nn
import numpy as np
import pytest

from diffusion import guidance, objectives, parameterizations, samplers, schedules, timesteps
from diffusion.objectives import Denoises, Jumps, Moves, Restores
from diffusion.recipe import ConfigError, python_recipes
from diffusion.recipe.companions import Teacher
from diffusion.recipe.defaults import defaults
from diffusion.recipe.part_descriptions import described
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.sections import sectioned

LINE = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(LINE)
VELOCITY = parameterizations.velocity()
POINTS = [{"x": np.float32([i, -i])} for i in range(4)]
PICTURES = [{"image": np.full((2, 2, 1), 10 * i, np.uint8), "label": i % 3} for i in range(6)]


class Network(nn.Module):
    """One dense layer, of a network that names its classes or not."""

    num_classes: int = 0

    @nn.compact
    def __call__(self, x, t, condition=None):
        return nn.Dense(x.shape[-1])(x)


def recipe(data=POINTS, settings=None, **parts):
    parts = {"objective": objectives.flow_matching(DENSITY), "network": Network()} | parts
    parts = {"schedule": LINE, "parameterization": VELOCITY} | parts
    return Recipe(**sectioned({"data": data, "config": settings or {}} | parts))


@pytest.mark.parametrize(
    "reads, name",
    [
        (None, "heun"),
        (Denoises(), "heun"),
        (Moves(None, None, None), "geodesic_heun"),
        (Jumps(None), "flow_map"),
        (Restores(None, None), "ancestral"),
    ],
)
def test_the_default_sampler_is_that_of_how_the_network_is_read(reads, name):
    config, changed = python_recipes.settings({}, reads)
    assert config.sample.sampler.to_dict() == {"name": name} and not changed
    config, _ = python_recipes.settings({"sample.sampler": {"name": "ddim"}}, reads)
    assert config.sample.sampler.name == "ddim"


def test_a_whole_config_is_read_and_stays_as_it_is():
    given = defaults()
    given.train.steps = 7
    config, changed = python_recipes.settings(given, Jumps(None))
    assert changed == {"train.steps"} and config.train.steps == 7
    assert config.sample.sampler.name == "flow_map" and given.sample.sampler == defaults().sample.sampler


def test_the_form_of_the_data_may_be_named_and_is_compared():
    assert recipe(settings={"data.shape": (2,)}).examples.shape == (2,)
    with pytest.raises(ConfigError, match=r"config\.data\.shape = \(3,\), but data=\.\.\. holds examples of \(2,\)"):
        recipe(settings={"data.shape": (3,)})


def test_the_classes_are_those_of_the_network_in_the_recipe_and_in_its_record():
    made = recipe(PICTURES, network=Network(3))
    assert made.examples.num_classes == 3 == made.config.model.num_classes
    assert recipe().examples.num_classes == 0 == recipe().config.model.num_classes


def test_a_guidance_of_python_acts_at_a_scale_of_1():
    """Its branches have the condition and the null one, as at any other scale."""
    objective = objectives.with_condition_dropout(objectives.flow_matching(DENSITY), np.int32(3), 0.1)
    parts = {"network": Network(3), "objective": objective}
    parts["guidance"] = lambda branches: guidance.classifier_free(branches, 3.0)
    made = recipe(PICTURES, **parts)
    assert made.config.sample.guidance.scale == 1.0
    assert made.sampling.conditions(made.network, "a", "none") == ("a", "none")
    own = lambda network, condition, null: (condition,)
    assert recipe(PICTURES, **parts, conditions=own).sampling.conditions is own
    assert recipe(PICTURES, network=Network(3)).sampling.conditions is None


def test_the_record_has_the_teachers_settings():
    teacher = Teacher("runs/teacher", VELOCITY, scale=2.5, pairs=4, pair_sampler=samplers.ddim(), pair_steps=3)
    parts = {"schedule": LINE, "objective": objectives.reflow(DENSITY), "network": Network(), "optimizer": None}
    parts |= {"parameterization": VELOCITY, "sampler": samplers.heun(), "num_classes": 3, "teacher": teacher}
    parts |= dict.fromkeys(("tuned", "encoder", "perceptual", "second"))
    config = python_recipes.recorded(defaults(), parts, None)
    assert config.model.num_classes == 3 and config.sample.sampler.to_dict() == described(samplers.heun())
    entry = config.teacher
    assert (entry.path, entry.scale, entry.pairs.number, entry.pairs.steps) == ("runs/teacher", 2.5, 4, 3)
    assert entry.pairs.sampler.to_dict() == described(samplers.ddim()) != described(samplers.heun())


def test_held_out_records_need_the_records_that_they_are_held_out_of():
    with pytest.raises(
        ValueError, match=r"Recipe\(held_out=\.\.\.\) needs Recipe\(data=\.\.\.\), but here config\.data"
    ):
        recipe(None, held_out=POINTS)


@pytest.mark.parametrize(
    "field, value", [("evaluate.split", "test"), ("data.split", "test"), ("data.source.name", "x")]
)
def test_a_setting_of_the_data_beside_data_is_a_second_answer(field, value):
    with pytest.raises(ConfigError, match=rf"config\.{field} names a part that Recipe takes .* not both"):
        recipe(settings={field: value})


@pytest.mark.parametrize(
    "section, fields, expected",
    [
        ("sample.sampler", {"sample.sampler"}, True),
        ("sample.sampler", {"sample.sampler.name"}, True),
        ("sample.sampler", {"sample"}, True),
        ("sample.sampler", {"sample.samplers", "sam", "train.steps"}, False),
        ("sample.sampler", set(), False),
    ],
)
def test_a_section_is_set_by_its_fields_and_by_what_holds_it(section, fields, expected):
    assert python_recipes._within(section, fields) is expected
