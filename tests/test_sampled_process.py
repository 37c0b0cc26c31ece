"""A denoiser is sampled under the process that it was made for, and an interval of a guidance has its times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, likelihood, ode, parameterizations, samplers, schedules, timesteps

COSINE, FLOW = schedules.cosine(), schedules.rectified_flow()
V = parameterizations.v()
X = jnp.ones((2, 3))
KEYS = jax.random.split(jax.random.key(0), 2)
LABELS, NULLS = jnp.arange(2), jnp.full(2, 10)


def network(x, clock, condition):
    return 0.5 * x


def sampled(denoise, schedule):
    plan = timesteps.plan(timesteps.uniform(schedule, 2))
    return jax.eval_shape(lambda: samplers.sample(samplers.ddim(), denoise, schedule, X, plan, KEYS)).shape


DENOISERS = {
    "denoiser": lambda schedule: parameterizations.denoiser(network, schedule, V),
    "together": lambda schedule: guidance.classifier_free(
        guidance.together(network, schedule, V, (LABELS, NULLS)), 2.0
    ),
    "separately": lambda schedule: guidance.autoguidance(*[parameterizations.denoiser(network, schedule, V)] * 2, 2.0),
    "under": lambda schedule: parameterizations.denoiser_under(
        parameterizations.denoiser(network, schedules.edm(), parameterizations.edm()), schedules.edm(), schedule
    ),
}
OTHER = (
    r"belongs to another process: at t = 0\.\d+ its schedule has alpha = .* Valid: one schedule for both, or .*under"
)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_of_another_process_is_not_sampled(name):
    with pytest.raises(ValueError, match=OTHER):
        sampled(DENOISERS[name](COSINE), FLOW)
    assert sampled(DENOISERS[name](COSINE), COSINE) == X.shape


def test_guidances_of_maps_and_of_depths_belong_to_the_process_of_their_network():
    maps, tokens = (lambda x, t: []), jnp.zeros((2, 1, 1), jnp.int32)
    moved = guidance.attend_and_excite(DENOISERS["denoiser"](COSINE), maps, tokens)
    depths = guidance.depth_branches(network, COSINE, V, LABELS, 1, lambda h, shape: h)
    for denoise in (moved, guidance.internal(depths, 2.0)):
        with pytest.raises(ValueError, match=OTHER):
            sampled(denoise, FLOW)


def test_a_denoiser_of_another_process_has_no_likelihood_and_no_adaptive_samples():
    denoise = DENOISERS["denoiser"](COSINE)
    with pytest.raises(ValueError, match=OTHER):
        likelihood.log_likelihood(denoise, FLOW, X, ode.runge_kutta([0.1, 1.0]), likelihood.exact())
    with pytest.raises(ValueError, match=OTHER):
        samplers.adaptive(denoise, FLOW, X)
    with pytest.raises(ValueError, match=OTHER):
        parameterizations.denoiser_under(denoise, FLOW, schedules.edm())


SAME = {
    "the schedule made twice": (schedules.cosine(), schedules.cosine()),
    "two tables of the same betas": (schedules.scaled_linear(), schedules.from_betas(
        np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    )),
    "an earlier end": (FLOW, schedules.ending_at(FLOW, 0.9)),
    "one process in two forms": (FLOW, schedules.from_alpha_sigma(lambda t: 1 - t, lambda t: t)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_one_process_may_be_two_values(name):
    made_for, schedule = SAME[name]
    assert sampled(DENOISERS["denoiser"](made_for), schedule) == X.shape


def test_denoisers_of_ones_own_and_learned_schedules_pass():
    assert sampled(lambda x, t: parameterizations.Prediction(x, x), FLOW) == X.shape
    params = schedules.init_learned(jax.random.key(0), features=4)

    def run(params):
        schedule = schedules.learned(params)
        denoise = parameterizations.denoiser(network, schedules.learned(params), V)
        return samplers.sample(samplers.ddim(), denoise, schedule, X, timesteps.plan([0.9, 0.5, 0.1]), KEYS)

    assert jax.eval_shape(run, params).shape == X.shape


@pytest.mark.parametrize("interval", [(0.28, 2.9), (200, 800), (1.5, np.inf)])
def test_an_interval_of_sigma_or_of_indices_is_refused(interval):
    """As times they once guided at none, or at others than in the paper."""
    for make in (guidance.classifier_free, guidance.classifier_free_plus_plus):
        with pytest.raises(ValueError, match=r"leaves the times of this schedule, \[0, 1\].*inverse_log_snr"):
            make(guidance.together(network, FLOW, V, (LABELS, NULLS)), 2.0, interval)


@pytest.mark.parametrize("interval", [(0.2, 0.8), (0, 1), (0.2, np.inf), None])
def test_an_interval_of_times_is_taken(interval):
    ends_early = schedules.ending_at(FLOW, 0.9)
    guidance.classifier_free(guidance.together(network, ends_early, V, (LABELS, NULLS)), 2.0, interval)
    longer = FLOW._replace(t_max=10.0)
    guidance.classifier_free(
        guidance.together(network, longer, parameterizations.velocity(), (LABELS, NULLS)), 2.0, (2.0, 5.0)
    )
