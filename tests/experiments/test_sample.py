"""Sampling from a run folder: what is written, and that a sample depends on its own seed and label alone."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion.experiments import train
from diffusion.experiments.sampling import generate
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver

SHAPE = (8, 8, 1)
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config():
    config = digits.get_config("tiny")
    config.sample.steps = 2
    return config


@pytest.fixture(scope="module")
def params(config):
    network = Resolver(config).model(SHAPE)

    @jax.jit
    def params(key):
        params = network.init(key, jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
        # An untrained DiT answers 0 to everything: give every parameter a value that shows.
        leaves, structure = jax.tree.flatten(params)
        return structure.unflatten([leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape) for leaf in leaves])

    return params(jax.random.key(0))


def images(config, params, labels, seeds, batch_size):
    config = config.copy_and_resolve_references()
    config.sample.batch_size = batch_size
    return generate.generator(Recipe.from_config(config, SHAPE)).images(params, labels, seeds)


@pytest.mark.extended
def test_a_sample_depends_on_its_own_seed_and_label_alone(config, params):
    labels = generate.balanced_labels(13, 10)
    seeds = generate.seeds(config, 13)
    one_by_one = images(config, params, labels, seeds, 13)
    assert one_by_one.shape == (13, *SHAPE) and one_by_one.dtype == np.uint8
    assert np.ptp(one_by_one) > 50  # there is something to compare
    order = np.random.default_rng(0).permutation(13)
    in_batches = images(config, params, labels[order], seeds[order], 5)  # with a last batch of 3
    # Equal up to the rounding of a float32 sum on the boundary between two pixel values.
    assert np.abs(in_batches.astype(int) - one_by_one[order].astype(int)).max() <= 1
    other = images(config, params, labels, seeds + 1, 13)
    assert (other != one_by_one).mean() > 0.2


@pytest.mark.extended
def test_the_null_class_is_num_classes_and_guidance_uses_it(config, params):
    labels = generate.balanced_labels(6, 10)
    seeds = generate.seeds(config, 6)
    plain = config.copy_and_resolve_references()
    plain.sample.guidance.scale = 0.0  # the null branch alone
    unconditional = images(plain, params, labels, seeds, 6)
    plain.sample.guidance.scale = 1.0
    as_null = images(plain, params, np.full(6, 10, np.int32), seeds, 6)
    assert np.abs(unconditional.astype(int) - as_null.astype(int)).max() <= 1


def test_seeds_of_two_runs_have_none_in_common(config):
    other = config.copy_and_resolve_references()
    other.sample.seed = config.sample.seed + 1
    first = generate.seeds(config, 50_000)
    second = generate.seeds(other, 50_000)
    assert first.dtype == np.uint32 and len(np.unique(first)) == 50_000
    assert not set(first.tolist()) & set(second.tolist())


def test_labels_are_balanced():
    assert sorted(np.bincount(generate.balanced_labels(1003, 10))) == [100] * 7 + [101] * 3


@pytest.mark.extended
def test_trajectory_starts_at_the_prior_and_ends_at_the_sample(config, params):
    labels = generate.balanced_labels(10, 10)
    seeds = generate.seeds(config, 10)
    make = generate.generator(Recipe.from_config(config, SHAPE))
    x, x0 = make.trajectory(params, labels, seeds)
    assert x.shape == (3, 10, *SHAPE) and x0.shape == (2, 10, *SHAPE)
    final = np.floor(np.clip(x[-1] * 127.5 + 128, 0, 255))
    assert np.abs(final - make.images(params, labels, seeds).astype(int)).max() <= 1
    assert 0.8 < x[0].std() < 1.2


@pytest.mark.slow
def test_processes_and_devices_share_the_batches_and_make_the_same_images(tmp_path):
    """Two processes of two devices each, against one of one: batches of 4, the last of them short."""
    config = digits.get_config("tiny")
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    sample = [
        "-m",
        "experiments.sample",
        f"--workdir={tmp_path}/run",
        "--config.sample.number=18",
        "--config.sample.batch_size=4",
    ]
    many = [sys.executable, "-m", "launch.local", "--processes=2", "--", sys.executable, *sample]
    two_devices = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    found = {}
    for name, command, env in (("one", [sys.executable, *sample], None), ("many", many, two_devices)):
        out = tmp_path / name
        command = [*command, f"--out={out}"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("18 images in") == 1  # one of them speaks
        assert sorted(path.name for path in out.iterdir()) == [
            "samples.json",
            "samples.npz",
            "samples.png",
            "trajectory.png",
        ]
        found[name] = np.load(out / "samples.npz")
    np.testing.assert_array_equal(found["one"]["seeds"], found["many"]["seeds"])
    assert np.ptp(found["one"]["images"]) > 50
    assert np.abs(found["one"]["images"].astype(int) - found["many"]["images"].astype(int)).max() <= 1
