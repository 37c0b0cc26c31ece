"""The step of a sampler on a pytree whose leaves each have a schedule."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.schedules import NoiseSchedule, left_broadcast


class _Leaves(NamedTuple):
    x: Array  # [B, D]
    x0: Array
    states: Any  # the sampler's states [L, ...], one for each leaf, padded to the largest leaf


def over_leaves(sampler: Any, schedule: NoiseSchedule) -> Any:
    """The sampler with a separate step for each leaf by its schedule, and one network evaluation for all leaves.

    All leaves run the sampler's step in parallel. Where the step calls the denoiser, the leaves' samples and times are
    gathered to `[B, D]` each, and each leaf receives its part of the prediction. Norms within a step
    (`predictor_corrector`) are taken over one leaf. A branch that only some leaves need, such as the second stage of a
    step, is evaluated for all and ignored by the others.

    Args:
        sampler: a `Sampler`.
        schedule: a schedule by `schedules.per_leaf`; for any other schedule the sampler is returned unchanged.
    """
    if not schedule.leaves:
        return sampler
    sizes = [size for size, _ in schedule.leaves]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    most = max(sizes)

    def spread(x):
        """`[..., D]` -> `[L, ..., most]`, with zeros beyond each leaf's numbers."""
        parts = [x[..., start : start + size] for start, size in zip(starts, sizes)]
        return jnp.stack([jnp.pad(part, [(0, 0)] * (x.ndim - 1) + [(0, most - part.shape[-1])]) for part in parts])

    def gathered(x):
        """`[L, ..., most]` -> `[..., D]`."""
        return jnp.concatenate([part[..., :size] for part, size in zip(x, sizes)], axis=-1)

    def init(x, schedule, plan):
        parts = [sampler.init(part, leaf, plan) for part, (_, leaf) in zip(spread(x), schedule.leaves)]
        return _Leaves(x, jnp.zeros_like(x), jax.tree.map(lambda *a: jnp.stack(a), *parts))

    def step(state, denoise, schedule, plan, i, noise):
        def step_of_leaf(l, x, own_state, own_noise):
            def joint(x, *times):
                leaves = jax.lax.all_gather(x, "leaf")
                to_leaves = lambda t: left_broadcast(jax.lax.all_gather(jnp.asarray(t), "leaf"), leaves)
                every, *at = (gathered(jnp.broadcast_to(a, leaves.shape)) for a in (leaves, *map(to_leaves, times)))
                return jax.tree.map(lambda part: spread(part)[l], denoise(every, *at))

            return sampler.step(own_state._replace(x=x), joint, _of_index(schedule, l), plan, i, own_noise)

        all_leaves = jax.vmap(step_of_leaf, axis_name="leaf")
        states = all_leaves(jnp.arange(len(sizes)), spread(state.x), state.states, spread(noise))
        return _Leaves(gathered(states.x), gathered(states.x0), states)

    return sampler._replace(init=init, step=step)


def _of_index(schedule: NoiseSchedule, l: Array) -> NoiseSchedule:
    """The schedule of the leaf with this traced index."""

    def choose(field):
        functions = [getattr(leaf, field) for _, leaf in schedule.leaves]
        return lambda *t: jax.lax.switch(l, functions, *map(jnp.asarray, t))

    fields = ("alpha", "sigma", "log_snr", "inverse_log_snr", "drift", "diffusion", "norm")
    return schedule._replace(**{field: choose(field) for field in fields}, leaves=())
