"""A schedule that trains with the model: by the objective's own gradient, and read back where samples are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.experiments.run import program
from diffusion.experiments.sampling import generate
from diffusion.recipe import ConfigError, checks, learned_schedule
from diffusion.training import sharding

FIRST = learned_schedule.learned(log_snr_max=6.0, log_snr_min=-4.0, features=5, seed=2)
GRID = {"name": "uniform_log_snr", "sigma_min": 0.1, "sigma_max": 2.5}
KEYS = jax.random.split(jax.random.key(0), 3)
BATCH = {"x": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 4)), jnp.float32), "condition": None}


@pytest.mark.extended
def test_its_value_is_that_of_the_objective_under_the_schedule_of_these_parameters():
    bound = objectives.variational_bound(
        parameterizations.epsilon(), timesteps.uniform_density(FIRST), 1e-3, objectives.decoders.gaussian()
    )
    model = lambda x, clock, condition: 0.5 * x
    trained = objectives.with_trained_schedule(bound, FIRST.trained)
    head = trained.heads["schedule"]
    ends = head.init(jax.random.key(3), 0, 0)
    assert {name: float(end) for name, end in ends.items()} == {"log_snr_max": 6.0, "range": 10.0}
    shape = schedules.init_learned(jax.random.key(2), 6.0, -4.0, 5)
    t = jnp.linspace(0.0, 1.0, 5)
    np.testing.assert_allclose(FIRST.log_snr(t), schedules.learned(shape).log_snr(t), rtol=1e-6)

    @jax.jit
    def both(ends):
        networks = {"model": model, "schedule": lambda: head.apply(ends)}
        wrapped = trained(networks, FIRST, KEYS, BATCH, 0)[0]
        return wrapped, bound(networks, schedules.learned({**shape, **ends}), KEYS, BATCH, 0)[0]

    moved = both(jax.tree.map(lambda end: end + 0.5, ends))
    np.testing.assert_allclose(*moved, rtol=1e-6)
    assert np.abs(moved[0] - both(ends)[0]).min() > 1e-3


@pytest.mark.extended
@pytest.mark.parametrize(
    "change",
    [
        lambda schedule: schedules.shifted(schedule, 4.0),
        lambda schedule: schedules.interpolated(schedule, 2.0, 8.0),
        schedules.zero_terminal_snr,
    ],
    ids=["shifted", "interpolated", "zero_terminal_snr"],
)
def test_a_changed_schedule_trains_as_the_change_of_what_is_learned(change):
    changed = change(FIRST)
    t = jnp.asarray([0.1, 0.5, 0.9])
    first = changed.trained.build(changed.trained.init())
    np.testing.assert_allclose(first.log_snr(t), changed.log_snr(t), rtol=1e-4)
    assert np.abs(first.log_snr(t) - FIRST.log_snr(t)).min() > 0.01
    moved = jax.tree.map(lambda end: end + 0.5, FIRST.trained.init())
    of_moved = change(FIRST.trained.build(moved))
    np.testing.assert_allclose(changed.trained.build(moved).log_snr(t), of_moved.log_snr(t), rtol=1e-6)


def config_of(**changes):
    config = digits.get_config("tiny")
    config.schedule = {"name": "learned", "log_snr_max": 6.0, "log_snr_min": -4.0, "features": 5}
    config.parameterization = {"name": "epsilon"}
    config.objective = {
        "name": "variational_bound",
        "density": {"name": "uniform_density", "t_min": 1e-3},
        "t_start": 1e-3,
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.update_from_flattened_dict({"train.batch_size": 8, "train.accumulate": 1, **changes})
    return config


def test_samples_are_made_under_the_schedule_that_the_run_has_trained():
    recipe = checks.validate(config_of(**{"sample.grid": GRID, "sample.steps": 4})).at((8, 8, 1))
    params = {"heads": {"schedule": {"log_snr_max": np.float32(5.0), "range": np.float32(7.0)}}}
    trained = generate.trained(recipe, params)
    np.testing.assert_allclose(trained.schedule.log_snr(1.0), -2.0, rtol=1e-5)
    steps = np.diff(np.asarray(trained.schedule.log_snr(trained.sampling.plan.grid[:-1])))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)  # the grid is uniform in the trained schedule's log-SNR
    assert generate.trained(trained, params) is trained


def test_guides_read_the_schedule_that_the_run_has_trained():
    """Of every prediction x_t = alpha_t x0 + sigma_t eps, also where a guide has clipped x0."""
    guides = ({"name": "dynamic_threshold"},)
    recipe = checks.validate(config_of(**{"sample.guides": guides})).at((8, 8, 1))
    params = {"heads": {"schedule": {"log_snr_max": np.float32(5.0), "range": np.float32(7.0)}}}
    schedule = generate.trained(recipe, params).schedule
    (guide,) = generate.trained(recipe, params).sampling.guides
    x, alpha, sigma = jnp.full((1, 8, 8, 1), 0.5), schedule.alpha(0.6), schedule.sigma(0.6)
    denoise = lambda x, t: parameterizations.Prediction(9 * x, (x - alpha * 9 * x) / sigma)
    clipped = guide.apply(denoise, {}, None, None)(x, jnp.float32(0.6))
    assert np.abs(clipped.x0).max() < 2
    np.testing.assert_allclose(alpha * clipped.x0 + sigma * clipped.eps, x, rtol=1e-5)


def test_an_objective_that_a_schedule_would_make_trivial_is_refused():
    with pytest.raises(
        ConfigError, match=r"config\.schedule = .*learned.*cannot be compared.*Valid: variational_bound"
    ):
        checks.validate(config_of(objective={"name": "flow_matching", "density": {"name": "uniform_density"}}))


@pytest.mark.slow
def test_a_run_moves_the_ends_of_its_schedule():
    config = config_of()
    recipe = checks.validate(config).at((8, 8, 1))
    made = program.build(recipe, program.mesh_of(config))
    state = sharding.create(made.init, made.target, made.seed)
    first = jax.device_get(state.params["heads"]["schedule"])
    batch = {name: np.full(leaf.shape, 3, leaf.dtype) for name, leaf in made.batch.items()}
    for _ in range(3):
        state, metrics = made.step(state, batch, made.seed)
    assert np.isfinite(metrics["loss"]) and int(state.failed_at) == -1
    for name, end in first.items():
        assert abs(float(state.params["heads"]["schedule"][name]) - end) > 1e-6
    assert float(generate.trained(recipe, state.params).schedule.log_snr(1.0)) != -4.0
