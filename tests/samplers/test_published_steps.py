"""Steps of the samplers, written out as their papers or their authors' code have them, in float64."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, timesteps
from tests import oracles
from tests.conformance import DATA, SAMPLERS, SCHEDULES, every_schedule, exact_denoiser, level, slow_but

pytestmark = pytest.mark.usefixtures("x64")


def _follow(sampler, schedule, times, x, noise):
    """The sample after steps along some times with known noise `[N, draws, B, D]`, uncompiled, on the mixture."""
    plan = timesteps.Plan(*map(jnp.asarray, (times[:-1], times[1:], np.zeros(len(times) - 1, bool))))
    denoise = exact_denoiser(DATA["mixture"], schedule)
    state = sampler.init(jnp.asarray(x), schedule, plan)
    with jax.disable_jit():
        for i in range(len(times) - 1):
            state = sampler.step(state, denoise, schedule, plan, i, jnp.asarray(noise[i]))
    return state.x


def _one_step(sampler, schedule, t, s, x, noise):
    return _follow(sampler, schedule, np.array([t, s]), x, noise[None])


def _draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# The published loops in y = x / alpha and r = sigma / alpha, as k-diffusion and EDM have them: (y, r[N + 1], z) -> y.


def _model(y, r):
    return np.asarray(oracles.mean_x0(DATA["mixture"], 1.0, r, y))


def _down_up(r_t, r_s, eta):
    up = min(r_s, eta * (r_s**2 * (r_t**2 - r_s**2) / r_t**2) ** 0.5)
    return (r_s**2 - up**2) ** 0.5, up


def _euler_ancestral(y, r, z, eta, s_noise):
    for i in range(len(r) - 1):
        down, up = _down_up(r[i], r[i + 1], eta)
        y = y + (y - _model(y, r[i])) / r[i] * (down - r[i]) + s_noise * up * z[i, 0]
    return y


def _dpm_2_ancestral(y, r, z, eta, s_noise):
    for i in range(len(r) - 1):
        down, up = _down_up(r[i], r[i + 1], eta)
        slope = (y - _model(y, r[i])) / r[i]
        if down > 0:
            middle = np.exp((np.log(r[i]) + np.log(down)) / 2)
            y_m = y + slope * (middle - r[i])
            slope = (y_m - _model(y_m, middle)) / middle
        y = y + slope * (down - r[i]) + s_noise * up * z[i, 0]
    return y


def _edm(y, r, z, s_churn, s_tmin, s_tmax, s_noise):
    for i in range(len(r) - 1):
        gamma = min(s_churn / (len(r) - 1), 2**0.5 - 1) if s_tmin <= r[i] <= s_tmax else 0
        hat = r[i] * (1 + gamma)
        y = y + (hat**2 - r[i] ** 2) ** 0.5 * s_noise * z[i, 0]
        slope = (y - _model(y, hat)) / hat
        predicted = y + (r[i + 1] - hat) * slope
        if r[i + 1] > 0:
            slope = (slope + (predicted - _model(predicted, r[i + 1])) / r[i + 1]) / 2
        y = y + (r[i + 1] - hat) * slope
    return y


def _dpmpp_sde(y, r, z, eta, s_noise):
    """With the increments of a motion that runs in 1 / r^2, the one that drives the reverse equation."""
    for i in range(len(r) - 1):
        x0 = _model(y, r[i])
        if r[i + 1] == 0:
            return x0
        middle = (r[i] * r[i + 1]) ** 0.5
        down, up = _down_up(r[i], middle, eta)
        y_m = down / r[i] * y + (1 - down / r[i]) * x0 + s_noise * up * z[i, 0]
        first = middle**-2 - r[i] ** -2
        second = r[i + 1] ** -2 - middle**-2
        increment = (first**0.5 * z[i, 0] + second**0.5 * z[i, 1]) / (first + second) ** 0.5
        down, up = _down_up(r[i], r[i + 1], eta)
        y = down / r[i] * y + (1 - down / r[i]) * _model(y_m, middle) + s_noise * up * increment
    return y


def _multistep(y, r, z, eta, s_noise, correct):
    """k-diffusion's loop; `correct(h, k, x0, history)` adds to the step, history being [(h, x0)], latest first."""
    history = []
    for i in range(len(r) - 1):
        x0 = _model(y, r[i])
        if r[i + 1] == 0:
            return x0
        h = np.log(r[i] / r[i + 1])
        k = h * (1 + eta)
        y = r[i + 1] / r[i] * np.exp(-eta * h) * y + (1 - np.exp(-k)) * x0 + correct(h, k, x0, history)
        y = y + r[i + 1] * (1 - np.exp(-2 * eta * h)) ** 0.5 * s_noise * z[i, 0]
        history = [(h, x0), *history]
    return y


def _midpoint(h, k, x0, history):
    return 0.5 * (1 - np.exp(-k)) * (h / history[0][0]) * (x0 - history[0][1]) if history else 0


def _heun(h, k, x0, history):
    return (1 - (1 - np.exp(-k)) / k) * (h / history[0][0]) * (x0 - history[0][1]) if history else 0


def _third(h, k, x0, history):
    if len(history) < 2:
        return _heun(h, k, x0, history)
    (h_1, x0_1), (h_2, x0_2) = history[:2]
    r0 = h_1 / h
    r1 = h_2 / h
    d1_0 = (x0 - x0_1) / r0
    d1_1 = (x0_1 - x0_2) / r1
    d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
    d2 = (d1_0 - d1_1) / (r0 + r1)
    phi_2 = 1 - (1 - np.exp(-k)) / k
    phi_3 = phi_2 / k - 0.5
    return phi_2 * d1 - 2 * phi_3 * d2  # the 2 is not in k-diffusion: d2 is half a second derivative


LOOPS = {
    "euler_ancestral": (samplers.euler_ancestral(0.7, 1.1), lambda *a: _euler_ancestral(*a, 0.7, 1.1)),
    "dpm_2_ancestral": (samplers.dpm_2_ancestral(0.7, 1.1), lambda *a: _dpm_2_ancestral(*a, 0.7, 1.1)),
    "dpm_2_ancestral(1)": (samplers.dpm_2_ancestral(), lambda *a: _dpm_2_ancestral(*a, 1.0, 1.0)),
    "edm": (samplers.edm(1.2, 0.3, 1.5, 1.1), lambda *a: _edm(*a, 1.2, 0.3, 1.5, 1.1)),
    "edm(most)": (samplers.edm(40.0), lambda *a: _edm(*a, 40.0, 0.0, np.inf, 1.0)),
    "dpmpp_2m": (samplers.dpmpp_2m(), lambda *a: _multistep(*a, 0.0, 0.0, _midpoint)),
    "dpmpp_sde": (samplers.dpmpp_sde(0.7, 1.1), lambda *a: _dpmpp_sde(*a, 0.7, 1.1)),
    "dpmpp_2m_sde": (samplers.dpmpp_2m_sde(0.7, 1.1), lambda *a: _multistep(*a, 0.7, 1.1, _midpoint)),
    "dpmpp_2m_sde(heun)": (samplers.dpmpp_2m_sde(1.0, 1.1, "heun"), lambda *a: _multistep(*a, 1.0, 1.1, _heun)),
    "dpmpp_3m_sde": (samplers.dpmpp_3m_sde(0.7, 1.1), lambda *a: _multistep(*a, 0.7, 1.1, _third)),
}


@pytest.mark.parametrize(
    "make",
    [
        samplers.euler_ancestral,
        samplers.dpm_2_ancestral,
        samplers.dpmpp_sde,
        samplers.dpmpp_2m_sde,
        samplers.dpmpp_3m_sde,
    ],
)
def test_the_reverse_equation_is_taken_if_nothing_is_said(make):
    defaults = {name: value.default for name, value in inspect.signature(make).parameters.items()}
    assert (defaults["eta"], defaults["s_noise"]) == (1.0, 1.0) and make().draws >= 1


def test_a_middle_of_any_place_takes_its_share_of_the_noise():
    """k-diffusion's sample_dpmpp_sde for r = 0.3, with the increments of its motion in 1 / sigma^2, one step."""
    r, (r_t, r_s) = 0.3, (2.2, 0.9)
    y, z = 2 * _draw(3, 2), _draw(1, 2, 3, 2, seed=1)
    schedule = SCHEDULES["edm"]
    ends = np.asarray(schedule.inverse_log_snr(-2 * np.log([r_t, r_s])))
    ours = _follow(samplers.dpmpp_sde(0.7, 1.1, r), schedule, ends, y, z)
    x0 = _model(y, r_t)
    middle = r_t ** (1 - r) * r_s**r
    down, up = _down_up(r_t, middle, 0.7)
    second = _model(x0 + down / r_t * (y - x0) + 1.1 * up * z[0, 0], middle)
    x0 = (1 - 1 / (2 * r)) * x0 + second / (2 * r)
    times = np.array([r_t, middle, r_s]) ** -2
    increment = np.sqrt(np.diff(times) / (times[2] - times[0]))
    down, up = _down_up(r_t, r_s, 0.7)
    noise = increment[0] * z[0, 0] + increment[1] * z[0, 1]
    np.testing.assert_allclose(ours, x0 + down / r_t * (y - x0) + 1.1 * up * noise, rtol=1e-8)


@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but([(name, "cosine") for name in LOOPS], [(name, at) for name in LOOPS for at in ("cosine", "edm")]),
)
def test_sampling_equals_the_published_loop(name, schedule_name):
    """Five steps down to sigma = 0, at unequal distances: in x / alpha it is one loop, whatever the schedule."""
    sampler, loop = LOOPS[name]
    schedule = SCHEDULES[schedule_name]
    r = np.array([4.0, 2.2, 0.9, 0.5, 0.2, 0.0])
    times = np.append(np.asarray(schedule.inverse_log_snr(-2 * np.log(r[:-1]))), 0.0)
    y = 4 * _draw(3, 2)
    z = _draw(5, 2, 3, 2, seed=1)
    alpha, _ = level(schedule, times[0])
    ours = _follow(sampler, schedule, times, alpha * y, z[:, : sampler.draws])
    np.testing.assert_allclose(ours, loop(y, r, z), rtol=1e-8, atol=1e-10)


def test_edm_never_leaves_the_schedule():
    """Noise is added up to the largest sigma, from where it starts with none."""
    schedule = SCHEDULES["edm"]
    z = _draw(1, 3, 2, seed=1)
    x = 80 * _draw(3, 2)
    with_churn, without = (_one_step(samplers.edm(c), schedule, 1.0, 0.5, x, z[:d]) for c, d in ((9.0, 1), (0.0, 0)))
    np.testing.assert_array_equal(with_churn, without)
    seen = []
    denoise = lambda x, t: (seen.append(float(t)), exact_denoiser(DATA["mixture"], schedule)(x, t))[1]
    plan = timesteps.plan(np.array([0.9, 0.5]))
    with jax.disable_jit():
        sampler = samplers.edm(9.0)
        sampler.step(sampler.init(jnp.asarray(x), schedule, plan), denoise, schedule, plan, 0, jnp.asarray(z))
    np.testing.assert_allclose(seen[0], 1.0, rtol=1e-12)


# Relatives: what a sampler is at the end of a range of its arguments.


RELATIVES = [
    (samplers.euler_ancestral(0.0), samplers.ddim(), None),
    (samplers.euler_ancestral(), samplers.ddpm(), None),
    (samplers.dpm_2_ancestral(0.0), samplers.dpm_2(), None),
    (samplers.edm(), samplers.heun(), "edm"),  # whose sigma is proportional to t
    (samplers.dpmpp_sde(0.0), samplers.dpmpp_2s(), None),
    (samplers.dpmpp_2m_sde(0.0), samplers.dpmpp_2m(), None),
    pytest.param(samplers.dpmpp_3m_sde(0.0), samplers.dpmpp_3m(), None, marks=pytest.mark.slow),
    (samplers.interpolant_sde(scale=0.0), samplers.euler(), None),
    (samplers.interpolant_sde(lambda schedule, t: schedule.diffusion(t) ** 2), samplers.euler_maruyama(), None),
]


@pytest.mark.parametrize("sampler, relative, only", RELATIVES)
def test_a_sampler_is_its_relative_at_the_end_of_its_range(sampler, relative, only):
    """From alpha = 0, where there is such an end, to sigma = 0."""
    for name in [only] if only else ["rectified_flow", "edm"]:
        schedule = SCHEDULES[name]
        times = np.array([1.0, 0.7, 0.5, 0.2, 0.05, 0.0])
        x = level(schedule, 1.0)[1] * _draw(3, 2)
        z = _draw(5, 1, 3, 2, seed=1)
        ours, theirs = (_follow(s, schedule, times, x, z[:, : s.draws]) for s in (sampler, relative))
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_without_noise_they_invert():
    """Up from the data, sigma = 0, where E[eps | x] = 0; and above it as their relatives do."""
    schedule = SCHEDULES["edm"]
    times = np.array([0.0, 0.05, 0.2, 0.7])
    x = _draw(3, 2)
    follow = lambda sampler, times: _follow(sampler, schedule, times, x, np.zeros((3, 0, 3, 2)))
    np.testing.assert_allclose(follow(samplers.dpm_2_ancestral(0.0), times), follow(samplers.dpm_2(), times), rtol=1e-7)
    np.testing.assert_allclose(follow(samplers.edm(), times[1:]), follow(samplers.heun(), times[1:]), rtol=1e-7)
    for sampler, relative in (("dpmpp_sde", "dpmpp_2s"), ("dpmpp_2m_sde", "dpmpp_2m"), ("dpmpp_3m_sde", "dpmpp_2m")):
        arrived = follow(getattr(samplers, sampler)(0.0), times[:3])  # the first two steps of 3m are those of 2m
        rtol = 1e-7 if sampler != "dpmpp_3m_sde" else 0.05  # with the other weight of the second step, "heun"
        np.testing.assert_allclose(arrived, follow(getattr(samplers, relative)(), times[:3]), rtol=rtol)
    expected = x + 4.0 / 2 * oracles.mean_eps(DATA["mixture"], 1.0, 4.0, x)
    np.testing.assert_allclose(follow(samplers.edm(), times[:2]), expected, rtol=1e-7)


# Song et al. 2021 and Ma et al. 2024, in t.


def _score(schedule, t, x):
    return np.asarray(oracles.score(DATA["mixture"], *level(schedule, t), x))


@pytest.mark.parametrize("schedule", [SCHEDULES["rectified_flow"], SCHEDULES["edm"], schedules.sub_vp()])
def test_euler_maruyama_step_is_the_reverse_equation(schedule):
    """x - dt (f x - g^2 score) + g sqrt(dt) z."""
    x = _draw(3, 2)
    z = _draw(1, 3, 2, seed=1)
    for t, s in ((0.9, 0.6), (0.3, 0.25)):
        f = float(schedule.drift(t))
        g = float(schedule.diffusion(t))
        expected = x - (t - s) * (f * x - g**2 * _score(schedule, t, x)) + g * np.sqrt(t - s) * z[0]
        ours = _one_step(samplers.euler_maruyama(), schedule, t, s, x, z)
        np.testing.assert_allclose(ours, expected, rtol=1e-8)


# SiT's diffusion coefficients D on its linear path, in its time 1 - t, where sigma = 1 - time and alpha = time;
# and that of Flow-GRPO's eq. 9, whose noise sqrt(t / (1 - t)) dW has D = t / (1 - t) / 2.
SIT = {
    "constant": lambda time: 1.0,
    "sbdm": lambda time: (1 / time) * (1 - time) ** 2 + (1 - time),
    "sigma": lambda time: 1 - time,
    "linear": lambda time: 1 - time,
    "decreasing": lambda time: 0.25 * (np.cos(np.pi * time) + 1) ** 2,
    "increasing-decreasing": lambda time: np.sin(np.pi * time) ** 2,
    "flow_grpo": lambda time: (1 - time) / time / 2,
}


@pytest.mark.parametrize("name", list(SIT))
def test_interpolant_step_is_that_of_sit(name):
    """x + (v + D score) dt + sqrt(2 D dt) z, forward in a time with data at 1, v = E[x_0 - eps | x]."""
    schedule = SCHEDULES["rectified_flow"]
    x = _draw(3, 2)
    z = _draw(1, 3, 2, seed=1)
    for t, s in ((0.9, 0.6), (0.3, 0.25)):
        d = 1.3 * SIT[name](1 - t)
        x0, eps = (np.asarray(f(DATA["mixture"], 1 - t, t, x)) for f in (oracles.mean_x0, oracles.mean_eps))
        expected = x + (t - s) * (x0 - eps + d * _score(schedule, t, x)) + np.sqrt(2 * d * (t - s)) * z[0]
        ours = _one_step(samplers.interpolant_sde(name, scale=1.3), schedule, t, s, x, z)
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("last", ["mean", "tweedie"])
def test_last_step_of_interpolant_is_that_of_sit(last):
    """Mean: x + (v + D score) dt, without noise. Tweedie: x / alpha + sigma^2 / alpha score."""
    schedule = SCHEDULES["rectified_flow"]
    x = _draw(3, 2)
    z = _draw(1, 3, 2, seed=1)
    t = 0.04
    x0, eps = (np.asarray(f(DATA["mixture"], 1 - t, t, x)) for f in (oracles.mean_x0, oracles.mean_eps))
    score = _score(schedule, t, x)
    expected = {"mean": x + t * (x0 - eps + t * score), "tweedie": x / (1 - t) + t**2 / (1 - t) * score}[last]
    ours = _one_step(samplers.interpolant_sde("sigma", last=last), schedule, t, 0.0, x, z)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_reverse_diffusion_is_that_of_both_processes():
    """Song et al. 2021, algorithms 2 and 3: VE with sigma_i^2 - sigma_{i-1}^2, VP with beta_i, at its own times."""
    x = _draw(3, 2)
    z = _draw(1, 3, 2, seed=1)
    schedule = SCHEDULES["variance_exploding"]
    gap = level(schedule, 0.6)[1] ** 2 - level(schedule, 0.4)[1] ** 2
    expected = x + gap * _score(schedule, 0.6, x) + np.sqrt(gap) * z[0]
    ours = _one_step(samplers.reverse_diffusion(), schedule, 0.6, 0.4, x, z)
    np.testing.assert_allclose(ours, expected, rtol=1e-8)

    schedule = SCHEDULES["linear_beta"]
    i = 700
    beta = np.linspace(1e-4, 0.02, 1000)[i]
    t = (i + 1) / 1000
    s = i / 1000
    expected = (2 - np.sqrt(1 - beta)) * x + beta * _score(schedule, t, x) + np.sqrt(beta) * z[0]
    ours = _one_step(samplers.reverse_diffusion(), schedule, t, s, x, z)
    np.testing.assert_allclose(ours, expected, rtol=1e-7)


@pytest.mark.parametrize("schedule_name", ["variance_exploding", "cosine"])
def test_corrector_is_algorithm_4_sample_by_sample(schedule_name):
    """After DDPM's step, two Langevin steps; the norms of one sample, as in the authors' code for a batch of one."""
    schedule = SCHEDULES[schedule_name]
    t = 0.6
    s = 0.4
    snr = 0.16
    x = level(schedule, t)[1] * _draw(3, 2)
    z = _draw(3, 3, 2, seed=1)
    expected = np.array(_one_step(samplers.ddpm(), schedule, t, s, x, z[:1]))
    for noise in z[1:]:
        score = _score(schedule, s, expected)
        for b in range(3):
            e = 2 * (snr * np.linalg.norm(noise[b]) / np.linalg.norm(score[b])) ** 2
            expected[b] += e * score[b] + np.sqrt(2 * e) * noise[b]
    sampler = samplers.predictor_corrector(samplers.ddpm(), snr, corrections=2)
    np.testing.assert_allclose(_one_step(sampler, schedule, t, s, x, z), expected, rtol=1e-8)
    assert (sampler.draws, sampler.nfe(5)) == (3, 5 + 2 * 4)


# Bad arguments.


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: samplers.ddpm("analytic"), "error"),
        (lambda: samplers.ddpm("small", error=jnp.exp), "error"),
        (lambda: samplers.euler_ancestral(1.5), "eta"),
        (lambda: samplers.dpm_2_ancestral(-0.1), "eta"),
        (lambda: samplers.dpmpp_sde(2.0), "eta"),
        (lambda: samplers.dpmpp_sde(r=0.0), "r = "),
        (lambda: samplers.dpmpp_2m_sde(-1.0), "eta"),
        (lambda: samplers.dpmpp_2m_sde(solver="euler"), "midpoint"),
        (lambda: samplers.dpmpp_3m_sde(float("nan")), "eta"),
        (lambda: samplers.edm(-1.0), "s_churn"),
        (lambda: samplers.edm(1.0, 2.0, 1.0), "leave no sigma / alpha at which noise is added"),
        (lambda: samplers.interpolant_sde("sqrt"), "sbdm"),
        (lambda: samplers.interpolant_sde(scale=-1.0), "scale"),
        (lambda: samplers.interpolant_sde(last="euler"), "tweedie"),
        (lambda: samplers.predictor_corrector(snr=0.0), "snr"),
        (lambda: samplers.predictor_corrector(corrections=0), "corrections"),
        (lambda: samplers.predictor_corrector(step_size="batch"), "norms"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [("ddpm", name) for name in SCHEDULES] + [("ddpm(large)", "cosine"), ("ddpm(learned)", "edm")],
        [(name, schedule) for name in ("ddpm", "ddpm(large)", "ddpm(learned)") for schedule in SCHEDULES],
    ),
)
def test_ddpm_step_is_the_posterior(name, schedule_name):
    """N(a x_t + b x0, c) from the definition of the process; the variance as the three choices say."""
    schedule = SCHEDULES[schedule_name]
    x = _draw(3, 2)
    noise = _draw(1, 3, 2, seed=1)
    for t, s in ((0.99, 0.5), (0.6, 0.599), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end = level(schedule, t), level(schedule, s)
        a, b, small = oracles.ancestral(start, end)
        large = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
        variance = {"ddpm": small, "ddpm(large)": large, "ddpm(learned)": large**0.3 * small**0.7}[name]
        expected = a * x + b * oracles.mean_x0(DATA["mixture"], alpha_t, sigma_t, x) + np.sqrt(variance) * noise[0]
        ours = _one_step(SAMPLERS[name], schedule, t, s, x, noise)
        np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9)


@every_schedule
def test_ddim_step_is_equation_12(schedule_name):
    """alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z; for variance-preserving processes c is Song et al.'s eq. 16."""
    schedule = SCHEDULES[schedule_name]
    eta = 0.5
    x = _draw(3, 2)
    noise = _draw(1, 3, 2, seed=1)
    for t, s in ((0.99, 0.5), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end = level(schedule, t), level(schedule, s)
        c = eta * np.sqrt(oracles.ancestral(start, end)[2])
        if schedule_name in ("linear_beta", "scaled_linear", "cosine"):
            bar_t = alpha_t**2
            bar_s = alpha_s**2
            published = eta * np.sqrt((1 - bar_s) / (1 - bar_t)) * np.sqrt(1 - bar_t / bar_s)
            np.testing.assert_allclose(c, published, rtol=1e-6)
        x0, eps = (f(DATA["mixture"], alpha_t, sigma_t, x) for f in (oracles.mean_x0, oracles.mean_eps))
        expected = alpha_s * x0 + np.sqrt(sigma_s**2 - c**2) * eps + c * noise[0]
        ours = _one_step(samplers.ddim(eta), schedule, t, s, x, noise)
        np.testing.assert_allclose(ours, expected, rtol=1e-7)
        ours = _one_step(samplers.ddim(), schedule, t, s, x, noise[:0])
        np.testing.assert_allclose(ours, alpha_s * x0 + sigma_s * eps, rtol=1e-9)
