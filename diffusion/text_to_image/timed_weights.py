"""Parameters of a denoiser that depend on t: LoRAs that act in an interval of t, and two denoisers for parts of it.

    weights = timed_weights.timed(params, loras)
    output = timed_weights.at(weights, t, lambda params: network.apply({"params": params}, x, clock, condition))

Each combination of LoRAs that acts at some t is merged once. The program contains the network once for each combination
and each denoiser. If parameters were selected or merged inside the program, they would be copied in each evaluation.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters import lora


class TimedLora(NamedTuple):
    """A LoRA of the denoiser with its interval.

    Attributes:
        adapter: the adapter, as in `lora.merge`.
        scale: {place: scale}, which includes the weight.
        times: the first and the last t of its effect.
    """

    adapter: Any
    scale: Mapping[str, Any]
    times: tuple[float, float]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params", "changed"], meta_fields=["acting", "times"])
@dataclasses.dataclass(frozen=True, eq=False)
class Timed:
    """The parameters of a denoiser with each combination of LoRAs that acts at some t; a pytree.

    Attributes:
        params: the parameters without LoRAs.
        changed: the changed kernels {path: kernel} of each combination.
        acting: whether each LoRA acts, for each combination.
        times: the interval of each LoRA, rounded to float32 like t.
    """

    params: Any
    changed: tuple[dict[str, Array], ...]
    acting: tuple[tuple[bool, ...], ...]
    times: tuple[tuple[float, float], ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["early", "late"], meta_fields=["boundary"])
@dataclasses.dataclass(frozen=True, eq=False)
class Experts:
    """The parameters of two denoisers of one architecture; a pytree.

    Attributes:
        early: the parameters for t from `boundary` to 1.
        late: the parameters for smaller t.
        boundary: the t at which the denoisers change, in [0, 1].

    Reference: Wan Team, Wan 2.2's code, 2025.
    """

    early: Any
    late: Any
    boundary: float

    def acts_early(self, t: Any) -> Array:
        """Whether the first denoiser acts at t; of several times the greatest counts."""
        return jnp.max(jnp.asarray(t)) >= self.boundary

    def scale(self, t: Any, scales: Any) -> Array:
        """The scale of the guidance at t, of the scales of the first and the second denoiser, or of one for both."""
        early, late = jnp.broadcast_to(jnp.asarray(scales), (2,))
        return jnp.where(self.acts_early(t), early, late)


def timed(params: Any, loras: Sequence[TimedLora]) -> Timed:
    """Merges LoRAs once for each combination that acts together at some t in [0, 1].

    Intervals are closed: two that touch act together at the t that they share, which is another combination.

    Args:
        params: the parameters of the denoiser.
        loras: the LoRAs, at least one.
    """
    times = tuple((float(np.float32(low)), float(np.float32(high))) for low, high in (one.times for one in loras))
    ends = sorted({0.0, 1.0}.union(*times))
    between = [(low + high) / 2 for low, high in itertools.pairwise(ends)]
    acting = sorted({tuple(low <= t <= high for low, high in times) for t in (*ends, *between)})
    merge = jax.jit(lora.merge)
    changed = []
    for combination in acting:
        active = [one for one, acts in zip(loras, combination) if acts]
        adapters = [one.adapter for one in active]
        # A compiled function copies what it leaves alone, so it receives the kernels that change, and no others.
        changed.append(merge(lora.replaced(params, adapters), adapters, [one.scale for one in active]))
    return Timed(params, tuple(changed), tuple(acting), times)


def at(weights: Any, t: Any, evaluate: Callable[[Any], Any]) -> Any:
    """The value of a function of a denoiser's parameters at t.

    Args:
        weights: `Experts`, `Timed`, or parameters that are the same at every t. Of LoRAs those act whose interval holds
            t; of two denoisers, which may be `Timed` themselves, the one whose part holds t.
        t: the schedule's time, one for all examples; of several the greatest counts.
        evaluate: a pure function of the parameters.
    """
    if isinstance(weights, Experts):
        branch = lambda expert: lambda: at(expert, t, evaluate)
        return jax.lax.cond(weights.acts_early(t), branch(weights.early), branch(weights.late))
    if not isinstance(weights, Timed):
        return evaluate(weights)
    now = jnp.max(jnp.asarray(t))
    acts = jnp.stack([(low <= now) & (now <= high) for low, high in weights.times])
    which = jnp.argmax((acts == jnp.asarray(weights.acting)).all(1))
    branches = [lambda changed=changed: evaluate(lora.unmerge(weights.params, changed)) for changed in weights.changed]
    return jax.lax.switch(which, branches)
