"""What wraps an objective, as a list in a config: its order, a user's own, and the fields of earlier versions."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import digits
from diffusion import objectives, parameterizations, schedules, timesteps, weightings
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError, checks, deprecated_fields, names, recipes, versions
from diffusion.recipe.companions import SecondPlayer, Teacher
from diffusion.recipe.defaults import defaults
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.sections import sectioned
from diffusion.recipe.values import plain
from diffusion.training import optimizers
from tests import commands

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "run_folders"
LINE = schedules.rectified_flow()
DENSITY = timesteps.uniform_density(LINE)
UNCERTAINTY = {"name": "uncertainty", "network": {"name": "uncertainty", "channels": 8}}
TERM = {"name": "dispersive", "layer": 1, "block": 4}
DROPPED = {"name": "condition_dropout", "rate": 0.4}
FLOW = {"name": "flow_matching", "density": {"name": "uniform_density"}}


def config_of(*wrappers, **fields):
    config = digits.get_config("tiny")
    config.objective = {**FLOW, "wrappers": wrappers, **fields}
    config.sample.guidance.scale = 1.0
    return config


def losses(objective):
    """An objective's losses with a network that reads its condition, and has features."""

    def model(x, clock, condition, features=()):
        h = jnp.tanh(x + condition.reshape(-1, 1, 1, 1))
        return (h, tuple(h for _ in features)) if features else h

    networks = {"model": model, "uncertainty": lambda x, clock, condition: 0.3 + clock}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 2, 1)), jnp.float32)
    batch = {"x": x, "condition": jnp.arange(8) % 3, "index": jnp.arange(8)}
    return objective(networks, LINE, jax.random.split(jax.random.key(3), 8), batch, 0)[0]


@pytest.mark.extended
def test_the_wrappers_of_a_config_act_from_the_inside_to_the_outside():
    flow = objectives.flow_matching(DENSITY)
    pair = objectives.uncertainty(channels=8)
    term = objectives.dispersive(layer=1, block=4)
    first = objectives.added(objectives.with_uncertainty(flow, pair), term)
    last = objectives.with_uncertainty(objectives.added(flow, term), pair)
    for wrapped, order in ((first, (UNCERTAINTY, TERM)), (last, (TERM, UNCERTAINTY))):
        by_hand = objectives.with_condition_dropout(wrapped, jnp.int32(10), 0.4)
        by_name = checks.validate(config_of(*order, DROPPED)).objective
        np.testing.assert_array_equal(losses(by_name), losses(by_hand))
    assert not np.array_equal(losses(first), losses(last))  # so that the order is seen


def shrunk(objective, factor: float):
    """A wrapper of one's own."""
    loss = lambda *inputs: jax.tree.map(lambda leaf: factor * leaf, objective.loss(*inputs))
    return dataclasses.replace(objective, loss=loss)


def without_null(objective, null):
    return dataclasses.replace(objective, condition=objectives.Condition(0.5 * (int(null) == 10)))


def test_a_wrapper_of_ones_own_is_named_in_the_list(monkeypatch):
    monkeypatch.setattr(names, "WRAPPERS", names.WRAPPERS)
    for function in (shrunk, without_null):
        monkeypatch.setitem(names.WRAPPERS, function.__name__, function)
    named = checks.validate(config_of({"name": "shrunk", "factor": 0.25})).objective
    plainest = objectives.flow_matching(DENSITY)
    np.testing.assert_array_equal(losses(named), 0.25 * losses(plainest))
    np.testing.assert_array_equal(losses(shrunk(plainest, 0.25)), losses(named))  # from Python
    assert checks.validate(config_of({"name": "without_null"})).objective.condition.dropout == 0.5
    config = config_of({"name": "without_null"})
    config.model.num_classes = 0
    with pytest.raises(ConfigError, match=r"num_classes = 0: an unconditional model.*condition_dropout out of config"):
        checks.validate(config)


def test_data_without_a_condition_are_told_which_field_drops_it(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)))
    config = recipes.load("points:tiny")
    config.model.num_classes = 0
    config.data.source = {"name": "arrays", "path": str(tmp_path / "a.npz")}
    with pytest.raises(
        ConfigError, match=r"config\.objective\.wrappers = .* Valid: wrappers without .*, such as \(\),"
    ):
        checks.on_its_data(checks.validate(config)).check_null()
    config.objective.wrappers = ()
    assert checks.on_its_data(checks.validate(config)).examples.shape == (2,)


def test_a_name_in_the_list_means_one_function(monkeypatch):
    monkeypatch.setattr(names, "WRAPPERS", names.WRAPPERS.copy())
    for table, name in ((names.WRAPPERS, "alignment"), (names.TERMS, "pictures")):
        with pytest.raises(ConfigError, match=f"the name '{name}' is already taken"):
            names.add(table, shrunk, name)


@pytest.mark.parametrize(
    ("wrappers", "words"),
    [
        (({"name": "dropout"},), r"config\.objective\.wrappers\[0\]\.name: unknown wrapper 'dropout'"),
        ((TERM, {"name": "condition_dropout"}), r"wrappers\[1\]: wrapper 'condition_dropout' needs rate"),
        (({"rate": 0.1},), r"wrappers\[0\] = .*Valid: .*the name of the wrapper is one of alignment, augmentation"),
        ("condition_dropout", r"config\.objective\.wrappers = 'condition_dropout' is text\. Valid: a sequence"),
        (({"name": "self"},), r"wrappers\[0\]\.name = 'self' returns an int\. Valid: .*objectives\.Objective"),
        (({"name": "end_to_end"},), r"config\.autoencoder\.network =.*config\.objective trains an autoencoder"),
        (
            ({"name": "prior_preservation", "number": 3},),
            r"config\.objective\.wrappers = .*prior preservation needs a prompt",
        ),
        (({"name": "prior_preservation", "prompt": "a dog"},), "config.base.path = '' names no model to tune"),
        (({"name": "prior_preservation", "prompt": "a dog", "number": 0},), "number = 0 must be at least 1"),
    ],
)
def test_what_is_no_wrapper_is_refused(wrappers, words, monkeypatch):
    monkeypatch.setitem(names.WRAPPERS, "self", lambda objective: 3)
    config = config_of()
    config.objective = FLOW | {"wrappers": wrappers}
    with pytest.raises(ConfigError, match=words):
        checks.validate(config)


OLD = {
    "uncertainty": {"name": "uncertainty", "channels": 8},
    "masked": {"patch": 2},
    "pictures": {"share": 0.5},
    "terms": (TERM, {"name": "alignment"}),
    "augment": {"name": "edm_augmentation"},
    "end_to_end": {"alignment": 1.5},
    "condition_dropout": 0.1,
}
LIST = (
    UNCERTAINTY,
    {"name": "masked_copy", "patch": 2},
    {"name": "pictures", "share": 0.5},
    TERM,
    {"name": "alignment"},
    {"name": "augmentation", "augment": {"name": "edm_augmentation"}},
    {"name": "end_to_end", "alignment": 1.5, "condition_dropout": 0.1},
)
PRIOR = {"prompt": "a dog", "number": 200, "weight": 0.5}


def read(**fields):
    return plain(versions.read(json.dumps({"version": 25, **fields})))


def test_the_fields_of_before_become_the_list_in_the_order_in_which_they_acted():
    assert read(objective=FLOW | OLD, prior=PRIOR) == {
        "objective": FLOW | {"wrappers": (*LIST, {"name": "prior_preservation", "prompt": "a dog", "weight": 0.5})}
    }
    second = {"objective": FLOW | {"condition_dropout": 0.1}, "updates": 2}
    after = {"objective": FLOW | {"wrappers": ({"name": "condition_dropout", "rate": 0.1},)}, "updates": 2}
    assert read(second_player=second) == {"second_player": after}
    none = {"terms": (), "augment": None, "masked": None, "condition_dropout": 0.0}
    unprompted = PRIOR | {"prompt": ""}
    assert read(objective=FLOW | none, prior=unprompted) == {"objective": FLOW | {"wrappers": ()}}
    assert read(objective=FLOW, prior=unprompted) == {"objective": FLOW}


@pytest.mark.parametrize("field", OLD)
def test_a_field_of_before_that_holds_no_wrapper_is_named(field):
    """Anybody may have written a config.json."""
    assert read(objective=FLOW | {field: "all"}) == {"objective": FLOW | {field: "all"}}
    config = config_of(**{field: "all"})
    with pytest.raises(ConfigError, match=rf"config\.objective: unknown argument of flow_matching '{field}'"):
        checks.validate(config)


def test_a_field_of_before_acts_in_a_new_config_and_says_what_takes_its_place():
    config = config_of(DROPPED, uncertainty=OLD["uncertainty"], terms=(TERM,), condition_dropout=0.1)
    with pytest.warns(DeprecationWarning, match=r"config\.objective\.terms is deprecated.*--config\.objective"):
        recipe = checks.validate(config)
    expected = (UNCERTAINTY, TERM, DROPPED | {"rate": 0.1})
    assert plain(recipe.config.objective) == FLOW | {"wrappers": expected}
    assert deprecated_fields.current(config_of(DROPPED)) == (config_of(DROPPED), [])
    for field, wrappers, expected in (
        ("condition_dropout", (DROPPED,), ()),
        ("terms", ({"name": "alignment"}, {"name": "shrunk"}, DROPPED), ({"name": "shrunk"}, DROPPED)),
        ("condition_dropout", LIST[-1:], LIST[-1:]),
    ):
        config = config_of(*wrappers, **{field: () if field == "terms" else 0.0})
        assert plain(deprecated_fields.current(config)[0].objective.wrappers) == expected


def with_terms(density, terms: int, clock=None):
    return objectives.flow_matching(density, clock=clock)


def test_an_argument_of_ones_own_objective_may_have_a_name_of_before(monkeypatch):
    monkeypatch.setitem(names.OBJECTIVES, "with_terms", with_terms)
    config = config_of(name="with_terms", terms=3)
    assert checks.validate(config).config.objective.terms == 3


@pytest.mark.slow
def test_flags_of_the_list_and_of_before(tmp_path):
    """A field of one wrapper, and the flag of before, whose sentence goes to stderr."""
    run = lambda *words: commands.run("diffusion", "train", "--config=digits:tiny", f"--workdir={tmp_path}", *words)
    done = run("--config.objective.wrappers[0].rate=3.0")
    assert done.returncode == 2 and "config.objective.wrappers[0]: condition dropout: rate = 3.0" in done.stderr
    done = run("--config.objective.wrappers[0].rate=0.1", "--config.objective.condition_dropout=2.0")
    assert "config.objective.condition_dropout is deprecated: the wrappers of an objective are a list" in done.stderr
    assert done.returncode == 2 and "config.objective.wrappers[0]: condition dropout: rate = 2.0" in done.stderr
    done = run("--config.prior.prompt=a dog")
    assert done.returncode == 2 and '{"name": "prior_preservation"} in objective.wrappers' in done.stderr


def test_a_preset_of_before_names_what_takes_its_place():
    with pytest.raises(ConfigError, match=r'its fields are those of {"name": "prior_preservation"} in objective'):
        Recipe(LINE, objectives.flow_matching(DENSITY), Perceptron(), points(), config={"prior.prompt": "a dog"})


class Perceptron(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, t, condition=None):
        return nn.Dense(2)(jnp.concatenate([x, t[:, None]], axis=1))


def points():
    return [{"x": np.float32([np.cos(i), np.sin(i)])} for i in range(16)]


SETTINGS = {
    "train.steps": 2, "train.batch_size": 4, "train.log_every": 2, "checkpoint.every": 2, "data.threads": 0,
    "sample.steps": 2, "sample.number": 6, "sample.batch_size": 6, "train.accumulate": 1,
}  # fmt: skip


def players(**changes):
    velocity = parameterizations.velocity()
    score = objectives.fake_score(velocity, velocity, weightings.constant(velocity), DENSITY)
    parts = {
        "objective": objectives.distribution_matching(velocity, velocity, velocity, DENSITY),
        "teacher": Teacher("/", velocity),
        "second": SecondPlayer(score, optimizers.adamw(1e-3), 2),
    } | changes
    parts |= {"schedule": LINE, "network": Perceptron(), "data": points(), "config": SETTINGS}
    return Recipe(**sectioned(parts))


@pytest.mark.parametrize("version", [24, 25])
def test_an_earlier_run_of_python_with_a_second_player_goes_on(version, tmp_path):
    """The config.json that two earlier commits wrote, 5391d262's parent (24) and ce51e4fc (25), of `python_parts`."""
    text = (FIXTURES / f"python_players_{version}.json").read_text().replace("python_parts", __name__)
    (tmp_path / "config.json").write_text(text)
    other = functools.partial(dataclasses.replace, players().objective)
    for changed in (
        players(objective=other(beside=objectives.Beside(perceptual=True))),
        players(objective=other(examples=objectives.Examples(4))),
    ):
        with pytest.raises(ConfigError, match=r"These fields differ and may not change:\n  objective\."):
            workdir.settle_config(tmp_path, changed.config)
    assert workdir.settle_config(tmp_path, players().config)


def test_the_description_of_an_objective_has_the_facts_that_differ_from_their_defaults():
    described = plain(players().config.objective)
    assert described.keys() == {"name", "loss", "density", "reads", "shares", "teacher", "second"}


def test_every_field_of_the_default_config_reads_back():
    assert plain(versions.read(versions.write(defaults()))) == plain(defaults())
    assert "prior" not in defaults()
