"""LoRAs that act in an interval of t: merged into the denoiser within the trajectory, at the steps of the interval."""

__all__ = ["Timed", "TimedLora", "at"]

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters import lora


class TimedLora(NamedTuple):
    """A LoRA of the denoiser with its interval; a pytree that compiled programs take as an argument.

    Attributes:
        adapter: as `lora.merge` takes it.
        scale: of each place, with the weight in it.
        times: the first and the last t of its effect, [2].
    """

    adapter: Any
    scale: Mapping[str, Any]
    times: Array


class Timed(NamedTuple):
    """The parameters of a denoiser, and the LoRAs that are merged into them at some of the steps.

    Attributes:
        params: without them.
        loras: in the order in which they are merged.
    """

    params: Any
    loras: tuple[TimedLora, ...]


def at(params: Any, t: Any) -> Any:
    """The parameters of a denoiser at t: W + sum over the LoRAs whose interval holds t.

    Args:
        params: `Timed`, or parameters that are the same at every t.
        t: the schedule's time, one for all examples; of several the greatest counts.
    """
    if not isinstance(params, Timed):
        return params
    now = jnp.max(jnp.asarray(t))
    merged = params.params
    for one in params.loras:
        acts = (one.times[0] <= now) & (now <= one.times[1])
        merge = lambda merged, one=one: lora.merge(merged, one.adapter, one.scale)
        merged = jax.lax.cond(acts, merge, lambda merged: merged, merged)
    return merged
