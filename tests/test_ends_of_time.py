"""Predictions and weightings at the ends of time, where the SNR is huge or tiny, against float64 definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, schedules, weightings
from tests.conformance import PARAMETERIZATIONS, QUICK, slow_but
from tests.schedules import schedule_cases

FAST = ("rectified_flow", "linear_beta")
every_schedule = pytest.mark.parametrize(
    "name", slow_but([(name,) for name in FAST], [(name,) for name in schedule_cases.NAMES])
)
FLOW = schedules.rectified_flow()
TIMES = np.array([0.0, 1e-12, 1e-7, 1e-5, 1e-3, 0.3, 0.9, 0.999, 1 - 1e-6, 1 - 6e-8, 1.0], np.float32)
X0, EPS = np.array([0.7, -0.2]), np.array([-0.4, 1.3])
# name -> (weighting, the published weight of x0's error as a function of the SNR)
WEIGHTINGS = {
    "epsilon": (weightings.constant(parameterizations.epsilon()), lambda snr: snr),
    "x0": (weightings.constant(parameterizations.x0()), np.ones_like),
    "snr": (weightings.snr(), lambda snr: snr),
    "truncated_snr": (weightings.truncated_snr(), lambda snr: np.maximum(snr, 1)),
    "min_snr": (weightings.min_snr(), lambda snr: np.minimum(snr, 5)),
    "soft_min_snr": (weightings.soft_min_snr(), lambda snr: 1 / (1 / snr + 1 / 4)),
    "p2": (weightings.p2(), lambda snr: 1 / (1 / snr + 1)),
    "p2(2, 1.5)": (weightings.p2(2.0, 1.5), lambda snr: 1 / ((2 / snr + 1) * np.sqrt(2 + snr))),
    "sigmoid": (weightings.sigmoid(), lambda snr: np.e**2 / (1 + np.e**2 / snr)),
    "edm": (weightings.edm(), lambda snr: snr + 4),
    "at_most": (weightings.at_most(weightings.snr(), 100.0), lambda snr: np.minimum(snr, 100)),
}


def inside(schedule, name):
    """The times at which a network is evaluated, and alpha and sigma there by definition."""
    times = np.unique(np.append(TIMES, np.float32(schedule.t_min)))
    times = times[times >= np.float32(max(schedule.t_min, schedule_cases.SCHEDULES[name].smallest))]
    with np.errstate(divide="ignore", invalid="ignore"):
        return times, *map(np.sqrt, schedule_cases.SCHEDULES[name].squares(times.astype(np.float64)))


@pytest.mark.extended
@every_schedule
def test_predictions_have_their_digits_and_derivatives(name):
    """Each pair comes back from its target, up to the ratio of alpha and sigma, with finite derivatives."""
    schedule = schedule_cases.made()[name]
    times, alpha, sigma = inside(schedule, name)
    noised = np.float32(alpha[:, None] * X0 + sigma[:, None] * EPS)

    def evaluated(t, x):
        values = {}
        for label, make in PARAMETERIZATIONS.items():
            p = make()
            target = p.target(schedule, t[None], jnp.float32(X0)[None], jnp.float32(EPS)[None])[0]
            read = lambda x, output, t, p=p: [
                part[0] for part in p.to_prediction(schedule, t[None], x[None], output[None])[:2]
            ]
            values[label] = p.defined(schedule, t), read(x, target, t), jax.jacrev(read, (0, 1, 2))(x, target, t)
        return values

    for label, (defined, pair, slopes) in jax.jit(jax.vmap(evaluated), compiler_options=QUICK)(times, noised).items():
        defined = np.asarray(defined)
        for part, expected, other in zip(
            pair, (X0, EPS), (sigma / np.maximum(alpha, 1e-30), alpha / np.maximum(sigma, 1e-30))
        ):
            digits = 2e-5 * np.maximum(1, other)
            off = np.abs(np.asarray(part) - expected).max(1) / digits
            known = defined & (times > 0)  # at the data, eps is a limit
            assert (off[known] < 1).all(), (label, times[known][~(off[known] < 1)])
        of_arrays = np.stack([np.isfinite(slope).all((1, 2)) for part in slopes for slope in part[:2]]).all(0)
        of_times = np.stack([np.isfinite(part[2]).all(1) for part in slopes]).all(0)
        within = (times > 0) & (times < 1)
        assert of_arrays[defined].all() and of_times[defined & within].all(), label


@pytest.mark.extended
@every_schedule
def test_weightings_are_their_formulas(name):
    """Also of times in bfloat16, one by one and compiled; infinite only where the formula is."""
    schedule = schedule_cases.made()[name]
    times, alpha, sigma = inside(schedule, name)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        snr = (alpha / sigma) ** 2
        expected = {label: formula(snr) for label, (_, formula) in WEIGHTINGS.items()}
    of = lambda t: {label: weighting(schedule, t) for label, (weighting, _) in WEIGHTINGS.items()}
    compiled = jax.jit(lambda t: (of(t), jax.vmap(of)(t), of(t.astype(jnp.bfloat16))), compiler_options=QUICK)(times)
    for label, exact in expected.items():
        # Beyond float32, and where alpha is a small difference of the schedule's own, only NaN is excluded.
        held = (exact < 3e38) & ((exact > 1e-9) | (exact == 0))
        for values in (compiled[0][label], compiled[1][label]):
            values = np.asarray(values)
            np.testing.assert_allclose(values[held], exact[held], rtol=2e-4, atol=1e-35, err_msg=label)
            assert not np.isnan(values).any(), label
        assert compiled[2][label].dtype == jnp.float32 and not np.isnan(compiled[2][label]).any(), label


@pytest.mark.parametrize("t, name, slope", [(0.0, "min_snr", 0), (0.0, "p2(2, 1.5)", 1), (1.0, "edm", 0)])
def test_slopes_of_straight_lines_at_the_ends(t, name, slope):
    """Of 5, of SNR / (2 + SNR)^1.5, which is near SNR^-1/2 = t / (1 - t), and of 4 + (1 - t)^2 / t^2."""
    weight = lambda t: WEIGHTINGS[name][0](FLOW, t)
    np.testing.assert_allclose(jax.grad(weight)(t), slope, atol=1e-4)


def test_the_slope_of_the_rate_of_the_snr_at_the_end():
    """(1 - t) / t^3, twice, has the slope -2 at t = 1; at the data it falls without end."""
    slope = jax.grad(lambda t: weightings.per_log_snr(weightings.snr())(FLOW, t))
    np.testing.assert_allclose(slope(1.0), -2, rtol=1e-4)
    assert -np.inf < slope(0.0) < -1e10


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("cosine",)], [(name,) for name in schedule_cases.NAMES]))
def test_slopes_of_weightings_at_the_ends_are_the_limits(name):
    """By differences of the published formulas; a limit that is infinite has a large number of its sign."""
    case = schedule_cases.SCHEDULES[name]
    schedule = case.make()
    with np.errstate(divide="ignore"):
        snr = lambda t: np.divide(*case.squares(np.float64(t)))
        ends = [(t, s) for t, s in ((0.0, 1e-6), (1.0, -1e-6)) if schedule.t_min == 0 or t > 0]
        ends = [(t, step) for t, step in ends if snr(t) in (0, np.inf)]
    of = lambda t: {label: weighting(schedule, t) for label, (weighting, _) in WEIGHTINGS.items()}
    times = jnp.array([t for t, _ in ends])
    slopes = lambda t: (jax.vmap(jax.jacfwd(of))(t), jax.vmap(jax.jacrev(of))(t))
    forward, back = jax.jit(slopes, compiler_options=QUICK)(times)
    for label, (_, formula) in WEIGHTINGS.items():
        np.testing.assert_allclose(back[label], forward[label], rtol=1e-5)
        for (t, step), slope in zip(ends, forward[label]):
            with np.errstate(divide="ignore", invalid="ignore"):
                near, nearer = [(formula(snr(t + h)) - formula(snr(t))) / h for h in (step, step / 100)]
            if np.isfinite(near) and abs(nearer) < 5 * abs(near) + 1:
                np.testing.assert_allclose(slope, near, rtol=2e-3, atol=5e-3, err_msg=f"{label} at {t}")
            else:
                inside = formula(snr(t + 2 * step)) - formula(snr(t + step))
                assert np.isfinite(slope) and slope * np.sign(inside / step) > 10, (label, t)
