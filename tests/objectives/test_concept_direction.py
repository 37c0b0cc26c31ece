"""Directions between prompts: the loss by hand, and that the frozen base gets no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.objectives.inputs import noised

SCHEDULE = schedules.rectified_flow()
UNIFORM = timesteps.uniform_density(SCHEDULE)


def case(objective, a=0.5):
    """(losses, by hand, the gradient to the base) where networks scale x by a number of the prompt."""
    keys = jax.random.split(jax.random.key(0), 3)
    batch = {"x": jax.random.normal(jax.random.key(1), (3, 4)), "condition": None, "index": jnp.arange(3)}
    numbers = dict(zip(objective.beside.prompts, (1.0, 2.0, 5.0, 3.0)))
    prompts = {name: {"a": jnp.full(3, number)} for name, number in numbers.items()}
    network = lambda scale: lambda x, clock, condition: scale * condition["a"][:, None] * x

    def losses(scales):
        networks = {"model": network(scales[0]), "base": network(scales[1])}
        return objective(networks, SCHEDULE, keys, {**batch, "prompts": prompts}, 0)[0]

    _, _, x_t, _, _ = noised(SCHEDULE, UNIFORM, keys, batch)
    gradient = jax.grad(lambda scales: losses(scales).sum())(jnp.array([a, 1.0]))
    by_hand = lambda scale: np.mean((a * 1 * x_t - (2 + scale * (5 - 3)) * x_t) ** 2, axis=1)
    return losses((a, 1.0)), by_hand, gradient


def test_the_loss_is_the_distance_to_the_guided_base():
    objective = objectives.concept_direction(parameterizations.velocity(), UNIFORM, "t", "n", "p", "m", scale=2.0)
    losses, by_hand, gradient = case(objective)
    np.testing.assert_allclose(losses, by_hand(2.0), rtol=1e-5)
    assert gradient[0] != 0 and gradient[1] == 0


def test_a_slider_and_an_erasure_are_directions_of_their_prompts():
    v = parameterizations.velocity()
    slider = objectives.concept_slider(v, UNIFORM, "a face", "an old face", "a young face")
    assert slider.beside.prompts == {
        "target": "a face", "neutral": "a face", "positive": "an old face", "negative": "a young face"
    }  # fmt: skip
    erased = objectives.erased_concept(v, UNIFORM, "Van Gogh")
    assert erased.beside.prompts == {"target": "Van Gogh", "neutral": "", "positive": "", "negative": "Van Gogh"}
    losses, by_hand, _ = case(erased)
    np.testing.assert_allclose(losses, by_hand(1.0), rtol=1e-5)


@pytest.mark.extended
def test_the_importance_of_a_time_weighs_its_loss():
    thrice = UNIFORM._replace(sample=lambda *drawn: (UNIFORM.sample(*drawn)[0], jnp.full(3, 3.0)))
    objective = objectives.concept_direction(parameterizations.velocity(), thrice, "t", "n", "p", "m", scale=2.0)
    losses, by_hand, _ = case(objective)
    np.testing.assert_allclose(losses, 3 * by_hand(2.0), rtol=1e-5)


def test_a_slider_and_an_erasure_have_the_chosen_strength():
    """Where the networks' factors are 1 for the target and 2, 3 and 5 for the other prompts by their names."""
    v = parameterizations.velocity()
    for objective in (
        objectives.concept_slider(v, UNIFORM, "t", "p", "m", scale=-3.0),
        objectives.erased_concept(v, UNIFORM, "t", scale=-3.0),
    ):
        losses, by_hand, _ = case(objective)
        np.testing.assert_allclose(losses, by_hand(-3.0), rtol=1e-5)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda v: objectives.concept_slider(v, UNIFORM, "t", "p", "p"), "the base already predicts its target"),
        (lambda v: objectives.concept_slider(v, UNIFORM, "t", "p", "m", scale=0.0), "the base already predicts"),
        (lambda v: objectives.erased_concept(v, UNIFORM, ""), "the base already predicts"),
        (lambda v: objectives.erased_concept(v, UNIFORM, "c", scale=np.nan), "scale = nan. Valid: a finite number"),
        (lambda v: objectives.concept_slider(v, UNIFORM, "t", "p", "m", np.inf), "scale = inf. Valid: a finite number"),
    ],
)
def test_a_direction_that_teaches_nothing_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(parameterizations.velocity())


def test_one_prompt_may_take_the_place_of_another_without_a_direction():
    objectives.concept_direction(parameterizations.velocity(), UNIFORM, "t", "n", "p", "p")
    objectives.erased_concept(parameterizations.velocity(), UNIFORM, "t", scale=0.0)
