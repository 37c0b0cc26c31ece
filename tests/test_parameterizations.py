"""Conformance of every parameterization on every schedule: a new one is one line in `tests.conformance`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, schedules, weightings
from diffusion.parameterizations import Prediction
from diffusion.training.runtime import compilation_cache
from tests import oracles
from tests.conformance import PARAMETERIZATIONS, SCHEDULES, every_schedule, slow_but

SLOW = ("clipped_x0",)  # x0 and velocity stand for it
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PARAMETERIZATIONS]
every_parameterization = pytest.mark.parametrize("name", NAMES)
two_schedules = pytest.mark.parametrize("schedule_name", slow_but([("cosine",), ("edm",)], [(n,) for n in SCHEDULES]))
TIMES = np.array([0, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.3, 0.5, 0.777, 0.9, 0.99, 0.999, 1 - 1e-5, 1], np.float32)
ROUNDING = 2.0**-24


def _pair(shape, seed=0):
    x0, eps = np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
    return jnp.asarray(x0), jnp.asarray(eps)


def _noised(schedule, t, x0, eps):
    alpha = schedules.left_broadcast(schedule.alpha(t), x0)
    sigma = schedules.left_broadcast(schedule.sigma(t), x0)
    return alpha * x0 + sigma * eps


def _times_where_defined(schedule, *chosen):
    """Of TIMES; the last of them stands for those that are left out, since each shape would be compiled anew."""
    defined = np.ones(TIMES.shape, bool)
    for parameterization in chosen:
        defined &= np.asarray(parameterization.defined(schedule, jnp.asarray(TIMES)))
    assert defined.sum() >= 10
    return jnp.asarray(np.pad(TIMES[defined], (0, int((~defined).sum())), mode="edge"))


@pytest.mark.extended
@every_parameterization
@every_schedule
def test_target_is_the_published_one(name, schedule_name, x64):
    schedule = SCHEDULES[schedule_name]
    h = 1e-6
    t = np.array([0.1003, 0.5004, 0.9002])  # away from the kinks of the discrete process
    x0, eps = (np.asarray(a, np.float64) for a in _pair((3, 2)))
    alpha = np.asarray(schedule.alpha(t))[:, None]
    sigma = np.asarray(schedule.sigma(t))[:, None]
    rates = [np.asarray((f(t + h) - f(t - h)) / (2 * h))[:, None] for f in (schedule.alpha, schedule.sigma)]
    target = PARAMETERIZATIONS[name]().target(schedule, jnp.asarray(t), jnp.asarray(x0), jnp.asarray(eps))
    np.testing.assert_allclose(target, oracles.TARGETS[name](alpha, sigma, *rates, x0, eps), rtol=1e-6, atol=1e-8)


@pytest.mark.extended
@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
@two_schedules
def test_conversions_cycle(first, second, schedule_name):
    """(x0, eps) -> one network's output -> (x0, eps) -> another's -> (x0, eps), at every t where both are defined."""
    _assert_cycle(SCHEDULES[schedule_name], PARAMETERIZATIONS[first](), PARAMETERIZATIONS[second]())


def _assert_cycle(schedule, first, second, constant=16):
    t = _times_where_defined(schedule, first, second)
    x0, eps = _pair((t.size, 5))
    x_t = _noised(schedule, t, x0, eps)
    prediction = first.to_prediction(schedule, t, x_t, first.target(schedule, t, x0, eps))
    prediction = second.to_prediction(schedule, t, x_t, second.target(schedule, t, *prediction[:2]))
    assert prediction.x0.dtype == prediction.eps.dtype == jnp.float32
    alpha, sigma = (np.asarray(f(t), np.float64) for f in (schedule.alpha, schedule.sigma))
    with np.errstate(divide="ignore"):
        bound = constant * ROUNDING * np.maximum(1, np.maximum(alpha / sigma, sigma / alpha))
    for value, expected in zip(prediction, (x0, eps), strict=False):
        assert (np.abs(np.asarray(value) - np.asarray(expected)).max(1) <= bound).all()
    rebuilt = np.asarray(_noised(schedule, t, *prediction[:2]))
    size = np.maximum(np.abs(x_t).max(1), 1)
    assert (np.abs(rebuilt - np.asarray(x_t)).max(1) <= constant * ROUNDING * size).all()


@every_parameterization
@every_schedule
def test_any_output_gives_a_consistent_prediction(name, schedule_name):
    """alpha x0 + sigma eps = x_t holds for whatever the network says, not only for a perfect one."""
    schedule = SCHEDULES[schedule_name]
    p = PARAMETERIZATIONS[name]()
    t = _times_where_defined(schedule, p)
    x_t, output = _pair((t.size, 5), seed=1)
    prediction = p.to_prediction(schedule, t, x_t, output)
    rebuilt = np.asarray(_noised(schedule, t, *prediction[:2]))
    alpha, sigma = (np.asarray(schedules.left_broadcast(f(t), x_t)) for f in (schedule.alpha, schedule.sigma))
    size = np.maximum(1, np.maximum(np.abs(alpha * prediction.x0), np.abs(sigma * prediction.eps)))
    assert (np.abs(rebuilt - np.asarray(x_t)) <= 16 * ROUNDING * size).all()


@every_parameterization
@every_schedule
def test_defined_says_where_values_are_finite(name, schedule_name):
    """Where `defined` says yes, nothing is infinite; where it says no, something is.

    At the data a velocity, which `clipped_x0` computes too, may say nothing about eps, where both slopes are 0: then it
    is not defined, and yet finite.
    """
    schedule = SCHEDULES[schedule_name]
    p = PARAMETERIZATIONS[name]()
    t = jnp.asarray(TIMES)
    x0, eps = _pair((t.size, 5))
    defined = np.asarray(p.defined(schedule, t))
    target = p.target(schedule, t, x0, eps)
    prediction = p.to_prediction(schedule, t, _noised(schedule, t, x0, eps), target)
    finite = np.isfinite(target).all(1) & np.isfinite(prediction.x0).all(1) & np.isfinite(prediction.eps).all(1)
    silent = (name in ("velocity", "clipped_x0")) & (np.asarray(schedule.sigma(t)) == 0) & ~defined
    differs = (defined != finite) & ~silent
    assert not differs.any(), str(TIMES[differs])


# What is not defined at alpha = 0, and why: a factor 1 / alpha, or EDM's clock, the logarithm of sigma / alpha.
REFUSED = {"epsilon": "alpha", "score": "alpha", "edm": "clock is not finite"}
TO_PURE_NOISE = ("rectified_flow", "cosine")
ACCEPTED = [
    (name, schedule_name)
    for name in PARAMETERIZATIONS
    for schedule_name in SCHEDULES
    if name not in REFUSED or schedule_name not in TO_PURE_NOISE
]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("schedule_name", TO_PURE_NOISE)
def test_dividing_by_alpha_is_refused_where_alpha_vanishes(name, schedule_name):
    with pytest.raises(ValueError, match=rf"{name}.*{REFUSED[name]}.*t = 1|{name}.*t = 1.*{REFUSED[name]}"):
        parameterizations.denoiser(lambda x, t, c: x, SCHEDULES[schedule_name], PARAMETERIZATIONS[name]())


@pytest.mark.parametrize("name, schedule_name", ACCEPTED)
def test_the_others_are_accepted_on_every_schedule(name, schedule_name):
    assert callable(parameterizations.denoiser(lambda x, t, c: x, SCHEDULES[schedule_name], PARAMETERIZATIONS[name]()))


@pytest.mark.extended
@every_parameterization
@every_schedule
def test_a_denoiser_that_was_accepted_is_finite_at_both_ends(name, schedule_name):
    """With a network that uses its clock: an infinite clock, not only an infinite coefficient, is a fault."""
    schedule = SCHEDULES[schedule_name]
    if (name, schedule_name) not in ACCEPTED:
        schedule = schedule._replace(t_max=0.999)
    p = PARAMETERIZATIONS[name]()
    network = lambda x, clock, condition: jnp.tanh(x) + jnp.cos(clock)[:, None]
    denoise = parameterizations.denoiser(network, schedule, p)
    smallest = max(schedule.t_min, 1e-5)
    x, _ = _pair((2, 3))
    prediction = denoise(x, jnp.array([smallest, schedule.t_max], jnp.float32))
    assert np.isfinite(prediction.x0).all()
    assert np.isfinite(prediction.eps).all()


@pytest.mark.parametrize("p", [2, 3, 8])
def test_a_velocity_is_read_at_the_data_where_both_slopes_vanish(p):
    """alpha = 1 - t^p and sigma = t^p, as in docs/extend.md: x_0 = x_t at t = 0, whatever the network says."""
    schedule = schedules.from_alpha_sigma(lambda t: 1 - t**p, lambda t: t**p)
    network = lambda x, clock, condition: jnp.tanh(x) + 1
    x, _ = _pair((2, 3))
    prediction = parameterizations.denoiser(network, schedule, parameterizations.velocity())(x, 0.0)
    np.testing.assert_array_equal(prediction.x0, x)
    assert np.isfinite(prediction.eps).all()


def test_the_advice_is_another_parameterization():
    """alpha = sqrt(1 - t) ends with an infinite slope."""
    schedule = schedules.from_alpha_sigma(lambda t: jnp.sqrt(1 - t), jnp.sqrt)
    with pytest.raises(ValueError, match=r"velocity prediction is not defined at t = 1 .* Use v or edm there, or"):
        parameterizations.check(parameterizations.velocity(), schedule)


def test_check_names_the_first_bad_time():
    schedule = schedules.rectified_flow()
    parameterizations.check(parameterizations.x0(), schedule, np.array([1.0, 0.5, 0.1]))
    with pytest.raises(ValueError, match=r"t = 0 .*sigma"):
        parameterizations.check(parameterizations.x0(), schedule, np.array([1.0, 0.5, 0.0]))


def test_check_reads_the_schedule_of_every_leaf():
    """eps is not defined at alpha = 0: at t = 1 of a flow, and at no time of EDM, whose alpha is 1."""
    flow = schedules.rectified_flow()
    edm = schedules.edm()
    shapes = ((2,), (3,))
    times = np.array([0.5, 1.0])
    parameterizations.check(parameterizations.epsilon(), schedules.per_leaf((edm, edm), shapes), times)
    for own in ((flow, edm), (edm, flow)):
        joint = schedules.per_leaf(own, shapes)
        parameterizations.check(parameterizations.epsilon(), joint, np.array([0.1, 0.5]))
        with pytest.raises(ValueError, match=r"t = 1 .*alpha"):
            parameterizations.check(parameterizations.epsilon(), joint, times)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 80.0])
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_preconditioning_is_table_1(sigma, sigma_data, x64):
    """c_skip, c_out, c_in, c_noise of Karras et al. 2022, each read off from what the parameterization does."""
    schedule = schedules.edm()
    p = parameterizations.edm(sigma_data=sigma_data)
    t = jnp.asarray([sigma / 80.0])
    one = jnp.ones((1, 1))
    zero = jnp.zeros((1, 1))
    total = sigma**2 + sigma_data**2
    np.testing.assert_allclose(p.to_prediction(schedule, t, one, zero).x0, sigma_data**2 / total)
    np.testing.assert_allclose(p.to_prediction(schedule, t, zero, one).x0, sigma * sigma_data / np.sqrt(total))
    np.testing.assert_allclose(p.input_scale(schedule, t), 1 / np.sqrt(total))
    np.testing.assert_allclose(p.clock(schedule, t), np.log(sigma) / 4)


def test_edm_preconditioning_sees_only_the_noise_level(x64):
    """On another schedule: the network's input, its clock and the estimate are those of x_t / alpha at its level."""
    p = parameterizations.edm()
    reference = schedules.edm()
    schedule = schedules.cosine()
    t = jnp.asarray([0.2, 0.6])
    alpha = schedule.alpha(t)
    sigma = schedule.sigma(t)
    level = sigma / alpha / 80.0  # the time of EDM's schedule at this noise level
    x, output = (jnp.asarray(a, jnp.float64) for a in _pair((2, 3)))
    scaled = x / alpha[:, None]
    ours = p.to_prediction(schedule, t, x, output)
    theirs = p.to_prediction(reference, level, scaled, output)
    np.testing.assert_allclose(ours.x0, theirs.x0, rtol=1e-10)
    np.testing.assert_allclose(ours.eps, theirs.eps, rtol=1e-10)
    np.testing.assert_allclose(p.clock(schedule, t), p.clock(reference, level), rtol=1e-10)
    np.testing.assert_allclose(
        p.input_scale(schedule, t)[:, None] * x, p.input_scale(reference, level)[:, None] * scaled, rtol=1e-10
    )


def test_edm_network_sees_unit_variance(x64):
    """c_in normalises data of standard deviation sigma_data, on any schedule."""
    for schedule in SCHEDULES.values():
        t = jnp.asarray([0.1, 0.5, 1.0])
        variance = schedule.alpha(t) ** 2 * 0.5**2 + schedule.sigma(t) ** 2
        scale = parameterizations.edm(sigma_data=0.5).input_scale(schedule, t)
        np.testing.assert_allclose(scale**2 * variance, 1, rtol=1e-12)


CLOCKS = {
    "time": (parameterizations.time, lambda t, alpha, sigma: t),
    "steps": (parameterizations.steps, lambda t, alpha, sigma: 1000 * t - 1),
    "log_sigma": (parameterizations.log_sigma, lambda t, alpha, sigma: np.log(sigma / alpha) / 4),
    "reversed_time": (parameterizations.reversed_time, lambda t, alpha, sigma: 1 - t),
    "noise_level": (parameterizations.noise_level, lambda t, alpha, sigma: alpha),
}


@pytest.mark.extended
@pytest.mark.parametrize("clock", list(CLOCKS))
@every_parameterization
def test_network_is_fed_its_scale_its_clock_and_its_condition(name, clock):
    make, expected = CLOCKS[clock]
    schedule = schedules.linear_beta()
    seen = []
    p = PARAMETERIZATIONS[name](clock=make())

    def network(x, time, condition):
        seen.append((x, time, condition))
        return jnp.zeros_like(x)

    x, _ = _pair((3, 4))
    t = jnp.array([0.003, 0.5, 1.0])
    labels = jnp.arange(3)
    parameterizations.denoiser(network, schedule, p, condition=labels)(x, t)
    ((fed, time, condition),) = seen
    alpha = np.asarray(schedule.alpha(t))
    sigma = np.asarray(schedule.sigma(t))
    scale = 1 / np.sqrt(0.25 * alpha**2 + sigma**2) if name == "edm" else np.ones(3)
    np.testing.assert_allclose(fed, scale[:, None] * np.asarray(x), rtol=1e-6)
    np.testing.assert_allclose(time, expected(np.asarray(t), alpha, sigma), rtol=1e-5, atol=1e-6)
    assert condition is labels


@pytest.mark.parametrize(
    "clock, expected",
    [
        (parameterizations.time(1000.0), lambda t, alpha, sigma: 1000 * t),
        (parameterizations.time(0.5), lambda t, alpha, sigma: t / 2),
        (parameterizations.steps(50), lambda t, alpha, sigma: 50 * t - 1),
        (parameterizations.log_sigma(250.0), lambda t, alpha, sigma: 250 * np.log(sigma / alpha)),
    ],
)
def test_the_scale_of_a_clock_is_a_factor(clock, expected):
    schedule = schedules.rectified_flow()  # alpha = 1 - t, sigma = t
    t = np.array([0.02, 0.5, 0.9])
    np.testing.assert_allclose(
        clock(schedule, jnp.asarray(t, jnp.float32)), expected(t, 1 - t, t), rtol=1e-5, atol=1e-4
    )


def test_the_clock_of_steps_counts_from_zero():
    t = (np.arange(1, 1001) / 1000).astype(np.float32)
    clock = parameterizations.steps()(schedules.linear_beta(), t)
    np.testing.assert_allclose(clock, np.arange(1000), atol=1e-4)


@every_parameterization
def test_a_scalar_time_reaches_every_example(name):
    """The network always gets one clock an example, float32 even from a bfloat16 time."""
    schedule = schedules.linear_beta()
    seen = []
    network = lambda x, time, condition: (seen.append(time), jnp.zeros_like(x))[1]
    denoise = parameterizations.denoiser(network, schedule, PARAMETERIZATIONS[name]())
    x, _ = _pair((3, 4))
    alone = denoise(x, 0.5)
    each = denoise(x, jnp.full(3, 0.5))
    assert seen[0].shape == seen[1].shape == (3,)
    np.testing.assert_array_equal(alone.x0, each.x0)
    denoise(x, jnp.bfloat16(0.5))
    assert seen[2].dtype == jnp.float32


@pytest.mark.extended
@every_parameterization
@pytest.mark.parametrize("shape, t_shape", [((3,), (3,)), ((3, 4, 1, 2), (3, 4))])
def test_any_rank(name, shape, t_shape):
    """Each element is treated alike, whatever the rank of x, with a time an example or a time a frame."""
    schedule = schedules.linear_beta()
    p = PARAMETERIZATIONS[name]()
    t = jnp.asarray(np.linspace(0.2, 0.9, int(np.prod(t_shape)), dtype=np.float32).reshape(t_shape))
    x, output = _pair(shape)
    prediction = p.to_prediction(schedule, t, x, output)
    repeated = jnp.broadcast_to(schedules.left_broadcast(t, x), shape).ravel()
    flat = p.to_prediction(schedule, repeated, x.ravel(), output.ravel())
    np.testing.assert_allclose(prediction.x0.ravel(), flat.x0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prediction.eps.ravel(), flat.eps, rtol=1e-5, atol=1e-6)


@every_parameterization
def test_half_precision_networks_give_float32_predictions(name):
    network = lambda x, time, condition: x.astype(jnp.bfloat16)
    denoise = parameterizations.denoiser(network, schedules.linear_beta(), PARAMETERIZATIONS[name]())
    prediction = denoise(_pair((2, 3))[0], jnp.array([0.3, 0.6]))
    assert prediction.x0.dtype == prediction.eps.dtype == jnp.float32


@pytest.mark.extended
@every_parameterization
@pytest.mark.parametrize("schedule_name", ["linear_beta", "edm"])
def test_exact_network_gives_the_exact_denoiser(name, schedule_name, x64):
    """On Gaussian data, the expected target is what the network should say; read back it is the oracle's denoiser."""
    schedule = SCHEDULES[schedule_name]
    data = oracles.tilted_gaussian()
    p = PARAMETERIZATIONS[name]()
    t = jnp.asarray([0.1, 0.5, 0.9])
    x = jnp.asarray(_pair((3, 2))[0], jnp.float64)
    alpha = schedule.alpha(t)
    sigma = schedule.sigma(t)
    x0 = oracles.mean_x0(data, alpha, sigma, x)
    eps = oracles.mean_eps(data, alpha, sigma, x)
    network = lambda scaled, clock, condition: p.target(schedule, t, x0, eps)  # targets are linear in the pair
    prediction = parameterizations.denoiser(network, schedule, p)(x, t)
    np.testing.assert_allclose(prediction.x0, x0, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(prediction.eps, eps, rtol=1e-9, atol=1e-10)
    if name == "score":
        output = p.target(schedule, t, x0, eps)
        np.testing.assert_allclose(output, oracles.score(data, alpha, sigma, x), rtol=1e-9)


@every_parameterization
def test_learned_variance_splits_the_channels(name):
    schedule = schedules.linear_beta()
    inner = PARAMETERIZATIONS[name]()
    p = parameterizations.learned_variance(inner)
    x, output = _pair((2, 4, 4, 3))
    t = jnp.array([0.2, 0.9])
    fraction = jnp.linspace(-1, 1, x.size).reshape(x.shape)
    prediction = p.to_prediction(schedule, t, x, jnp.concatenate([output, fraction], axis=-1))
    plain = inner.to_prediction(schedule, t, x, output)
    np.testing.assert_array_equal(prediction.x0, plain.x0)
    np.testing.assert_array_equal(prediction.eps, plain.eps)
    np.testing.assert_allclose(prediction.variance, (fraction + 1) / 2, rtol=1e-6)
    np.testing.assert_array_equal(p.input_scale(schedule, t), inner.input_scale(schedule, t))
    np.testing.assert_array_equal(p.clock(schedule, t), inner.clock(schedule, t))


def test_learned_variance_refuses_a_network_without_it():
    p = parameterizations.learned_variance(parameterizations.epsilon())
    with pytest.raises(ValueError, match="channels"):
        p.to_prediction(schedules.linear_beta(), 0.5, jnp.ones((2, 3)), jnp.ones((2, 3)))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan")])
def test_edm_refuses_a_bad_sigma_data(sigma_data):
    with pytest.raises(ValueError, match="sigma_data"):
        parameterizations.edm(sigma_data=sigma_data)


def test_predictions_are_pytrees_without_a_variance():
    leaves = jax.tree.leaves(Prediction(jnp.ones(2), jnp.ones(2)))
    assert len(leaves) == 2


@pytest.mark.parametrize("t", [-0.1, 1.01, float("nan"), [0.5, 1.2], 700])
def test_times_out_of_range_are_refused_in_eager_use(t):
    """A step's index in the place of a time is the usual mistake; a compiled program has no values to look at."""
    schedule = schedules.cosine()
    x = jnp.ones((2, 3))
    denoise = parameterizations.denoiser(lambda x, clock, condition: x, schedule, parameterizations.v())
    with pytest.raises(ValueError, match=r"outside the times of this schedule, \[0, 1"):
        denoise(x, t)
    assert jax.jit(denoise)(x, jnp.asarray(t, jnp.float32)).x0.shape == x.shape
    assert denoise(x, jnp.asarray([0.0, 1.0])).x0.shape == x.shape


@pytest.mark.parametrize("t_max", [0.5, 3.0])
def test_the_last_time_is_the_schedules(t_max):
    """But for its rounding."""
    schedule = schedules.rectified_flow()._replace(t_max=t_max)
    denoise = parameterizations.denoiser(lambda x, clock, condition: x, schedule, parameterizations.velocity())
    x = jnp.ones((2, 3))
    for t in (t_max, np.nextafter(np.float32(t_max), np.float32(9))):
        assert denoise(x, t).x0.shape == x.shape
    with pytest.raises(ValueError, match=rf"outside the times of this schedule, \[0, {t_max:g}\]"):
        denoise(x, t_max * 1.001)


@pytest.mark.parametrize(
    "denoise, error, words",
    [
        (lambda x: x, TypeError, r"called as denoise\(x_t, t\)"),
        (lambda x, t: (x, x), TypeError, "what a denoiser returns"),
        (lambda x, t: Prediction(x[:1], x), ValueError, "the x0 of a denoiser must have the shape"),
        (lambda x, t: Prediction(x, x[:1]), ValueError, "the eps of a denoiser must have the shape"),
    ],
)
def test_what_is_no_denoiser_is_refused(denoise, error, words):
    with pytest.raises(error, match=words):
        parameterizations.checked(denoise)(jnp.ones((2, 3)), 0.5)


def test_a_mistake_within_a_denoiser_keeps_its_own_words():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'c'"):
        parameterizations.checked(lambda x, t: (lambda a, b, c: a)(x, t))(jnp.ones((2, 3)), 0.5)


def test_a_check_is_one_program(by_xla):
    """Another program would place the times on the device. No other test has times of this shape."""
    times = np.linspace(0.1, 0.9, 137)
    with compilation_cache.counted(None) as programs:
        parameterizations.check(parameterizations.x0(), schedules.rectified_flow(), times)
    assert programs.found + programs.compiled == 1


def test_a_check_inside_a_compiled_function_is_a_program_of_its_own():
    """Its times are known there, and those that a network cannot be read at are refused while it is traced."""

    def at(t):
        def function(x):
            parameterizations.check(parameterizations.x0(), schedules.rectified_flow(), t)
            return x + 1

        return jax.jit(function)(1.0)

    assert at(0.5) == 2.0
    with pytest.raises(ValueError, match="x0 prediction is not defined at t = 0 "):
        at([0.5, 0.0])


def test_times_without_a_value_are_not_checked():
    """eps-prediction at alpha = 0 is refused where the time is known, and computed where it is an argument."""
    eps = parameterizations.epsilon()
    flow = schedules.rectified_flow()
    with pytest.raises(ValueError, match="t = 1"):
        parameterizations.check(eps, flow, 1.0)

    def traced(t):
        parameterizations.check(eps, flow, t)
        parameterizations.check(eps, flow._replace(alpha=lambda s: t - s))
        return t

    jax.eval_shape(traced, 1.0)


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_clipped_x0_is_the_loss_and_the_step_of_jit(noise_scale):
    """Li and He 2025: v = (x - z) / max(1 - t, 0.05) of the network's x and of the data, where their t is 1 - t."""
    schedule = schedules.rectified_flow(noise_scale)
    p = parameterizations.clipped_x0()
    t = jnp.array([0.9, 0.3, 0.02])
    x0, eps = _pair((3, 4))
    z = (1 - t)[:, None] * x0 + noise_scale * t[:, None] * eps
    output = jnp.sin(3 * z)
    left = np.maximum(np.asarray(t), 0.05)[:, None]
    velocity = (output - z) / left
    found = p.to_prediction(schedule, t, z, output)
    np.testing.assert_allclose(found.x0 - noise_scale * found.eps, velocity, rtol=1e-4, atol=1e-5)

    weight = weightings.constant(parameterizations.velocity())(schedule, t) * weightings.error_scale(schedule, t, p)
    np.testing.assert_allclose(weight[:, None], 1 / left**2, rtol=1e-5)
    target = p.target(schedule, t, x0, eps)
    np.testing.assert_allclose(target[:2], x0[:2], rtol=1e-4, atol=1e-5)  # above the floor the data itself
    with pytest.raises(ValueError, match="floor = 0 must be positive"):
        parameterizations.clipped_x0(0)
