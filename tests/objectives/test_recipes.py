"""Recipes against what their papers write: the loss at a network that says nothing, the times, and the clock."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import objectives, schedules
from diffusion.objectives.recipes import RECIPES
from tests.conformance import slow_but

MANY = 2048


def _snr(a, s):
    return a**2 / s**2


def _x0_error(a, s, x0, eps):
    """With v_hat = 0: x0_hat = alpha x_t, where the variance is preserved."""
    return x0 - a * (a * x0 + s * eps)


def _edm(a, s, x0, eps):
    c_skip = 0.25 / (s**2 + 0.25)
    c_out = 0.5 * s / np.sqrt(s**2 + 0.25)
    return (x0 - c_skip * (x0 + s * eps)) / c_out


def _vdm_plus_plus(a, s, x0, eps):
    """sigmoid(2 - log-SNR) (-d log-SNR / dt) |eps - eps_hat|^2, with v_hat = 0: eps_hat = sigma x_t.

    On the cosine schedule alpha = cos(angle) / cos(a_0), so that -d log-SNR / dt = 2 rate tan(angle) / sigma^2.
    """
    rate = np.pi / 2 / 1.008
    angle = np.arccos(a * np.cos(0.008 * rate))
    return 2 * rate * np.tan(angle) / s**2 / (1 + _snr(a, s) * np.exp(-2)) * (eps - s * (a * x0 + s * eps)) ** 2


# name: (loss for output 0 from (alpha, sigma, x_0, eps), clock from (t, sigma), p-value of the times)
normal = scipy.stats.norm()
on_grid = lambda t, sigma: scipy.stats.chisquare(np.bincount(np.round(t * 1000).astype(int) - 1, minlength=1000)).pvalue
uniform = lambda t, sigma: scipy.stats.kstest(t, "uniform").pvalue
steps = lambda t, sigma: 1000 * t - 1
time = lambda t, sigma: t
PUBLISHED = {
    "ddpm": (lambda a, s, x0, eps: eps**2, steps, on_grid),
    "latent_diffusion": (lambda a, s, x0, eps: eps**2, steps, on_grid),
    "min_snr": (lambda a, s, x0, eps: np.minimum(_snr(a, s), 5) / _snr(a, s) * eps**2, steps, on_grid),
    "v_prediction": (lambda a, s, x0, eps: np.maximum(_snr(a, s), 1) * _x0_error(a, s, x0, eps) ** 2, time, uniform),
    "edm": (
        lambda a, s, x0, eps: _edm(a, s, x0, eps) ** 2,
        lambda t, sigma: np.log(sigma) / 4,
        lambda t, sigma: scipy.stats.kstest((np.log(sigma) + 1.2) / 1.2, normal.cdf).pvalue,
    ),
    "vdm_plus_plus": (_vdm_plus_plus, time, uniform),
    "rectified_flow": (lambda a, s, x0, eps: (eps - x0) ** 2, time, uniform),
    "stable_diffusion_3": (
        lambda a, s, x0, eps: (eps - x0) ** 2,
        time,
        lambda t, sigma: scipy.stats.kstest(np.log(t / (1 - t)), normal.cdf).pvalue,
    ),
}


def test_every_recipe_is_compared():
    assert set(PUBLISHED) == set(RECIPES)


@pytest.mark.extended
@pytest.mark.parametrize(
    "name",
    slow_but(
        [("ddpm",), ("min_snr",), ("edm",), ("rectified_flow",), ("stable_diffusion_3",)], [(name,) for name in RECIPES]
    ),
)
def test_recipe_is_the_published_method(name):
    loss, clock, p_value = PUBLISHED[name]
    recipe = RECIPES[name]()
    objective = objectives.denoising(recipe.parameterization, recipe.weighting, recipe.density)
    seen = []
    keys = jax.random.split(jax.random.key(4), MANY)
    x0 = np.random.default_rng(0).uniform(-1, 1, (MANY, 2))
    network = lambda x, clock, condition: seen.append((x, clock)) or 0 * x
    losses, metrics = objective({"model": network}, recipe.schedule, keys, {"x": jnp.float32(x0)}, 0)
    t = np.asarray(metrics["t"], np.float64)
    alpha, sigma = (np.asarray(f(jnp.float32(t)), np.float64) for f in (recipe.schedule.alpha, recipe.schedule.sigma))
    x_t = np.asarray(seen[0][0], np.float64)
    if name == "edm":
        x_t = x_t * np.sqrt(sigma**2 + 0.25)[:, None]
    inside = (sigma > 0.03) & (alpha > 0.03)  # where eps can be read off in float32, and the weight is moderate
    assert inside.mean() > 0.8
    a = alpha[inside, None]
    s = sigma[inside, None]
    eps = (x_t[inside] - a * x0[inside]) / s
    np.testing.assert_allclose(losses[inside], loss(a, s, x0[inside], eps).mean(1), rtol=5e-3, atol=1e-3)
    np.testing.assert_allclose(seen[0][1], clock(t, sigma), rtol=1e-3, atol=1e-3)
    assert p_value(t, sigma) > 1e-3


@pytest.mark.extended
def test_recipes_have_the_chosen_number_of_steps_bias_and_limit():
    """The four steps of a process at the times i / 4, under the clock i - 1; limits and a sigmoid of the log-SNR."""
    t = jnp.arange(1, 5, dtype=jnp.float32) / 4
    for name, betas in (
        ("ddpm", np.linspace(1e-4, 0.02, 4)),
        ("latent_diffusion", np.linspace(0.00085**0.5, 0.012**0.5, 4) ** 2),
    ):
        recipe = RECIPES[name](T=4)
        np.testing.assert_allclose(recipe.schedule.alpha(t) ** 2, np.cumprod(1 - betas), rtol=1e-5)
        np.testing.assert_allclose(recipe.parameterization.clock(recipe.schedule, t), np.arange(4), atol=1e-5)
        drawn, _ = recipe.density.sample((), jax.random.split(jax.random.key(0), 64), jnp.arange(64))
        assert set(np.asarray(4 * drawn).round(5)) == {1.0, 2.0, 3.0, 4.0}
    snr = lambda schedule: np.exp(np.asarray(schedule.log_snr(t[:3]), np.float64))
    limited = RECIPES["min_snr"](gamma=2.0)
    clean = jnp.array([0.05, 0.5])
    assert np.exp(limited.schedule.log_snr(0.05)) > 5
    np.testing.assert_allclose(
        limited.weighting(limited.schedule, clean), [2, np.exp(limited.schedule.log_snr(0.5))], rtol=1e-4
    )
    slope = lambda schedule: jax.vmap(jax.grad(schedule.log_snr))(t[:3])
    biased = RECIPES["vdm_plus_plus"](bias=-1.0)
    of_eps = -slope(biased.schedule) / (1 + snr(biased.schedule) * np.exp(1))
    np.testing.assert_allclose(biased.weighting(biased.schedule, t[:3]), of_eps * snr(biased.schedule), rtol=1e-4)


def test_defaults_of_guided_few_step_objectives():
    """Luo et al. 2023: 1000 steps, of which the solver takes every 20th, w in 2 .. 14. MeanFlow's scale is 2."""
    distillation = inspect.signature(objectives.latent_consistency_distillation).parameters
    assert {name: distillation[name].default for name in ("T", "solver_steps", "guidance")} == {
        "T": 1000,
        "solver_steps": 50,
        "guidance": (2.0, 14.0),
    }
    guidance = objectives.Guidance(null=10)
    assert guidance.omega / (1 - guidance.kappa) == 2 and guidance.dropout == 0.1


def test_strata_reach_the_density():
    for make in RECIPES.values():
        density = make(strata=64).density
        keys = jax.random.split(jax.random.key(0), 64)
        t, _ = density.sample(density.init(), keys, jnp.arange(64))
        assert np.all(np.diff(np.asarray(t)) >= 0)  # one in each stratum, in their order


def test_recipes_of_discrete_processes_have_the_chosen_number_of_steps():
    """Ten steps have another alpha at t = 1 than a thousand."""
    one = np.float32(1)
    for name, make in (("ddpm", schedules.linear_beta), ("latent_diffusion", schedules.scaled_linear)):
        for T in (10, 50):
            recipe = RECIPES[name](T=T)
            assert float(recipe.schedule.alpha(one)) == float(make(T=T).alpha(one)) != float(make().alpha(one))
