"""Keys and values that a causal network of videos keeps of earlier frames, so that it evaluates new frames alone.

    memory = frame_memory.empty(network, (B, F, H, W, C))
    remember = lambda clips, memory: frame_memory.remembered(network, params, schedule, v, clips, condition, memory)
    denoise = lambda memory: parameterizations.denoiser(frame_memory.reading(network, params, memory), schedule, v)
    clips = videos.rollout_from_memory(sampler, denoise, remember, schedule, noise, plan, keys, memory, chunk)

Frames do not hear later ones, so that what is kept stays true.
"""

__all__ = ["FrameMemory", "causal_bias", "empty", "reading", "remembered"]

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import public
from diffusion.models.layers import attention_records
from diffusion.models.layers.attention import mask_bias
from diffusion.parameterizations import Network, Parameterization
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.timesteps import clean_time


class FrameMemory(NamedTuple):
    """Keys and values along the frames.

    Attributes:
        keys: `[layers, B S, M, heads, D]`, S the patches of a frame and M the frames for which there is room.
        values: values in the same form.
        frames: int32 `[]`, how many frames are kept.
    """

    keys: Array
    values: Array
    frames: Array


def empty(network: Any, shape: tuple[int, ...]) -> FrameMemory:
    """The memory of no frame.

    Args:
        network: a `VideoDiT` with `causal`.
        shape: shape of the clips, (B, F, H, W, C): the memory has room for F frames.

    Raises:
        ValueError: for a network that is not causal.
    """
    if not network.causal:
        raise ValueError(
            f"causal={network.causal}: a memory of frames needs a network whose frames see no later ones. Valid: e.g. "
            "causal=1"
        )
    batch, frames, height, width, _ = shape
    rows = batch * (height // network.patch) * (width // network.patch)
    size = (network.depth, rows, frames, network.heads, network.width // network.heads)
    zeros = jnp.zeros(size, network.dtype)
    return FrameMemory(zeros, zeros, jnp.zeros((), jnp.int32))


def reading(network: Any, variables: Any, memory: FrameMemory) -> Network:
    """The network of frames `[B, n, ...]` that follow the memory's frames.

    Args:
        network: a `VideoDiT` with `causal`.
        variables: its variables.
        memory: memory of earlier frames, a multiple of `causal`.
    """
    return lambda x, clock, condition: network.apply(variables, x, clock, condition, memory=memory)


def remembered(
    network: Any,
    variables: Any,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_0: Array,
    condition: Any,
    memory: FrameMemory,
) -> FrameMemory:
    """The memory with further frames behind its own, seen at `timesteps.clean_time`.

    Args:
        network: a `VideoDiT` with `causal`.
        variables: its variables.
        schedule: the process.
        parameterization: the network's parameterization.
        x_0: `[B, n, ...]` frames, a multiple of `causal` for which there is room.
        condition: passed to the network as it is.
        memory: memory of earlier frames.

    Raises:
        ValueError: for frames that are no whole chunks, or more than the memory has room for at all. Where it is full
            already, what the network makes is NaN.
    """
    frames, room = x_0.shape[1], memory.keys.shape[2]
    if frames % network.causal or frames > room:
        raise ValueError(
            f"{frames} frames for a memory of {room} frames in chunks of causal={network.causal}. Valid: a multiple of "
            f"{network.causal} up to {room}"
        )
    t = jnp.full(x_0.shape[:2], clean_time(schedule))
    x = left_broadcast(parameterization.input_scale(schedule, t), x_0) * x_0
    clock = parameterization.clock(schedule, t)
    collection = attention_records.KEYS_VALUES
    _, shown = network.apply(variables, x, clock, condition, memory=memory, mutable=[collection])
    keys_values = shown[collection]["blocks"]["temporal_attention"][attention_records.LEAF]

    def written(kept: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), memory.frames, axis=2)

    keys, values = map(written, memory[:2], keys_values)
    return FrameMemory(keys, values, memory.frames + x_0.shape[1])


def causal_bias(frames: int, chunk: int, memory: FrameMemory | None = None) -> Array:
    """The bias of causal attention along frames: each sees its own chunk, earlier ones, and what is kept.

    Args:
        frames: n, of a call.
        chunk: number of frames that see each other.
        memory: memory of M frames; None for none.

    Returns:
        [1, 1, n, n], or [1, 1, n, M + n], see `attention.mask_bias`.
    """
    place = np.arange(frames) // chunk
    mask = jnp.asarray(place[:, None] >= place)
    if memory is not None:
        room = memory.keys.shape[2]
        remembered_frames = jnp.broadcast_to(jnp.arange(room) < memory.frames, (frames, room))
        mask = jnp.concatenate([remembered_frames, mask], axis=1)
    return mask_bias(mask[None])


public.declare(__name__, renamed={"seen": "causal_bias"})
