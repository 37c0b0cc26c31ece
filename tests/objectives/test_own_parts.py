"""Densities and weightings of a user, which an objective would otherwise broadcast or read as something else."""

import jax
import jax.numpy as jnp
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps

SCHEDULE = schedules.rectified_flow()
KEYS = jax.random.split(jax.random.key(0), 2)
T = jnp.array([0.25, 0.5])


def _losses(density, weighting=lambda schedule, t: jnp.ones_like(t)):
    objective = objectives.denoising(parameterizations.v(), weighting, density)
    network = lambda x, t, condition: jnp.zeros_like(x)
    return objective({"model": network}, SCHEDULE, KEYS, {"x": jnp.ones((2, 2))}, 0)[0]


def _draws(value):
    return timesteps.Density(tuple, lambda state, keys, index: value, lambda state, t, losses: state)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (T, TypeError, r"must return a pair \(t, importance\); got an array of float32, shape \(2,\)"),
        (0.5, TypeError, "got a value of type float"),
        ((T[0], jnp.ones(())), ValueError, r"times of shape \(\) for 2 examples. Valid: one time for each, \(2,\)"),
        ((T[:1], jnp.ones(1)), ValueError, r"times of shape \(1,\) for 2 examples"),
        ((T, jnp.ones((2, 1))), ValueError, r"must have the shape \(2,\), but has \(2, 1\)"),
    ],
)
def test_a_density_draws_one_time_for_each_example(value, error, words):
    with pytest.raises(error, match=words):
        _losses(_draws(value))


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (lambda schedule, t: t[:, None], ValueError, r"must have the shape \(2,\), but has \(2, 1\)"),
        (lambda schedule, t: jnp.ones(1), ValueError, r"must have the shape \(2,\), but has \(1,\)"),
        (2.0, TypeError, r"weighting must be a function \(schedule, t\) -> weight.*got a value of type float"),
    ],
)
def test_a_weighting_has_one_weight_for_each_time(weight, error, words):
    with pytest.raises(error, match=words):
        _losses(_draws((T, jnp.ones(2))), weight)


def test_a_weight_that_does_not_depend_on_t_may_be_a_number():
    density = _draws((T, 1.0))
    assert jnp.allclose(_losses(density, lambda schedule, t: 2.0), 2 * _losses(density))


@pytest.mark.parametrize("strata", [2.5, 0, True, "2", float("nan")])
def test_strata_are_a_positive_integer(strata):
    with pytest.raises(ValueError, match=r"strata = .*Valid: an integer of at least 1"):
        timesteps.uniform_density(SCHEDULE, strata=strata)


def test_a_quantile_is_a_function():
    with pytest.raises(TypeError, match=r"quantile must be a function of u.*got a value of type float"):
        timesteps.from_quantile(0.5)


def test_an_encoder_is_needed_where_a_term_reads_it_and_nowhere_else():
    plain = objectives.flow_matching(timesteps.uniform_density(schedules.rectified_flow()))
    aligned = objectives.added(plain, objectives.alignment(layer=1))
    plain.check_encoder(False)
    aligned.check_encoder(True)
    with pytest.raises(ValueError, match="the objective uses no encoder"):
        plain.check_encoder(True)
    with pytest.raises(ValueError, match="but the run has no encoder"):
        aligned.check_encoder(False)
