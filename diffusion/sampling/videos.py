"""Videos `[B, F, ...]` by a denoiser with a time for each frame: known frames, long videos, and guidance by frames.

| task                     | how                                                                                 |
|--------------------------|-------------------------------------------------------------------------------------|
| image to video           | sample with completing(denoise, schedule, clips, given_pattern("1..."))             |
| first and last frame     | likewise, given_pattern("1..1")                                                     |
| interpolation            | likewise, given_pattern("1.1.1")                                                    |
| extension                | likewise, given_pattern("11..")                                                     |
| frames in a pyramid      | fill(...) along timesteps.staggered(grid, F, delay): the near future is sharp first |
| a long video, by itself  | rollout(...): window after window, each from the last frames of the one before      |
| likewise, causal network | rollout_from_memory(...): evaluates only new frames, with stored keys and values      |
| a long video, at once    | a denoiser by guidance.windows(denoise, (n,), (stride,))                            |
| a network with one time  | samplers.sample(..., after_step=editing.replacement(schedule, plan, clips, given))  |
| guidance by given frames | a branch by without_frames(...), e.g. in guidance.text_and_picture                  |

Training is with `timesteps.per_frame` (every frame at its own time) or `timesteps.given_frames`.
"""

__all__ = ["completing", "fill", "motion", "rollout", "rollout_from_memory", "without_frames"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion import samplers, timesteps
from diffusion.arrays.arguments import require_floats
from diffusion.arrays.square_roots import root
from diffusion.flows.flow_maps import FlowMap
from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.samplers.sample import Sampler
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import as_float, check_times
from diffusion.timesteps import Plan
from diffusion.timesteps.plans import require_plan


def completing(
    denoise: Denoiser | FlowMap, schedule: NoiseSchedule, clips: Array, given: ArrayLike, at: float | None = None
) -> Any:
    """The denoiser, or flow map, of the unknown frames, which sees the known frames clean, at `clean_time`.

        prediction(x_t, t) = denoise([clips at given frames, x_t at the others], [clean, t]) at the others

    It works with every sampler and plan. With the exact denoiser E[x_0 | x_t] for separate times of the frames, the
    samples have the exact distribution given the known frames, unlike samples by replacement.

    Facts:
        nfe: 1
        neutral: no given frame, the denoiser exactly
        paper: frames without noise as in Ho et al. 2022, "Video Diffusion Models"

    Args:
        denoise: denoiser of x `[B, F, ...]` at t `[B, F]`, or a flow map, which also takes s `[B, F]`.
        schedule: the process.
        clips: x_0 `[B, F, ...]`; the values of unknown frames are ignored.
        given: Bool `[F]`, True for known frames, see `timesteps.given_pattern`.
        at: time of the known frames; `timesteps.clean_time` if None. A slightly later time tells the network that these
            frames may have errors, as generated ones do in a rollout.

    Returns:
        A denoiser, or a flow map, of the M unknown frames `[B, M, ...]`; t is `[]`, `[B]` or `[B, M]`.

    Raises:
        TypeError: if frames are not floating-point numbers.
        ValueError: if shapes do not fit, or `at` lies outside of the schedule.
    """
    check_schedule(schedule)
    given = _checked(given, clips)
    missing = np.flatnonzero(~given)
    rest = timesteps.clean_time(schedule) if at is None else at
    check_times(schedule, rest)

    def clocks(x_t, t):
        times = _by_frame(t, x_t)
        return jnp.full(clips.shape[:2], rest, times.dtype).at[:, missing].set(times)

    def assembled(x_t):
        return clips.astype(x_t.dtype).at[:, missing].set(x_t)

    if isinstance(denoise, FlowMap):
        return FlowMap(lambda x_t, t, s: denoise(assembled(x_t), clocks(x_t, t), clocks(x_t, s))[:, missing])
    denoise = checked(denoise)
    return lambda x_t, t: jax.tree.map(lambda leaf: leaf[:, missing], denoise(assembled(x_t), clocks(x_t, t)))


def fill(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    clips: Array,
    given: ArrayLike,
    at: float | None = None,
) -> Array:
    """Samples clips whose frames follow separate times of a plan, while the known frames do not change.

        x_T[f] = clips[f] for given f, noise for the others;   t[f] at rest for given f, the plan's for the others

    If all unknown frames share their times, `completing` gives the same with any sampler.

    Args:
        sampler: sampler with one evaluation per step and without history, such as `ddpm()`, `ddim()` or `euler()`.
        denoise: denoiser of x `[B, F, ...]` at t `[B, F]`.
        schedule: the process.
        x: noise `[B, F, ...]`, from `samplers.prior`.
        plan: `timesteps.plan(grid)`, or `timesteps.staggered`.
        keys: `[B]` random keys.
        clips: x_0 `[B, F, ...]`; the values of unknown frames are ignored.
        given: Bool `[F]`, True for known frames, see `timesteps.given_pattern`.
        at: time of the known frames, see `timesteps.held`.

    Returns:
        x_0 `[B, F, ...]`, equal to `clips` in the known frames.

    Raises:
        ValueError: if shapes do not fit, and under the conditions of `timesteps.held` and `samplers.per_frame`.

    Reference: Chen et al. 2024, "Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion".
    """
    require_plan(plan)
    given = _checked(given, clips)
    if x.shape != clips.shape:
        raise ValueError(f"fill takes noise and clips [B, F, ...] with the same shape; got {x.shape} and {clips.shape}")
    start = jnp.where(_over(given, x), clips.astype(x.dtype), x)
    return samplers.sample(samplers.per_frame(sampler), denoise, schedule, start, timesteps.held(plan, given, at), keys)


def rollout(
    sampler: Sampler,
    denoise: Denoiser | FlowMap,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    context: Array,
    window: int,
    at: float | None = None,
    coding: tuple[Callable[[Array], Array], Callable[[Array], Array]] | None = None,
) -> Array:
    """A video of any length, generated in windows: each window begins with the last frames of the video so far.

        window i = (last K frames, N = window - K frames that are sampled by `completing`)

    If frames depend only on the K frames before them, the distribution is exact with the exact denoiser. The rollout is
    one differentiable program, also through the generated frames, with a single copy of the network.

    Args:
        sampler: any sampler that accepts `denoise`.
        denoise: a denoiser or a flow map, of windows `[B, window, ...]` and t `[B, window]`.
        schedule: the process.
        x: noise `[B, T, ...]` of the generated frames, where T is a multiple of N.
        plan: plan of the sampler.
        keys: `[B]` random keys.
        context: the first frames `[B, K, ...]`, K < window.
        window: number of frames in a window, > K.
        at: time of the known frames, as in `completing`.
        coding: (encoder frames -> x, decoder x -> frames), if the denoiser works on latents. The context then holds
            frames, which are encoded again for each window, because a video autoencoder encodes the first frame of a
            clip differently from the others. Known frames are not changed.

    Returns:
        `[B, K + T, ...]`, beginning with the context; with `coding`, frames of pixels.

    Raises:
        TypeError: if frames are not floating-point numbers.
        ValueError: if shapes do not fit.

    Reference: Chen et al. 2024, "Diffusion Forcing" (autoregressive rollout); Huang et al. 2025, "Self
    Forcing: Bridging the Train-Test Gap in Autoregressive Video Diffusion" (training on such rollouts).
    """
    require_floats(context, "context")
    encode, decode = coding or (lambda frames: frames, lambda x: x)
    coded = jax.eval_shape(encode, context).shape
    known, length = coded[1], context.shape[1]
    new = window - known
    if not 0 < known < window or x.shape[1] % max(new, 1) or coded[2:] != x.shape[2:]:
        raise ValueError(
            f"rollout: a window of {window} frames with a context of {known} makes {new} new frames. The noise must "
            f"have a multiple of that number, and the context's shape {coded[2:]}; got {x.shape}, with {x.shape[1]} "
            "frames"
        )
    x = as_float(x)
    noise = jnp.moveaxis(x.reshape(len(x), -1, new, *x.shape[2:]), 1, 0)
    given = np.arange(window) < known
    context = context.astype(x.dtype)

    def piece(last, step):
        i, noise = step
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        before = encode(last)
        clips = jnp.concatenate([before, jnp.zeros_like(noise)], axis=1)
        others = completing(denoise, schedule, clips, given, at)
        sampled = samplers.sample(sampler, others, schedule, noise, plan, step_keys)
        sampled = decode(jnp.concatenate([before, sampled], axis=1))[:, length:]
        return jnp.concatenate([last, sampled], axis=1)[:, -length:], sampled

    _, parts = jax.lax.scan(piece, context, (jnp.arange(len(noise)), noise))
    sampled = jnp.moveaxis(parts, 0, 1)
    return jnp.concatenate([context, sampled.reshape(len(x), -1, *sampled.shape[3:])], axis=1)


def rollout_from_memory(
    sampler: Sampler,
    denoise: Callable[[Any], Denoiser | FlowMap],
    remember: Callable[[Array, Any], Any],
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    memory: Any,
    chunk: int,
) -> Array:
    """A clip, chunk after chunk, by a causal network that stores keys and values and evaluates only new frames.

        x[c] = sample(sampler, denoise(memory_c), noise[c]),    memory_{c + 1} = remember(x[c], memory_c)

    The result equals that of evaluating all frames (`samplers.per_frame` along `timesteps.staggered`), but each frame
    is evaluated steps + 1 times instead of steps times the number of chunks.

    Args:
        sampler: any sampler that accepts the result of `denoise`.
        denoise: memory -> a denoiser or a flow map for `[B, chunk, ...]`.
        remember: (x_0 `[B, chunk, ...]`, memory) -> the memory with these frames added; see
            `models.frame_memory.remembered`.
        schedule: the process.
        x: noise `[B, T, ...]`, where T is a multiple of chunk.
        plan: plan of the sampler.
        keys: `[B]` random keys.
        memory: memory of earlier frames, or `models.frame_memory.empty`.
        chunk: number of frames that are generated together, >= 1.

    Returns:
        x_0 `[B, T, ...]`.

    Raises:
        ValueError: if chunk does not divide the number of frames.

    Reference: Huang et al. 2025, "Self Forcing: Bridging the Train-Test Gap in Autoregressive Video Diffusion".
    """
    if chunk < 1 or x.shape[1] % chunk:
        raise ValueError(f"rollout_from_memory: chunk = {chunk} does not divide {x.shape[1]} frames. Valid: a divisor")
    noise = jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)

    def piece(memory, step):
        i, noise = step
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        frames = samplers.sample(sampler, denoise(memory), schedule, noise, plan, step_keys)
        return remember(frames, memory), frames

    _, parts = jax.lax.scan(piece, memory, (jnp.arange(len(noise)), noise))
    return jnp.moveaxis(parts, 0, 1).reshape(x.shape)


def without_frames(denoise: Denoiser, schedule: NoiseSchedule, given: ArrayLike, noise: Array) -> Denoiser:
    """The denoiser without the known frames, in whose place it sees noise at t_max.

    Together with the denoiser that sees the frames, it is the unconditional branch of guidance by frames:

        both, frames, neither = d(text), d(null), without_frames(d(null), schedule, given, noise)
        text_and_picture(separately(both, frames, neither), text_scale=4.0, picture_scale=1.5)

    Facts:
        nfe: 1
        neutral: no given frame, the denoiser exactly
        paper: Song et al. 2025, "History-Guided Video Diffusion"

    Args:
        denoise: denoiser of x `[B, F, ...]` at t `[B, F]`.
        schedule: the process, with alpha(t_max) = 0, or nearly, so that its prior does not depend on the data.
        given: Bool `[F]`, True for known frames.
        noise: noise `[B, F, ...]`, from `samplers.prior`.
    """
    check_schedule(schedule)
    given = np.asarray(given, bool)
    denoise = checked(denoise)

    def guided(x_t, t):
        x = jnp.where(_over(given, x_t), noise.astype(x_t.dtype), x_t)
        return denoise(
            x, jnp.where(given, schedule.t_max, _by_frame(t, x_t))
        )  # the prediction of the known frames is not used

    return guided


def motion(clips: Array, rate: ArrayLike = 1.0) -> Array:
    """`[B]` amount of motion: the root mean square of the change between frames, per second.

        rate sqrt(mean_f mean (x[f + 1] - x[f])^2)

    A network with `vector_width` can receive it, and the rate, in the condition's "vector".

    Args:
        clips: clips `[B, F, ...]`, F >= 2, also of bytes.
        rate: frames per second, `[]` or `[B]`.

    Raises:
        ValueError: if the clips have fewer than two frames.

    Reference: as a condition, Blattmann et al. 2023, "Stable Video Diffusion" (its motion bucket).
    """
    if jnp.ndim(clips) < 2 or clips.shape[1] < 2:
        raise ValueError(f"motion: clips have the shape {jnp.shape(clips)}. Valid: [B, F, ...] with at least 2 frames")
    clips = as_float(clips)  # differences of bytes would wrap
    change = jnp.square(clips[:, 1:] - clips[:, :-1])
    return jnp.asarray(rate, clips.dtype) * root(jnp.mean(change, axis=tuple(range(1, change.ndim))))


def _checked(given: ArrayLike, clips: Array) -> np.ndarray:
    require_floats(clips, "clips")
    given = np.asarray(given, bool)
    if given.shape != clips.shape[1:2]:
        raise ValueError(f"given must be Bool [F], one for each frame of clips {clips.shape}; got shape {given.shape}")
    return given


def _by_frame(t: Any, x: Array) -> Array:
    """The times `[B, F]` of the frames of x, by t `[]`, `[B]` or `[B, F]`."""
    return jnp.broadcast_to(t[:, None] if jnp.ndim(t) == 1 else t, x.shape[:2])


def _over(given: np.ndarray, x: Array) -> np.ndarray:
    return given.reshape(1, -1, *[1] * (x.ndim - 2))


public.declare(__name__)
