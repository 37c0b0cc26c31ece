"""Parameters of the mathematics that JAX compiles and differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import (
    discrete,
    flow_maps,
    guidance,
    manifolds,
    parameterizations,
    samplers,
    schedules,
    timesteps,
    weightings,
)
from diffusion.discrete import flow_paths, remasking_steps
from diffusion.parameterizations import Prediction
from tests.conformance import QUICK

FLOW, COSINE, EDM = schedules.rectified_flow(), schedules.cosine(), schedules.edm()
TIMES = np.array([0.13, 0.4, 0.77])
KEYS = jax.random.split(jax.random.key(0), 16)
PLAN = timesteps.plan(timesteps.karras(EDM, 4, 0.02, 20.0))


def process(make):
    """Every function of a schedule, as a function of its parameter."""

    def values(p):
        schedule = make(p)
        alpha, sigma = schedule.alpha(TIMES), schedule.sigma(TIMES)
        inverse = schedule.inverse_log_snr(np.array([1.0, -1.0, 0.2]))
        of_time = [f(TIMES) for f in (schedule.log_snr, schedule.drift, schedule.diffusion)]
        noise = schedule.prior(jax.random.key(0), (2,)) / schedule.prior(jax.random.key(0), (2,))
        return jnp.concatenate([alpha, sigma, inverse, *of_time, schedule.norm(2 * alpha, 3 * sigma), noise])

    return values


def drawn(make):
    return lambda p: make(p).sample(make(p).init(), KEYS, jnp.arange(16))[0]


def weight(make):
    return lambda p: make(p)(FLOW, TIMES)


def prediction(make):
    def values(p):
        parameterization = make(p)
        x, output = jnp.array([1.0, 2.0, -0.3]), jnp.array([0.2, -0.4, 1.0])
        x0, eps, _ = parameterization.to_prediction(COSINE, TIMES, x, output)
        target = parameterization.target(COSINE, TIMES, x, output)
        inputs = parameterization.clock(COSINE, TIMES) * parameterization.input_scale(COSINE, TIMES)
        return jnp.concatenate([x0, eps, target, inputs])

    return values


def half(x, t):
    return Prediction(x / 2, x / 3)


def sampled(make, denoise=half, schedule=EDM):
    return lambda p: samplers.sample(make(p), denoise, schedule, jnp.full((2, 3), 3.0), PLAN, KEYS[:2])


def guided(make):
    """A guidance of two branches, the second of two evaluations of one with memory."""

    def values(p):
        x, t = jnp.array([[0.3, -1.2], [2.0, 0.4]]), jnp.array([0.3, 0.7])
        branches = guidance.separately(half, lambda x, t: Prediction(x**2 / 3, (x - COSINE.alpha(t) * x) / 2))
        guided = make(branches, p)
        if isinstance(guided, guidance.Memory):
            return guided.apply(guided.apply(guided.init(x), x, t)[1], x, t)[0].x0
        return guided(x, t).x0

    return values


def of_measurement(make):
    def values(p):
        x = jnp.array([[0.3, -1.2], [2.0, 0.4]])
        operator = guidance.measurements.masked(jnp.array([True, False]))
        return make(lambda x, t: Prediction(jnp.sin(x), x / 3), operator, jnp.ones((2, 2)), p)(x, 0.3).x0

    return values


LOG_P = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32))
SYMBOLS, SYMBOL_TIMES = jnp.array([[3, 1, 3], [0, 3, 2]]), jnp.array([0.7, 0.4])


def law(make, process=None):
    """The law of a step of symbols."""
    process = process or discrete.absorbing(discrete.linear(), 4)
    return lambda p: make(p)(lambda x, t: LOG_P, process, SYMBOLS, SYMBOL_TIMES, SYMBOL_TIMES / 2)


def keeping(make):
    def values(p):
        process = make(p)
        alpha = process.alpha(TIMES)
        return jnp.concatenate([alpha, process.replaced(TIMES), process.decay(TIMES), process.time(np.asarray(TIMES))])

    return values


def density(make, points):
    return lambda p: make(p).log_density(points)


FRAMES = np.array(manifolds.frame_prior(3).sample(KEYS[:2]), np.float64)
MAP = flow_maps.FlowMap(lambda x, t, s: 0.5 * x)
# name -> (a function of the parameter, the parameter)
CASES = {
    "rectified_flow": (process(schedules.rectified_flow), 1.5),
    "cosine": (process(schedules.cosine), 0.01),
    "sigmoid start": (process(schedules.sigmoid), -3.0),
    "sigmoid end": (process(lambda p: schedules.sigmoid(end=p)), 3.0),
    "sigmoid tau": (process(lambda p: schedules.sigmoid(tau=p)), 1.0),
    "variance_preserving": (process(schedules.variance_preserving), 0.1),
    "sub_vp": (process(lambda p: schedules.sub_vp(beta_max=p)), 20.0),
    "variance_exploding": (process(schedules.variance_exploding), 0.01),
    "edm": (process(lambda p: schedules.edm(sigma_max=p)), 50.0),
    "shifted": (process(lambda p: schedules.shifted(COSINE, p)), 2.0),
    "interpolated first": (process(lambda p: schedules.interpolated(COSINE, p, 8.0)), 2.0),
    "interpolated last": (process(lambda p: schedules.interpolated(COSINE, 2.0, p)), 8.0),
    "from_log_snr": (process(lambda p: schedules.from_log_snr(p * np.linspace(10, -10, 11))), 1.0),
    "zero_terminal_snr": (
        process(lambda p: schedules.zero_terminal_snr(schedules.variance_preserving(beta_max=p))),
        18.0,
    ),
    "ending_at": (process(lambda p: schedules.ending_at(EDM, p)), 0.9),
    "uniform_density": (drawn(lambda p: timesteps.uniform_density(FLOW, t_min=p)), 0.1),
    "uniform_density of edm": (drawn(lambda p: timesteps.uniform_density(schedules.edm(p, 1.0))), 0.02),
    "logit_normal": (drawn(lambda p: timesteps.logit_normal(FLOW, 0.1, p)), 0.8),
    "mode": (drawn(lambda p: timesteps.mode(FLOW, p)), 1.0),
    "log_normal": (drawn(lambda p: timesteps.log_normal(FLOW, p)), -1.0),
    "log_normal std": (drawn(lambda p: timesteps.log_normal(EDM, -1.2, p)), 1.2),
    "log_normal of edm": (drawn(lambda p: timesteps.log_normal(schedules.edm(sigma_max=p))), 50.0),
    "laplace": (drawn(lambda p: timesteps.laplace(EDM, p)), -1.0),
    "laplace scale": (drawn(lambda p: timesteps.laplace(FLOW, 0.2, p)), 0.6),
    "laplace of a shift": (drawn(lambda p: timesteps.laplace(schedules.shifted(FLOW, p))), 2.0),
    "loss_second_moment": (drawn(lambda p: timesteps.loss_second_moment(FLOW, 4, uniform_prob=p)), 0.1),
    "min_snr": (weight(weightings.min_snr), 5.0),
    "soft_min_snr": (weight(weightings.soft_min_snr), 4.0),
    "p2 k": (weight(weightings.p2), 1.5),
    "p2 gamma": (weight(lambda p: weightings.p2(1.0, p)), 0.5),
    "sigmoid weighting": (weight(weightings.sigmoid), 2.0),
    "edm weighting": (weight(weightings.edm), 0.5),
    "at_most": (weight(lambda p: weightings.at_most(weightings.snr(), p)), 3.0),
    "edm prediction": (prediction(parameterizations.edm), 0.5),
    "clipped_x0": (prediction(parameterizations.clipped_x0), 0.4),
    "time": (prediction(lambda p: parameterizations.v(parameterizations.time(p))), 2.0),
    "log_sigma": (prediction(lambda p: parameterizations.v(parameterizations.log_sigma(p))), 0.25),
    "ddim": (sampled(samplers.ddim), 0.5),
    "clipped": (sampled(lambda p: samplers.clipped(samplers.ddim(), p)), 0.7),
    "euler_ancestral": (sampled(lambda p: samplers.euler_ancestral(0.5, p)), 1.01),
    "dpm_2_ancestral": (sampled(samplers.dpm_2_ancestral), 0.5),
    "dpmpp_sde eta": (sampled(samplers.dpmpp_sde), 0.5),
    "dpmpp_sde r": (sampled(lambda p: samplers.dpmpp_sde(1.0, r=p)), 0.5),
    "dpmpp_2m_sde": (sampled(samplers.dpmpp_2m_sde), 0.5),
    "dpmpp_3m_sde": (sampled(samplers.dpmpp_3m_sde), 0.5),
    "edm sampler": (sampled(samplers.edm), 1.0),
    "predictor_corrector": (sampled(lambda p: samplers.predictor_corrector(snr=p)), 0.16),
    "interpolant_sde": (sampled(lambda p: samplers.interpolant_sde("linear", p)), 0.5),
    "rescaled": (guided(lambda b, p: guidance.rescaled(b, COSINE, 2.0, p)), 0.7),
    "norm_threshold": (guided(lambda b, p: guidance.adaptive_projected(b, COSINE, 2.0, 0.2, p, 0.0)), 0.4),
    "momentum": (guided(lambda b, p: guidance.adaptive_projected(b, COSINE, 2.0, 0.2, None, p)), -0.4),
    "power_cosine": (guided(lambda b, p: guidance.classifier_free(b, 3.0, ramp=guidance.power_cosine(p))), 2.0),
    "percentile": (guided(lambda b, p: guidance.dynamic_threshold(lambda x, t: b(x, t)[1], COSINE, p)), 0.6),
    "proximal": (of_measurement(lambda d, a, y, p: guidance.proximal(d, COSINE, a, y, p)), 0.2),
    "pseudoinverse": (of_measurement(lambda d, a, y, p: guidance.pseudoinverse(d, COSINE, a, y, p)), 0.2),
    "pseudoinverse data": (of_measurement(lambda d, a, y, p: guidance.pseudoinverse(d, COSINE, a, y, 0.2, p)), 0.9),
    "gaussian_likelihood": (lambda p: guidance.gaussian_likelihood(jnp.sin, TIMES, p)(TIMES / 2), 0.3),
    "boundary": (prediction(lambda p: flow_maps.consistency_boundary(p)), 0.5),
    "boundary's end": (prediction(lambda p: flow_maps.consistency_boundary(0.5, p)), 0.02),
    "latent consistency": (
        lambda p: flow_maps.latent_consistency(parameterizations.v(), p).to_prediction(COSINE, TIMES, TIMES, TIMES).x0,
        0.5,
    ),
    "flow of symbols": (law(flow_paths.flow_law), 0.5),
    "capped": (law(lambda p: remasking_steps.remasking_law(discrete.capped(p))), 0.1),
    "rescaled remasking": (law(lambda p: remasking_steps.remasking_law(discrete.rescaled(p))), 0.3),
    "polynomial": (keeping(discrete.polynomial), 2.0),
    "power": (keeping(discrete.power), 2.0),
    "von_mises_fisher": (
        density(lambda p: manifolds.mixtures.von_mises_fisher(np.array([0.0, 0.6, 0.8]), p), np.eye(3)),
        3.0,
    ),
    "frame_prior": (density(lambda p: manifolds.frame_prior(3, p), FRAMES), 1.5),
    "consistency": (sampled(samplers.consistency, MAP), 0.002),
    "tcd": (sampled(samplers.tcd, MAP, COSINE), 0.3),
}
IN_FLOAT32 = ("drawn", "law")
COARSE = [name for name, (function, _) in CASES.items() if function.__qualname__.startswith(IN_FLOAT32)]


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_a_parameter_may_be_compiled_and_differentiated(name, x64):
    """The compiled value is that of the number; the derivative is the difference of two values."""
    function, p = CASES[name]
    h = (1e-2 if name in COARSE else 1e-5) * abs(p)  # times and laws of symbols are float32
    digits, digits_of_slope = (1e-5, 1e-3) if name in COARSE else (1e-9, 1e-6)

    def around(p):
        return (
            *jax.jvp(function, (p,), (1.0,)),
            jax.grad(lambda p: function(p).sum())(p),
            function(p + h) - function(p - h),
        )

    value, slope, back, difference = map(np.asarray, jax.jit(around, compiler_options=QUICK)(p))
    np.testing.assert_allclose(value, function(p), rtol=digits, atol=digits)
    assert np.isfinite(value).all()
    np.testing.assert_allclose(slope, difference / (2 * h), rtol=10 * digits_of_slope, atol=digits_of_slope)
    np.testing.assert_allclose(back, slope.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (schedules.linear_beta, "tables of a discrete process"),
        (schedules.scaled_linear, "tables of a discrete process"),
        (lambda p: schedules.from_betas(p * np.ones(3)), "tables of a discrete process"),
        (lambda p: timesteps.beta_density(FLOW, p, 1.0), "beta_density: a is traced"),
        (lambda p: timesteps.discrete_density(FLOW, 4, shift=p), "shift: factor is traced"),
        (lambda p: timesteps.karras(EDM, 4, 0.02, p), "sigma_max is traced"),
        (lambda p: timesteps.karras(EDM, 4, 0.02, 20.0, p), "karras: rho is traced"),
        (lambda p: timesteps.polynomial(EDM, 4, p), "polynomial: rho is traced"),
        (lambda p: timesteps.uniform(EDM, 4, p), "uniform: last is traced"),
        (lambda p: timesteps.sigmoid(EDM, 4, p), "sigmoid: start is traced"),
    ],
)
def test_a_number_that_a_table_needs_is_not_traced(make, words):
    with pytest.raises(TypeError, match=words):
        jax.jit(lambda p: jnp.zeros(()) * len(make(p)))(0.5)


@pytest.mark.parametrize("eta, draws", [(0.0, 0), (0.5, 1), (jnp.float32(0.0), 0)])
def test_a_traced_share_of_noise_draws_as_a_number_above_zero_does(eta, draws):
    assert samplers.ddim(eta).draws == draws
    seen = []
    jax.jit(lambda eta: seen.append(samplers.ddim(eta).draws))(0.0)
    assert seen == [1]
