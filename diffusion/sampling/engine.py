"""The sampling engine: from a network to its denoiser and its samples."""

__all__ = ["denoiser", "in_batches", "marked", "samples", "skipped"]

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion import guidance, parameterizations, samplers
from diffusion.arrays import chunks
from diffusion.models import facts, token_merging
from diffusion.package import public
from diffusion.parameterizations import Denoiser, Network, Parameterization
from diffusion.samplers.sample import AfterStep
from diffusion.sampling import caching
from diffusion.sampling.watermarks import Watermark
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


def denoiser(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    conditions: tuple[Any, ...] | Callable[[Array, ArrayLike], tuple[Any, ...]],
    guide: Callable[[guidance.Branches], Any] | None = None,
    branches: Callable[..., guidance.Branches] = guidance.together,
    *,
    changes: Sequence[Callable[[Any], Any]] = (),
    cache: caching.Cache | None = None,
    merge: float = 0.0,
) -> Denoiser | guidance.Memory | guidance.Unpaired:
    """The guided denoiser of a network: merged tokens, branches, guidance, further changes, and the cache around them.

    Args:
        network: (x `[K B, ...]`, clock, condition, **further arguments) -> output; the further arguments are a cache's.
        schedule: the process.
        parameterization: meaning of the network's output.
        conditions: conditions of the branches, as `branches` takes them; without guidance, the network's only one; or a
            function (x_t, t) -> conditions, where they depend on the time.
        guide: branches -> the guided denoiser; None for the denoiser of the only condition.
        branches: (network, schedule, parameterization, conditions) -> the branches that `guide` combines.
        changes: functions of the guided denoiser, in order.
        cache: the cache of the network's blocks; None runs all of them.
        merge: share of the tokens that self-attention sees merged, in [0, 0.75].

    Returns:
        The denoiser; `guidance.Memory` with a cache.

    Raises:
        TypeError, ValueError: as `caching.cached`, `token_merging.merged` and the guidance.
    """
    to = (schedule, parameterization)

    def make(network: Network) -> Any:
        def evaluated(conditions: tuple[Any, ...]) -> Any:
            if guide is None:
                return parameterizations.denoiser(network, *to, *conditions)
            return branches(network, *to, conditions)

        if isinstance(conditions, tuple):
            denoise = evaluated(conditions)
        else:
            denoise = lambda x, t: evaluated(conditions(x, t))(x, t)
        if guide is not None:
            denoise = guide(denoise)
        for change in changes:
            denoise = change(denoise)
        return denoise

    network = token_merging.merged(network, merge)
    return make(network) if cache is None else caching.cached(make, network, cache)


def marked(
    watermark: Watermark | None,
    carrier: Literal["noise", "pictures"],
    x: Any,
    keys: Array | None = None,
    schedule: NoiseSchedule | None = None,
) -> Any:
    """Noise or pictures with the watermark that lies in them; unchanged without one, or with one for the other carrier.

    Args:
        watermark: the watermark; None for none.
        carrier: the kind of x.
        x: noise `[B, ...]`, or pictures, uint8 `[B, H, W, C]`.
        keys: random keys of the noise, `[B]`.
        schedule: process from whose prior the noise is; None for N(0, 1).
    """
    if watermark is None or watermark.carrier != carrier:
        return x
    if schedule is None:
        return watermark.embed(x, keys)
    std = jnp.hypot(schedule.alpha(schedule.t_max), schedule.sigma(schedule.t_max))
    return std * watermark.embed(x / std, keys)


def samples(
    sampler: samplers.Sampler,
    denoise: Any,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    driver: Callable[..., Any] = samplers.sample,
    after_step: AfterStep | None = None,
) -> tuple[Array, Any]:
    """(x at the end of a plan, what of the network has run under a cache, or the driver's numbers; None without).

    Args:
        sampler, denoise, schedule, x, plan, keys, after_step: the arguments of `samplers.sample`.
        driver: the function that takes x to the end of the plan, or to (x, two numbers about the batch); only
            `samplers.sample` carries a cache.
    """
    if driver is not samplers.sample:
        driven = driver(sampler=sampler, denoise=denoise, schedule=schedule, x=x, plan=plan, keys=keys)
        return driven if isinstance(driven, tuple) else (driven, None)
    x, memory = samplers.sample_with_memory(sampler, denoise, schedule, x, plan, keys, after_step=after_step)
    return x, caching.work(memory)


def in_batches(
    program: Callable[[Any], tuple[Any, Any]], rows: Any, size: int, done: Callable[[int], None] = lambda done: None
) -> tuple[Any, np.ndarray]:
    """The samples of any number of rows, made in batches of one size, and the sums of the two numbers of each batch.

    Args:
        program: (pytree of arrays `[size, ...]`) -> (samples, an array or a pytree of arrays `[size, ...]`,
            `caching.Work`, other numbers or None), each sample from its own row alone.
        rows: pytree of arrays `[N, ...]`.
        size: number of rows in a batch.
        done: function of the number of samples that are made, called after each batch.

    Returns:
        (samples, arrays `[N, ...]` of the same structure, sums `[2]`).
    """
    counts = np.zeros(2, np.int64)

    def counted(batch: Any) -> Any:
        nonlocal counts
        x, work = program(batch)
        if work is not None:
            counts = counts + [np.asarray(count) for count in work]
        return x

    return chunks.applied(counted, rows, size, done), counts


def skipped(work: Any, network: Any, sampler: samplers.Sampler, plan: Plan) -> float | None:
    """The share of a network's blocks that a cache has left out; None for counts of nothing, as without a cache.

    Args:
        work: counts of `caching.Work`.
        network: module of the network.
        sampler: sampler of the trajectories that are counted.
        plan: plan of each of them.
    """
    run, evaluations = map(int, work)
    if not evaluations:
        return None
    length = facts.feature_blocks(network)
    # After its first evaluation, a step's evaluations run all blocks, and no cache counts them.
    all_evaluations = evaluations / plan.solved * sampler.nfe(plan.solved)
    return (evaluations * length - run) / (all_evaluations * length)


public.declare(__name__)
