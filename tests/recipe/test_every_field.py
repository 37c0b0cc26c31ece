"""Every field of the config table acts, or is refused by name: through a config, and through a recipe of Python.

A new field needs a row: the value that it is set to, and the fields without which it has nothing to act on.
"""

import ast
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, samplers, schedules, timesteps
from diffusion.flows.flow_maps import FlowMap
from diffusion.guidance import classifier_free
from diffusion.parameterizations import Prediction, velocity
from diffusion.recipe import ConfigError, names, python_recipes, settings_checks
from diffusion.recipe.companions import Teacher
from diffusion.recipe.defaults import defaults
from diffusion.recipe.part_descriptions import described
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.sections import Sampling, flat, section_of, sectioned
from diffusion.recipe.values import flattened, plain, put
from diffusion.training import ema, optimizers
from tests.library_files import library_files

DROPPED = ({"name": "condition_dropout", "rate": 0.1},)
LINE = schedules.rectified_flow()
SHAPE = (8, 8, 3)
TINY = {
    "model.width": 8, "model.depth": 1, "model.heads": 2, "model.num_classes": 3, "objective.wrappers": DROPPED,
    "data.shape": SHAPE,
}  # fmt: skip
GUIDED = {"sample.guidance.scale": 2.0}
ALIGNED = {
    "encoder.network": {"name": "dinov2", "width": 8, "depth": 1, "heads": 2, "hidden": 8, "patch": 4},
    "objective.wrappers": (
        {"name": "alignment", "layer": 1, "projector": {"name": "mlp", "hidden": 4}},
        {"name": "condition_dropout", "rate": 0.1},
    ),
}
MEASURED = {
    "sample.measurement.operator": {"name": "pooled", "factor": 2},
    "sample.measurement.pictures": "a.npz",
    "sample.guides": ({"name": "proximal"},),
}
TEACHER = {
    "teacher.path": "/",
    "teacher.pairs.number": 3,
    "objective": {"name": "reflow", "density": {"name": "uniform_density"}},
}
PLAYERS = {
    "teacher.path": "/",
    "objective": {"name": "distribution_matching", "density": {"name": "uniform_density"}},
    "second_player.objective": {
        "name": "fake_score",
        "density": {"name": "uniform_density"},
        "weighting": {"name": "constant"},
    },
}

# The fields that build a part: the value, and what it needs beside it.
PARTS = {
    "base.path": ("/nowhere", {}),
    "base.dtype": ("bfloat16", {"base.path": "/nowhere"}),
    "tuning.name": ("lora", {}),
    "teacher.path": ("/usr", TEACHER),
    "teacher.parameterization.name": ("v", TEACHER),
    "teacher.scale": (2.0, TEACHER),
    "teacher.pairs.number": (4, TEACHER),
    "teacher.pairs.sampler.name": ("dpmpp_2m", TEACHER),
    "teacher.pairs.steps": (7, TEACHER),
    "second_player.objective.name": ("", PLAYERS),
    "second_player.network.name": ("patch_discriminator", PLAYERS),
    "second_player.optimizer.name": ("adan", PLAYERS),
    "second_player.optimizer.learning_rate": (0.5, PLAYERS),
    "second_player.updates": (5, PLAYERS),
    "encoder.network.name": ("mae", ALIGNED),
    "encoder.path": ("/nowhere", ALIGNED),
    "encoder.size": (16, ALIGNED),
    "autoencoder.network.name": ("autoencoder_kl", {"model.patch": 1}),
    "autoencoder.path": ("/nowhere", {"model.patch": 1, "autoencoder.network": {"name": "autoencoder_kl"}}),
    "perceptual.network.name": ("lpips", {}),
    "perceptual.path": ("/nowhere", {"perceptual.network": {"name": "lpips"}}),
    "data.augment": (({"name": "flip"},), {}),
    "data.shape": ((16, 16, 3), {}),
    "schedule.name": ("cosine", {}),
    "parameterization.name": ("v", {}),
    "objective.name": ("contrastive_flow_matching", {}),
    "objective.density.name": ("logit_normal", {}),
    "objective.wrappers": (({"name": "condition_dropout", "rate": 0.4},), {}),
    "model.name": ("uvit", {}),
    "model.patch": (4, {}),
    "model.width": (16, {}),
    "model.depth": (2, {}),
    "model.heads": (1, {}),
    "model.num_classes": (5, {}),
    "optimizer.name": ("adan", {}),
    "optimizer.learning_rate": (0.5, {}),
    "ema.name": ("follow_slowly", {}),
    "ema.decay": (0.5, {"ema.warmup": False}),
    "ema.warmup": (False, {}),
    "ema.sigma_rel": (0.1, {}),
    "train.dtype": ("bfloat16", {}),
    "sample.sampler.name": ("euler", {}),
    "sample.grid.name": ("sigmoid", {}),
    "sample.shift": (3.0, {}),
    "sample.steps": (7, {}),
    "sample.plan.name": ("restart_plan", {}),
    "sample.driver.name": ("picard", {}),
    "sample.guidance.name": ("rescaled", GUIDED),
    "sample.guidance.scale": (3.0, GUIDED),
    "sample.guidance.interval": ((0.1, 0.5), GUIDED),
    "sample.guides": (({"name": "dynamic_threshold"},), {}),
    "sample.cache.name": ("first_block", {}),
    "sample.merge": (0.5, {}),
    "sample.measurement.operator.name": ("blurred", MEASURED),
    "sample.measurement.pictures": ("b.npz", MEASURED),
    "sample.measurement.noise_std": (0.1, MEASURED),
}  # fmt: skip
# The settings that code outside of diffusion/recipe reads from a recipe's config, of either kind.
SETTINGS = {
    "seed": 3, "init_from.path": "/", "init_from.include": "blocks", "data.source.name": "arrays",
    "data.name": "mnist", "data.dir": "/", "data.split": "test", "data.threads": 0, "data.processes": 2,
    "data.viewed": False, "data.damaged": "skip", "data.changed": "accept", "data.buckets.area": 256 * 256,
    "data.buckets.multiple": 8,
    "data.buckets.widest": 2.0,
    "data.latents.dir": "/nowhere", "data.latents.autoencoder": "/nowhere", "data.text.tokenizer": "/nowhere",
    "data.text.dir": "/nowhere", "data.text.prompt": "a dog", "train.steps": 3, "train.batch_size": 4,
    "train.accumulate": 2, "train.log_every": 7, "train.products": "fp8", "checkpoint.every": 7, "checkpoint.keep": 7,
    "checkpoint.keep_every": 7, "checkpoint.best": "fd_pixels", "mesh.data": 1, "mesh.fsdp": 2, "mesh.sequence": 2,
    "mesh.tensor": 2, "mesh.split": "optimizer", "mesh.kind": "pmap", "sample.number": 7, "sample.batch_size": 7,
    "sample.seed": 7, "evaluate.failed": "stop", "evaluate.every": 7, "evaluate.number": 7, "evaluate.split": "train",
    "evaluate.overlap": "accept", "evaluate.features": (), "evaluate.inception": "/nowhere",
    "evaluate.protocol": "clean", "evaluate.loss.every": 7, "evaluate.loss.number": 7,
    "evaluate.loss.latents": "/nowhere",
}  # fmt: skip
# Fields whose part a recipe of Python always takes as an object, or that stand for data that it has itself.
REFUSED = ("base.", "tuning.", "schedule.", "objective.", "model.", "train.dtype.")
OF_DATA = ("data.source.", "data.name.", "data.dir.", "data.split.", "data.latents.", "evaluate.split.")


def test_each_field_of_the_table_has_a_row():
    assert PARTS.keys() | SETTINGS.keys() == flattened(plain(defaults())).keys()
    assert not PARTS.keys() & SETTINGS.keys()


class Network(nn.Module):
    """A network of Python's, with the features and the inputs that parts of the table ask for."""

    num_classes: int = 3
    layer_masks = ("skip", "identity")

    @nn.compact
    def __call__(self, x, t, condition=None):
        return x * self.param("scale", nn.initializers.ones, ())


def records(number=4):
    return [{"image": np.full(SHAPE, i, np.uint8), "label": i % 3} for i in range(number)]


def of_config(changes, beside=None):
    config = defaults()
    for field, value in (TINY | (beside or {}) | changes).items():
        put(config, field, value)
    recipe = Recipe.from_config(config, config.data.shape)
    settings_checks.check(recipe)
    return recipe


def of_python(changes, beside=None):
    """A recipe of the same objects as a config makes, with the other fields as settings."""
    like = of_config({}, beside)
    settings = {name: value for name, value in (beside or {}).items() if not f"{name}.".startswith(REFUSED)}
    objects = {"objective": like.objective, "network": like.network, "null": like.examples.null}
    return Recipe(**sectioned({"schedule": LINE, "data": records(), "config": settings | changes} | objects))


def seen(recipe):
    """What the parts are and do, as plain values."""
    rows = jnp.float32([[2.0, 3.0], [0.5, -1.0], [1.0, -1.0], [-0.5, 2.0]])[:, None]
    x, other = Prediction(rows[0], rows[1]), Prediction(rows[2], rows[3])
    guided = recipe.sampling.guidance(lambda x_t, t: (x, other))
    guided = [guided(jnp.ones((1, 2)), jnp.float32(t)) for t in (0.3, 0.8)]
    average = recipe.training.average.update(recipe.training.average.init(jnp.zeros(1)), jnp.ones(1), 20)
    denoise = lambda x, t: Prediction(0.5 * x, (x - (1 - t) * 0.5 * x) / t)
    denoise = FlowMap(lambda x, t, s: s * x) if FlowMap in recipe.sampling.sampler.takes else denoise
    keys = jax.vmap(jax.random.key)(np.arange(2))
    named = ("parameterization", "second", "encoder", "autoencoder", "perceptual", "teacher")
    values = {name: described(flat(recipe)[name]) for name in (*named, "cache", "objective", "network", "schedule")}
    return values | {
        "schedule at 0.3": recipe.schedule.alpha(0.3),
        "updates": [
            updates(recipe.training.optimizer),
            updates(recipe.companions.second.optimizer) if recipe.companions.second else (),
        ],
        "times": recipe.objective.density and times(recipe.objective.density, keys),
        "sample": samplers.sample(recipe.sampling.sampler, denoise, LINE, jnp.ones((2, 1)), recipe.sampling.plan, keys),
        "average": average,
        "plan": recipe.sampling.plan,
        "driver": recipe.sampling.driver is samplers.sample,
        "guided": guided,
        "guides": len(recipe.sampling.guides),
        "merge": recipe.sampling.merge,
        "measured": recipe.sampling.measured
        and (recipe.sampling.measured.pictures, recipe.sampling.measured.noise_std),
        "augmentations": described(recipe.training.augmentations),
        "dropped": recipe.objective.condition.dropout,
        "shape": recipe.examples.shape,
        "classes": recipe.examples.num_classes,
    }


def times(density, keys):
    return density.sample(density.init(), keys, jnp.arange(2))


def updates(optimizer):
    params = {"kernel": jnp.ones((2, 2))}
    state = optimizer.init(params)
    gradients = {"kernel": jnp.float32([[1.0, 2.0], [3.0, -1.0]])}
    first, state = optimizer.update(gradients, state, params)
    return first, optimizer.update({"kernel": gradients["kernel"] ** 2}, state, params)[0]


def same(one, other):
    leaves = [jax.tree.leaves(values, is_leaf=lambda leaf: leaf is None) for values in (one, other)]
    if len(leaves[0]) != len(leaves[1]):
        return False
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*leaves))


@functools.cache
def read_outside():
    """The chains of attributes and of keys, `config.train.steps`, in the library outside of diffusion/recipe."""
    chains = set()
    for path in library_files():
        if "config" in path.parent.parts[-1:]:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                chains.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                chains.add(node.value)
    return chains


def names_it(error, field, value):
    """Whether an error names the field, its section or its value, as an error of objects in Python does."""
    sections = field.removesuffix(".name").split(".")
    return any(word in str(error) for word in (sections[0], sections[-1], repr(value)))


@functools.cache
def without(make, beside):
    """What is built before a field is set, by the repr of what stands beside it; the error where that is refused."""
    try:
        return seen(make({}, ast.literal_eval(beside)))
    except ValueError as error:
        return str(error)


def acts(make, beside, field, value):
    """Whether a field changes what is built, or is refused by an error that names it or the part that it belongs to."""
    before = without(make, repr(beside))
    try:
        after = seen(make({field: value}, beside))
    except ValueError as error:
        assert names_it(error, field, value), error
        return True
    return isinstance(before, str) or not same(before, after)


@pytest.mark.extended
@pytest.mark.parametrize("field", PARTS)
def test_a_field_of_a_config_changes_a_part_or_is_refused(field):
    value, beside = PARTS[field]
    assert acts(of_config, beside, field, value)


@pytest.mark.extended
@pytest.mark.parametrize("field", PARTS)
def test_a_setting_of_a_recipe_of_python_changes_a_part_or_is_refused(field):
    value, beside = PARTS[field]
    if f"{field}.".startswith(REFUSED):
        with pytest.raises(ConfigError, match=rf"config\.{field} names a part that Recipe takes as an argument"):
            of_python({field: value})
    else:
        assert acts(of_python, beside, field, value)


@pytest.mark.extended
@pytest.mark.parametrize("field", SETTINGS)
@pytest.mark.parametrize("make", [of_config, of_python])
def test_a_setting_is_read_where_a_run_acts_or_is_refused(make, field):
    if make is of_python and f"{field}.".startswith(OF_DATA):
        with pytest.raises(ConfigError, match=rf"config\.{field} names a part .* data=\.\.\. is set too"):
            make({field: SETTINGS[field]})
        return
    value = SETTINGS[field]
    try:
        config = plain(make({field: value}).config)
    except ValueError as error:
        assert names_it(error, field, value), error
        return
    assert flattened(config)[field] == value != flattened(plain(defaults()))[field]
    assert field.rpartition(".")[2] in read_outside()


@pytest.mark.parametrize(
    "argument, part, fields",
    [
        ("sampler", samplers.heun(), {"sample.sampler": {"name": "ddim"}}),
        ("plan", timesteps.plan(timesteps.uniform(LINE, steps=3)), {"sample.shift": 3.0}),
        ("plan", timesteps.plan(timesteps.uniform(LINE, steps=3)), {"sample.steps": 7}),
        ("plan", timesteps.plan(timesteps.uniform(LINE, steps=3)), {"sample.grid.name": "sigmoid"}),
        ("driver", samplers.picard, {"sample.driver.name": "picard"}),
        ("guidance", lambda both: classifier_free(both, 2.0), {"sample.guidance.scale": 2.0}),
        ("average", ema.exponential_moving_average(), {"ema.decay": 0.5}),
        ("optimizer", optimizers.adamw(), {"optimizer.learning_rate": 0.5}),
        ("merge", 0.25, {"sample.merge": 0.5}),
        ("teacher", Teacher("runs/teacher", velocity()), {"teacher.scale": 2.0}),
        ("parameterization", velocity(), {"parameterization": {"name": "v"}}),
    ],
)
def test_an_argument_and_a_field_of_one_part_are_two_answers(argument, part, fields):
    (field,) = fields
    words = rf"config\.{field} names a part that .*\b{argument}=\.\.\.\)? is set too.*not both"
    flow = objectives.flow_matching(timesteps.uniform_density(LINE))
    parts = {"schedule": LINE, "objective": flow, "network": Network(), "data": records()}
    for config in (fields, changed(fields)):
        with pytest.raises(ConfigError, match=words if config is fields else rf"\b{argument}=\.\.\.\)? is set too"):
            Recipe(**sectioned(parts | {"config": config, argument: part}))


def test_a_guidance_of_depths_in_python_keeps_the_scale_of_the_settings():
    """`depths` says what the branches are, and not how they are combined: 3 + (2 - 1) (3 - 1) = 5."""
    flow = objectives.flow_matching(timesteps.uniform_density(LINE))
    flow = dataclasses.replace(flow, blocks=objectives.Blocks(early=("early", 1)))
    parts = {"schedule": LINE, "objective": flow, "network": Network(), "data": records(), "depths": True}
    recipe = Recipe(**sectioned(parts | {"config": {"sample.guidance.scale": 2.0}}))
    both = (Prediction(jnp.float32(3.0), jnp.float32(1.0)), Prediction(jnp.float32(1.0), jnp.float32(0.5)))
    guided = recipe.sampling.guidance(lambda x_t, t: both)
    assert recipe.sampling.depths and guided(jnp.float32(0.0), jnp.float32(0.5)).x0 == 5.0


def changed(fields):
    config = defaults()
    for field, value in fields.items():
        put(config, field, value)
    return config


def test_every_argument_that_stands_for_a_field_is_one_of_a_recipe():
    known = flattened(plain(defaults())).keys()
    for argument, fields in python_recipes.STANDS_FOR.items():
        assert argument in Recipe.__dataclass_fields__ or section_of(argument) is not None
        assert all(any(f"{name}.".startswith(f"{field}.") for name in known) for field in fields), fields


@pytest.mark.extended
def test_a_whole_config_acts_as_its_changed_fields():
    """A ConfigDict in the place of a mapping: it was taken for a complete recipe, whose parts all were None."""
    fields = {"sample.shift": 3.0, "sample.sampler": {"name": "ddim", "eta": 0.5}, "ema.sigma_rel": 0.1}
    flow = objectives.flow_matching(timesteps.uniform_density(LINE))
    recipes = [Recipe(LINE, flow, Network(), records(), config=config) for config in (fields, changed(fields))]
    assert same(*map(seen, recipes)) and recipes[0].sampling.sampler.draws == 1


def test_a_guidance_of_python_acts_at_the_default_scale():
    """It did so at another `sample.guidance.scale` alone, which said nothing of it."""
    flow = objectives.with_condition_dropout(objectives.flow_matching(timesteps.uniform_density(LINE)), 3, 0.1)
    guided = Recipe(
        LINE, flow, Network(), records(), sampling=Sampling(guidance=lambda both: classifier_free(both, 2.0))
    )
    assert guided.scale == 0.0 and guided.sampling.conditions(None, "class", "null") == ("class", "null")
    assert Recipe(LINE, flow, Network(), records()).scale == 1.0


def test_a_moving_average_of_ones_own_is_reached_by_its_name(monkeypatch):
    """The mean of the first and the last parameters, by a config and by a recipe of Python; --extend adds it so."""

    def halves(weight: float, steps: int) -> ema.ExponentialMovingAverage:
        return ema.ExponentialMovingAverage(
            lambda params: params, lambda a, params, step: weight * (a + params) / steps
        )

    monkeypatch.setitem(names.AVERAGES, "halves", halves)
    fields = {"ema": {"name": "halves", "weight": 5.0}, "train.steps": 10}
    for recipe in (of_config(fields), of_python(fields)):
        assert recipe.training.average.update(3.0, 5.0, 7) == 4.0
    with pytest.raises(ConfigError, match=r"config\.ema: moving average 'halves' needs weight"):
        of_python({"ema": {"name": "halves"}})


def test_held_out_records_without_data_are_refused():
    flow = objectives.flow_matching(timesteps.uniform_density(LINE))
    with pytest.raises(
        ValueError, match=r"Recipe\(held_out=\.\.\.\) needs Recipe\(data=\.\.\.\).*Valid: both in Python"
    ):
        Recipe(LINE, flow, Network(), held_out=records())
