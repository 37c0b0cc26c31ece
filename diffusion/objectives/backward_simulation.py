"""Simulations: samples that a generator is trained on, generated in the same way as in sampling.

| samples                   | what they are                         | how the generator is sampled                  |
|---------------------------|---------------------------------------|-----------------------------------------------|
| one_step()                | x0 at pure noise                      | consistency() in one step                     |
| backward_simulation(grid) | x0 at a state that its own steps made | consistency() on plan(grid)                   |
| self_forcing(grid, chunk) | likewise, chunk after chunk of a clip | per_frame(consistency()) on                   |
|                           | behind its own frames                 | staggered(grid, frames, len(grid) - 1, chunk) |
| noised_chunks(grid, chunk)| x0 at data whose chunks are noised    | likewise                                      |
|                           | to steps of their own                 |                                               |

`distribution_matching` and `fake_score` take one of these simulations; both must take the same one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arrays.promotion import promoted
from diffusion.objectives.few_step import mix
from diffusion.objectives.inputs import normal, split
from diffusion.objectives.objective import Batch
from diffusion.parameterizations import Network, Parameterization, predict
from diffusion.samplers.sample import prior
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.timesteps import clean_time, plan


class Simulation(NamedTuple):
    """A procedure that generates the samples on which a generator is trained.

    Attributes:
        draw: (network, schedule, the network's parameterization, keys `[B]`, batch) -> samples x `[B, ...]` with the
            shape of the batch's "x", under its "condition".
        setting: name and arguments of the simulation, which must be equal for the generator and the fake score.
        one_step: whether the generator is evaluated at t_max only.
        in_chunks: whether the generator makes clips chunk after chunk; the teacher and the fake score see whole clips.
    """

    draw: Callable[[Network, NoiseSchedule, Parameterization, Array, Batch], Array]
    setting: tuple
    one_step: bool = False
    in_chunks: bool = False


def generate(
    network: Network, schedule: NoiseSchedule, parameterization: Parameterization, noise: Array, condition=None
) -> Array:
    """One-step samples: the generator's x0 of pure noise, x = x0(z, t_max).

    Args:
        network: the generator.
        schedule: the process.
        parameterization: the generator's parameterization, defined at t_max.
        noise: `[B, ...]` z from the schedule's prior.
        condition: the network's condition, passed unchanged.
    """
    return predict(network, schedule, parameterization, noise, schedule.t_max, condition).x0


def one_step() -> Simulation:
    """Samples of one step, x = x0(z, t_max), through which the gradient flows.

    Facts:
        paper: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation"
    """

    def draw(network, schedule, generator, keys, batch):
        noise = prior(schedule, keys, batch["x"].shape[1:])
        return generate(network, schedule, generator, noise, batch.get("condition"))

    return Simulation(draw, ("one_step",), one_step=True)


def backward_simulation(grid: Sequence[float]) -> Simulation:
    """Samples from one of a few steps, whose noisy input the generator produced in the earlier steps, as in sampling.

        y_0 = z,   y_{i+1} = alpha(t_{i+1}) stop x0(y_i, t_i) + sigma(t_{i+1}) eps_i     for i < k
        x = x0(y_k, t_k),   k uniform in 0 .. N - 1, for each example

    The steps before k have no gradient. The cost is N evaluations, of which one is differentiated. On the grid (t_max,
    0) the result equals `one_step` bit for bit.

    Facts:
        paper: Yin et al. 2024, "Improved Distribution Matching Distillation for Fast Image Synthesis", section 4.5

    Args:
        grid: `[N + 1]` times from t_max down to 0, on which `samplers.consistency` will sample. In a config it is the
            grid of config.sample (grid, steps, shift) unless the entry sets it.

    Raises:
        ValueError: if the grid does not end at 0; when called, if it does not begin at t_max.
    """
    times = times_of(grid, "backward_simulation")

    def draw(network, schedule, generator, keys, batch):
        estimate = lambda x, t: predict(network, schedule, generator, x, t, batch.get("condition")).x0
        return _simulated(estimate, schedule, times, *_drawn(schedule, times, keys, batch))

    return Simulation(draw, ("backward_simulation", *times), one_step=len(times) == 1)


def self_forcing(grid: Sequence[float], chunk: int) -> Simulation:
    """Clips that the generator makes chunk after chunk, each conditioned on its own earlier frames.

        x[c] = backward_simulation of the chunk c, by x0(stop x[< c] at clean_time, x_t[c] at t, z[> c] at t_max)

    The network sees each chunk as in sampling, with its own errors in the earlier chunks and noise in the later ones.
    No gradient flows from later chunks to earlier ones. All chunks of an example share the step k. Each chunk costs N
    evaluations of the clip, of which one is differentiated. The compiled program holds the network twice, once for the
    evaluations with a gradient and once for the others.

    Facts:
        paper: Huang et al. 2025, "Self Forcing: Bridging the Train-Test Gap in Autoregressive Video Diffusion", section
            3 and algorithm 1; there the whole batch shares k

    Args:
        grid: `[N + 1]` times, as in `backward_simulation`.
        chunk: number of frames that are generated together, >= 1; it divides the number of frames of a clip.

    Raises:
        ValueError: under the conditions of `backward_simulation`, and if chunk is below 1; when called, if chunk does
            not divide the number of frames of x.
    """
    times = times_of(grid, "self_forcing")
    check_chunk("self_forcing", chunk)

    def draw(network, schedule, generator, keys, batch):
        shape = batch["x"].shape
        check_frames("self_forcing", shape, chunk)
        z, *decisions = _drawn(schedule, times, keys, batch)
        place = np.arange(shape[1]) // chunk

        def append(clip: Array, c: Array) -> tuple[Array, None]:
            now = (place == c).reshape(1, -1, *[1] * (len(shape) - 2))
            known = jax.lax.stop_gradient(clip)

            def estimate(x_t: Array, t: Array) -> Array:
                clocks = jnp.where(place < c, clean_time(schedule), jnp.where(place == c, t[:, None], times[0]))
                x_t = jnp.where(now, x_t, known)
                return predict(network, schedule, generator, x_t, clocks, batch.get("condition")).x0

            frames = _simulated(estimate, schedule, times, z, *decisions)
            return jnp.where(now, frames.astype(clip.dtype), clip), None

        return jax.lax.scan(append, z, jnp.arange(shape[1] // chunk))[0]

    return Simulation(draw, ("self_forcing", *times, chunk), in_chunks=True)


def noised_chunks(grid: Sequence[float], chunk: int) -> Simulation:
    """Clips that the generator denoises from noised data, with an independent step for each chunk.

        x_t[c] = alpha(t_c) x_0[c] + sigma(t_c) eps,    t_c uniform among the times of the grid, for each chunk
        x[c] = x0(x_t, t)[c],    x_0[c] where t_c = 0

    The cost is one evaluation. A causal generator sees earlier chunks at any step, also clean, but never with its own
    errors. CausVid's code evaluates the generator for clean chunks too.

    Facts:
        paper: Yin et al. 2025, "From Slow Bidirectional to Fast Autoregressive Video Diffusion Models" (CausVid),
            algorithm 1

    Args:
        grid: `[N + 1]` times, as in `backward_simulation`.
        chunk: number of frames that are generated together, >= 1; it divides the number of frames of a clip.

    Raises:
        ValueError: under the conditions of `self_forcing`.
    """
    times = times_of(grid, "noised_chunks")
    check_chunk("noised_chunks", chunk)

    def draw(network, schedule, generator, keys, batch):
        step_keys, noise_keys = split(keys, 2)
        x_0 = batch["x"]
        steps, t = drawn_times("noised_chunks", schedule, step_keys, times, x_0.shape, chunk)
        x_t = mix(schedule, t, x_0, normal(noise_keys, x_0))
        x = predict(network, schedule, generator, x_t, t, batch.get("condition")).x0
        return jnp.where(left_broadcast(steps < len(times), x), x, x_0).astype(x_0.dtype)

    return Simulation(draw, ("noised_chunks", *times, chunk), in_chunks=True)


def drawn_times(
    name: str, schedule: NoiseSchedule, keys: Array, times: Sequence[float], shape: tuple[int, ...], chunk: int
) -> tuple[Array, Array]:
    """Steps int `[B, F]` in 0 .. N, drawn for each chunk of each clip, and their times; step N is clean.

    Args:
        name: name of the calling function, for errors.
        schedule: the process.
        keys: `[B]` random keys.
        times: the N times from `times_of`.
        shape: shape [B, F, ...] of the clips.
        chunk: number of frames of a chunk.

    Raises:
        ValueError: under the conditions of `check_frames`.
    """
    check_frames(name, shape, chunk)
    steps = jax.vmap(lambda key: jax.random.randint(key, (shape[1] // chunk,), 0, len(times) + 1))(keys)
    steps = jnp.repeat(steps, chunk, axis=1)
    return steps, jnp.asarray((*times, clean_time(schedule)))[steps]


def check_frames(name: str, shape: tuple[int, ...], chunk: int) -> None:
    """Refuses a chunk that does not divide the number F of frames of clips [B, F, ...].

    Raises:
        ValueError: if chunk does not divide F; the message names both.
    """
    if len(shape) < 2 or shape[1] % chunk:
        raise ValueError(
            f"{name}: a chunk of {chunk} frames does not divide the number of frames of x [B, F, ...] {shape}. Valid: "
            "a divisor"
        )


def check_chunk(name: str, chunk: int) -> None:
    """Refuses a chunk of less than one frame.

    Raises:
        ValueError: if chunk is below 1; the message names it.
    """
    if chunk < 1:
        raise ValueError(f"{name}: chunk = {chunk} frames. Valid: at least 1")


def _simulated(
    estimate: Callable[[Array, Array], Array],
    schedule: NoiseSchedule,
    times: tuple[float, ...],
    z: Array,
    last: Array,
    keys: Array,
) -> Array:
    """x0 at the step `last` `[B]` of each example, the only step with a gradient; estimate is (x_t, t `[B]`) -> x0."""
    all_times = jnp.asarray(times, promoted(z.dtype))
    for_examples = lambda t: jnp.broadcast_to(t, last.shape)

    def step(states: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        x_t, chosen_x = states
        x0 = jax.lax.stop_gradient(estimate(x_t, for_examples(all_times[i])))
        noise = normal(jax.vmap(jax.random.fold_in, (0, None))(keys, i), z)
        x_s = mix(schedule, for_examples(all_times[i + 1]), x0, noise).astype(z.dtype)
        chosen = (last == i + 1).reshape(-1, *[1] * (z.ndim - 1))
        return (x_s, jnp.where(chosen, x_s, chosen_x)), None

    (_, x_t), _ = jax.lax.scan(step, (z, z), jnp.arange(len(times) - 1))
    return estimate(x_t, all_times[last])


def _drawn(schedule: NoiseSchedule, times: tuple[float, ...], keys: Array, batch: Batch) -> tuple[Array, Array, Array]:
    """(z `[B, ...]`, the steps `[B]` that are trained, keys `[B]` of the noise between the steps)."""
    t_max = schedule.t_max
    if not isinstance(t_max, Tracer) and not np.isclose(times[0], t_max, rtol=1e-5):
        raise ValueError(
            f"the grid of a generator begins at t = {times[0]:g}, but it must begin at the noise, t_max = {t_max:g}"
        )
    starts, choices, noises = (keys,) * 3 if len(times) == 1 else split(keys, 3)  # a single step needs one key
    last = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(times)))(choices)
    return prior(schedule, starts, batch["x"].shape[1:]), last, noises


def times_of(grid: Sequence[float], name: str) -> tuple[float, ...]:
    """The times of the grid at which the network is evaluated: all but the last, which is 0.

    Raises:
        ValueError: if the grid does not end at 0; the message has the caller's name.
    """
    steps = plan(np.asarray(grid))
    if steps.t[0] < steps.s[0] or steps.s[-1] != 0:
        raise ValueError(f"{name}: the grid goes from {steps.t[0]:g} to {steps.s[-1]:g}. Valid: from t_max down to 0")
    return tuple(float(t) for t in steps.t)
