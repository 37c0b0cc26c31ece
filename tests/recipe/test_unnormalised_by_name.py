"""Training without data by a config: the target by its name, and a run that samples it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import points
from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.experiments import train
from diffusion.experiments.sampling import run_samples
from diffusion.recipe import ConfigError, checks
from diffusion.training.checkpointing import checkpoints

LINE = schedules.rectified_flow()
VELOCITY = parameterizations.velocity(parameterizations.steps())


def config_of(folder, **target):
    np.savez(folder / "shape.npz", x=np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32))
    config = points.get_config("tiny")
    config.data.source = {"name": "arrays", "path": str(folder / "shape.npz")}
    config.model.num_classes = 0
    config.objective = {
        "name": "log_variance",
        "target_density": {"name": "many_well", "wells": 2} | target,
        "group": 4,
        "data_std": 2.0,
    }
    config.sample.update({"steps": 3, "number": 8, "batch_size": 8})
    config.train.batch_size = 8
    return config


@pytest.mark.extended
def test_an_entry_is_its_function_of_its_parts(tmp_path):
    named = checks.validate(config_of(tmp_path)).objective
    made = objectives.log_variance(VELOCITY, timesteps.uniform(LINE, 3), objectives.many_well(2), 4, 2.0)
    network = lambda x, clock, condition: jnp.sin(3 * x + jnp.mean(clock) / 1000)
    keys, batch = jax.random.split(jax.random.key(0), 8), {"x": jnp.zeros((8, 4))}
    losses = [objective({"model": network}, LINE, keys, batch, 3)[0] for objective in (named, made)]
    np.testing.assert_array_equal(*losses)
    assert np.isfinite(losses[0]).all() and np.ptp(losses[0]) > 0


def test_an_unknown_target_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.objective\.target_density\.name.*'many_wells'"):
        checks.validate(config_of(tmp_path, name="many_wells"))
    with pytest.raises(ConfigError, match=r"config\.objective\.target_density: many_well: wells = 0"):
        checks.validate(config_of(tmp_path, wells=0))


@pytest.mark.slow
def test_a_run_trains_and_makes_samples(tmp_path):
    config = config_of(tmp_path)
    config.train.steps = config.checkpoint.every = 4
    assert train.run(config, tmp_path / "run") == 0
    made = run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path / "run")
    assert made.shape == (8, 4) and np.isfinite(made).all()


@pytest.mark.slow
def test_a_run_with_a_buffer_resumes_bit_for_bit(tmp_path):
    """It stops between two batches of new samples, so that what it goes on with is the buffer of the checkpoint."""

    def run(folder, steps):
        config = config_of(tmp_path)
        config.objective = {
            "name": "adjoint_sampling",
            "weighting": {"name": "constant"},
            "density": {"name": "uniform_density"},
            "target_density": {"name": "many_well", "wells": 2},
            "buffer": 20,
            "every": 3,
        }
        config.train.update({"steps": steps, "log_every": 1})
        config.optimizer.update({"decay": "constant", "warmup": 1})
        config.checkpoint.every = 2
        assert train.run(config, tmp_path / folder) == 0

    run("whole", 6)
    run("parts", 2)
    run("parts", 6)
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()
    whole, parts = (checkpoints.read_about(tmp_path / part, 6)["leaves"] for part in ("whole", "parts"))
    assert whole == parts and any("buffer" in name for name in whole)
