"""Power-function averages against sums written out, and reconstruction against profiles integrated numerically."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from diffusion.training.power_ema import (
    distance,
    gamma,
    moving_average,
    power_function,
    reconstruct,
    reconstruction_weights,
    tracked,
)

PARAMS = np.cumsum(np.random.default_rng(0).standard_normal((64, 3)), axis=0)  # after each of 64 updates


def averages(ema, steps=64):
    """The state after every update, [0] after none."""
    update = jax.jit(ema.update)
    states = [ema.init(jnp.full(3, 100.0))]
    for k in range(steps):
        states.append(update(states[-1], jnp.asarray(PARAMS[k], jnp.float32), jnp.asarray(k)))
    return states


def profile_weights(sigma_rel, t):
    """The integral of (g + 1) tau^g / t^(g + 1) over each step, by quadrature."""
    g = gamma(sigma_rel)
    density = lambda tau: (g + 1) * tau**g / t ** (g + 1)
    return np.array([scipy.integrate.quad(density, i, i + 1)[0] for i in range(t)])


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2, 12**-0.5])
def test_gamma_gives_the_width(sigma_rel):
    """The standard deviation of the density (g + 1) tau^g on (0, 1), by quadrature."""
    g = gamma(sigma_rel)
    moment = lambda k: scipy.integrate.quad(lambda tau: (g + 1) * tau ** (g + k), 0, 1)[0]
    np.testing.assert_allclose(np.sqrt(moment(2) - moment(1) ** 2), sigma_rel, rtol=1e-6)


def test_gamma_of_the_paper():
    """Karras et al. 2024, section 3.1: 6.94 for sigma_rel = 0.10 and 16.97 for 0.05."""
    np.testing.assert_allclose([gamma(0.10), gamma(0.05)], [6.94, 16.97], atol=5e-3)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 12**-0.5])
def test_average_is_the_integral_of_the_profile(sigma_rel):
    """Every prefix of the run; the initial parameters have no weight."""
    states = averages(power_function(sigma_rel))
    for t in (1, 2, 7, 64):
        expected = profile_weights(sigma_rel, t) @ PARAMS[:t]
        np.testing.assert_allclose(states[t], expected, rtol=2e-5, atol=2e-5)


def test_the_average_by_name_is_that_of_its_arguments():
    """Half of the way without warm-up, 8/10 of it with the first step's decay, or the width of a power function."""
    moved = lambda average, step: average.update(average.init(jnp.zeros(1)), jnp.ones(1), jnp.asarray(step))
    np.testing.assert_allclose(moved(moving_average(0.5, warmup=False), 0), 0.5)
    np.testing.assert_allclose(moved(moving_average(0.5, warmup=True), 1), 1 - 2 / 11, rtol=1e-6)
    np.testing.assert_allclose(moved(moving_average(0.5, sigma_rel=12**-0.5), 4), 1 / 5, rtol=1e-6)  # of five


def test_widest_profile_is_the_mean():
    np.testing.assert_allclose(averages(power_function(12**-0.5))[-1], PARAMS.mean(0), rtol=1e-4, atol=1e-5)


def test_precise_at_large_steps():
    """In float32 1 - (1 - 1/t)^(g + 1) is (g + 1) / t at t = 2^26, where 1 - 1/t rounds to 1."""
    state = power_function(0.1).update(jnp.zeros(1), jnp.ones(1), jnp.asarray(2**26 - 1))
    np.testing.assert_allclose(state, (gamma(0.1) + 1) / 2**26, rtol=1e-5)


def test_float32_for_bfloat16_parameters_and_copies_of_others():
    ema = power_function(0.1)
    state = ema.init({"w": jnp.ones(2, jnp.bfloat16), "n": jnp.asarray(3)})
    state = ema.update(state, {"w": jnp.full(2, 2.0, jnp.bfloat16), "n": jnp.asarray(5)}, jnp.asarray(9))
    assert state["w"].dtype == jnp.float32 and int(state["n"]) == 5
    np.testing.assert_allclose(state["w"], 2 - 0.9 ** (gamma(0.1) + 1), rtol=1e-5)


def test_tracked_averages_are_each_its_own():
    both = averages(tracked(power_function(0.05), power_function(0.1)), 5)[-1]
    for state, sigma_rel in zip(both, (0.05, 0.1)):
        np.testing.assert_array_equal(state, averages(power_function(sigma_rel), 5)[-1])


# Reconstruction.

STEPS = np.repeat(np.arange(8, 65, 8), 2)
WIDTHS = np.tile([0.05, 0.1], 8)


@pytest.mark.parametrize("k", [0, 5, 15])
def test_a_stored_average_is_reconstructed_as_itself(k):
    weights = reconstruction_weights(STEPS, WIDTHS, STEPS[k], WIDTHS[k])
    np.testing.assert_allclose(weights, np.eye(16)[k], atol=1e-6)


@pytest.mark.parametrize("step, sigma_rel", [(64, 0.07), (40, 0.08), (61, 0.15)])
def test_weights_are_the_least_squares_fit_of_the_profile(step, sigma_rel):
    """Against profiles on a fine grid, fitted by lstsq, scaled to sum to one."""
    tau = (np.arange(64000) + 0.5) / 1000
    profile = lambda t, s: np.where(tau < t, (gamma(s) + 1) * (tau / t) ** gamma(s) / t, 0)
    stored = np.stack([profile(t, s) for t, s in zip(STEPS, WIDTHS)], axis=1)
    expected = np.linalg.lstsq(stored, profile(step, sigma_rel), rcond=None)[0]
    np.testing.assert_allclose(
        reconstruction_weights(STEPS, WIDTHS, step, sigma_rel), expected / expected.sum(), atol=2e-3
    )


@pytest.mark.parametrize("steps, widths", [([64], 0.05), ([64], 0.07), ([48, 64], [0.05, 0.1])])
def test_the_distance_is_that_of_the_profiles_by_quadrature(steps, widths):
    """Of one stored average no weight can make another: its distance says so."""
    tau = (np.arange(640_000) + 0.5) / 10_000
    profile = lambda t, s: np.where(tau < t, (gamma(s) + 1) * (tau / t) ** gamma(s) / t, 0)
    weights = reconstruction_weights(steps, widths, 64, 0.07)
    combined = sum(w * profile(t, s) for w, t, s in zip(weights, steps, np.broadcast_to(widths, len(steps))))
    wanted = profile(64, 0.07)
    expected = np.sqrt(np.sum((combined - wanted) ** 2) / np.sum(wanted**2))
    np.testing.assert_allclose(distance(steps, widths, 64, 0.07, weights), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("step, sigma_rel", [(64, 0.07), (64, 0.15), (40, 0.08)])
def test_reconstruction_is_the_average_that_was_not_tracked(step, sigma_rel):
    """From snapshots of two averages of a random walk, one in eight updates: ten times closer than either of them."""
    states = averages(tracked(power_function(0.05), power_function(0.1)))
    stored = [{"w": states[t][[0.05, 0.1].index(s)]} for t, s in zip(STEPS, WIDTHS)]
    found = reconstruct(stored, reconstruction_weights(STEPS, WIDTHS, step, sigma_rel))["w"]
    average = lambda sigma_rel: profile_weights(sigma_rel, step) @ PARAMS[:step]
    distance = lambda value: np.abs(value - average(sigma_rel)).max()
    assert found.dtype == np.float32
    assert distance(found) < 0.1 * min(distance(average(0.05)), distance(average(0.1)))


def test_reconstruction_of_other_types_takes_the_last():
    assert reconstruct([np.asarray(3), np.asarray(5)], [0.5, 0.5]) == 5
    several = [{"w": np.float32(k), "count": np.asarray(k)} for k in (1, 2, 4)]
    assert reconstruct(several, [0.5, -1.0, 1.5]) == {"w": 0.5 - 2 + 6, "count": 4}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: power_function(0.3), "0.3"),
        (lambda: power_function(0.0), "0.0"),
        (lambda: reconstruction_weights([8, 16], 0.1, 20, 0.1), "later than step 16, the last stored average"),
        (lambda: reconstruction_weights([8, 8], 0.1, 8, 0.1), "occurs twice"),
        (lambda: reconstruction_weights([0, 8], 0.1, 8, 0.1), "updates, at least 1"),
        (lambda: reconstruct([1.0], [0.5, 0.5]), "1 averages but 2 weights"),
        (
            lambda: reconstruct([{"w": np.ones((2, 3))}, {"w": np.ones(3)}], [0.5, 0.5]),
            r"\['w'\] of an average must have the shape \(3,\), but has \(2, 3\)",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
