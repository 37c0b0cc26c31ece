"""rCM is sCD and DMD, each exactly as it is alone."""

import functools
import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations
from diffusion.objectives.backward_simulation import generate
from diffusion.objectives.inputs import split
from diffusion.objectives.objective import Denoises, Second, Teacher
from tests.objectives.few_step_cases import FLOW, UNIFORM, V, as_v, keys_and_data, network
from tests.objectives.test_players import FIRST, SECOND

CLOCK = parameterizations.time()
KEYS, BATCH = keys_and_data()
BATCH = {"x": jnp.float32(BATCH["x"]), "condition": jnp.arange(24) % 3}
PARAMETERS = {name: jnp.array([0.5, 0.3, 0.1]) * (1 + i) for i, name in enumerate(("model", "teacher", "fake"))}


def losses_and_slopes(objective, keys, step, state=None):
    def total(parameters):
        players = {name: functools.partial(network, of) for name, of in parameters.items()}
        losses, metrics = objective(players, FLOW, keys, BATCH | (state or {}), step)
        return losses.sum(), (losses, metrics)

    (_, (losses, metrics)), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(PARAMETERS)
    return losses, slopes, metrics


@pytest.mark.extended
@pytest.mark.parametrize("step", [6, 7])
def test_it_is_consistency_and_from_its_warmup_on_distribution_matching(step):
    """loss = sCD + weight mean |x - stop(x - g)|^2, of which `distribution_matching` is half; so is its gradient.

    The batch has the state of the first density alone; the second begins with its own.
    """
    draw = lambda network, schedule, read, keys, batch: generate(network, schedule, read, 2 * batch["x"])
    samples = objectives.Simulation(draw, ("twice the data",))
    objective = objectives.score_regularised_consistency(
        V, V, FIRST, SECOND, 0.3, 0.7, 7, c=0.4, clock=CLOCK, samples=samples
    )
    assert objective.density is FIRST
    state = {"density": jnp.float32(3.0)}
    losses, slopes, metrics = losses_and_slopes(objective, KEYS, step, state)
    alone = objectives.continuous_consistency(FIRST, 0.7, 7, c=0.4, clock=CLOCK, teacher=V)
    matching = objectives.distribution_matching(parameterizations.edm(0.7, CLOCK), V, V, SECOND, samples=samples)
    first, second = split(KEYS, 2)
    consistency, of_consistency, _ = losses_and_slopes(alone, first, step, state)
    score, of_score, _ = losses_and_slopes(matching, second, step)
    share = 2 * 0.3 if step >= 7 else 0.0
    np.testing.assert_allclose(losses, consistency + share * score, rtol=1e-5)
    np.testing.assert_allclose(metrics["consistency"], consistency, rtol=1e-5)
    np.testing.assert_allclose(metrics["score"], share * score, rtol=1e-5)
    np.testing.assert_allclose(slopes["model"], of_consistency["model"] + share * of_score["model"], rtol=1e-4)
    assert np.abs(of_score["model"]).max() > 0.1
    for frozen in ("teacher", "fake"):
        np.testing.assert_array_equal(slopes[frozen], 0)


@pytest.mark.extended
@pytest.mark.parametrize("student", [V, parameterizations.velocity(), parameterizations.edm(0.7, CLOCK)])
def test_a_student_with_the_weights_of_its_teacher_begins_at_the_teachers_flow(student):
    """The tangent's stable part, the distance of both velocities, is 0, and the unstable one is left out at step 0."""
    objective = objectives.continuous_consistency(UNIFORM, 0.7, 7, teacher=student, student=student)
    players = {name: functools.partial(network, PARAMETERS["teacher"]) for name in ("model", "teacher")}
    losses, metrics = jax.jit(lambda step: objective(players, FLOW, KEYS, BATCH, step))(0)
    assert metrics["tangent"].max() < 1e-4 and losses.max() < 1e-6
    players["model"] = functools.partial(network, PARAMETERS["model"])
    assert objective(players, FLOW, KEYS, BATCH, 0)[1]["tangent"].max() > 0.1


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight = -1"):
        objectives.score_regularised_consistency(V, V, UNIFORM, UNIFORM, -1)


def test_both_losses_have_keys_of_their_own_and_the_second_its_own_density(monkeypatch):
    """By stand-ins that note their arguments: the first loss is 1, the second 3, of which the weight takes the double.

    The batch has the state of the first density; the second begins anew. The second counts from the warmup on.
    """
    module = importlib.import_module("diffusion.objectives.score_regularised_consistency")
    seen, made = [], {}
    second = Second("fake", by=objectives.fake_score)
    parts = {
        "consistency": {"reads": Denoises(V)},
        "matching": {"teacher": Teacher(scale=2.0), "second": second, "shares": ("matching",)},
    }

    def stand_in(name, value):
        def loss(networks, schedule, keys, batch, step):
            assert networks == {"model": "a network"} and schedule is FLOW
            seen.append((name, np.asarray(jax.random.key_data(keys)), batch))
            return jnp.full(len(keys), value), {"t": keys.shape[0]}

        def make(*arguments, **more):
            made[name] = (arguments, more)
            return types.SimpleNamespace(loss=loss, **parts[name])

        return make

    monkeypatch.setattr(module, "continuous_consistency", stand_in("consistency", 1.0))
    monkeypatch.setattr(module, "distribution_matching", stand_in("matching", 3.0))
    v = parameterizations.velocity()
    objective = objectives.score_regularised_consistency(V, v, FIRST, SECOND, 0.3, 0.7, 7, c=0.4, clock=CLOCK)
    batch = BATCH | {"density": jnp.float32(3.0)}
    for step, score in ((6, 0.0), (7, 2 * 0.3 * 3)):
        losses, metrics = objective.loss({"model": "a network"}, FLOW, KEYS, batch, step)
        np.testing.assert_allclose(losses, 1 + score, rtol=1e-6)
        np.testing.assert_allclose(metrics["consistency"], 1)
        np.testing.assert_allclose(metrics["score"], score, rtol=1e-6)
        assert metrics["t"] == len(KEYS)
    (_, first, own), (_, last, other) = seen[:2]
    assert not (first == last).all(1).any() and own["density"] == 3
    np.testing.assert_array_equal(other["density"], SECOND.init())
    assert made["consistency"][0][:5] == (FIRST, 0.7, 7, 0.4, CLOCK) and made["consistency"][0][5] is V
    assert made["matching"][1]["samples"].one_step
    samples = objectives.Simulation(lambda *arguments: None, ("none",))
    objectives.score_regularised_consistency(V, v, FIRST, SECOND, samples=samples)
    assert made["matching"][1]["samples"] is samples
    assert made["matching"][0][1:] == (V, v, SECOND) and made["matching"][0][0].name == "edm"
    assert objective.reads is parts["consistency"]["reads"]
    assert objective.teacher is parts["matching"]["teacher"] and objective.second is second
    assert objective.shares == ("matching",) and objective.network.forward_mode and objective.density is FIRST
    for weight in (-1e-3, float("nan")):
        with pytest.raises(ValueError, match="must not be negative"):
            objectives.score_regularised_consistency(V, V, UNIFORM, UNIFORM, weight)
    objectives.score_regularised_consistency(V, V, UNIFORM, UNIFORM, 0.0)


def test_a_teacher_of_one_datum_is_that_datum():
    """Its x0 is the datum and its eps the noise: continuous consistency with it is that on data."""
    datum = jnp.array([0.7, -0.4])
    noise = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    batch = {"x": jnp.broadcast_to(datum, (3, 2)), "noise": noise}
    density = UNIFORM._replace(sample=lambda state, keys, index: (jnp.array([0.2, 0.5, 0.8]), jnp.ones(3)))
    make = lambda read: objectives.continuous_consistency(density, 0.7, 0, c=0.4, clock=CLOCK, teacher=read)
    teacher = as_v(FLOW, lambda t, x: datum + 0 * x)
    players = {"model": functools.partial(network, PARAMETERS["model"]), "teacher": teacher}
    call = lambda read: make(read)(players, FLOW, KEYS[:3], batch, 0)
    (taught, seen), (plain, metrics) = jax.jit(lambda: [call(V), call(None)])()
    np.testing.assert_allclose(taught, plain, rtol=1e-4)
    np.testing.assert_allclose(seen["tangent"], metrics["tangent"], rtol=1e-4)
    assert np.min(plain) > 1e-3
