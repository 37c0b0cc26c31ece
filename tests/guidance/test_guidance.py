"""Conformance of guidance: neutral where it says so, exact on Gaussians, one evaluation where it says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, parameterizations, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles

SCHEDULE = schedules.cosine()
COVARIANCE = [[0.9, 0.35], [0.35, 0.25]]
COND = oracles.gaussian([0.7, -0.4], COVARIANCE)
NULL = oracles.gaussian([-0.2, 0.3], COVARIANCE)
X = np.random.default_rng(0).standard_normal((3, 2))


def _denoiser(data, schedule=SCHEDULE):
    def denoise(x, t):
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        return Prediction(oracles.mean_x0(data, alpha, sigma, x), oracles.mean_eps(data, alpha, sigma, x))

    return denoise


def _guided(scale, cond=COND, null=NULL, **more):
    return guidance.classifier_free(guidance.separately(_denoiser(cond), _denoiser(null)), scale, **more)


def _assert_equal(a, b):
    np.testing.assert_array_equal(a.x0, b.x0)
    np.testing.assert_array_equal(a.eps, b.eps)


def _network(calls=None):
    """Elementwise, with the condition a number an example; calls collects the batch sizes."""

    def network(x, clock, condition):
        if calls is not None:
            calls.append(x.shape[0])
        left = lambda a: schedules.left_broadcast(a, x)
        return jnp.tanh(x) * left(jnp.cos(clock)) + left(condition["label"]) * 0.1

    return network


def _conditions(size=3):
    return {"label": jnp.arange(1.0, size + 1)}, {"label": jnp.full(size, 10.0)}


def test_scale_one_is_the_conditional_denoiser_exactly():
    _assert_equal(_guided(1.0)(jnp.asarray(X), 0.5), _denoiser(COND)(jnp.asarray(X), 0.5))


def test_scale_zero_is_the_other_branch(x64):
    guided = _guided(0.0)(jnp.asarray(X), 0.5)
    null = _denoiser(NULL)(jnp.asarray(X), 0.5)
    np.testing.assert_allclose(guided.x0, null.x0, rtol=1e-12)
    np.testing.assert_allclose(guided.eps, null.eps, rtol=1e-12)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.25, 4.0])
def test_on_gaussians_of_one_covariance_guidance_moves_the_mean(scale, x64):
    """p_cond^w p_null^(1-w) is then a Gaussian of that covariance at mu_null + w (mu_cond - mu_null), at every t."""
    mean = NULL.means[0] + scale * (COND.means[0] - NULL.means[0])
    x = jnp.asarray(X)
    t = jnp.array([0.1, 0.5, 0.9])
    guided = _guided(scale)(x, t)
    exact = _denoiser(oracles.gaussian(mean, COVARIANCE))(x, t)
    np.testing.assert_allclose(guided.x0, exact.x0, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(guided.eps, exact.eps, rtol=1e-10, atol=1e-12)


def test_sampling_with_guidance_follows_the_moved_gaussian(x64):
    scale = 3.0
    x = jnp.asarray(X)
    data = oracles.gaussian(NULL.means[0] + scale * (COND.means[0] - NULL.means[0]), COVARIANCE)
    grid = np.linspace(0.8, 0.1, 201)
    keys = jax.random.split(jax.random.key(0), 3)
    run = jax.jit(lambda x: samplers.sample(samplers.heun(), _guided(scale), SCHEDULE, x, timesteps.plan(grid), keys))
    level = lambda t: (float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t)))
    np.testing.assert_allclose(run(x), oracles.flow(data, level(0.8), level(0.1), x), atol=1e-4)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_guided_score_is_that_of_the_powered_density(scale, x64):
    """w score_cond + (1 - w) score_null, for Gaussians of different covariances, by the oracle's scores."""
    null = oracles.gaussian([-0.2, 0.3], [[0.3, 0.0], [0.0, 0.6]])
    x = jnp.asarray(X)
    t = 0.4
    alpha = SCHEDULE.alpha(t)
    sigma = SCHEDULE.sigma(t)
    scores = [oracles.score(data, alpha, sigma, x) for data in (COND, null)]
    guided = _guided(scale, null=null)(x, t)
    np.testing.assert_allclose(guided.eps, -sigma * (scale * scores[0] + (1 - scale) * scores[1]), rtol=1e-10)
    np.testing.assert_allclose(alpha * guided.x0 + sigma * guided.eps, x, rtol=1e-10)


def test_one_scale_a_sample():
    x = jnp.asarray(X)
    scales = jnp.array([0.5, 1.0, 4.0])
    together = _guided(scales)(x, 0.5)
    for i, scale in enumerate(scales):
        alone = _guided(float(scale))(x[i : i + 1], 0.5)
        np.testing.assert_allclose(together.x0[i], alone.x0[0], rtol=1e-5)
        np.testing.assert_allclose(together.eps[i], alone.eps[0], rtol=1e-5)


@pytest.mark.parametrize("scale", [np.ones(2), np.ones((3, 1)), lambda t: np.ones(2)])
def test_a_scale_of_another_shape_is_named(scale):
    with pytest.raises(ValueError, match=r"the scale of the guidance has the shape .*, \(3,\), or a function of t"):
        _guided(scale)(jnp.ones((3, 2)), jnp.full(3, 0.5))


def test_outside_its_interval_guidance_is_neutral_exactly():
    """Kynkaanniemi et al. 2024: both ends belong to the interval, for a time of all and for a time an example."""
    x = jnp.asarray(X)
    plain = _denoiser(COND)
    always = _guided(3.0)
    within = _guided(3.0, interval=(0.25, 0.75))
    for t in (0.1, 0.24, 0.76, 0.9):
        _assert_equal(within(x, t), plain(x, t))
    for t in (0.25, 0.5, 0.75):
        _assert_equal(within(x, t), always(x, t))
    t = jnp.array([0.1, 0.5, 0.9])
    inside = np.array([False, True, False])[:, None]
    np.testing.assert_array_equal(within(x, t).x0, np.where(inside, always(x, t).x0, plain(x, t).x0))


def test_one_scale_a_sample_with_a_time_a_frame_and_an_interval():
    """As many frames as samples: a scale must follow the sample, not the frame."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 2, 3)))
    t = jnp.array([[0.1, 0.5], [0.5, 0.5]])
    scales = jnp.array([2.0, 5.0])
    branches = lambda x, t: (Prediction(x, x), Prediction(0.5 * x, 0.5 * x))
    guided = guidance.classifier_free(branches, scales, interval=(0.3, 0.7))(x, t)
    factor = np.array([[1.0, 1.5], [3.0, 3.0]])  # 1 + (w - 1) / 2 inside, 1 outside
    np.testing.assert_allclose(guided.x0, factor[:, :, None] * np.asarray(x), rtol=1e-6)


@pytest.mark.parametrize("name", ["epsilon", "v", "edm"])
@pytest.mark.parametrize("t_shape", [(), (3,)])
def test_together_is_one_call_and_equals_separately(name, t_shape):
    schedule = schedules.linear_beta()
    p = getattr(parameterizations, name)()
    calls = []
    conditions = _conditions()
    x = jnp.asarray(X, jnp.float32)
    t = jnp.full(t_shape, 0.4)
    network = _network(calls)
    clocks = []
    spy = lambda x, clock, condition: (clocks.append(clock.shape), network(x, clock, condition))[1]
    together = guidance.together(spy, schedule, p, conditions)(x, t)
    assert calls == [6] and clocks == [(6,)]
    each = [parameterizations.denoiser(_network(), schedule, p, condition=c) for c in conditions]
    apart = guidance.separately(*each)(x, t)
    assert len(together) == len(apart) == 2
    for ours, theirs in zip(together, apart, strict=True):
        np.testing.assert_allclose(ours.x0, theirs.x0, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.eps, theirs.eps, rtol=1e-5, atol=1e-6)


@pytest.mark.extended
def test_guided_sampling_evaluates_the_network_once_a_step():
    """Counted while it runs: N calls on a batch of 2 B with `together`, 2 N on B with `separately`."""
    schedule = schedules.rectified_flow()
    p = parameterizations.velocity()
    calls = []
    x = jnp.asarray(X, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    plan = timesteps.plan(timesteps.uniform(schedule, 4))
    each = [parameterizations.denoiser(_network(calls), schedule, p, condition=c) for c in _conditions()]
    outs = []
    with jax.disable_jit():
        for branches, expected in (
            (guidance.together(_network(calls), schedule, p, _conditions()), [6] * 4),
            (guidance.separately(*each), [3] * 8),
        ):
            calls.clear()
            denoise = guidance.classifier_free(branches, 2.0)
            outs.append(samplers.sample(samplers.euler(), denoise, schedule, x, plan, keys))
            assert calls == expected
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-5, atol=1e-6)


def test_three_branches_are_one_call_too():
    calls, (cond, null) = [], _conditions()
    branches = guidance.together(_network(calls), schedules.edm(), parameterizations.edm(), (cond, null, cond))
    first, _, third = branches(jnp.asarray(X, jnp.float32), 0.5)
    assert calls == [9]
    _assert_equal(first, third)


def test_learned_variance_is_the_conditional_branchs():
    schedule = schedules.linear_beta()
    p = parameterizations.learned_variance(parameterizations.epsilon())
    network = lambda x, clock, condition: jnp.concatenate([x, jnp.tanh(x) * condition["label"][:, None] / 10], axis=-1)
    denoise = guidance.classifier_free(guidance.together(network, schedule, p, _conditions()), 3.0)
    x = jnp.asarray(X, jnp.float32)
    conditional = parameterizations.denoiser(network, schedule, p, condition=_conditions()[0])
    np.testing.assert_allclose(denoise(x, 0.5).variance, conditional(x, 0.5).variance, rtol=1e-6)
    assert denoise(x, 0.5).x0.shape == x.shape


def test_scale_keeps_its_digits_on_half_precision_samples():
    """bfloat16 has three digits: a scale of 1.3 must not become 1.296875 with the sample's dtype."""
    branches = lambda x, t: (Prediction(jnp.ones(3), jnp.ones(3)), Prediction(jnp.zeros(3), jnp.zeros(3)))
    guided = guidance.classifier_free(branches, 1.3)(jnp.ones(3, jnp.bfloat16), 0.5)
    np.testing.assert_allclose(guided.x0, 1.3, rtol=1e-6)


def test_scale_may_be_traced():
    x = jnp.asarray(X, jnp.float32)
    compiled = jax.jit(lambda scale: _guided(scale)(x, 0.5).x0)
    np.testing.assert_allclose(compiled(2.5), _guided(2.5)(x, 0.5).x0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditions", [({"label": jnp.ones(3)}, None), (None, None), ({"label": jnp.ones(3)},), ()])
def test_guidance_without_a_null_condition_is_refused(conditions):
    with pytest.raises(ValueError, match="condition"):
        guidance.together(_network(), schedules.edm(), parameterizations.edm(), conditions)


def test_a_parameterization_without_an_end_is_refused_here_too():
    with pytest.raises(ValueError, match="epsilon"):
        guidance.together(_network(), schedules.rectified_flow(), parameterizations.epsilon(), _conditions())


def test_one_branch_cannot_be_guided():
    with pytest.raises(ValueError, match=r"branch|null"):
        guidance.classifier_free(guidance.separately(_denoiser(COND)), 2.0)(jnp.asarray(X), 0.5)


@pytest.mark.parametrize("interval", [(0.7, 0.2), (float("nan"), 0.5)])
def test_an_empty_interval_is_refused(interval):
    with pytest.raises(ValueError, match="interval"):
        _guided(2.0, interval=interval)


def test_a_stepwise_scale_is_that_of_the_nearest_step():
    scale = guidance.Stepwise(np.array([0.9, 0.5, 0.1]), np.array([3.0, 2.0, 1.0]))
    np.testing.assert_array_equal(scale(np.array([1.0, 0.72, 0.68, 0.31, 0.0])), [3, 3, 2, 2, 1])
