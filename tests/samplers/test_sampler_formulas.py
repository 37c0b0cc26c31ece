"""Deterministic samplers against the formulas of their papers and authors, written out in numpy on straight lines.

On the rectified flow alpha = 1 - t and sigma = t, and everything below follows from these two and the exact estimate of
N(0.4, 0.5^2); lists hold the oldest first, as in the authors' codes.
"""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from diffusion import samplers, timesteps
from diffusion.parameterizations import Prediction
from diffusion.samplers import exponential, linear_multistep
from tests.conformance import SCHEDULES, slow_but

MEAN, VARIANCE = 0.4, 0.25
TIMES = np.array([0.93, 0.8, 0.71, 0.55, 0.42, 0.3, 0.22])
EVEN = np.linspace(0.9, 0.2, 8)
POINTS = np.array([1.3, -0.7, 0.2])

alpha = lambda t: 1 - t
sigma = lambda t: t
log_ratio = lambda t: np.log(alpha(t) / sigma(t))
time_of = lambda log_ratio: 1 / (1 + np.exp(log_ratio))


def x0(x, t):
    return MEAN + VARIANCE * alpha(t) * (x - alpha(t) * MEAN) / (VARIANCE * alpha(t) ** 2 + sigma(t) ** 2)


def eps(x, t):
    return sigma(t) * (x - alpha(t) * MEAN) / (VARIANCE * alpha(t) ** 2 + sigma(t) ** 2)


def flow(t, s, x):
    """The exact solution."""
    std = lambda t: np.sqrt(VARIANCE * alpha(t) ** 2 + sigma(t) ** 2)
    return alpha(s) * MEAN + std(s) / std(t) * (x - alpha(t) * MEAN)


def transfer(x, t, s, e):
    """DDIM's step by a known noise (Liu et al. 2022, eq. 11, in alpha and sigma)."""
    return alpha(s) * (x - sigma(t) * e) / alpha(t) + sigma(s) * e


def dpm_2(times, x):
    """k-diffusion's sample_dpm_2 for x / alpha at noise levels sigma / alpha."""
    ratio = lambda t: sigma(t) / alpha(t)
    y = x / alpha(times[0])
    for t, s in pairwise(times):
        middle = np.exp((np.log(ratio(t)) + np.log(ratio(s))) / 2)
        m = middle / (1 + middle)
        y_2 = y + eps(alpha(t) * y, t) * (middle - ratio(t))
        y = y + eps(alpha(m) * y_2, m) * (ratio(s) - ratio(t))
    return alpha(times[-1]) * y


def dpm_solver_3(times, x, r_1=1 / 3, r_2=2 / 3):
    """Lu et al. 2022, "DPM-Solver", algorithm 2."""
    for t, s in pairwise(times):
        h = log_ratio(s) - log_ratio(t)
        t_1 = time_of(log_ratio(t) + r_1 * h)
        t_2 = time_of(log_ratio(t) + r_2 * h)
        e = eps(x, t)
        u_1 = alpha(t_1) / alpha(t) * x - sigma(t_1) * np.expm1(r_1 * h) * e
        d_1 = eps(u_1, t_1) - e
        u_2 = alpha(t_2) / alpha(t) * x - sigma(t_2) * np.expm1(r_2 * h) * e
        u_2 = u_2 - sigma(t_2) * r_2 / r_1 * (np.expm1(r_2 * h) / (r_2 * h) - 1) * d_1
        d_2 = eps(u_2, t_2) - e
        x = alpha(s) / alpha(t) * x - sigma(s) * np.expm1(h) * e - sigma(s) / r_2 * (np.expm1(h) / h - 1) * d_2
    return x


def dpmpp_2s(times, x):
    """Lu et al. 2022, "DPM-Solver++", algorithm 1 with r = 1/2."""
    for t, s in pairwise(times):
        h = log_ratio(s) - log_ratio(t)
        m = time_of(log_ratio(t) + h / 2)
        u = sigma(m) / sigma(t) * x - alpha(m) * np.expm1(-h / 2) * x0(x, t)
        x = sigma(s) / sigma(t) * x - alpha(s) * np.expm1(-h) * x0(u, m)
    return x


def dpmpp_2s_on_the_grid(times, x, lower_order_final=False):
    """singlestep_dpm_solver_second_update of the authors, whose inner points are the times of odd index.

    From alpha = 0, where lambda is not finite, r is the share of alpha / sigma.
    """
    for i, (t, s) in enumerate(pairwise(times)):
        if i % 2 == 0 or sigma(s) == 0 or (lower_order_final and i == len(times) - 2):
            began = x
            x = alpha(s) * x0(x, t) + sigma(s) * eps(x, t)
            continue
        first = times[i - 1]
        of = log_ratio if alpha(first) > 0 else lambda t: alpha(t) / sigma(t)
        r_0 = (of(t) - of(first)) / (of(s) - of(first))
        d_0 = x0(began, first)
        d_1 = (x0(x, t) - d_0) / r_0
        phi_1 = alpha(first) * sigma(s) / (alpha(s) * sigma(first)) - 1
        x = sigma(s) / sigma(first) * began - alpha(s) * phi_1 * d_0 - 0.5 * alpha(s) * phi_1 * d_1
    return x


def dpmpp_2m_lower_order_final(times, x):
    """Lu et al. 2022, "DPM-Solver++", algorithm 2, whose last step is the first order's."""
    found = []
    for i, (t, s) in enumerate(pairwise(times)):
        found.append(x0(x, t))
        h = log_ratio(s) - log_ratio(t)
        d = found[-1]
        if 0 < i < len(times) - 2:
            r = (log_ratio(t) - log_ratio(times[i - 1])) / h
            d = (1 + 1 / (2 * r)) * found[-1] - 1 / (2 * r) * found[-2]
        x = sigma(s) / sigma(t) * x - alpha(s) * np.expm1(-h) * d
    return x


def dpmpp_3m(times, x, factor=2, truth=None):
    """The authors' multistep third order with "taylor" below it; their factor of the last term is 1."""
    found = []
    for i, (t, s) in enumerate(pairwise(times)):
        found.append(x0(x, t))
        h = log_ratio(s) - log_ratio(t)
        phi_1 = np.expm1(-h)
        phi_2 = np.expm1(-h) / h + 1
        x = sigma(s) / sigma(t) * x - alpha(s) * phi_1 * found[-1]
        if i == 1:
            x = x + alpha(s) * phi_2 * (found[-1] - found[-2]) * h / (log_ratio(t) - log_ratio(times[0]))
        elif i > 1:
            r_0 = (log_ratio(t) - log_ratio(times[i - 1])) / h
            r_1 = (log_ratio(times[i - 1]) - log_ratio(times[i - 2])) / h
            d_10 = (found[-1] - found[-2]) / r_0
            d_11 = (found[-2] - found[-3]) / r_1
            d_1 = d_10 + r_0 / (r_0 + r_1) * (d_10 - d_11)
            d_2 = (d_10 - d_11) / (r_0 + r_1)
            x = x + alpha(s) * (phi_2 * d_1 - factor * (phi_2 / h - 0.5) * d_2)
        if truth is not None and i < 2:
            x = truth(s)
    return x


def unipc(times, x, p, variant, lower_order_final=False):
    """Zhao et al. 2023's multistep_uni_pc_bh_update with predict_x0, and its linear system."""
    models = [x0(x, times[0])]
    for step in range(1, len(times)):
        order = min(p, step, len(times) - step if lower_order_final else p)
        t = times[step - 1]
        s = times[step]
        h = log_ratio(s) - log_ratio(t)
        rks = [(log_ratio(times[step - 1 - k]) - log_ratio(t)) / h for k in range(1, order)]
        slopes = [(models[-1 - k] - models[-1]) / r for k, r in zip(range(1, order), rks)]
        rks = np.array([*rks, 1.0])
        big_b = -h if variant == "bh1" else math.expm1(-h)
        phi_k = math.expm1(-h) / -h - 1
        factorial = 1
        rows = []
        b = []
        for k in range(1, order + 1):
            rows.append(rks ** (k - 1))
            b.append(phi_k * factorial / big_b)
            factorial *= k + 1
            phi_k = phi_k / -h - 1 / factorial
        rows = np.array(rows)
        b = np.array(b)
        rho_p = [0.5] if order == 2 else np.linalg.solve(rows[:-1, :-1], b[:-1])
        rho_c = [0.5] if order == 1 else np.linalg.solve(rows, b)
        base = sigma(s) / sigma(t) * x - alpha(s) * math.expm1(-h) * models[-1]
        x = base - alpha(s) * big_b * sum(rho * slope for rho, slope in zip(rho_p, slopes))
        if step < len(times) - 1:
            model = x0(x, s)
            found = sum(rho * slope for rho, slope in zip(rho_c[:-1], slopes))
            x = base - alpha(s) * big_b * (found + rho_c[-1] * (model - models[-1]))
            models.append(model)
    return x


def adams_bashforth(times, x, order, node, density, lower_order_final=False, model=eps, scale=alpha):
    """y_s = y_t + sum_k eps_k int_t^s l_k(node(tau)) r'(tau) dtau, with `density` r' and adaptive quadrature.

    y is x / alpha; with x0 as the model it is x / sigma, and r is alpha / sigma.
    """
    y = x / scale(times[0])
    found = []
    for i, (t, s) in enumerate(pairwise(times)):
        found.append(model(scale(t) * y, t))
        points = min(order, len(times) - 1 - i) if lower_order_final else order
        latest = range(max(0, i + 1 - points), i + 1)
        for k in latest:
            others = [j for j in latest if j != k]
            lagrange = lambda tau: math.prod(
                (node(tau) - node(times[j])) / (node(times[k]) - node(times[j]))  # noqa: B023
                for j in others  # noqa: B023
            )
            weight = scipy.integrate.quad(lambda tau: lagrange(tau) * density(tau), t, s, epsrel=1e-12)[0]  # noqa: B023
            y = y + weight * found[k]
    return scale(times[-1]) * y


FORMULAS = {2: ([-1, 3], 2), 3: ([5, -16, 23], 12), 4: ([-9, 37, -59, 55], 24)}


def plms(times, x, runge_kutta=0):
    """CompVis' p_sample_plms; with three steps of Runge-Kutta first, Liu et al.'s gen_order_4."""
    found = []
    for i, (t, s) in enumerate(pairwise(times)):
        e = eps(x, t)
        found = [*found, e][-4:]
        if i < runge_kutta:
            m = (t + s) / 2
            e_2 = eps(transfer(x, t, m, e), m)
            e_3 = eps(transfer(x, t, m, e_2), m)
            e_4 = eps(transfer(x, t, s, e_3), s)
            e = (e + 2 * e_2 + 2 * e_3 + e_4) / 6
        elif i == 0:
            e = (e + eps(transfer(x, t, s, e), s)) / 2
        else:
            weights, divisor = FORMULAS[len(found)]
            e = sum(w * e for w, e in zip(weights, found)) / divisor
        x = transfer(x, t, s, e)
    return x


r_prime = lambda t: 1 / (1 - t) ** 2
REFERENCES = {
    "dpm_2": (samplers.dpm_2(), dpm_2, TIMES),
    "dpm_solver_2": (samplers.dpm_solver_2(), dpm_2, TIMES),
    "dpm_solver_3": (samplers.dpm_solver_3(), dpm_solver_3, TIMES),
    "dpmpp_2s": (samplers.dpmpp_2s(), dpmpp_2s, TIMES),
    "dpmpp_2s(grid)": (samplers.dpmpp_2s("grid"), dpmpp_2s_on_the_grid, np.array([1.0, *TIMES[1:], 0.1, 0.0])),
    "dpmpp_2s(grid, lower_order_final)": (
        samplers.dpmpp_2s("grid", lower_order_final=True),
        lambda times, x: dpmpp_2s_on_the_grid(times, x, lower_order_final=True),
        TIMES,
    ),
    "dpmpp_3m": (samplers.dpmpp_3m(), dpmpp_3m, TIMES),
    **{
        f"unipc({p}, {variant})": (
            samplers.unipc(p, variant),
            lambda times, x, p=p, v=variant: unipc(times, x, p, v),
            TIMES,
        )
        for p in (1, 2, 3)
        for variant in ("bh1", "bh2")
    },
    **{
        f"deis({k})": (samplers.deis(k), lambda times, x, k=k: adams_bashforth(times, x, k, float, r_prime), TIMES)
        for k in (1, 3, 4)
    },
    **{
        f"lms({k})": (
            samplers.lms(k),
            lambda times, x, k=k: adams_bashforth(times, x, k, lambda t: t / (1 - t), r_prime),
            TIMES,
        )
        for k in (1, 2, 4)
    },
    "dpmpp_2m(lower_order_final)": (samplers.dpmpp_2m(lower_order_final=True), dpmpp_2m_lower_order_final, TIMES),
    "dpmpp_2m_sde(0, lower_order_final)": (
        samplers.dpmpp_2m_sde(0.0, lower_order_final=True),
        dpmpp_2m_lower_order_final,
        TIMES,
    ),
    "dpmpp_3m(lower_order_final)": (
        samplers.dpmpp_3m(lower_order_final=True),
        lambda times, x: adams_bashforth(times, x, 3, log_ratio, lambda t: -1 / t**2, True, x0, sigma),
        TIMES,
    ),
    "deis(log-SNR, lower_order_final)": (
        samplers.deis(3, "log-SNR", lower_order_final=True),
        lambda times, x: adams_bashforth(times, x, 3, log_ratio, r_prime, True),
        TIMES,
    ),
    "unipc(lower_order_final)": (
        samplers.unipc(3, lower_order_final=True),
        lambda times, x: unipc(times, x, 3, "bh2", lower_order_final=True),
        TIMES,
    ),
    "plms": (samplers.plms(), plms, EVEN),
    "pndm": (samplers.pndm(), lambda times, x: plms(times, x, runge_kutta=3), EVEN),
}


SLOW = ("dpm_2", "unipc(1, bh2)", "unipc(2, bh2)", "unipc(3, bh1)", "deis(1)", "deis(4)", "lms(1)", "lms(2)")


@pytest.mark.parametrize(
    "name", slow_but([(name,) for name in REFERENCES if name not in SLOW], [(name,) for name in REFERENCES])
)
def test_steps_are_the_published_ones(name, x64):
    sampler, reference, times = REFERENCES[name]
    denoise = lambda x, t: Prediction(x0(x, t), eps(x, t))
    keys = jax.random.split(jax.random.key(0), POINTS.size)
    with jax.disable_jit():
        plan = timesteps.plan(times)
        ours, way = samplers.sample_trajectory(
            sampler, denoise, SCHEDULES["rectified_flow"], jnp.asarray(POINTS), plan, keys
        )
    np.testing.assert_allclose(ours, reference(times, POINTS), rtol=1e-9)
    for at, reported, t in zip(way.x, way.x0, times):
        np.testing.assert_allclose(reported, x0(np.asarray(at), t), rtol=1e-9)


@pytest.mark.parametrize("factor, order", [(1, 2), (2, 3)])
def test_third_order_multistep_needs_the_factor_that_its_authors_code_lacks(factor, order):
    counts, errors = (128, 256, 512, 1024), []
    for steps in counts:
        times = time_of(np.linspace(log_ratio(0.8), log_ratio(0.2), steps + 1))
        x = dpmpp_3m(times, POINTS, factor, truth=lambda s: flow(0.8, s, POINTS))
        errors.append(np.abs(x - flow(0.8, 0.2, POINTS)).max())
    assert abs(-np.polyfit(np.log(counts), np.log(errors), 1)[0] - order) < 0.1


@pytest.mark.parametrize("keeps_eps", [True, False])
def test_a_clipped_step_takes_the_estimate_within_the_bounds(keeps_eps, x64):
    """DDIM from 0.8 to 0.5; the noise is the predicted one, or what the clipped estimate leaves of x."""
    x0, eps = np.array([[-3.0], [-0.4], [0.7], [5.0]]), np.array([[0.5], [-0.2], [1.5], [-1.0]])
    x = 0.2 * x0 + 0.8 * eps
    denoise = lambda x, t: Prediction(jnp.asarray(x0), jnp.asarray(eps))
    sampler = samplers.clipped(samplers.ddim(), 0.6, keeps_eps)
    keys = jax.random.split(jax.random.key(0), 4)
    with jax.disable_jit():
        out = samplers.sample(
            sampler, denoise, SCHEDULES["rectified_flow"], jnp.asarray(x), timesteps.plan([0.8, 0.5]), keys
        )
    within = np.clip(x0, -0.6, 0.6)
    noise = eps if keeps_eps else (x - 0.2 * within) / 0.8
    np.testing.assert_allclose(out, 0.5 * within + 0.5 * noise, rtol=1e-12)


def test_gains_and_times_between_in_the_ends_too(x64):
    """On the rectified flow, alpha = 1 - t and sigma = t, where e^lambda = (1 - t) / t, by their docstrings."""
    flow = SCHEDULES["rectified_flow"]
    at = lambda function, *times: float(function(flow, *map(jnp.float64, times)))
    assert at(exponential.noise_gain, 0.5, 0.2) == pytest.approx(0.8 * 0.5 / 0.5 - 0.2)
    assert at(exponential.data_gain, 0.5, 0.2) == pytest.approx(0.8 - 0.5 * 0.2 / 0.5)
    for function, end in ((exponential.noise_gain, 1.0), (exponential.data_gain, 0.0)):
        assert at(function, end, 0.4) == 0
        assert np.isfinite(jax.grad(lambda t, function=function: function(flow, t, jnp.float64(0.4)))(end))
    between = lambda t, s: at(lambda *times: exponential.between(*times, 0.25), t, s)
    assert between(0.8, 0.2) == pytest.approx(2 / 3)  # lambda from log 1/4 to log 4: a quarter of the way is log 1/2
    assert between(1.0, 0.5) == pytest.approx(0.8)  # e^lambda from 0 to 1
    assert between(0.0, 0.5) == pytest.approx(0.2)  # e^-lambda from 0 to 1


@pytest.mark.parametrize("nodes, end", [((0.0, 1.2, 2.5, 3.1), 0.0), ((0.0, -1.2, -2.5), 1000.0)])
def test_polynomials_in_a_logarithm_are_integrated_over_steps_of_any_length(nodes, end, x64):
    """With r = e^u; for eps the node is -log r and r falls to 0, for x0 it is log r and r grows."""
    sign = -1 if end < 1 else 1
    lagrange = lambda u, k: math.prod((sign * u - n) / (nodes[k] - n) for j, n in enumerate(nodes) if j != k)
    last = math.log(end) if end > 0 else -60
    exact = [
        scipy.integrate.quad(lambda u, k=k: lagrange(u, k) * math.exp(u), 0, last, epsabs=1e-12, epsrel=1e-11)[0]
        for k in range(len(nodes))
    ]
    weights = linear_multistep.integrate_polynomials(
        jnp.array(nodes), jnp.float64(1), jnp.float64(end), lambda r: sign * jnp.log(r), jnp.array(True)
    )
    np.testing.assert_allclose(weights, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
