"""Caches and token merging by the names of a config, and the share of blocks that a run's samples report."""

import json

import jax
import numpy as np
import pytest

from benchmarks import caching
from configs import digits, digits_mean_flow, points
from diffusion.experiments import train
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, run_samples
from diffusion.recipe import ConfigError, checks

SHAPE = (8, 8, 1)


def _config(**fields):
    config = digits.get_config("tiny")
    config.sample.guidance.scale = 2.0
    config.sample.sampler = {"name": "ddim"}
    config.sample.steps = 8
    config.sample.number = config.sample.batch_size = 4
    for name, value in fields.items():
        config.sample[name] = value
    return config


def _made(config):
    """(pictures, share of blocks skipped) of a network of this config, none of whose parameters is zero."""
    recipe = checks.validate(config).at(SHAPE)
    labels = np.arange(4, dtype=np.int32)
    shapes = jax.eval_shape(recipe.network.init, jax.random.key(0), np.zeros((4, *SHAPE)), np.zeros(4), labels)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (rng.standard_normal(leaf.shape) / 8).astype(np.float32), shapes)
    make = generate.generator(recipe)
    assert make.skipped(make.work()) is None
    return make.images(params, labels, generate.seeds(config, 4)), make.skipped(make.work())


@pytest.mark.extended
def test_a_named_cache_skips_blocks_and_says_how_many():
    """TaylorSeer runs the steps 0, 1 and 5 of 8: 5 evaluations of 8 skip both blocks."""
    entry = {"name": "taylor_seer", "interval": 4, "first": 2}
    pictures, skipped = _made(_config(cache=entry))
    assert skipped == pytest.approx(5 / 8)
    assert np.ptp(pictures) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields, share",
    [
        ({"cache": {"name": "first_block", "threshold": 1e9}}, 7 / 8 / 2),  # one of two blocks
        ({"cache": {"name": "tea_cache", "threshold": 1e9}}, 6 / 8),  # the last evaluation runs, for steps are known
        ({"cache": {"name": "mag_cache", "threshold": 1e9, "ratios": (1.0, 1.0), "keep": 0.25, "longest": 9}}, 6 / 8),
        ({"cache": {"name": "taylor_seer", "interval": 9, "first": 1}, "sampler": {"name": "heun"}}, 7 / 15),
        ({"cache": {"name": "first_block", "threshold": 0.0}}, None),
        ({"merge": 0.5}, None),
    ],
)
def test_each_cache_by_name(fields, share):
    pictures, skipped = _made(_config(**fields))
    assert skipped == (None if share is None else pytest.approx(share))
    assert pictures.shape == (4, *SHAPE)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"cache": {"name": "deep_cache", "interval": 2}}, r"config\.sample\.cache =.*offers deep"),
        ({"cache": {"name": "frist_block"}}, r"config\.sample\.cache\.name.*first_block"),
        ({"cache": {"name": "first_block"}}, r"config\.sample\.cache: .* needs threshold"),
        ({"cache": {"name": "first_block", "threshold": -1.0}}, r"config\.sample\.cache: .*-1\.0"),
        ({"cache": {"name": "mag_cache", "threshold": 0.1, "ratios": 0.5}}, r"cache\.ratios = 0\.5"),
        ({"cache": {"name": "mag_cache", "threshold": 0.1, "ratios": (1.0, "a")}}, r"cache\.ratios\[1\] = 'a'"),
        ({"cache": {"name": "taylor_seer", "interval": 3}, "driver": {"name": "picard"}}, "a cache works only"),
        ({"merge": 0.9}, r"config\.sample\.merge = 0\.9"),
    ],
)
def test_what_a_cache_cannot_do_is_refused_with_its_path(fields, message):
    with pytest.raises(ConfigError, match=message):
        checks.validate(_config(**fields))


def test_merging_is_refused_where_there_are_no_tokens_to_merge():
    """It was ignored by flow maps, and other networks failed after their training."""
    config = digits_mean_flow.get_config("tiny")
    config.sample.merge = 0.5
    with pytest.raises(ConfigError, match=r"config\.sample\.merge = 0\.5.*only in a denoiser\. Valid: merge = 0"):
        checks.validate(config)
    config = points.get_config("tiny")
    config.sample.merge = 0.5
    with pytest.raises(ConfigError, match=r"config\.sample\.merge = 0\.5.*'mlp'.*no self-attention"):
        checks.on_its_data(checks.validate(config))
    checks.on_its_data(checks.validate(_config(merge=0.5)))


def test_the_benchmark_measures_a_run_beside_its_whole_network(monkeypatch):
    config = _config(cache={"name": "first_block", "threshold": 0.1}, merge=0.5)
    monkeypatch.setattr(workdir, "read_config", lambda folder: config)
    monkeypatch.setattr(workdir, "example_shape", lambda config: SHAPE)
    recipe = caching.recipe_of("", 4)
    assert (recipe.sampling.cache, recipe.sampling.merge, recipe.sampling.plan.solved) == (None, 0, 4)


@pytest.mark.slow
def test_a_run_samples_with_a_cache_and_its_record_says_the_share(tmp_path):
    config = _config(cache={"name": "taylor_seer", "interval": 4, "first": 2})
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path) == 0
    run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path)
    assert json.loads((tmp_path / "samples.json").read_text())["blocks_skipped"] == pytest.approx(5 / 8)


@pytest.mark.slow
def test_a_run_samples_with_quantised_kernels_and_says_their_bytes_and_error(tmp_path, capsys):
    config = _config()
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path) == 0
    recipe = checks.on_its_data(checks.validate(config))
    whole = run_samples.sample(recipe, tmp_path)
    capsys.readouterr()
    few = run_samples.sample(recipe, tmp_path, quantised="int8")
    assert "int8: 10 kernels in 8 bits: " in capsys.readouterr().out
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["checkpoint"]["quantised"] == "int8"
    assert np.abs(few.astype(int) - whole).mean() < 2
