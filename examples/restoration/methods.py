"""The methods, as functions (setting, y, x_T, keys) -> samples."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion import guidance, samplers, steering, timesteps
from diffusion.guidance.measurements import Measurement
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule
from examples.restoration.tasks import Task

PARTICLES = 8  # particles per sample of twisted diffusion and MCGDiff


class Setting(NamedTuple):
    """A task, and the model that restores.

    Attributes:
        denoise: the denoiser of the data.
        schedule: the noise schedule of the denoiser.
        task: the operator and its noise.
        steps: the number of evaluations of the network.
        data_std: the standard deviation of the data, for the methods that need it.
    """

    denoise: Denoiser
    schedule: NoiseSchedule
    task: Task
    steps: int
    data_std: float


Method = Callable[[Array, Array, Array], Array]
"""A function (y `[B, ...]`, x_T `[B, ...]`, keys `[B]`) -> samples `[B, ...]`."""


def _plan(setting: Setting, steps: int | None = None):
    return timesteps.plan(timesteps.uniform(setting.schedule, steps or setting.steps))


def _guided(setting: Setting, denoise: Denoiser, x: Array, keys: Array) -> Array:
    return samplers.sample(samplers.ddpm(), denoise, setting.schedule, x, _plan(setting), keys)


def _width(setting: Setting) -> Callable[[Array], Array]:
    """A function t -> the variance r^2 of x_0 given x_t, for white data."""
    schedule, variance = setting.schedule, setting.data_std**2
    return lambda t: variance * schedule.sigma(t) ** 2 / (schedule.alpha(t) ** 2 * variance + schedule.sigma(t) ** 2)


def _linear(setting: Setting) -> Measurement:
    if setting.task.linear is None:
        raise ValueError(
            "this method needs a linear operator, but the task has none. Choose a method outside of LINEAR."
        )
    return setting.task.linear


def _likelihood(setting: Setting, y: Array) -> Callable[[Array], Array]:
    return guidance.gaussian_likelihood(setting.task.forward, y, setting.task.noise_std)


def dps(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """DPS with the normalised gradient of the authors' code, at the rate 10 alpha^2 / (alpha^2 + sigma^2)."""
    distance = guidance.negative_distance(setting.task.forward, y)
    schedule = setting.schedule
    rate = lambda t: 10 * schedule.alpha(t) ** 2 / (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)
    return _guided(setting, guidance.posterior_sampling(setting.denoise, schedule, distance, rate), x, keys)


def pigdm(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """Pseudoinverse guidance (PiGDM)."""
    task = setting.task
    guided = guidance.pseudoinverse(
        setting.denoise, setting.schedule, _linear(setting), y, task.noise_std, setting.data_std
    )
    return _guided(setting, guided, x, keys)


def diffpir(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """DiffPIR with lambda = 1, in which DDPM's steps add the noise."""
    task = setting.task
    guided = guidance.proximal(setting.denoise, setting.schedule, _linear(setting), y, task.noise_std)
    return _guided(setting, guided, x, keys)


def mpgd(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """MPGD with gradient steps of 1 / (1 / r^2 + 1 / sigma_y^2), the largest ones for an operator of norm 1."""
    variance, noise = _width(setting), setting.task.noise_std
    step = lambda t: 1 / (1 / variance(t) + 1 / noise**2)
    guided = guidance.manifold_preserving(setting.denoise, setting.schedule, _likelihood(setting, y), step)
    return _guided(setting, guided, x, keys)


def ddrm(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """DDRM with the paper's eta and eta_b."""
    sampler = steering.ddrm(_linear(setting), y, setting.task.noise_std)
    return samplers.sample(sampler, setting.denoise, setting.schedule, x, _plan(setting), keys)


def daps(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """DAPS with the exact draw, and five evaluations per estimate."""
    draw = steering.gaussian_draw(_linear(setting), y, setting.task.noise_std)
    return _daps(setting, draw, x, keys)


def daps_langevin(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """DAPS with 100 steps of Langevin dynamics, and five evaluations per estimate."""
    noise_std = setting.task.noise_std
    draw = steering.langevin_draw(
        _likelihood(setting, y), steps=100, step_size=lambda r: 0.3 / (1 / r**2 + 1 / noise_std**2)
    )
    return _daps(setting, draw, x, keys)


def _daps(setting: Setting, draw: steering.Draw, x: Array, keys: Array) -> Array:
    plan = _plan(setting, setting.steps // 5)
    return steering.daps(setting.denoise, setting.schedule, x, plan, keys, draw, steps=5, data_std=setting.data_std)


def twisted(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """Twisted diffusion with PiGDM as the proposal; its 8 particles per sample take 8 times the evaluations."""
    task = setting.task
    y, arguments, draws = _particles(setting, y, x, keys)
    likelihood = guidance.gaussian_likelihood(task.forward, y, task.noise_std)
    proposal = guidance.pseudoinverse(
        setting.denoise, setting.schedule, _linear(setting), y, task.noise_std, setting.data_std
    )
    particles = steering.twisted(**arguments, twist=steering.tilt(likelihood), number=PARTICLES, proposal=proposal)
    return steering.drawn(particles, draws)


def mcgdiff(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """MCGDiff, which draws measured directions with y; its 8 particles per sample take 8 times the evaluations."""
    y, arguments, draws = _particles(setting, y, x, keys)
    particles = steering.mcgdiff(
        **arguments, measurement=_linear(setting), y=y, noise_std=setting.task.noise_std, number=PARTICLES
    )
    return steering.drawn(particles, draws)


def _particles(setting: Setting, y: Array, x: Array, keys: Array) -> tuple[Array, dict[str, Any], Array]:
    """(y of the particles, the shared arguments of both methods, the keys that draw one particle of each group)."""
    noise_keys, keys, draws = particle_keys(keys, PARTICLES)
    arguments = {
        "sampler": samplers.ddpm(),
        "denoise": setting.denoise,
        "schedule": setting.schedule,
        "x": samplers.prior(setting.schedule, noise_keys, x.shape[1:]),
        "plan": _plan(setting),
        "keys": keys,
    }
    return jnp.repeat(y, PARTICLES, axis=0), arguments, draws


def particle_keys(keys: Array, number: int) -> tuple[Array, Array, Array]:
    """The keys of groups of `number` particles, from the keys `[B]` of their samples.

    Returns:
        (keys of the first noise `[B number]`, keys of the steps `[B number]`, keys that draw one particle of each group
        `[B]`).
    """
    several = jax.vmap(lambda key: jax.random.split(key, 2 * number + 1))(keys)
    return several[:, :number].reshape(-1), several[:, number:-1].reshape(-1), several[:, -1]


def red_diff(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """RED-diff with Adam, which starts from zeros."""
    log = guidance.gaussian_likelihood(setting.task.forward, y, 0.5**0.5)
    optimizer = optax.adam(0.1, b2=0.99)
    return steering.red_diff(setting.denoise, setting.schedule, log, jnp.zeros_like(x), _plan(setting), keys, optimizer)


def d_flow(setting: Setting, y: Array, x: Array, keys: Array) -> Array:
    """D-Flow: Adam changes the noise by gradients through ten deterministic steps.

    A gradient through a step counts as one evaluation of the network.
    """
    plan, std = _plan(setting, 10), setting.schedule.sigma(setting.schedule.t_max)
    generate = lambda z: samplers.sample(samplers.ddim(), setting.denoise, setting.schedule, std * z, plan, keys)
    updates = max(1, setting.steps // 10 - 1)
    reward = _likelihood(setting, y)
    best, _ = steering.optimised_noise(generate, reward, x / std, optax.adam(0.1), steps=updates, prior=1.0)
    return generate(best)


LINEAR = {  # methods that need a linear operator
    "PiGDM": pigdm,
    "DiffPIR": diffpir,
    "DDRM": ddrm,
    "DAPS": daps,
    "twisted": twisted,
    "MCGDiff": mcgdiff,
}
ANY = {"DPS": dps, "MPGD": mpgd, "DAPS, Langevin": daps_langevin, "RED-diff": red_diff, "D-Flow": d_flow}


def programs(setting: Setting) -> dict[str, Method]:
    """The methods that a setting allows, each compiled as a function of the measurement."""
    named = LINEAR | ANY if setting.task.linear else ANY
    return {name: jax.jit(functools.partial(method, setting)) for name, method in named.items()}
