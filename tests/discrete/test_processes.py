"""Processes of symbols against matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete
from diffusion.discrete.processes import check_symbols
from tests.discrete.enumerated import PROCESSES

KEEPINGS = {
    "linear": discrete.linear(),
    "cosine": discrete.cosine(),
    "polynomial": discrete.polynomial(3.0),
    "power": discrete.power(3.0),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def matrix(process, alpha):
    return alpha * np.eye(process.size) + (1 - alpha) * np.tile(process.prior, (process.size, 1))


@pytest.mark.parametrize("keeping", KEEPINGS.values(), ids=KEEPINGS)
def test_a_schedule_goes_from_one_to_zero_and_its_decay_is_its_derivative(keeping):
    assert abs(keeping.alpha(0.0) - 1) < 1e-7 and keeping.alpha(1.0) == 0 and keeping.replaced(0.0) == 0
    for t in (1e-6, 0.3, 0.99999):
        exact = np.float64(np.float32(t))
        alpha = {
            "linear": 1 - exact,
            "cosine": 2 * np.sin(np.pi / 4 * (1 - exact)) ** 2,
            "polynomial": 1 - exact**3,
            "power": (1 - exact) ** 3,
        }
        name = next(name for name, other in KEEPINGS.items() if other is keeping)
        np.testing.assert_allclose(keeping.alpha(t), alpha[name], rtol=1e-5)
        replaced = {
            "linear": exact,
            "cosine": np.sin(np.pi / 2 * exact),
            "polynomial": exact**3,
            "power": 1 - (1 - exact) ** 3,
        }
        np.testing.assert_allclose(keeping.replaced(t), replaced[name], rtol=1e-5)
    for t in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(keeping.decay(t), -jax.grad(keeping.alpha)(t), rtol=5e-5)
        np.testing.assert_allclose(keeping.time(keeping.alpha(t)), t, rtol=1e-5)
        np.testing.assert_allclose(keeping.rate(t), -jax.grad(lambda t: jnp.log(keeping.alpha(t)))(t), rtol=5e-5)


@pytest.mark.parametrize("power, t", [(2, 0.9), (40, 0.9), (13, 0.9995), (13, 1 - 2.0**-24)])
def test_a_high_power_has_rates_where_alpha_underflows(power, t):
    exact = power / (1 - np.float64(np.float32(t)))
    np.testing.assert_allclose(discrete.power(power).rate(t), exact, rtol=1e-6)
    process = discrete.uniform(discrete.power(power), 3)
    at = np.float64(np.float32(t))
    marginal = (1 - at) ** power * np.array([0.7, 0.2, 0.1]) + (1 - (1 - at) ** power) / 3
    weights = np.array([0.7, 0.2, 0.1]) * ((1 - at) ** power * np.eye(3)[1] + (1 - (1 - at) ** power) / 3)
    x0 = jnp.asarray(weights / weights.sum(), jnp.float32)[None]
    rates = process.reverse_rates(jnp.array([1]), x0, t)[0]
    np.testing.assert_allclose(rates, exact / 3 * marginal / marginal[1] * [1, 0, 1], rtol=1e-5)


@pytest.mark.parametrize("keeping", KEEPINGS.values(), ids=KEEPINGS)
def test_rates_are_infinite_at_the_prior(keeping):
    assert keeping.rate(1.0) == np.inf
    np.testing.assert_array_equal(discrete.uniform(keeping, 3).rates_into(jnp.array([1]), 1.0), [[np.inf, 0, np.inf]])


def near_noise(name, t):
    """alpha near t = 1 in float64, where t is the float32 number."""
    left = 1 - np.float64(np.float32(t))
    return {
        "linear": left,
        "cosine": 2 * np.sin(np.pi / 4 * left) ** 2,
        "polynomial": -np.expm1(3 * np.log1p(-left)),
        "power": left**3,
    }[name]


@pytest.mark.parametrize("kind", [discrete.uniform, discrete.absorbing])
@pytest.mark.parametrize("name", KEEPINGS)
def test_steps_near_the_noise_have_the_digits_of_alpha(name, kind):
    """A step of 1000 from t = 1 has alpha(s) = 1e-9 with a power of 3, which 1 - alpha(s) in float32 does not show."""
    process = kind(KEEPINGS[name], 4)
    symbols, masked = jnp.arange(4), jnp.full(4, 3)
    for t, s in ((1.0, 0.999), (0.999, 0.998), (0.9999, 0.9998), (0.6, 0.5)):
        share = near_noise(name, t) / near_noise(name, s)
        np.testing.assert_allclose(process.transition(symbols, s, t), matrix(process, share), atol=2e-6)
        law = process.posterior(masked, jnp.asarray([[0.5, 0.25, 0.25, 0.0]] * 4), t, s)
        np.testing.assert_allclose(law.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", KEEPINGS)
def test_the_time_of_a_small_alpha_is_where_alpha_is_small(name):
    """1 - alpha in float32 is 1 for alpha = 1e-8, which `cosine` has at t = 0.9999 and `power(3)` at 0.998."""
    for alpha in (1e-3, 1e-5, 1e-8, 1e-12):
        t = np.float64(KEEPINGS[name].time(alpha))
        exact = {
            "linear": alpha,
            "cosine": 4 / np.pi * np.arcsin(np.sqrt(alpha / 2)),
            "polynomial": -np.expm1(np.log1p(-alpha) / 3),
            "power": alpha ** (1 / 3),
        }[name]
        np.testing.assert_allclose(1 - t, exact, rtol=1e-6, atol=2.0**-24)


def test_an_alpha_of_zero_before_the_end_is_noise():
    """(1 - t)^14 is 1e-42 at t = 0.999, less than any number of full precision in float32: both times are noise."""
    process = discrete.absorbing(discrete.power(14.0), 3)
    for t, s in ((1.0, 0.999), (0.9995, 0.999)):
        law = process.posterior(jnp.full(2, 2), jnp.asarray([[0.5, 0.5, 0.0]] * 2), t, s)
        np.testing.assert_array_equal(law, [[0, 0, 1]] * 2)


@every_process
def test_transitions_compose(process):
    """From 0 to s and on to t is from 0 to t (Chapman and Kolmogorov)."""
    symbols, s, t = jnp.arange(process.size), 0.35, 0.8
    through = np.asarray(process.marginal(symbols, s)) @ np.asarray(process.transition(symbols, s, t))
    np.testing.assert_allclose(through, process.marginal(symbols, t), atol=1e-6)
    np.testing.assert_allclose(
        process.marginal(symbols, t), matrix(process, float(process.keeping.alpha(t))), atol=1e-6
    )
    np.testing.assert_allclose(process.marginal(symbols, 1.0), np.tile(process.prior, (process.size, 1)), atol=1e-6)


@every_process
@pytest.mark.parametrize("t, s", [(0.7, 0.3), (1.0, 0.4), (0.2, 0.0)])
def test_the_posterior_is_bayes_rule(process, t, s):
    alpha_t, alpha_s = (float(process.keeping.alpha(time)) for time in (t, s))
    first, then, whole = matrix(process, alpha_s), matrix(process, alpha_t / alpha_s), matrix(process, alpha_t)
    for a in range(process.size):
        for z in range(process.size):
            if whole[a, z] > 1e-9:
                exact = then[:, z] * first[a] / whole[a, z]
                found = process.posterior(jnp.array([z]), jnp.eye(process.size)[None, a], t, s)[0]
                np.testing.assert_allclose(found, exact, atol=2e-6)


@every_process
def test_the_reverse_kernel_is_the_mean_of_the_posterior_and_sums_to_one(process):
    rng = np.random.default_rng(1)
    x0 = rng.dirichlet(np.ones(process.size), 5)
    if process.mask is not None:
        x0[:, process.mask] = 0
        x0 /= x0.sum(1, keepdims=True)
    z = jnp.full(5, process.size - 1)  # the mask, or a symbol that the prior does not have
    mean = process.posterior(z, jnp.asarray(x0), 0.6, 0.2)
    np.testing.assert_allclose(mean.sum(-1), 1, rtol=1e-5)
    if process.prior[-1] > 0:
        one = lambda a: process.posterior(z, jnp.tile(jnp.eye(process.size)[a], (5, 1)), 0.6, 0.2)
        np.testing.assert_allclose(mean, sum(x0[:, [a]] * one(a) for a in range(process.size)), atol=1e-6)


@pytest.mark.extended
@every_process
def test_ratios_are_those_of_the_marginal_of_the_data_and_cycle(process):
    """One position, data of a known law p: p(x_0 | x_t) by Bayes, p_t = alpha p + (1 - alpha) prior."""
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(process.size))
    if process.mask is not None:
        p[process.mask] = 0
        p /= p.sum()
    for t in (0.15, 0.5, 0.9):
        alpha = float(process.keeping.alpha(t))
        q = matrix(process, alpha)
        at = p @ q
        for z in range(process.size):
            given = p * q[:, z] / at[z]
            ratios = process.ratios(jnp.array([z]), jnp.asarray(given)[None], t)
            if process.prior[z] > 0:
                np.testing.assert_allclose(ratios[0], at / at[z], rtol=2e-5)
            np.testing.assert_allclose(process.x0_of_ratios(jnp.array([z]), ratios, t)[0], given, atol=2e-5)


@every_process
def test_reverse_rates_move_the_marginal_backwards(process):
    """sum_x p(x) R(x, y) - p(y) sum R(y, .) = -dp_t(y) / dt = decay (p_0 - prior)."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(process.size))
    if process.mask is not None:
        p[process.mask] = 0
        p /= p.sum()
    t = 0.6
    q = matrix(process, float(process.keeping.alpha(t)))
    at = p @ q
    given = (p[:, None] * q / at).T  # [x_t, x_0]
    rates = np.asarray(process.reverse_rates(jnp.arange(process.size), jnp.asarray(given), t), np.float64)
    assert (np.diag(rates) == 0).all() and (rates >= 0).all()
    flow = at @ rates - at * rates.sum(1)
    np.testing.assert_allclose(flow, float(process.keeping.decay(t)) * (p - process.prior), atol=2e-6)
    exact = float(process.keeping.rate(t)) * process.prior[:, None] * at / at[:, None]  # proposition 1
    np.testing.assert_allclose(rates, np.where(np.eye(process.size) > 0, 0, exact), rtol=2e-5, atol=1e-6)


def test_masks_have_finite_rates_at_the_end():
    process = PROCESSES["absorbing"]
    rates = process.reverse_rates(jnp.array([3]), jnp.array([[0.2, 0.5, 0.3, 0.0]]), 1.0)
    np.testing.assert_allclose(rates, [[0.2, 0.5, 0.3, 0.0]], rtol=1e-6)  # decay / (1 - alpha) = 1


def test_no_array_of_all_pairs_of_symbols_is_made():
    size = 50_000
    process = discrete.uniform(discrete.linear(), size)
    x, x0 = jax.ShapeDtypeStruct((2, 3), jnp.int32), jax.ShapeDtypeStruct((2, 3, size), jnp.float32)
    for function in (lambda x, p: process.posterior(x, p, 0.5, 0.2), lambda x, p: process.reverse_rates(x, p, 0.5)):
        text = jax.make_jaxpr(function)(x, x0)
        sizes = [v.aval.size for equation in text.eqns for v in equation.outvars]
        assert max(sizes) == 2 * 3 * size


@pytest.mark.parametrize("t", [np.float32(0.3), np.array([0.3, 0.6], np.float32), np.full((2, 3), 0.3, np.float32)])
def test_a_time_is_one_for_all_one_for_each_example_or_one_for_each_position(t):
    process = PROCESSES["uniform"]
    x = jnp.array([[0, 1, 2], [2, 2, 0]])
    found = process.marginal(x, t)
    each = np.broadcast_to(np.reshape(t, np.shape(t) + (1,) * (2 - np.ndim(t))), (2, 3))
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(
            found[i, j], matrix(process, float(process.keeping.alpha(each[i, j])))[x[i, j]], atol=1e-6
        )


def test_what_is_no_process_is_refused():
    with pytest.raises(ValueError, match=r"absorbing: 1 symbols\. Valid: at least 2"):
        discrete.absorbing(discrete.linear(), 1)
    with pytest.raises(ValueError, match=r"mixture: prior sums to 1\.5"):
        discrete.mixture(discrete.linear(), [0.5, 1.0])
    with pytest.raises(ValueError, match=r"mixture: prior has the shape \(1, 2"):
        discrete.mixture(discrete.linear(), [[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"polynomial: power = 0.5. Valid"):
        discrete.polynomial(0.5)
    with pytest.raises(TypeError, match=r"keeping must be a schedule such as discrete.linear\(\)"):
        discrete.uniform(discrete.linear, 3)
    with pytest.raises(ValueError, match=r"x0 has symbols 0 \.\. 3. Valid: 0 \.\. 2"):
        check_symbols(PROCESSES["uniform"], np.array([0, 3]), "x0")
    with pytest.raises(
        TypeError, match=r"x0 must be an array of whole numbers, symbols 0 \.\. 2; got an array of float"
    ):
        check_symbols(PROCESSES["uniform"], np.zeros(3, np.float32), "x0")


LEAST = discrete.linear()
RANGES = {  # function of a value, values that it takes, values that it refuses, words of the error
    "absorbing": (lambda size: discrete.absorbing(LEAST, size), [2], [1], "1 symbols"),
    "uniform": (lambda size: discrete.uniform(LEAST, size), [2], [1], "1 symbols"),
    "mixture": (lambda size: discrete.mixture(LEAST, np.full(size, 1 / size)), [2], [1], "1 symbols"),
    "shares": (
        lambda share: discrete.mixture(LEAST, [share, 1 - share]),
        [0.0, 1.0],
        [-0.1, 1.1],
        r"smallest entry is -0\.1",
    ),
    "sum": (lambda share: discrete.mixture(LEAST, [0.5, share]), [0.500009, 0.499991], [0.50002, 0.49998], "sums to"),
    "polynomial": (discrete.polynomial, [1, 1.5], [0.99, np.inf, np.nan], "power = "),
    "symbols": (lambda x: check_symbols(PROCESSES["uniform"], np.array([x]), "x0"), [0, 2], [-1, 3], "Valid: 0 .. 2"),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range(name):
    call, valid, refused, words = RANGES[name]
    for value in valid:
        call(value)
    for value in refused:
        with pytest.raises(ValueError, match=words):
            call(value)


def test_a_prior_of_one_symbol_is_its_mask():
    assert discrete.mixture(LEAST, [0.0, 1.0, 0.0]).mask == 1
    assert discrete.mixture(LEAST, [0.0, 0.5, 0.5]).mask is None
    np.testing.assert_allclose(discrete.mixture(LEAST, [0.25, 0.750005]).prior.sum(), 1, rtol=1e-15)
