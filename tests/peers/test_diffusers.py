"""Our samplers beside diffusers' schedulers: whole trajectories on one analytic model, and diffusers' published sums.

`make fixtures` writes the trajectories (see diffusers_reference.py); `make test-peers` writes them anew, with the
library itself, and runs this file on them. Conventions that differ, and how they are matched here:

- diffusers counts integer timesteps and tabulates; the levels sigma / alpha of its steps are read from its tables and
  given to our samplers as a plan, so that beta tables, spacings and Karras' formula play no part.
- EulerDiscrete, Heun, KDPM2, LMS and their kin sample y = x / alpha, a variance-exploding process: ours run on `edm`.
- Multistep solvers lower their order over the last steps there (`lower_order_final`) and end at the smallest tabulated
  sigma or at zero (`final_sigmas_type`); ours lower it only onto sigma = 0. The trajectories are sampled without the
  lowering.
- Singlestep solvers' inner times are grid points there; ours are midpoints in log-SNR (thirds for order 3). They are
  the same on a geometric grid, where a step of ours spans two (three) of theirs.
- DEIS is a polynomial in log(sigma / alpha) there, in t here (tAB, the paper's): the same where t is that logarithm, so
  ours samples x / alpha on `variance_exploding`.
- DPM-Solver++(3M) has half the paper's weight on the second difference there, as in its authors' code: that much is
  added to ours.
- In the loops of diffusers' own tests the *scaled* sample is carried on, x <- x / sqrt(1 + sigma^2) before each step;
  and DDIM clips x0 but keeps the network's eps.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from diffusion import samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import slow_but
from tests.peers.analytic import dummy, exact, ramp

FOLDER = pathlib.Path(os.environ.get("PEERS_FIXTURES") or pathlib.Path(__file__).parent.parent / "fixtures")
FOUND = safetensors.numpy.load_file(FOLDER / "diffusers.safetensors")
PRESERVING = schedules.linear_beta()
EXPLODING = schedules.edm(sigma_max=300.0)
FLOW = schedules.rectified_flow()
LOGARITHMIC = schedules.variance_exploding(1e-3, 300.0)  # t is the logarithm of sigma

TRAJECTORIES = {  # (the schedule to run on, our sampler, its arguments)
    "ddim": (PRESERVING, samplers.ddim, ()),
    "ddim, eta 0.5": (PRESERVING, samplers.ddim, (0.5,)),
    "plms": (PRESERVING, samplers.plms, ()),
    "pndm": (PRESERVING, samplers.pndm, ()),
    "euler": (EXPLODING, samplers.euler, ()),
    "euler, Karras": (EXPLODING, samplers.euler, ()),
    "heun": (EXPLODING, samplers.heun, ()),
    "dpm_2": (EXPLODING, samplers.dpm_2, ()),
    "lms": (EXPLODING, samplers.lms, (4,)),
    "dpmpp_2m": (PRESERVING, samplers.dpmpp_2m, ()),
    "dpmpp_2m, to zero": (PRESERVING, samplers.dpmpp_2m, ()),
    "dpmpp_3m": (PRESERVING, samplers.dpmpp_3m, ()),
    "dpmpp_2s": (PRESERVING, samplers.dpmpp_2s, ()),
    "dpm_solver_2": (PRESERVING, samplers.dpm_solver_2, ()),
    "dpm_solver_3": (PRESERVING, samplers.dpm_solver_3, ()),
    "deis 2": (LOGARITHMIC, samplers.deis, (2,)),
    "deis 3": (LOGARITHMIC, samplers.deis, (3,)),
    **{
        f"unipc {order}, {solver}": (PRESERVING, samplers.unipc, (order, solver))
        for order in (1, 2, 3)
        for solver in ("bh1", "bh2")
    },
    "flow, euler": (FLOW, samplers.euler, ()),
    "flow, euler, shift 3": (FLOW, samplers.euler, ()),
    "flow, heun": (FLOW, samplers.heun, ()),
    "ddpm, fixed_small": (PRESERVING, samplers.ddpm, ("small",)),
    "ddpm, fixed_large": (PRESERVING, samplers.ddpm, ("large",)),
    "ddpm, learned_range": (PRESERVING, samplers.ddpm, ("learned",)),
    "euler_ancestral": (EXPLODING, samplers.euler_ancestral, ()),
    "dpm_2_ancestral": (EXPLODING, samplers.dpm_2_ancestral, ()),
    "dpmpp_2m_sde": (PRESERVING, samplers.dpmpp_2m_sde, ()),
}

FAST = [
    (name,)
    for name in TRAJECTORIES
    if name
    not in (
        "euler, Karras",
        "unipc 2, bh2",
        "dpm_solver_3",
        "flow, euler, shift 3",
        "dpmpp_2m, to zero",
        "deis 2",
        "ddpm, fixed_large",
        "unipc 1, bh1",
        "unipc 1, bh2",
        "unipc 2, bh1",
        "ddpm, learned_range",
        "unipc 3, bh1",
        "unipc 3, bh2",
        "dpmpp_2s",
        "dpmpp_3m",
        "dpm_solver_2",
    )
]
# Of the largest number in a sample, the largest difference measured; ten times as much is allowed, up to LARGEST; it is
# ROUNDING where none is given. 1e-7 is of diffusers' float32 samples; the multistep methods of order 3 integrate their
# polynomial by quadrature, which is good to 1e-5 over the last step, of a ratio of 34 in sigma.
ROUNDING, LARGEST = 5e-15, 2e-5
MEASURED = {
    "pndm": 6.7e-10,
    "euler": 8.2e-08,
    "euler, Karras": 9.7e-08,
    "dpm_2": 4.9e-09,
    "dpmpp_2m": 9.6e-08,
    "dpmpp_2m, to zero": 9.6e-08,
    "dpmpp_3m": 3.8e-06,
    "dpmpp_2s": 2.4e-09,
    "dpm_solver_2": 9.6e-09,
    "dpm_solver_3": 2.4e-08,
    "deis 2": 1.8e-06,
    "deis 3": 1.1e-05,
    "unipc 3, bh1": 3.0e-06,
    "unipc 3, bh2": 3.0e-06,
    "flow, euler": 6.3e-08,
    "flow, euler, shift 3": 8.2e-08,
    "flow, heun": 8.2e-08,
    "euler_ancestral": 1.3e-07,
    "dpm_2_ancestral": 1.9e-07,
    "dpmpp_2m_sde": 8.2e-08,
}
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(autouse=True)
def eager(x64):
    """Nothing here is worth a compilation."""
    with jax.disable_jit():
        yield


def _plan(schedule, levels):
    """The steps between levels of sigma / alpha, or of sigma for the flow."""
    if schedule is FLOW:
        return timesteps.plan(levels)
    times = np.asarray(schedule.inverse_log_snr(-2 * np.log(np.maximum(levels, 1e-30))))
    return timesteps.plan(np.where(levels > 0, times, 0))


def _model(schedule):
    """The analytic denoiser, with the variance fraction that the reference's network tells."""

    def denoise(x, t):
        return Prediction(*exact(x, schedule.alpha(t), schedule.sigma(t), jnp), jnp.full_like(x, 0.3))

    return denoise


def test_every_trajectory_of_the_fixture_has_a_sampler():
    assert {key.split("/")[0] for key in FOUND} - {"published"} == TRAJECTORIES.keys()


def _trajectory(sampler, denoise, schedule, plan, x, noise):
    """The sample after each step, with the noise of each given."""
    state = sampler.init(x, schedule, plan)
    way = []
    for i in range(len(plan.t)):
        state = sampler.step(state, denoise, schedule, plan, jnp.asarray(i), noise[i][None][: sampler.draws])
        way.append(state.x)
    return np.stack(way)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but(FAST, [(name,) for name in TRAJECTORIES]))
def test_trajectory_is_that_of_diffusers(name):
    """Every sample on the way, to the rounding of its float32 tables; stochastic ones with the noise that it drew."""
    schedule, make, arguments = TRAJECTORIES[name]
    sampler = make(*arguments)
    way = FOUND[f"{name}/x"]
    level = FOUND[f"{name}/level"]
    if schedule is LOGARITHMIC:
        way = way * np.sqrt(1 + level**2)[:, None, None]  # x / alpha
    noise = FOUND.get(f"{name}/noise", np.zeros_like(way[1:]))
    assert sampler.draws == (f"{name}/noise" in FOUND)
    if name == "dpmpp_3m":
        sampler = _with_half_the_second_difference(sampler, level)
    found = _trajectory(sampler, _model(schedule), schedule, _plan(schedule, level), jnp.asarray(way[0]), noise)
    scale = np.abs(way[1:]).max(axis=(1, 2), keepdims=True)
    tolerance = min(LARGEST, 10 * MEASURED.get(name, ROUNDING))
    np.testing.assert_allclose(found / scale, way[1:] / scale, rtol=0, atol=tolerance)


def _with_half_the_second_difference(sampler, level):
    """DPM-Solver++(3M) as its authors' code has it: phi_3 D_2 in the place of 2 phi_3 D_2."""
    estimates = []
    h = -np.diff(np.log(level))

    def step(state, denoise, schedule, plan, i, noise):
        estimates.append(denoise(state.x, plan.t[i]).x0)
        state = sampler.step(state, denoise, schedule, plan, i, noise)
        if i < 2:
            return state
        r_0 = h[i - 1] / h[i]
        r_1 = h[i - 2] / h[i]
        first = (estimates[i] - estimates[i - 1]) / r_0
        before = (estimates[i - 1] - estimates[i - 2]) / r_1
        phi_3 = (np.expm1(-h[i]) + h[i]) / h[i] ** 2 - 1 / 2
        return state._replace(x=state.x + schedule.alpha(plan.s[i]) * phi_3 * (first - before) / (r_0 + r_1))

    return sampler._replace(step=step)


# (sum, mean) of |x| at the end of the loop of diffusers' own tests: ten steps, a network x t / (t + 1), a ramp to start
# from. As in tests/schedulers/test_scheduler_*.py of huggingface/diffusers, whose tolerances are 1e-2 and 1e-3; some
# give the mean alone. The settings are in diffusers_reference.py.
PUBLISHED = {
    "ddim": (PRESERVING, samplers.ddim, (), 172.0067, 0.223967),
    "euler": (EXPLODING, samplers.euler, (), 10.0807, 0.0131),
    "euler, Karras": (EXPLODING, samplers.euler, (), 124.52299499511719, 0.16213932633399963),
    "heun": (EXPLODING, samplers.heun, (), 0.1233, 0.0002),
    "dpm_2": (EXPLODING, samplers.dpm_2, (), 20.4125, 0.0266),
    "pndm": (PRESERVING, samplers.pndm, (), 198.1318, 0.2580),
    "lms": (EXPLODING, samplers.lms, (4,), 1006.388, 1.31),
    "lms, Karras": (EXPLODING, samplers.lms, (4,), 3812.9927, 4.9648),
    "dpmpp_2m": (PRESERVING, samplers.dpmpp_2m, (), None, 0.3301),
    "unipc": (PRESERVING, samplers.unipc, (2, "bh2", True), None, 0.2464),
    "deis": (LOGARITHMIC, samplers.deis, (2, "t", True), None, 0.23916),
}


# The relative difference of the mean from that of the same loop, as in MEASURED.
MEASURED_SUMS = {
    "euler": 3.0e-09,
    "euler, Karras": 6.8e-09,
    "dpm_2": 8.8e-07,
    "pndm": 1.9e-10,
    "dpmpp_2m": 9.0e-08,
    "deis": 5.1e-15,
}


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", slow_but([(name,) for name in PUBLISHED if name not in ("unipc", "pndm")], [(name,) for name in PUBLISHED])
)
def test_published_sums_of_diffusers_tests(name):
    schedule, make, arguments, total, mean = PUBLISHED[name]
    levels, (seen, times) = FOUND[f"published/{name}/level"], FOUND[f"published/{name}/seen"].T
    plan = _plan(schedule, levels)
    sampler = make(*arguments)
    first = FOUND[f"published/{name}/first"]
    if schedule is LOGARITHMIC:  # x / alpha is walked there
        first = first * np.sqrt(1 + levels[0] ** 2)
    state = sampler.init(jnp.asarray(ramp()) * first, schedule, plan)
    for i, level in enumerate(levels[:-1]):
        if schedule is EXPLODING:
            state = state._replace(x=state.x / np.sqrt(1 + level**2))

        def denoise(x, t, level=level):
            alpha = schedule.alpha(t)
            sigma = schedule.sigma(t)
            call = int(np.argmin(np.abs(np.log(seen * alpha / sigma))))
            done = schedule is PRESERVING or (schedule is EXPLODING and seen[call] == level)
            eps = dummy(x if done else x / np.sqrt(1 + seen[call] ** 2), times[call])
            x0 = (x - sigma * eps) / alpha
            return Prediction(jnp.clip(x0, -1, 1) if name == "ddim" else x0, eps)

        state = sampler.step(state, denoise, schedule, plan, jnp.asarray(i), jnp.zeros((0, *state.x.shape)))
    found = np.abs(state.x) / (np.sqrt(1 + levels[-1] ** 2) if schedule is LOGARITHMIC else 1)
    assert found.mean() == pytest.approx(mean, abs=1e-3)
    if total is not None:
        assert found.sum() == pytest.approx(total, abs=1e-2)
    # What is published has four digits; the same loop here has them all.
    tolerance = 10 * MEASURED_SUMS.get(name, ROUNDING)
    assert found.mean() == pytest.approx(FOUND[f"published/{name}/found"][1], rel=tolerance)
