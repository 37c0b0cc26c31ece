"""Corrected particles on Gaussians, whose products and powers are Gaussians with known constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import exact_denoiser, slow_but

VP, FLOW = schedules.variance_preserving(), schedules.rectified_flow()
MEANS, VARIANCES = np.array([[0.8, -0.2], [-0.3, 0.5], [0.1, 0.9]]), np.array([0.3, 0.6, 1.4])
GROUPS, NUMBER, STEPS = 16, 1024, 96


def _denoiser(schedule, k):
    """The exact denoiser of N(MEANS[k], VARIANCES[k] I)."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        scaled = (x - alpha * MEANS[k]) / (VARIANCES[k] * alpha**2 + sigma**2)
        return Prediction(MEANS[k] + VARIANCES[k] * alpha * scaled, sigma * scaled)

    return denoise


def _product(exponents, alpha, sigma):
    """(mean, variance, log of the integral) of the product of the noised Gaussians to these powers."""
    b, k = np.asarray(exponents, np.float64), len(exponents)
    means, variances = alpha * MEANS[:k], alpha**2 * VARIANCES[:k] + sigma**2
    precision = (b / variances).sum()
    mean = (b / variances) @ means / precision
    squares = b @ ((means**2).sum(1) / variances) - precision * (mean**2).sum()
    return mean, 1 / precision, np.log(2 * np.pi / precision) - (b * np.log(2 * np.pi * variances)).sum() - squares / 2


EULER = samplers.euler_maruyama()
CASES = {
    "guidance": (FLOW, (2.5, -1.5), EULER),
    "guidance, preserving variance": (VP, (2.5, -1.5), EULER),
    "guidance of three": (VP, (1.2, 0.6, -0.8), EULER),
    "product": (VP, (0.65, 0.65), EULER),
    "power": (VP, (1.3,), EULER),
    "flatter": (VP, (0.6,), EULER),
}


def _errors(schedule, exponents, sampler, steps=STEPS, number=NUMBER):
    """{figure: (its error relative to the law of the product, standard error)}, from groups."""
    branches = guidance.separately(*(_denoiser(schedule, k) for k in range(len(exponents))))
    plan = timesteps.plan(timesteps.polynomial(schedule, steps))

    @jax.jit
    def run(keys):
        start, walk = jax.vmap(jax.random.split, out_axes=1)(keys)
        x = samplers.prior(schedule, start, (2,)) / sum(exponents) ** 0.5
        return steering.corrected(sampler, branches, exponents, schedule, x, plan, walk, number=number)

    particles = run(jax.random.split(jax.random.key(0), GROUPS * number))
    mean, variance, log_end = _product(exponents, 1, 0)
    log_start = _product(exponents, float(schedule.alpha(plan.t[0])), float(schedule.sigma(plan.t[0])))[2]
    weights = np.exp(np.asarray(particles.log_weights, np.float64) - (log_end - log_start))
    x = np.asarray(particles.x, np.float64).reshape(GROUPS, number, 2)
    averaged = lambda value: (weights[..., None] * value).mean(1) / weights.mean()
    figures = {
        "constant": weights.mean(1) - 1,
        "mean": (averaged(x - mean) / variance**0.5).mean(1),
        "variance": (averaged((x - mean) ** 2 - variance) / variance).mean(1),
    }
    return {name: (float(v.mean()), float(v.std(ddof=1) / GROUPS**0.5)) for name, v in figures.items()}


# "power" and "product" notice what "flatter" does; "guidance" and "guidance of three" what two branches of VP do.
SLOW = ("flatter", "guidance, preserving variance")


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([(name,) for name in CASES if name not in SLOW], [(name,) for name in CASES]))
def test_means_variances_and_constants_are_the_product_s(name):
    """Within four standard errors and 2 % for the steps; constants where the exponents sum to 1."""
    errors = _errors(*CASES[name])
    if round(sum(CASES[name][1]), 6) != 1:
        errors.pop("constant")
    for figure, (error, deviation) in errors.items():
        assert deviation < 0.02, figure
        assert abs(error) < 4 * deviation + 0.02, figure


@pytest.mark.extended
@pytest.mark.parametrize("figure, sampler", [("constant", EULER), ("variance", samplers.ddpm())])
def test_what_the_steps_add_falls_with_their_length(figure, sampler):
    """Weak order 1: four times the steps, a quarter of the error; a power's constant sees the drift's divergence."""
    few, many = (_errors(VP, (1.3,), sampler, steps, 512)[figure] for steps in (48, 192))
    assert abs(few[0]) > 6 * few[1]
    assert abs(many[0]) < 0.35 * abs(few[0]) + 4 * many[1]


@pytest.mark.extended
def test_guidance_of_a_mixture_is_its_density_and_not_the_sum_of_scores():
    """p_c^3 / p_u^2 in one dimension, by quadrature; the conditional is one component of the mixture."""
    whole = oracles.mixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.3]], [[0.3]]])
    part = oracles.mixture([1.0], [[1.0]], [[[0.3]]])
    grid = np.linspace(-5, 6, 4001)[:, None]
    log_density = 3 * oracles.log_density(part, 1.0, 0.0, grid) - 2 * oracles.log_density(whole, 1.0, 0.0, grid)
    density = np.exp(np.asarray(log_density, np.float64))
    mean = (density * grid[:, 0]).sum() / density.sum()
    spread = (density * (grid[:, 0] - mean) ** 2).sum() / density.sum()
    branches = guidance.separately(exact_denoiser(part, FLOW), exact_denoiser(whole, FLOW))
    plan = timesteps.plan(timesteps.polynomial(FLOW, STEPS))
    keys = jax.random.split(jax.random.key(0), 4096)
    x = samplers.prior(FLOW, jax.random.split(jax.random.key(1), 4096), (1,))
    particles = jax.jit(
        lambda x, keys: steering.corrected(EULER, branches, (3.0, -2.0), FLOW, x, plan, keys, number=4096)
    )(x, keys)
    naive = jax.jit(
        lambda x, keys: samplers.sample(
            samplers.ddpm(), guidance.classifier_free(branches, scale=3.0), FLOW, x, plan, keys
        )
    )(x, keys)
    weights = np.asarray(jax.nn.softmax(particles.log_weights[0]), np.float64)
    values = np.asarray(particles.x, np.float64)[:, 0]
    found = weights @ values
    np.testing.assert_allclose(found, mean, atol=0.03)
    np.testing.assert_allclose(weights @ (values - found) ** 2, spread, rtol=0.08)
    assert abs(float(naive.mean()) - mean) > 3 * abs(found - mean) + 0.05


@pytest.mark.extended
def test_the_weight_is_the_integral_of_the_excess_over_the_log_snr():
    """Trapezoids within; at the ends, where the log-SNR is infinite, the value next to them. eps = t and 0, (2, -1)."""
    grid = np.array([1.0, 0.7, 0.3, 0.0])
    branch = lambda scale: lambda x, t: Prediction(x, scale * t * jnp.ones_like(x))
    plan = timesteps.plan(grid)
    particles = steering.corrected(
        samplers.ddpm(),
        guidance.separately(branch(1.0), branch(0.0)),
        (2.0, -1.0),
        FLOW,
        jnp.ones((2, 5)),
        plan,
        jax.random.split(jax.random.key(0), 2),
        number=1,
    )
    excess = 5 * grid**2  # (|2 t|^2 - 2 |t|^2) / 2 in each of five dimensions
    log_snr = 2 * np.log((1 - grid[1:3]) / grid[1:3])
    integral = excess[1] + (excess[1] + excess[2]) / 2 * (log_snr[1] - log_snr[0]) + excess[2]
    np.testing.assert_allclose(particles.log_weights, np.full((2, 1), integral), rtol=1e-5)


@pytest.mark.extended
def test_the_weight_of_a_power_counts_every_number_of_an_example():
    """Where eps = 0, log w = (B - 1) D log(alpha_t / alpha_s); six numbers in two axes."""
    keys, plan = jax.random.split(jax.random.key(0), 2), timesteps.plan(np.array([0.7, 0.3, 0.1]))
    branches = guidance.separately(lambda x, t: Prediction(x, jnp.zeros_like(x)))
    particles = steering.corrected(EULER, branches, (1.5,), FLOW, jnp.ones((2, 3, 2)), plan, keys, number=1)
    np.testing.assert_allclose(particles.log_weights, np.full((2, 1), 0.5 * 6 * np.log(0.3 / 0.9)), rtol=1e-5)


@pytest.mark.extended
def test_one_branch_to_the_power_1_is_sample():
    plan = timesteps.plan(timesteps.uniform(FLOW, 5))
    keys = jax.random.split(jax.random.key(0), 12)
    x = samplers.prior(FLOW, jax.random.split(jax.random.key(1), 12), (2,))
    denoise = _denoiser(FLOW, 0)
    particles = steering.corrected(samplers.ddpm(), guidance.separately(denoise), (1.0,), FLOW, x, plan, keys, number=4)
    np.testing.assert_allclose(
        particles.x, samplers.sample(samplers.ddpm(), denoise, FLOW, x, plan, keys), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(particles.log_weights, 0, atol=1e-6)


def test_one_step_weighs_by_the_excess_of_the_scores_and_by_the_powers_beyond_1():
    """Skreta et al. 2025, proposition 3.3, at two constant predictions: the weight does not depend on the draw.

    The step is that of the sampler at the sum of the scores, with the same draw.
    """
    exponents, eps = (1.5, -0.3), np.array([[0.7, -0.4], [0.2, 1.1]])
    branches = lambda x, t: tuple(Prediction((x - t * e) / (1 - t), jnp.float32(e) + 0 * x) for e in eps)
    x, plan, keys = jnp.ones((2, 2)), timesteps.plan([0.8, 0.5]), jax.random.split(jax.random.key(0), 2)
    particles = steering.corrected(samplers.ddpm(), branches, exponents, FLOW, x, plan, keys, number=1)
    together = exponents @ eps
    summed = lambda x, t: Prediction((x - t * together) / (1 - t), jnp.float32(together) + 0 * x)
    stepped = samplers.sample(samplers.ddpm(), summed, FLOW, x, plan, keys)
    np.testing.assert_allclose(particles.x, stepped, rtol=1e-5, atol=1e-6)
    excess = (together @ together - exponents @ (eps**2).sum(1)) / 2
    log_snr = lambda t: 2 * np.log((1 - t) / t)
    expected = excess * (log_snr(0.5) - log_snr(0.8)) + (sum(exponents) - 1) * 2 * np.log(0.2 / 0.5)
    np.testing.assert_allclose(particles.log_weights, expected, rtol=1e-4)


def test_what_has_no_density_is_refused():
    plan = timesteps.plan(timesteps.uniform(FLOW, 4))
    keys = jax.random.split(jax.random.key(0), 4)
    run = lambda exponents, count=1: steering.corrected(
        samplers.ddpm(),
        guidance.separately(*[_denoiser(FLOW, 0)] * count),
        exponents,
        FLOW,
        jnp.ones((4, 2)),
        plan,
        keys,
        number=2,
    )
    with pytest.raises(ValueError, match=r"1\.0, -1\.0\) must have a positive sum, but it is 0"):
        run((1.0, -1.0), 2)
    with pytest.raises(ValueError, match="sum to 2, and the plan starts at alpha = 0"):
        run((2.0,))
    with pytest.raises(ValueError, match="the 2 exponents, one each; got 1 branches"):
        run((0.5, 0.5))
