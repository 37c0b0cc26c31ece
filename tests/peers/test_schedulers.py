"""What a scheduler's config alone makes, beside diffusers: sampler, plan and start, with nothing set by hand.

`make fixtures` writes the trajectories (READ in diffusers_reference.py); the settings are those of READ, without the
fields that a class fills in, and the model is the analytic one of test_diffusers.py.
"""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from diffusion import flow_maps, samplers, schedules, timesteps
from diffusion.models.interchange import schedulers
from diffusion.parameterizations import Prediction
from tests.conformance import slow_but
from tests.peers.analytic import exact

FOLDER = pathlib.Path(os.environ.get("PEERS_FIXTURES") or pathlib.Path(__file__).parent.parent / "fixtures")
FOUND = safetensors.numpy.load_file(FOLDER / "schedulers.safetensors")
with safetensors.safe_open(FOLDER / "schedulers.safetensors", "numpy") as file:
    READ = json.loads(file.metadata()["read"])
FAST = [(name,) for name in ("unipc, sigma_min", "deis", "tcd", "edm, euler", "ddim, clipped", "flow, stochastic")]
SLOW = (
    "deis, karras",
    "dpmpp_2m, lu",
    "euler, exponential",
    "lms, beta",
    "unipc, karras, sigma_min",
)  # whose times are found by bisection
# Of the largest number in a sample, the largest difference; ten times as much is allowed. The tables of betas are
# float32 there: where sigma_min is the end of a formula, its first 1 - alpha^2 has five digits.
MEASURED = {
    "ddim, clipped": 6.7e-07,
    "ddpm, large": 7.3e-07,
    "deis": 6.0e-07,
    "deis 3": 6.1e-07,
    "deis, 20 steps": 5.1e-07,
    "deis, karras": 1.1e-05,
    "dpmpp_2m, Euler at last": 4.9e-07,
    "dpmpp_2m, first order": 1.6e-07,
    "dpmpp_2m, heun": 1.7e-05,
    "dpmpp_2m, lu": 1.0e-05,
    "dpmpp_2m, sigma_min": 6.0e-07,
    "dpmpp_2m_sde": 1.7e-06,
    "dpmpp_2s": 2.6e-07,
    "dpmpp_2s, 9 steps": 6.4e-07,
    "dpmpp_2s, sigma_min": 8.5e-06,
    "edm, dpmpp_2m": 4.9e-07,
    "edm, euler": 1.8e-07,
    "edm, v": 1.4e-07,
    "euler, exponential": 1.1e-05,
    "flow": 8.7e-08,
    "flow, dynamic": 7.9e-08,
    "flow, dynamic, even": 6.7e-08,
    "flow, dynamic, linear": 8.5e-08,
    "flow, even": 8.6e-08,
    "flow, even, shift 3": 6.5e-08,
    "flow, stochastic": 7.0e-08,
    "flow, stochastic, beta": 3.1e-07,
    "heun": 8.9e-07,
    "heun, clipped": 7.6e-07,
    "lms, beta": 6.5e-06,
    "tcd": 3.2e-07,
    "unipc": 2.1e-07,
    "unipc 3, bh1, sigma_min": 5.9e-07,
    "unipc, karras, sigma_min": 8.4e-06,
    "unipc, never lowered": 1.0e-05,
    "unipc, sigma_min": 5.6e-07,
}
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(autouse=True)
def eager(x64):
    """Nothing here is worth a compilation."""
    with jax.disable_jit():
        yield


def _trajectory(name):
    """(process, trajectory) of the settings."""
    about = READ[name]
    process = schedulers.read(about["config"], even=about["even"])
    tokens = 256  # for which the dynamic shift is the 0.5 that the reference asks for
    return process, schedulers.trajectory(process, "", about["steps"], tokens)


def _alphas(name):
    """alpha at the levels of the reference in the space in which it samples, over ours."""
    level = FOUND[f"{name}/level"]
    space = READ[name]["space"]
    if space == "exploding" and "sigma_max" not in READ[name]["config"]:
        return (1 + level**2) ** -0.5
    return np.ones_like(level)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([(name,) for name in READ if name not in SLOW], [(name,) for name in READ]))
def test_a_config_steps_where_its_scheduler_does(name):
    """sigma / alpha (sigma of a flow) at every step, to its float32, and the factor of the noise at the start."""
    process, trajectory = _trajectory(name)
    level = FOUND[f"{name}/level"]
    times = trajectory.plan.grid
    flow = READ[name]["space"] == "flow"
    found = times if flow else np.exp(-np.asarray(process.schedule.log_snr(times)) / 2)
    np.testing.assert_allclose(found, level, rtol=1e-4, atol=1e-6)
    assert trajectory.start == pytest.approx(FOUND[f"{name}/first"].item() * _alphas(name)[0], rel=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but(FAST, [(name,) for name in READ]))
def test_a_config_alone_makes_what_its_scheduler_makes(name):
    process, trajectory = _trajectory(name)
    schedule, plan, sampler = process.schedule, trajectory.plan, trajectory.sampler
    states = FOUND[f"{name}/x"] * _alphas(name)[:, None, None]
    noise = FOUND.get(f"{name}/noise", np.zeros_like(states[1:]))

    def denoise(x, t):
        return Prediction(*exact(x, schedule.alpha(t), schedule.sigma(t), jnp))

    if flow_maps.FlowMap in sampler.takes:
        denoise = flow_maps.from_denoiser(denoise, schedule)
    state = sampler.init(jnp.asarray(states[0]), schedule, plan)
    scale = np.abs(states).max(axis=(1, 2))
    errors = []
    for i in range(len(plan.t)):
        state = sampler.step(state, denoise, schedule, plan, jnp.asarray(i), noise[i][None][: sampler.draws])
        errors.append(np.abs(state.x - states[i + 1]).max() / scale[i + 1])
    assert max(errors) <= 10 * MEASURED[name], errors


@pytest.mark.extended
def test_inversion_with_clipped_data_is_diffusers():
    schedule = schedules.linear_beta()
    sampler = samplers.ddim_inversion(clip=0.7)
    states = FOUND["inverted/x"]
    level = FOUND["inverted/level"]
    times = np.asarray(schedule.inverse_log_snr(-2 * np.log(np.maximum(level, 1e-30))))
    plan = timesteps.plan(np.where(level > 0, times, 0))
    denoise = lambda x, t: Prediction(*exact(x, schedule.alpha(t), schedule.sigma(t), jnp))
    state = sampler.init(jnp.asarray(states[0]), schedule, plan)
    errors = []
    for i in range(len(plan.t)):
        state = sampler.step(state, denoise, schedule, plan, jnp.asarray(i), jnp.zeros((0, *states[0].shape)))
        errors.append(np.abs(state.x - states[i + 1]).max())
    assert max(errors) <= 2e-15
    unclipped = samplers.ddim_inversion().step(
        sampler.init(jnp.asarray(states[0]), schedule, plan),
        denoise,
        schedule,
        plan,
        0,
        jnp.zeros((0, *states[0].shape)),
    )
    assert np.abs(unclipped.x - states[1]).max() > 0.1
