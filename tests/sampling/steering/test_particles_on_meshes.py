"""Groups of particles on one device and on four: the same weights, ancestors and samples, whoever holds a group."""

import json

import numpy as np
import pytest

from tests.training.test_meshes import run

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from diffusion import guidance, samplers, schedules, steering, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import round_denoiser

SCHEDULE = schedules.cosine()
DENOISE = round_denoiser(SCHEDULE)
PLAN = timesteps.plan(timesteps.uniform(SCHEDULE, 4))
reward = lambda x: -4 * jnp.sum((x - 1.0) ** 2, -1)
common = (samplers.ddpm(), DENOISE, SCHEDULE)

def far(x, t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    scaled = (x + 1.1 * alpha) / (1.5 * alpha**2 + sigma**2)
    return Prediction(1.5 * alpha * scaled - 1.1, sigma * scaled)

def particles(number):
    more = {"number": number, "resample": steering.systematic}
    both = guidance.separately(DENOISE, far)
    return {
        "twisted": lambda x, keys: steering.twisted(*common, x, PLAN, keys, steering.tilt(reward), **more),
        "das": lambda x, keys: steering.das(*common, x, PLAN, keys, reward, **more),
        "corrected": lambda x, keys: steering.corrected(
            samplers.ddpm(), both, (1.5, -0.5), SCHEDULE, x, PLAN, keys, **more),
        "mixed": lambda x, keys: steering.mixed(samplers.ddpm(), both, (0.4, 0.6), SCHEDULE, x, PLAN, keys, **more),
    }

def made(name, number, devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    keys = jax.random.split(jax.random.key(0), 24)
    x = samplers.prior(SCHEDULE, jax.random.split(jax.random.key(1), 24), (2,))
    x, keys = jax.device_put((x, keys), rows)
    assert len(x.sharding.device_set) == devices
    found = jax.jit(particles(number)[name])(x, keys)
    return [np.asarray(part).tolist() for part in found]

cases = [("twisted", 6), ("twisted", 12), ("das", 12), ("corrected", 12), ("mixed", 6)]
print(json.dumps({f"{name} {number}": [made(name, number, devices) for devices in (1, 4)] for name, number in cases}))
"""


@pytest.mark.slow
def test_groups_keep_their_statistics_on_any_mesh():
    """Four groups of six, one on each of four devices, and two groups of twelve, each of which spans two devices."""
    cases = json.loads(run(PROGRAM, 1, 4).splitlines()[-1])
    assert len(cases) == 5
    for name, (one, four) in cases.items():
        for ours, theirs in zip(one, four):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
        assert np.min(one[2]) < 0.99 * int(name.split()[1]), name  # the weights were uneven, so that groups resampled
