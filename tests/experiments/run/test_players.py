"""Who plays in a run, and how each network is called: tiny functions in place of networks."""

import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.run import players
from diffusion.recipe.sections import sectioned
from diffusion.training.step import HEADS


class Module(NamedTuple):
    """A module that multiplies by its parameter, adds the condition, and knows how it was cloned."""

    times: int = 1
    strength: bool = False
    causal: int = 0

    def apply(self, params, x, clock, condition):
        return params * x + condition

    def clone(self, **fields):
        return self._replace(**fields)

    def plain(self, params, *inputs):
        return self.apply(params, *inputs) + 1000


PLAIN = Module()


@pytest.fixture(autouse=True)
def plain_networks(monkeypatch):
    monkeypatch.setattr(players, "network_of", lambda module: types.SimpleNamespace(apply=module.apply))


def role(**fields):
    return types.SimpleNamespace(**fields)


def recipe(network=PLAIN, teacher=None, second=None, player=None, scale=1.0, **changes):
    objective = {"heads": changes.pop("heads", {}), "teacher": teacher, "second": second}
    objective["condition"] = role(strength=changes.pop("strength", False))
    objective["beside"] = role(prompts=changes.pop("prompts", False), pictures=changes.pop("pictures", False))
    fields = {"tuned": None, "encoder": None, "perceptual": None, "null": jnp.zeros(())} | changes
    config = role(train=role(products=fields.pop("products", "")))
    parts = {"network": network, "objective": role(**objective), "config": config, "second": player}
    return role(**sectioned(fields | parts | {"teacher": role(scale=scale)}))


X = jnp.array([1.0, 2.0])


def test_a_model_alone():
    found = players.build_players(recipe())
    assert (set(found.modules), set(found.apply), found.frozen, found.second) == ({"model"}, {"model"}, (), "")
    np.testing.assert_array_equal(found.apply["model"](3.0, X, 0, 10), [13, 16])
    assert not found.heads and not found.follow


def test_frozen_networks_come_in_their_order():
    encoder = role(cached=False, apply="encoder's")
    found = players.build_players(
        recipe(encoder=encoder, perceptual=role(apply="features'"), prompts=True, tuned=PLAIN)
    )
    assert found.frozen == (players.ENCODER, players.FEATURES, players.BASE)
    assert found.apply[players.ENCODER] == "encoder's" and found.apply[players.FEATURES] == "features'"
    assert found.modules[players.ENCODER] is encoder
    np.testing.assert_array_equal(found.apply[players.BASE](1.0, X, 0, 0), 1000 + X)
    assert players.build_players(recipe(encoder=role(cached=True, apply="encoder's"))).frozen == ()


TEACHER = {"pairs": False, "scale": None, "bidirectional": False}


def test_the_base_of_a_tuning_teaches_and_decodes():
    """Base 3 x + c + 1000; guided by w = 2: 3 x + 2 c + 1000."""
    tuned = role(plain=PLAIN.plain, apply=PLAIN.apply, pictures=lambda params, x: params * x)
    found = players.build_players(recipe(teacher=role(**TEACHER), pictures=True, tuned=tuned, scale=2.0))
    assert found.frozen == (players.PICTURES, "teacher") and found.second == ""
    np.testing.assert_allclose(
        found.apply["teacher"](3.0, X, jnp.zeros(2), jnp.array([10.0, 20.0])), 3 * X + jnp.array([1020, 1040])
    )
    np.testing.assert_array_equal(found.apply[players.PICTURES](3.0, X), 3 * X)
    without = players.build_players(recipe(pictures=True))  # samples that are no latents of a base
    assert without.frozen == ()


def test_a_second_player_of_a_tuning_is_further_weights_beside_the_base():
    tuned = role(plain=PLAIN.plain, apply=lambda base, weights, x, clock, condition: base * x + weights)
    second = role(network="fake", separate=False, logit=False)
    found = players.build_players(recipe(teacher=role(**TEACHER), second=second, tuned=tuned, player=object()))
    assert (found.second, found.frozen, found.modules["fake"]) == ("fake", ("teacher",), tuned)
    np.testing.assert_array_equal(found.apply["fake"](3.0, 5.0, X, 0, 0), 3 * X + 5)


def test_a_teacher_teaches_unless_it_makes_pairs_alone():
    found = players.build_players(recipe(teacher=role(**TEACHER)))
    assert found.frozen == ("teacher",) and set(found.modules) == {"model", "teacher"} and found.second == ""
    assert players.build_players(recipe(teacher=role(**{**TEACHER, "pairs": True}))).frozen == ()


def test_a_teacher_is_guided_unless_its_objective_guides_it():
    """conditional + (w - 1) (conditional - unconditional), here 3 x + c and 3 x + 0 at w = 2: 3 x + 2 c."""
    condition = jnp.array([10.0, 20.0])
    guided = players.build_players(recipe(teacher=role(**TEACHER), scale=2.0)).apply["teacher"]
    np.testing.assert_allclose(guided(3.0, X, jnp.zeros(2), condition), 3 * X + 2 * condition)
    for settings, scale in ((TEACHER, 1.0), ({**TEACHER, "scale": 4.0}, 2.0)):
        plain = players.build_players(recipe(teacher=role(**settings), scale=scale)).apply["teacher"]
        np.testing.assert_allclose(plain(3.0, X, jnp.zeros(2), condition), 3 * X + condition)


def test_a_teacher_receives_one_time_and_no_strength():
    assert players.teacher(Module(times=2, strength=True)) == Module()
    same = Module()
    causal = Module(causal=4)
    assert players.teacher(causal) is causal and players.teacher(causal, bidirectional=True) == same
    assert players.teacher(same) is same and players.teacher("a module without these") == "a module without these"


@pytest.mark.parametrize("logit", [True, False])
def test_a_second_player_has_the_teacher_s_architecture(logit):
    second = role(network="judge", separate=False, logit=logit)
    found = players.build_players(recipe(Module(times=2), teacher=role(**TEACHER), second=second, player=object()))
    assert found.second == "judge" and found.frozen == ("teacher",) and found.modules["judge"] == Module()
    x = jnp.array([[1.0, 3.0], [5.0, 7.0]])
    expected = [4.0, 12.0] if logit else 2 * x  # the mean over all but the batch
    np.testing.assert_allclose(found.apply["judge"](2.0, x, 0, 0.0), expected)


def test_a_second_player_of_its_own_needs_no_teacher():
    own = role(network=Module(times=5))
    found = players.build_players(recipe(second=role(network="judge", separate=True, logit=False), player=own))
    assert found.second == "judge" and found.modules["judge"] is own.network and found.frozen == ()
    without = players.build_players(recipe(second=role(network="judge", separate=True, logit=False)))
    assert without.second == "" and "judge" not in without.modules


def test_heads_are_beside_the_model_s_parameters_and_not_seen_by_it():
    heads = {"a": role(apply="a's", follow=None), "b": role(apply="b's", follow="how")}
    seen = []
    found = players.build_players(recipe(role(apply=lambda params, *rest: seen.append(params)), heads=heads))
    assert found.heads == {"a": "a's", "b": "b's"} and found.follow == {"b": "how"}
    found.apply["model"]({"params": 1, HEADS: 2}, X, 0, 0)
    assert seen == [{"params": 1}]


def test_a_student_with_a_strength_receives_one_more():
    """An objective says w, the scale less 1; the network is told the scale."""
    seen = []
    student = role(apply=lambda params, x, clock, condition: seen.append(condition) or x)
    apply = players.build_players(recipe(student, strength=True)).apply["model"]
    condition = (jnp.array([3, 4]), jnp.array([0.5, 2.0]))
    apply(None, X, 0, condition)
    leaves = jax.tree.leaves(seen[0])
    assert any(np.array_equal(leaf, [1.5, 3.0]) for leaf in leaves) and any(
        np.array_equal(leaf, [3, 4]) for leaf in leaves
    )
    apply(None, X, 0, (*condition, "its interval"))
    assert "interval" not in seen[0] and seen[1]["interval"] == "its interval"


def test_fp8_is_refused_where_nothing_is_computed_in_it():
    apply = players.build_players(recipe(products="fp8")).apply["model"]
    with pytest.raises(ValueError, match="needs a network whose dense layers over tokens"):
        apply(1.0, X, 0, 0)


def test_a_guided_teacher_goes_beyond_the_conditional_output_by_scale_minus_one():
    guided = players.guided_teacher(PLAIN.apply, 2.5, jnp.full((), -4.0))
    condition = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(
        guided(3.0, jnp.array([0.5, -1.0]), jnp.zeros(2), condition),
        3 * np.array([0.5, -1.0]) + np.array([1.0, 2.0]) + 1.5 * (np.array([1.0, 2.0]) + 4),
    )


def test_a_teacher_of_scale_one_is_evaluated_once_for_an_example():
    assert players.guided_teacher(PLAIN.apply, 1.0, jnp.zeros(())) == PLAIN.apply
    rows = []
    counted = lambda params, x, clock, condition: rows.append(len(x)) or x
    players.guided_teacher(counted, 1.5, jnp.zeros(()))(3.0, X, jnp.zeros(2), jnp.zeros(2))
    assert rows == [4]
