"""The samplers as programs and functions: their size, the shapes that they take, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import samplers, schedules, timesteps
from diffusion.flows.flow_maps import FlowMap
from diffusion.parameterizations import Prediction
from tests.conformance import DATA, SAMPLERS, SCHEDULES, STOCHASTIC, every_sampler, exact_denoiser, published, start


def _count(jaxpr, primitive):
    """How often a primitive stands in a program, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == primitive
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _count(inner, primitive)
    return total


@every_sampler
def test_program_holds_a_constant_number_of_networks(name):
    """At most one more than the stages of a step, in forty steps; the tangent stands for the network.

    The same trace shows that pictures keep their shape and half precision is promoted.
    """
    plan = timesteps.plan(timesteps.uniform(SCHEDULES["edm"], 40))
    keys = jax.random.split(jax.random.key(0), 2)
    denoise = lambda x, t: Prediction(jnp.tan(x), x, 0.5 + 0 * x)
    run = lambda x, keys: samplers.sample(SAMPLERS[name], denoise, SCHEDULES["edm"], x, plan, keys)
    program = jax.make_jaxpr(run)(jnp.ones((2, 3, 1, 2), jnp.bfloat16), keys)
    assert 1 <= _count(program.jaxpr, "tan") <= published(name)[0] + 1
    assert program.out_avals[0].shape == (2, 3, 1, 2)
    assert program.out_avals[0].dtype == jnp.float32


@pytest.mark.parametrize("name", ["ddpm", "heun", "dpmpp_2m", "unipc", "plms"])
def test_single_numbers_are_samples_too(name):
    keys = jax.random.split(jax.random.key(0), 2)
    plan = timesteps.plan(timesteps.uniform(SCHEDULES["cosine"], 2))
    denoise = lambda x, t: Prediction(0.5 * x, x, 0.3 + 0 * x)
    run = lambda x: samplers.sample(SAMPLERS[name], denoise, SCHEDULES["cosine"], x, plan, keys)
    assert jax.eval_shape(run, jnp.ones(2)).shape == (2,)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: samplers.ddpm("medium"), "medium"),
        (lambda: samplers.ddim(-0.1), "eta"),
        (lambda: samplers.ddim(1.5), "eta"),
        (lambda: samplers.ddim(float("nan")), "eta"),
        (lambda: samplers.lms(0), "order = 0"),
        (lambda: samplers.deis(5), "order = 5"),
        (lambda: samplers.unipc(4), "order = 4"),
        (lambda: samplers.unipc(2, "bh3"), "bh3"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_do_not_invert(name):
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    plan = timesteps.plan(np.array([0.1, 0.5]))
    with pytest.raises(ValueError, match="invert"):
        samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)


def test_learned_variance_must_be_learned():
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    denoise = lambda x, t: Prediction(x, x)
    with pytest.raises(ValueError, match="learned"):
        samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, timesteps.plan(np.array([1.0, 0.0])), keys)


class _Doubtful:
    """A denoiser of a user's own class, and a type that a sampler of theirs takes."""

    def __init__(self, doubt):
        self.doubt = doubt

    def __call__(self, x, t):
        return Prediction(0.5 * x, self.doubt * x)


def test_a_users_own_type_is_a_denoiser_and_may_be_what_their_sampler_takes():
    """Every sampler of denoisers takes it; a sampler that states the type takes nothing else."""
    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([0.8, 0.4]))
    own = _Doubtful(doubt=1.0)
    expected = 0.6 * 0.5 * x + 0.4 * x
    np.testing.assert_allclose(samplers.sample(samplers.ddim(), own, schedule, x, plan, keys), expected, rtol=1e-5)
    strict = samplers.ddim()._replace(takes=(_Doubtful,))
    np.testing.assert_allclose(samplers.sample(strict, own, schedule, x, plan, keys), expected, rtol=1e-5)
    with pytest.raises(TypeError, match="takes _Doubtful, but got the function <lambda>"):
        samplers.sample(strict, lambda x, t: own(x, t), schedule, x, plan, keys)


def test_a_users_own_flow_map_is_carried_along_the_plan():
    """x_s = x_t + (s - t): from 0.8 to 0.1 it moves x by -0.7, in any number of steps."""
    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([0.8, 0.4, 0.1]))
    out = samplers.sample(samplers.flow_map(), FlowMap(lambda x, t, s: x + (s - t)), schedule, x, plan, keys)
    np.testing.assert_allclose(out, x - 0.7, rtol=1e-5, atol=1e-5)


def test_an_error_inside_a_denoiser_stays_what_it_was():
    """Only a denoiser that cannot be called as (x_t, t) is said to be no denoiser."""

    def denoise(x, t):
        raise TypeError("of its own")

    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    with pytest.raises(TypeError, match="of its own") as caught:
        samplers.sample(samplers.ddim(), denoise, schedule, x, timesteps.plan(np.array([0.8, 0.4])), keys)
    assert "called as denoise" not in str(caught.value)


def test_one_key_a_sample():
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.0]))
    for wrong in (keys[:3], keys[0]):
        with pytest.raises(ValueError, match="key"):
            samplers.sample(samplers.ddim(), exact_denoiser(DATA["gaussian"], schedule), schedule, x, plan, wrong)


def test_prior_draws_each_example_from_its_own_key():
    schedule = SCHEDULES["edm"]
    keys = jax.random.split(jax.random.key(0), 500)
    x = samplers.prior(schedule, keys, (4, 4, 1))
    assert x.shape == (500, 4, 4, 1)
    np.testing.assert_array_equal(samplers.prior(schedule, keys[7:9], (4, 4, 1)), x[7:9])
    assert scipy.stats.kstest(np.asarray(x).ravel() / 80.0, "norm").pvalue > 1e-3


@pytest.mark.extended
@pytest.mark.parametrize("order, variant", [(2, "bh1"), (2, "bh2"), (3, "bh2")])
def test_the_last_step_of_unipc_is_the_data_that_it_predicts(order, variant):
    """At sigma = 0, where h is infinite: neither the corrector nor the slopes of the last nodes count."""
    schedule = schedules.rectified_flow()
    denoise = lambda x, t: Prediction(jnp.sin(3 * x + 5 * t), jnp.cos(x))
    plan = timesteps.plan(np.array([0.9, 0.7, 0.4, 0.2, 0.0]))
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.array([[0.3, -1.0], [2.0, 0.5]])
    made, way = samplers.sample_trajectory(samplers.unipc(order, variant), denoise, schedule, x, plan, keys)
    np.testing.assert_allclose(made, np.sin(3 * way.x[-2] + 5 * 0.2), rtol=1e-6, atol=1e-6)
