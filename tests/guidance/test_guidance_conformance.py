"""Conformance of every guidance: exactly neutral, consistent with x_t, finite at both ends, and independent by example.

A new guidance is one line in GUIDANCES, which says how it is built from three exact denoisers.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, parameterizations
from diffusion.guidance import Memory, Unpaired
from diffusion.parameterizations import Prediction
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from tests import oracles
from tests.conformance import SCHEDULES, slow_but

CONDITIONS = [
    oracles.gaussian([0.7, -0.4], [[0.9, 0.35], [0.35, 0.25]]),
    oracles.gaussian([-0.2, 0.3], [[0.6, -0.1], [-0.1, 0.5]]),
    oracles.gaussian([0.1, 0.9], [[0.3, 0.0], [0.0, 0.8]]),
]
X = np.random.default_rng(0).standard_normal((3, 2))
Y = np.random.default_rng(1).standard_normal((3, 2))


class Case(NamedTuple):
    """The construction of a guidance, and its properties.

    Attributes:
        make: (denoisers, schedule, strength, **more) -> guidance.
        strong: a strength that changes something.
        neutral: the strength that changes nothing; None if there is none.
        base: the denoiser that equals the guided one at the neutral strength.
        calls: the number of denoisers, from the first, that an evaluation calls once each.
        interval: whether the guidance takes an interval.
    """

    make: Callable
    strong: float = 3.0
    neutral: float | None = 1.0
    base: int = 0
    calls: int = 2
    interval: bool = True


def _each(d, count=2):
    return guidance.separately(*d[:count])


def _of_rows(d, s, strength, **more):
    """A classifier that likes the first value of its example."""
    return guidance.classifier(d[0], s, lambda x, t: jnp.tanh(x[:, 0] + x[:, -1]), strength, **more)


GUIDANCES = {
    "classifier_free": Case(lambda d, s, w, **more: guidance.classifier_free(_each(d), w, **more)),
    "autoguidance": Case(lambda d, s, w, **more: guidance.autoguidance(d[0], d[1], w, **more)),
    "composed": Case(lambda d, s, w: guidance.composed(_each(d, 3), (w, w)), 1.5, 0.0, base=2, calls=3, interval=False),
    "product": Case(lambda d, s, w: guidance.product(_each(d), s, (w, 1 - w)), interval=False),
    "multiplied": Case(
        lambda d, s, w: guidance.multiplied(guidance.product(_each(d), s, (1 - w, 0.0)), d[2], s, w),
        0.6,
        0.0,
        calls=3,
        interval=False,
    ),
    "rescaled": Case(lambda d, s, w, **more: guidance.rescaled(_each(d), s, w, 0.7, **more)),
    "renormalised": Case(lambda d, s, w, **more: guidance.renormalised(_each(d), s, w, **more)),
    "zero_star": Case(lambda d, s, w, **more: guidance.zero_star(_each(d), s, w, **more)),
    "adaptive_projected": Case(
        lambda d, s, w, **more: guidance.adaptive_projected(_each(d), s, w, 0.2, 0.5, 0.0, **more)
    ),
    "adaptive_projected(momentum)": Case(
        lambda d, s, w, **more: guidance.adaptive_projected(_each(d), s, w, 0.2, 0.5, -0.5, **more)
    ),
    "classifier_free_plus_plus": Case(
        lambda d, s, w, **more: guidance.classifier_free_plus_plus(_each(d), w, **more), 0.6, 0.0, base=1
    ),
    "perturbed_attention": Case(lambda d, s, w, **more: guidance.perturbed_attention(_each(d), w, **more), 2.0, 0.0),
    "internal": Case(lambda d, s, w, **more: guidance.internal(_each(d), w, **more)),
    "skip_layer": Case(lambda d, s, w, **more: guidance.skip_layer(_each(d), w, **more), 2.0, 0.0),
    "skip_layer(classifier_free)": Case(
        lambda d, s, w, **more: guidance.skip_layer(_each(d, 3), w, classifier_free=1.0, **more), 2.0, 0.0, calls=3
    ),
    "text_and_picture": Case(lambda d, s, w, **more: guidance.text_and_picture(_each(d, 3), w, w, **more), calls=3),
    "classifier": Case(_of_rows, 2.0, 0.0, calls=1),
    "posterior_sampling": Case(
        lambda d, s, w, **more: guidance.posterior_sampling(d[0], s, lambda x0: -jnp.sum(x0**2, -1), w, **more),
        2.0,
        0.0,
        calls=1,
    ),
    "pseudoinverse": Case(
        lambda d, s, w: guidance.pseudoinverse(
            d[0], s, guidance.measurements.masked(jnp.array([True, False])), jnp.ones((1, 2)), 0.1, scale=w
        ),
        0.5,
        0.0,
        calls=1,
        interval=False,
    ),
    "proximal": Case(
        lambda d, s, w: guidance.proximal(
            d[0], s, guidance.measurements.masked(jnp.array([True, False])), jnp.ones((1, 2)), 0.1, scale=w
        ),
        0.5,
        neutral=None,
        calls=1,
        interval=False,
    ),
    "manifold_preserving": Case(
        lambda d, s, w, **more: guidance.manifold_preserving(
            d[0], s, lambda x0: -jnp.sum(x0**2, tuple(range(1, x0.ndim))), w, **more
        ),
        0.2,
        0.0,
        calls=1,
    ),
    "dynamic_threshold": Case(
        lambda d, s, w: guidance.dynamic_threshold(d[0], s, 0.9), neutral=None, calls=1, interval=False
    ),
    "windows": Case(lambda d, s, w: guidance.windows(d[0], (2,), (1,)), 0.0, 0.0, calls=1, interval=False),
}
every_guidance = pytest.mark.parametrize("name", list(GUIDANCES))
with_interval = pytest.mark.parametrize("name", [name for name, case in GUIDANCES.items() if case.interval])
with_scale = pytest.mark.parametrize(
    "name", [name for name in GUIDANCES if name not in ("windows", "dynamic_threshold", "product", "multiplied")]
)


def every_guidance_and_schedule(names=GUIDANCES):
    """All pairs; on cosine and edm in the fast suite, whose other ends are alpha = 0 and sigma = 80."""
    pairs = list(itertools.product(names, SCHEDULES))
    fast = [pair for pair in pairs if pair[1] in ("cosine", "edm")]
    return pytest.mark.parametrize("name, schedule_name", slow_but(fast, pairs))


def _denoisers(schedule, calls=None):
    """Exact denoisers of the three conditions, with a variance each; `calls` collects which is called."""

    def of(k):
        def denoise(x, t):
            if calls is not None:
                calls.append(k)
            alpha = schedule.alpha(t)
            sigma = schedule.sigma(t)
            x0, eps = (mean(CONDITIONS[k], alpha, sigma, x) for mean in (oracles.mean_x0, oracles.mean_eps))
            return Prediction(x0, eps, jnp.full_like(x, 0.2 + k / 10))

        return denoise

    return [of(k) for k in range(3)]


def _call(guided, x, t):
    """One evaluation; of a guidance with memory, the second of two, which remembers the first."""
    if isinstance(guided, Memory):
        return guided.apply(guided.apply(guided.init(x), x, t)[1], x, t)[0]
    return (guided.denoise if isinstance(guided, Unpaired) else guided)(x, t)


def _assert_equal(a, b):
    for ours, theirs in zip(a, b, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_guidance
def test_a_guidance_belongs_to_the_process_of_its_denoisers(name):
    """No other process is sampled with it, whether it takes the schedule or not."""
    case, schedule, other = GUIDANCES[name], SCHEDULES["cosine"], SCHEDULES["rectified_flow"]
    denoisers = [belonging_to(schedule, denoise) for denoise in _denoisers(schedule)]
    check_process(case.make(denoisers, schedule, case.strong), schedule)
    with pytest.raises(ValueError, match="the denoiser belongs to another process: at t = "):
        check_process(case.make(denoisers, other, case.strong), other)


@pytest.mark.extended
@every_guidance_and_schedule([name for name, case in GUIDANCES.items() if case.neutral is not None])
def test_neutral_is_the_unguided_denoiser_exactly(name, schedule_name):
    case = GUIDANCES[name]
    schedule = SCHEDULES[schedule_name]
    x = jnp.asarray(X, jnp.float32)
    denoisers = _denoisers(schedule)
    t = jnp.array([0.1, 0.4, schedule.t_max])
    _assert_equal(_call(case.make(denoisers, schedule, case.neutral), x, t), denoisers[case.base](x, t))


@pytest.mark.extended
@every_guidance_and_schedule()
def test_the_prediction_still_adds_up_to_x(name, schedule_name):
    """alpha x0 + sigma eps = x_t, but for CFG++, which is marked. And the guidance does something."""
    case = GUIDANCES[name]
    schedule = SCHEDULES[schedule_name]
    x = jnp.asarray(X, jnp.float32)
    denoisers = _denoisers(schedule)
    t = jnp.array([0.05, 0.4, 0.9])
    guided = case.make(denoisers, schedule, case.strong)
    x0, eps, variance = _call(guided, x, t)
    base = denoisers[case.base](x, t)
    total = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
    if isinstance(guided, Unpaired):
        assert np.abs(total - x).max() > 1e-3
        np.testing.assert_array_equal(eps, base.eps)
    else:
        np.testing.assert_allclose(total, x, atol=2e-6 * (1 + np.abs(schedule.sigma(t)[:, None] * eps)).max())
    np.testing.assert_array_equal(variance, base.variance)
    if name not in ("windows", "dynamic_threshold"):
        assert np.abs(x0 - base.x0).max() > 1e-3


@pytest.mark.extended
@every_guidance_and_schedule()
def test_finite_at_both_ends(name, schedule_name):
    """In float32, at t_max, where some alpha is 0, and close to the data."""
    case = GUIDANCES[name]
    schedule = SCHEDULES[schedule_name]
    x = jnp.asarray(X, jnp.float32)
    guided = case.make(_denoisers(schedule), schedule, case.strong)
    t = jnp.array([schedule.t_max, schedule.t_max, max(schedule.t_min, 1e-3)])
    scaled = x * jnp.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)[:, None]
    assert np.isfinite(np.concatenate(_call(guided, scaled, t))).all()


def test_what_scales_velocities_is_finite_at_the_data(x64):
    """Where the slope of sigma is infinite, velocities are in proportion to eps; an inversion begins at t = 0."""
    schedule, cond, uncond = SCHEDULES["cosine"], X + 1, Y - 0.5
    branches = [lambda x, t, eps=eps: Prediction(x, jnp.asarray(eps)) for eps in (cond, uncond)]
    dot = lambda a, b: np.sum(a * b, axis=1, keepdims=True)
    plain = cond + 2 * (cond - uncond)
    expected = {
        "zero_star": cond + 2 * (cond - dot(cond, uncond) / dot(uncond, uncond) * uncond),
        "renormalised": plain * np.sqrt(dot(cond, cond) / dot(plain, plain)),
    }
    for name, eps in expected.items():
        prediction = _call(GUIDANCES[name].make(branches, schedule, 3.0), jnp.asarray(X), jnp.zeros(3))
        np.testing.assert_allclose(prediction.eps, eps, rtol=1e-6, err_msg=name)
        np.testing.assert_array_equal(prediction.x0, X)


@every_guidance
def test_calls_are_counted(name):
    """Counted while it runs: one call of each branch that it needs, no call twice."""
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    calls = []
    guided = case.make(_denoisers(schedule, calls), schedule, case.strong)
    _call(guided, jnp.asarray(X, jnp.float32), jnp.full(3, 0.5))
    twice = 2 if isinstance(guided, Memory) else 1  # _call evaluates those twice
    assert calls == list(range(case.calls)) * twice


@pytest.mark.extended
@every_guidance
def test_an_example_depends_on_itself_alone(name):
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X, jnp.float32)
    guided = case.make(_denoisers(schedule), schedule, case.strong)
    t = jnp.array([0.1, 0.5, 0.9])
    whole = _call(guided, x, t)
    order = np.array([2, 0, 1])
    for a, b, c in zip(whole, _call(guided, x.at[0].set(9.0), t), _call(guided, x[order], t[order]), strict=True):
        np.testing.assert_array_equal(a[1:], b[1:])
        np.testing.assert_allclose(a[order], c, rtol=1e-5, atol=1e-6)


OF_ONE_SHAPE = ("windows", "classifier", "posterior_sampling", "renormalised")  # by their arguments here


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in GUIDANCES if name not in OF_ONE_SHAPE])
def test_the_values_of_an_example_may_have_any_shape(name):
    """[B, 2] as [B, 1, 2]: sums and norms are over all values of an example, channels are the last axis."""
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x, t = jnp.asarray(X, jnp.float32), jnp.array([0.1, 0.5, 0.9])
    denoisers = _denoisers(schedule)
    raised = [lambda x, t, d=d: jax.tree.map(lambda a: a[:, None], d(x[:, 0], t)) for d in denoisers]
    flat = jax.jit(lambda x: _call(case.make(denoisers, schedule, case.strong), x, t))(x)
    tall = jax.jit(lambda x: _call(case.make(raised, schedule, case.strong), x, t))(x[:, None])
    for a, b in zip(flat, tall, strict=True):
        np.testing.assert_allclose(a, b[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_guidance
def test_one_time_for_all_and_a_batch_of_one(name):
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X, jnp.float32)
    guided = case.make(_denoisers(schedule), schedule, case.strong)
    for a, b, alone in zip(
        _call(guided, x, 0.4), _call(guided, x, jnp.full(3, 0.4)), _call(guided, x[1:2], 0.4), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a[1:2], alone, rtol=1e-5, atol=1e-6)


@with_interval
def test_outside_its_interval_it_is_neutral_exactly(name):
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X, jnp.float32)
    denoisers = _denoisers(schedule)
    t = jnp.array([0.1, 0.5, 0.9])
    within = _call(case.make(denoisers, schedule, case.strong, interval=(0.25, 0.75)), x, t)
    always = _call(case.make(denoisers, schedule, case.strong), x, t)
    plain = denoisers[case.base](x, t)
    inside = np.array([False, True, False])[:, None]
    for a, b, c in zip(within, always, plain, strict=True):
        np.testing.assert_array_equal(a, np.where(inside, b, c))


@with_interval
@pytest.mark.parametrize("interval", [(0.7, 0.2), (float("nan"), 0.5)])
def test_an_empty_interval_is_refused(name, interval):
    with pytest.raises(ValueError, match="interval"):
        GUIDANCES[name].make(_denoisers(SCHEDULES["cosine"]), SCHEDULES["cosine"], 2.0, interval=interval)


@pytest.mark.extended
@with_scale
def test_a_scale_may_be_a_schedule_of_t_or_one_a_sample(name):
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X, jnp.float32)
    denoisers = _denoisers(schedule)
    t = jnp.array([0.1, 0.5, 0.9])
    over_t = _call(case.make(denoisers, schedule, lambda t: case.strong * t), x, t)
    _assert_equal(over_t, _call(case.make(denoisers, schedule, case.strong * t), x, t))
    for a, b in zip(over_t, _call(case.make(denoisers, schedule, case.strong * 0.5), x, t), strict=True):
        np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, case in GUIDANCES.items() if case.calls > 1])
def test_half_of_the_channels_of_a_network_with_variance_is_guided(name):
    """Two channels of four: guidance acts on both of x0 and eps, and never on the variance (a fault of DiT's code)."""
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X, jnp.float32)
    t = jnp.full(3, 0.5)
    mean = parameterizations.v()
    learned = parameterizations.learned_variance(parameterizations.v())
    network = lambda k: lambda x, clock, _: jnp.tanh((k + 1) * x / 4)
    doubled = lambda k: lambda x, clock, _: jnp.concatenate([network(k)(x, clock, _), jnp.sin(k + x)], axis=-1)
    of = lambda make, p: [parameterizations.denoiser(make(k), schedule, p) for k in range(3)]
    alone, both = (_call(case.make(d, schedule, case.strong), x, t) for d in (of(network, mean), of(doubled, learned)))
    assert both.x0.shape == both.variance.shape == x.shape
    np.testing.assert_array_equal(alone.x0, both.x0)
    np.testing.assert_array_equal(alone.eps, both.eps)
    np.testing.assert_array_equal(both.variance, (jnp.sin(case.base + x) + 1) / 2)


def test_one_guidance_makes_its_branches_of_depths():
    """A config reads it to choose them: `depth_branches` for the guidance by an earlier block, conditions for all."""
    assert guidance.internal(_each(_denoisers(SCHEDULES["cosine"])), 2.0) is not None
    assert [name for name in dir(guidance) if getattr(getattr(guidance, name), "depths", False)] == ["internal"]


def test_channels_guides_the_leading_channels_alone():
    """As the code of DiT and SiT does: the rest is the conditional branch's."""
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X, jnp.float32)
    t = jnp.full(3, 0.5)
    cond, uncond = _denoisers(schedule)[:2]
    branches = lambda x, t: tuple(jax.tree.map(lambda a: a[:, None], d(x[:, 0], t)) for d in (cond, uncond))
    x = x[:, None]
    count = x.shape[-1] - 1
    alone = branches(x, t)[0]
    guided = guidance.classifier_free(branches, 3.0)(x, t)
    some = guidance.classifier_free(branches, 3.0, channels=count)(x, t)
    for found, of_all, plain in zip(some[:2], guided[:2], alone[:2], strict=True):
        np.testing.assert_array_equal(found[..., :count], of_all[..., :count])
        np.testing.assert_array_equal(found[..., count:], plain[..., count:])
        assert not np.allclose(of_all[..., count:], plain[..., count:])
    of_every_channel = guidance.classifier_free(branches, 3.0, channels=count + 1)(x, t)
    jax.tree.map(np.testing.assert_array_equal, of_every_channel, guided)
    with pytest.raises(ValueError, match="channels = 0"):
        guidance.classifier_free(branches, 3.0, channels=0)
    with pytest.raises(ValueError, match=f"channels = {count + 2}, but x has {count + 1}"):
        guidance.classifier_free(branches, 3.0, channels=count + 2)(x, t)


@pytest.mark.parametrize("name", [name for name, case in GUIDANCES.items() if case.calls > 1])
def test_the_number_of_branches_is_checked(name, monkeypatch):
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    if name in ("autoguidance", "multiplied"):
        return
    wrong = _denoisers(schedule) + _denoisers(schedule)[:1]
    monkeypatch.setattr(guidance, "separately", lambda *_: lambda x, t: tuple(d(x, t) for d in wrong))
    with pytest.raises(ValueError, match=r"branches.*got 4"):
        _call(case.make(wrong, schedule, case.strong), jnp.asarray(X, jnp.float32), jnp.full(3, 0.5))


@pytest.mark.slow
@every_guidance
def test_compiled_and_differentiated(name, x64):
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    x = jnp.asarray(X)
    guided = case.make(_denoisers(schedule), schedule, case.strong)
    direction = jnp.asarray(Y)
    both = jax.jit(lambda x, t: jax.jvp(lambda x: _call(guided, x, t).x0, (x,), (direction,)))
    value, slope = both(x, 0.4)
    np.testing.assert_allclose(value, _call(guided, x, 0.4).x0, rtol=1e-10)
    h = 1e-6
    ends = [_call(guided, x + sign * h * direction, 0.4).x0 for sign in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda b, s: guidance.composed(b, ()), "scales is empty"),
        (lambda b, s: guidance.rescaled(b, s, 2.0, 1.5), "rescale = 1.5"),
        (lambda b, s: guidance.adaptive_projected(b, s, 2.0, norm_threshold=0.0), "norm_threshold = 0"),
        (lambda b, s: guidance.adaptive_projected(b, s, 2.0, momentum=1.0), "momentum = 1"),
        (lambda b, s: guidance.dynamic_threshold(b, s, 99.5), "percentile = 99.5"),
        (lambda b, s: guidance.windows(b, (4, 4), (2,)), "stride"),
        (lambda b, s: guidance.windows(b, (4,), (5,)), "in no window"),
        (lambda b, s: guidance.gaussian_likelihood(lambda x: x, 0.0, 0.0), "noise_std = 0.0"),
        (lambda b, s: guidance.pseudoinverse(b, s, None, 0.0, -1.0), "noise_std = -1.0"),
        (lambda b, s: guidance.measurements.pooled(0), "factor = 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make(None, SCHEDULES["cosine"])


@pytest.mark.parametrize(
    "operator, shape, words",
    [
        (guidance.measurements.pooled(3), (1, 8, 8, 1), r"pooled: factor = 3 does not divide the sides 8 x 8"),
        (guidance.measurements.pooled(2), (4, 2), r"pooled: x has the shape \(4, 2\)\. Valid: \[B, H, W, C\]"),
        (
            guidance.measurements.matrix(np.ones((1, 3))),
            (4, 2),
            r"matrix: A has 3 columns, but an example has 2 numbers",
        ),
    ],
)
def test_an_operator_refuses_examples_of_another_shape(operator, shape, words):
    with pytest.raises(ValueError, match=words):
        operator.forward(jnp.zeros(shape))


NOISY_MEASUREMENTS = (
    "pseudoinverse",
    "proximal",
)  # their variances are compared with sigma^2, and at sigma = 0 have no derivative in t


@pytest.mark.extended
@every_guidance
def test_derivatives_are_finite_at_both_ends(name):
    """In x and in t, backwards, at sigma = 0 and at alpha = 0: what `where` leaves out divides by 0 there neither."""
    case = GUIDANCES[name]
    schedule = SCHEDULES["rectified_flow"]
    guided = case.make(_denoisers(schedule), schedule, case.strong)
    x = jnp.asarray(X, jnp.float32)
    total = lambda x, t: sum(jnp.sum(part) for part in _call(guided, x, t)[:2])
    in_x, in_t = jax.jit(jax.grad(total, (0, 1)))(x, jnp.array([0.0, 0.5, 1.0]))
    assert np.isfinite(in_x).all()
    assert np.isfinite(in_t[1:] if name in NOISY_MEASUREMENTS else in_t).all()


@pytest.mark.extended
@every_guidance
@pytest.mark.parametrize("value", ["as the data", "zero"])
def test_derivatives_are_finite_where_the_branches_agree(name, value):
    """An example without a condition of its own has nothing to be guided by; nor has a picture of zeros a direction."""
    case = GUIDANCES[name]
    schedule = SCHEDULES["cosine"]
    zero = lambda x, t: Prediction(jnp.zeros_like(x), jnp.zeros_like(x))
    alone = zero if value == "zero" else _denoisers(schedule)[0]
    guided = case.make([alone] * 3, schedule, case.strong)
    total = lambda x, t: sum(jnp.sum(part) for part in _call(guided, x, t)[:2])
    slopes = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(X, jnp.float32), jnp.array([0.1, 0.5, 0.9]))
    assert all(np.isfinite(slope).all() for slope in slopes)
