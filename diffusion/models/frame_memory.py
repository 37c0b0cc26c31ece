"""Keys and values that a causal network of videos keeps of earlier frames, so that it evaluates only new frames.

    memory = frame_memory.empty(network, (B, F, H, W, C))
    remember = lambda clips, memory: frame_memory.remembered(network, params, schedule, v, clips, condition, memory)
    denoise = lambda memory: parameterizations.denoiser(key_value_memory.reading(network, params, memory), schedule, v)
    clips = videos.rollout_from_memory(sampler, denoise, remember, schedule, noise, plan, keys, memory, chunk)

No frame depends on later ones, so that the stored keys and values stay valid.
"""

__all__ = ["empty", "remembered"]

from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.models.layers import key_value_memory
from diffusion.models.layers.attention_records import KEYS_VALUES
from diffusion.models.layers.key_value_memory import KeyValueMemory
from diffusion.package import public
from diffusion.parameterizations import Parameterization
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.timesteps import clean_time


def empty(network: Any, shape: tuple[int, ...]) -> KeyValueMemory:
    """The memory of no frame.

    Args:
        network: a `VideoDiT` with `causal`.
        shape: shape of the clips, (B, F, H, W, C): the memory has room for F frames.

    Raises:
        ValueError: for a network that is not causal.
    """
    batch, frames, height, width, _ = shape
    return key_value_memory.empty(network, batch * (height // network.patch) * (width // network.patch), frames)


def remembered(
    network: Any,
    variables: Any,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_0: Array,
    condition: Any,
    memory: KeyValueMemory,
) -> KeyValueMemory:
    """The memory extended by further frames, which the network sees at `timesteps.clean_time`.

    Args:
        network: a `VideoDiT` with `causal`.
        variables: its variables.
        schedule: the process.
        parameterization: the network's parameterization.
        x_0: `[B, n, ...]` frames, a multiple of `causal` for which there is room.
        condition: passed to the network unchanged.
        memory: memory of earlier frames.

    Raises:
        ValueError: as `key_value_memory.extended`.
    """
    t = jnp.full(x_0.shape[:2], clean_time(schedule))
    x = left_broadcast(parameterization.input_scale(schedule, t), x_0) * x_0
    clock = parameterization.clock(schedule, t)
    _, shown = network.apply(variables, x, clock, condition, memory=memory, mutable=[KEYS_VALUES])
    return key_value_memory.extended(network, memory, shown, "temporal_attention", x_0.shape[1])


_MEMORY = "diffusion.models.layers.key_value_memory"
public.declare(__name__, elsewhere={"causal_bias": _MEMORY, "reading": _MEMORY})
