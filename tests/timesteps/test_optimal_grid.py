"""The grid that `timesteps.optimal` finds for a network, on the exact denoiser of a mixture."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import DATA, SCHEDULES, exact_denoiser, level


def _draw_mixture(count, seed, alpha, sigma):
    """x_t = alpha x_0 + sigma eps of the three Gaussians."""
    data = DATA["mixture"]
    rng = np.random.default_rng(seed)
    k = rng.choice(3, count, p=data.weights)
    spread = np.einsum("bij,bj->bi", data.axes[k] * np.sqrt(data.variances[k])[:, None], rng.normal(size=(count, 2)))
    return jnp.asarray(alpha * (data.means[k] + spread) + sigma * rng.normal(size=(count, 2)))


def _ddim_trajectory(schedule, x, grid):
    """DDIM by its definition on the exact denoiser, a step at a time."""
    denoise = jax.jit(exact_denoiser(DATA["mixture"], schedule))
    way = [x]
    for t, s in itertools.pairwise(np.asarray(grid)):
        x0, eps = denoise(way[-1], t)[:2]
        way.append(schedule.alpha(s) * x0 + schedule.sigma(s) * eps)
    return jnp.stack(way)


def test_optimal_times_are_the_best_of_all_choices():
    """By trying all paths of three steps over seven times of the rectified flow, with errors by their definition."""
    schedule = SCHEDULES["rectified_flow"]
    grid = np.array([1.0, 0.85, 0.6, 0.5, 0.3, 0.1, 0.0], np.float32)
    denoise = lambda x, t: Prediction(jnp.tanh(x), (x - (1 - t) * jnp.tanh(x)) / t)
    for seed in range(4):
        x = (1 + np.random.default_rng(seed).normal(size=(7, 5, 2)) * np.linspace(2, 0.3, 7)[:, None, None]).astype("f")

        def miss(i, j, x=x):
            x0, (t, s) = np.tanh(x[i]), grid[[i, j]]
            arrived = (1 - s) * x0 + s * (x[i] - (1 - t) * x0) / t
            return np.sqrt(np.mean((arrived - x[j]) ** 2)) / np.sqrt(np.mean((x[j] - x[j].mean(0)) ** 2))

        paths = [(0, *middle, 6) for middle in itertools.combinations(range(1, 6), 2)]
        best = min(paths, key=lambda path: sum(itertools.starmap(miss, itertools.pairwise(path))))
        found = timesteps.optimal(denoise, schedule, grid, jnp.asarray(x), steps=3)
        np.testing.assert_array_equal(found, grid[list(best)])


@pytest.mark.parametrize("schedule_name, gain", [("edm", (1.2, 1.05)), ("cosine", (1.02, 1.02))])
@pytest.mark.slow
def test_optimal_grid_beats_the_others_on_samples_that_it_has_not_seen(schedule_name, gain, x64):
    """Five and ten steps of ddim against the exact flow; uniform times of the cosine schedule come closest."""
    schedule = SCHEDULES[schedule_name]
    fine = timesteps.karras(schedule, 64)
    denoise = exact_denoiser(DATA["mixture"], schedule)
    first = level(schedule, fine[0])
    seen, unseen = (_draw_mixture(64, seed, *first) for seed in (0, 1))
    keys = jax.random.split(jax.random.key(0), 64)
    plan = timesteps.plan(fine)
    heun = jax.jit(lambda x: samplers.sample_trajectory(samplers.heun(), denoise, schedule, x, plan, keys)[1].x)
    way = heun(seen)
    exact = oracles.flow_by_integration(DATA["mixture"], first, (1.0, 1e-6), unseen)
    error = lambda grid: np.sqrt(np.mean((_ddim_trajectory(schedule, unseen, grid)[-1] - exact) ** 2))
    for steps, least in zip((5, 10), gain):
        best = timesteps.optimal(denoise, schedule, fine, way, steps)
        assert best.shape == (steps + 1,) and (best[0], best[-1]) == (fine[0], 0)
        errors = {
            "uniform": error(np.linspace(fine[0], 0, steps + 1)),
            "polynomial": error(fine[0] * np.linspace(1, 0, steps + 1) ** 2),
            "karras": error(timesteps.karras(schedule, steps)),
            "karras(0.02)": error(timesteps.karras(schedule, steps, 0.02)),
            "exponential": error(timesteps.exponential(schedule, steps, 0.02, 80.0)),
            "kl_optimal": error(timesteps.kl_optimal(schedule, steps, 0.002, 80.0)),
            "kl_optimal(0.6)": error(timesteps.kl_optimal(schedule, steps, 0.002, 80.0, 0.6)),
        }
        assert least * error(best) < min(errors.values()), (steps, error(best), errors)
        assert 2 * error(best) < errors["karras"]


@pytest.mark.slow
def test_optimal_grid_is_the_best_of_all_choices(x64):
    """Of nine times, by going through every choice of so many steps between them."""
    schedule = SCHEDULES["rectified_flow"]
    fine = np.linspace(1, 0, 9) ** 1.5
    denoise = exact_denoiser(DATA["mixture"], schedule)
    way = np.asarray(_ddim_trajectory(schedule, _draw_mixture(8, 0, 0.0, 1.0), fine))
    costs = np.zeros((9, 9))
    for i, j in itertools.combinations(range(9), 2):
        arrived = np.asarray(_ddim_trajectory(schedule, jnp.asarray(way[i]), fine[[i, j]])[-1])
        spread = np.sqrt(np.mean((way[j] - way[j].mean(axis=0)) ** 2))
        costs[i, j] = np.sqrt(np.mean((arrived - way[j]) ** 2)) / spread
    for steps in (1, 3, 8):
        paths = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), steps - 1)]
        best = min(paths, key=lambda path: sum(costs[i, j] for i, j in itertools.pairwise(path)))
        found = timesteps.optimal(denoise, schedule, fine, jnp.asarray(way), steps)
        np.testing.assert_array_equal(found, fine[[*best]])


@pytest.mark.parametrize(
    "grid, count, steps, words",
    [
        ([1.0, 0.5, 0.0], 3, 3, "exceeds the 2 steps of the fine grid"),
        ([1.0, 0.5, 0.0], 3, 0, "steps = 0"),
        ([1.0, 0.5, 0.0], 4, 2, "trajectories"),
        ([0.0, 0.5, 1.0], 3, 2, "decreasing"),
    ],
)
def test_optimal_grid_refuses_what_does_not_fit(grid, count, steps, words):
    with pytest.raises(ValueError, match=words):
        timesteps.optimal(None, SCHEDULES["cosine"], np.array(grid), jnp.zeros((count, 2, 2)), steps)


def test_one_trajectory_has_no_spread():
    with pytest.raises(ValueError, match=r"\(3, 1, 2\)\. Valid: .* at least two trajectories"):
        timesteps.optimal(None, SCHEDULES["cosine"], np.array([1.0, 0.5, 0.0]), jnp.zeros((3, 1, 2)), 2)
