"""Pairs of times, curricula and distances of the few-step objectives: their published values."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.objectives.consistency import _in_range, inverse_gap
from tests.objectives import few_step_cases
from tests.objectives.few_step_cases import EDM, FLOW, V, as_v, keys_and_data, near
from tests.objectives.objective_cases import at

TIMES = objectives.consistency_times


def test_curricula_are_the_published_ones():
    """Song et al. 2023, appendix C; Song and Dhariwal 2023, eq. 11: from 10 to 1280 in eight stages."""
    first = objectives.consistency_times.square_root_curriculum(800)
    second = objectives.consistency_times.doubling_curriculum(800)
    expected = lambda k: np.ceil(np.sqrt(k / 800 * (151**2 - 4) + 4) - 1) + 1
    steps = (0, 1, 400, 799, 800)
    np.testing.assert_array_equal([first(k) for k in (*steps, 900)], [*map(expected, steps), 151])
    np.testing.assert_array_equal(
        [second(k) for k in (0, 99, 100, 250, 700, 799, 5000)], [11, 11, 21, 41, 1281, 1281, 1281]
    )


def test_the_ramp_is_karras_grid_of_the_paper():
    """sigma^(1/7) is uniform between those of 0.002 and 80: the quantiles are Karras's grid itself."""
    density = objectives.consistency_times.ramp_density(EDM)
    t, importance = density.sample((), jax.random.split(jax.random.key(0), 500), jnp.arange(500))
    low, high = (sigma ** (1 / 7) for sigma in (0.002, 80))
    u = ((80 * np.asarray(t, float)) ** (1 / 7) - low) / (high - low)
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(importance, 1)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["ict", "ect", "ct"])
def test_published_consistency_training_is_its_formula(name):
    """Of networks whose x0 is known: distances, weights and the network at s, as the papers have them."""
    read = parameterizations.x0()
    objective = {
        "ict": lambda: objectives.ict(EDM, read, 100),
        "ect": lambda: objectives.ect(EDM, read, 50, sigma_data=0.7, c=0.1),
        "ct": lambda: objectives.ct(EDM, read, 100),
    }[name]()
    keys, batch = keys_and_data()
    x_0, eps = (np.asarray(a, np.float32) for a in (batch["x"], batch["x"][::-1] + 0.5))
    model, target = (lambda x, t, condition, a=a: a * x + t[:, None] for a in (0.3, 0.2))
    batch = {"x": jnp.asarray(x_0), "noise": jnp.asarray(eps), "index": jnp.arange(24)}
    losses, metrics = objective({"model": model, "target": target}, EDM, keys, batch, 70)
    r_t, r_s = (80 * np.asarray(metrics[at], np.float64)[:, None] for at in "ts")
    f_t = 0.3 * (x_0 + r_t * eps) + r_t / 80
    f_s = (0.2 if name == "ct" else 0.3) * (x_0 + r_s * eps) + r_s / 80
    f_s = np.where(r_s > 0, f_s, x_0)
    squared = np.square(f_t - f_s).sum(1)
    huber = lambda c: np.sqrt(squared + c**2) - c
    r_t, r_s = r_t[:, 0], r_s[:, 0]
    expected = {
        "ict": huber(0.00054 * 2**0.5) / (r_t - r_s),
        "ect": (1 / r_t**2 + 1 / 0.7**2) * huber(0.1),
        "ct": squared / 2,
    }[name]
    np.testing.assert_allclose(losses, expected, rtol=2e-3)


def test_a_pair_of_times_needs_two():
    v = parameterizations.v()
    objectives.cd(EDM, v, v, 2)
    with pytest.raises(ValueError, match="cd: N = 1"):
        objectives.cd(EDM, v, v, 1)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: TIMES.square_root_curriculum(0), "total = 0"),
        (lambda: TIMES.square_root_curriculum(9, first=0), "first = 0"),
        (lambda: TIMES.square_root_curriculum(9, first=3, last=2), "first = 3, last = 2"),
        (lambda: TIMES.doubling_curriculum(9, first=0), "doubling_curriculum: .*first = 0"),
        (lambda: TIMES.doubling_curriculum(9, first=30, last=20), "first = 30, last = 20"),
        (lambda: TIMES.ramp_density(EDM, rho=0.0), "ramp_density: rho = 0.0 must be positive"),
        (lambda: TIMES.ramp_density(EDM, sigma_max=-1.0), r"sigma_max = -1\.0\. Valid: 0 <= sigma_min < sigma_max"),
        (
            lambda: TIMES.discretised(TIMES.constant_curriculum(9), sigma_min=2.0, sigma_max=2.0),
            "discretised: sigma_min",
        ),
        (lambda: TIMES.discretised(TIMES.constant_curriculum(9), sigma_min=-0.1), "sigma_min = -0.1"),
        (lambda: TIMES.discretised(TIMES.constant_curriculum(9), rho=-7.0), "discretised: rho = -7.0"),
    ],
)
def test_times_that_are_none_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("improved", [pytest.param(False, marks=pytest.mark.slow), True])
def test_pairs_of_times_have_the_published_probabilities(improved):
    """Neighbours on Karras's grid; n uniform (CT), or by the difference of normal distribution functions (iCT)."""
    N, size = 9, 20_000
    if improved:
        density = timesteps.log_normal(EDM, -1.1, 2.0)
    else:
        density = objectives.consistency_times.ramp_density(EDM)
    keys = jax.random.split(jax.random.key(0), size)
    pairs = objectives.consistency_times.discretised(lambda step: N)
    t, s = jax.jit(lambda keys: pairs(EDM, density.sample((), keys, jnp.arange(size))[0], 0))(keys)
    grid = 80 * np.sort(timesteps.karras(EDM, N)[:-1])
    i = np.searchsorted(grid, 80 * np.asarray(s) * (1 + 1e-4)) - 1
    np.testing.assert_allclose(80 * np.asarray(s), grid[i], rtol=2e-4)
    np.testing.assert_allclose(80 * np.asarray(t), grid[i + 1], rtol=2e-4)
    mass = np.ones(N - 1)
    if improved:
        mass = np.diff(scipy.stats.norm.cdf((np.log(grid) + 1.1) / 2.0))
    expected = size * mass / mass.sum()
    assert scipy.stats.chisquare(np.bincount(i, minlength=N - 1), expected).pvalue > 1e-3


@pytest.mark.extended
@pytest.mark.parametrize("schedule", [FLOW, schedules.cosine(), EDM])
def test_improved_training_has_the_published_pairs_on_every_schedule(schedule):
    """Strata of quantiles count each pair: the log-normal distribution ends at sigma / alpha = 0.002 and 80."""
    N, size = 11, 4096
    objective = objectives.ict(schedule, V, 800, strata=size)
    keys = jax.random.split(jax.random.key(0), size)
    batch = {"x": jnp.zeros((size, 1)), "index": jnp.arange(size)}
    _, metrics = objective({"model": lambda x, t, condition: x}, schedule, keys, batch, 0)
    reached = -np.asarray(schedule.log_snr(metrics["t"])) / 2
    ln = np.log(np.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), N) ** 7)
    counts = np.bincount(np.abs(reached[:, None] - ln).argmin(1) - 1, minlength=N - 1)
    mass = np.diff(scipy.stats.norm.cdf((ln + 1.1) / 2))
    np.testing.assert_allclose(counts, size * mass / mass.sum(), atol=2)


@pytest.mark.parametrize("t, pair", [(1.0, slice(0, 2)), (0.001 / 80, slice(-2, None))])
def test_times_beyond_the_range_belong_to_its_first_and_last_pair(t, pair):
    """Karras's values from sigma = 0.002 to 40 on a schedule that goes from 0 to 80."""
    pairs = objectives.consistency_times.discretised(lambda step: 9, sigma_max=40.0)
    found = np.concatenate(pairs(EDM, jnp.float32([t]), 0))
    np.testing.assert_allclose(found, np.asarray(timesteps.karras(EDM, 9, 0.002, 40.0))[:-1][pair], rtol=1e-3)


def test_easy_consistency_tuning_closes_the_gap_by_q_a_stage():
    """r = t (1 - (1 + 8 sigmoid(-t)) / q^a) of Geng et al. 2024; none below 0, where the target is the data."""
    pairs = objectives.consistency_times.shrinking(100, q=4.0)
    sigma = np.array([0.01, 0.5, 3.0, 40.0])
    for step, a in ((0, 1), (99, 1), (100, 2), (350, 4)):
        t, s = pairs(EDM, jnp.float32(sigma / 80), step)
        expected = np.maximum(sigma * (1 - (1 + 8 / (1 + np.exp(sigma))) / 4.0**a), 0)
        np.testing.assert_allclose(80 * np.asarray(s), expected, rtol=1e-4)
        np.testing.assert_allclose(80 * np.asarray(t), sigma, rtol=1e-6)


def test_the_gap_of_easy_consistency_tuning_has_the_chosen_factors():
    """r = t (1 - (1 + k sigmoid(-b t)) / q^a), also as the objective draws it."""
    sigma = np.array([0.3, 1.0, 3.0])
    _, s = objectives.consistency_times.shrinking(100, q=8.0, k=3.0, b=2.0)(EDM, jnp.float32(sigma / 80), 0)
    np.testing.assert_allclose(80 * s, sigma * (1 - (1 + 3 / (1 + np.exp(2 * sigma))) / 8), rtol=1e-4)
    keys, batch = keys_and_data(6)
    batch |= {"index": jnp.arange(6)}
    network = lambda x, clock, condition: 0 * x
    _, metrics = objectives.ect(EDM, parameterizations.edm(), 100, q=12.0)({"model": network}, EDM, keys, batch, 0)
    sigma = 80 * np.asarray(metrics["t"], np.float64)
    np.testing.assert_allclose(
        80 * metrics["s"], sigma * (1 - (1 + 8 / (1 + np.exp(sigma))) / 12), rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda strata: objectives.ct(EDM, V, 100, strata),
        lambda strata: objectives.ict(EDM, V, 100, strata),
        lambda strata: objectives.ect(EDM, V, 100, strata=strata),
        lambda strata: objectives.cd(EDM, V, V, strata=strata),
    ],
)
def test_strata_reach_the_times_of_consistency(make):
    t, _ = make(64).density.sample((), jax.random.split(jax.random.key(0), 64), jnp.arange(64))
    assert np.all(np.diff(np.asarray(t)) >= 0)  # one in each stratum, in their order


@pytest.mark.parametrize(
    "make",
    [
        lambda distance: objectives.consistency_distillation(V, V, at(0.8), near(0.2), distance),
        lambda distance: objectives.truncated_consistency(V, V, at(0.8), near(0.2), distance=distance),
    ],
)
def test_the_distance_of_consistency_is_the_chosen_one(make):
    """Where the network's x0 is 5 t in each of two numbers: of the difference 5 (t - s) = t."""
    keys, batch = keys_and_data(4)
    network = as_v(FLOW, lambda t, x: 5 * t[:, None] + 0 * x)
    players = dict.fromkeys(("model", "target", "teacher"), network)
    first = lambda a, b: jnp.abs(a - b)[:, 0]
    (chosen, metrics), (usual, _) = (make(distance)(players, FLOW, keys, batch, 0) for distance in (first, None))
    np.testing.assert_allclose(chosen / usual, 1 / metrics["t"], rtol=1e-4)


def test_easy_consistency_tuning_starts_as_denoising():
    """Where s = 0 the target is x_0 itself: (SNR + 4) |f(x_t, t) - x_0|."""
    keys, batch = keys_and_data(64)
    batch["noise"] = eps = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    model = lambda x, clock, c: jnp.zeros_like(x)
    objective = objectives.ect(EDM, parameterizations.edm(), 100)
    losses, metrics = jax.jit(lambda keys: objective({"model": model}, EDM, keys, batch, 0))(keys)
    start = np.asarray(metrics["s"]) == 0
    assert 0 < start.sum() < 64
    sigma = 80 * np.asarray(metrics["t"])[start]
    x_0 = np.asarray(batch["x"])[start]
    f = 0.25 / (sigma**2 + 0.25)
    error = f[:, None] * (x_0 + sigma[:, None] * eps[start]) - x_0
    np.testing.assert_allclose(losses[start], (sigma**-2 + 4) * np.linalg.norm(error, axis=1), rtol=1e-3)


def test_pseudo_huber_is_between_the_distances():
    a = jnp.array([[3.0, 4.0], [1.0, 1.0]])
    b = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    huber = objectives.few_step.pseudo_huber
    np.testing.assert_allclose(huber(0.0)(a, b), [5, 0])
    np.testing.assert_allclose(huber(12.0)(a, b), [1, 0], atol=1e-6)
    offset = 0.00054 * np.sqrt(2)
    np.testing.assert_allclose(huber()(a, b), [np.hypot(5, offset) - offset, 0], rtol=1e-6, atol=1e-9)
    assert np.isfinite(jax.grad(lambda a: huber(0.0)(a, b).sum())(a)).all()


@pytest.mark.parametrize("name", ["mean_flow", "improved_mean_flow"])
def test_the_adaptive_weight_of_mean_flow_is_that_of_its_error(name):
    """|error|^2 / (|error|^2 + c)^p, of the same draws: p = 0 is the error itself."""
    schedule = schedules.rectified_flow()
    density = timesteps.uniform_density(schedule)
    keys, batch = keys_and_data(4)
    network = lambda x, clocks, condition: 0.3 * x + clocks[0][:, None] * clocks[1][:, None]
    of = lambda p: getattr(objectives, name)(density, p=p, c=0.5)({"model": network}, schedule, keys, batch, 0)[0]
    squared = np.asarray(of(0.0))
    assert (squared > 0.01).all()
    np.testing.assert_allclose(of(0.7), squared / (squared + 0.5) ** 0.7, rtol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("name", few_step_cases.MEMBERS)
def test_no_time_lies_beyond_the_end_of_the_schedule(name, monkeypatch):
    """Of a schedule that ends at 0.8, whose densities end there; a grid that begins at 1 is refused."""
    member = few_step_cases.MEMBERS[name]
    ended = {"FLOW": schedules.ending_at(FLOW, 0.8), "EDM": schedules.ending_at(EDM, 0.8)}
    for constant, schedule in ended.items():
        monkeypatch.setattr(few_step_cases, constant, schedule)
    monkeypatch.setattr(few_step_cases, "UNIFORM", timesteps.uniform_density(ended["FLOW"]))
    schedule = ended["EDM" if member.schedule is EDM else "FLOW"]
    players = few_step_cases.networks(member, few_step_cases.parameters_of(member))
    batch, keys = few_step_cases.batch_of(384), jax.random.split(jax.random.key(0), 384)
    try:
        objective = member.make()
        t = jax.jit(lambda keys: objective(players, schedule, keys, batch, 3)[1]["t"])(keys)
    except ValueError as error:
        assert re.search("begins at t = 1, ", str(error)), error
    else:
        assert 0.5 < np.max(t) <= 0.8 * (1 + 1e-6)  # the rounding that networks are read with


QUARTERS = (0.25, 0.5, 0.75, 1.0)
GRIDS = {  # objectives that draw a step of a grid, and t / t_max where the steps begin, each as often as it is named
    "progressive_distillation": (objectives.progressive_distillation(V, V, 4), QUARTERS),
    "latent_consistency_distillation": (
        objectives.latent_consistency_distillation(V, V, null=0, solver_steps=4),
        QUARTERS,
    ),
    "shortcut(share=0)": (objectives.shortcut(4, share=0.0), QUARTERS),
    "shortcut(share=1)": (objectives.shortcut(4, share=1.0), (0.5, 1.0, 1.0, 1.0)),  # one step of 1, two of 1/2
}


@pytest.mark.extended
@pytest.mark.parametrize("name", GRIDS)
def test_every_step_of_the_grid_is_trained_and_the_first_as_often(name):
    """Without the step from pure noise a student would be sampled where it was never trained."""
    objective, starts = GRIDS[name]
    keys, x = jax.random.split(jax.random.key(0), 2000), jnp.ones((2000, 1))
    players = dict.fromkeys(("model", "target", "teacher"), lambda x, clock, condition: 0.5 * x)
    batch = {"x": x, "condition": jnp.zeros(2000, int)}
    schedule = schedules.ending_at(FLOW, 0.8)
    metrics = jax.jit(lambda keys: objective(players, schedule, keys, batch, 0)[1])(keys)
    found, counts = np.unique(np.asarray(metrics["t"]), return_counts=True)
    times, shares = np.unique(0.8 * np.array(starts), return_counts=True)
    np.testing.assert_allclose(found, times, rtol=1e-6)
    assert scipy.stats.chisquare(counts, 2000 * shares / len(starts)).pvalue > 1e-3


def test_the_weight_of_improved_training_is_the_inverse_of_the_gap_of_noise_levels():
    """r = sigma / alpha is t / (1 - t) on the rectified flow."""
    t, s = np.float32([0.5, 0.8]), np.float32([0.2, 0.75])
    r = lambda t: t / (1 - t)
    found = inverse_gap(schedules.rectified_flow(), jnp.asarray(t), jnp.asarray(s))
    np.testing.assert_allclose(found, 1 / (r(t) - r(s)), rtol=1e-4)


def test_a_curriculum_begins_with_its_first_number_and_ends_with_its_last():
    """ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1 steps, with other ends than the published ones."""
    curriculum = objectives.consistency_times.square_root_curriculum(20, 5, 12)
    steps = np.array([0, 1, 7, 13, 19, 20, 50])
    done = np.minimum(steps / 20, 1)
    expected = np.ceil(np.sqrt(done * (13**2 - 5**2) + 5**2) - 1) + 1
    np.testing.assert_array_equal([int(curriculum(int(step))) for step in steps], expected)
    assert expected[0] == 5 and expected[-1] == 13


def test_times_of_noise_levels_out_of_range_are_left_out():
    """On the rectified flow sigma / alpha = t / (1 - t); a range that the schedule has within it changes nothing."""
    flow = FLOW._replace(t_min=1e-3, t_max=0.99)
    within = _in_range(flow, 0.02, 3.0)
    np.testing.assert_allclose([within.t_min, within.t_max], [0.02 / 1.02, 3 / 4], rtol=1e-4)
    same = _in_range(flow, 1e-4, 1e4)
    assert (same.t_min, same.t_max) == (flow.t_min, flow.t_max)

    def traced(end):
        within = _in_range(flow._replace(t_max=end), 0.02, 3.0)
        return within.t_max

    np.testing.assert_allclose([jax.jit(traced)(0.99), jax.jit(traced)(0.5)], [3 / 4, 0.5], rtol=1e-4)
