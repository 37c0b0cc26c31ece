"""The sampling engine: from a network to its denoiser and its samples."""

__all__ = ["batches", "check_finite", "denoiser", "finite", "in_batches", "marked", "samples", "skipped"]

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion import guidance, parameterizations, samplers
from diffusion.arrays import chunks
from diffusion.arrays.arguments import described
from diffusion.models import facts, token_merging
from diffusion.package import public
from diffusion.parameterizations import Denoiser, Network, Parameterization
from diffusion.samplers.sample import AfterStep
from diffusion.sampling import caching
from diffusion.sampling.watermarks import Watermark
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import prior_std
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
    """The guided denoiser of a network, with token merging, branches, guidance, further changes and a cache.

    Args:
        network: (x `[K B, ...]`, clock, condition, **further arguments) -> output, where the further arguments come
            from a cache.
        schedule: the process.
        parameterization: meaning of the network's output.
        conditions: conditions of the branches, in the form that `branches` takes; without guidance, a tuple with the
            only condition; or a function (x_t, t) -> conditions, if they depend on the time.
        guide: branches -> the guided denoiser; None for no guidance.
        branches: (network, schedule, parameterization, conditions) -> the branches that `guide` combines.
        changes: functions from denoiser to denoiser, applied to the guided denoiser in order.
        cache: cache of the network's blocks; None to run all blocks.
        merge: share of the tokens that are merged before self-attention, in [0, 0.75].

    Returns:
        The denoiser; `guidance.Memory` with a cache.

    Raises:
        TypeError, ValueError: under the conditions of `caching.cached`, `token_merging.merged` and the guidance.
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
            conditions_at = conditions
            denoise = lambda x, t: evaluated(conditions_at(x, t))(x, t)
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
    """Noise or pictures with the watermark, unchanged if there is none or it belongs to the other carrier.

    Args:
        watermark: the watermark, or None.
        carrier: kind of x, "noise" or "pictures".
        x: noise `[B, ...]`, or pictures, uint8 `[B, H, W, C]`.
        keys: random keys `[B]` of the samples, for a watermark in the noise.
        schedule: process whose prior the noise follows; None for N(0, 1).

    Raises:
        ValueError: if the watermark returns something of another shape, or pictures of another type.
    """
    if watermark is None or watermark.carrier != carrier:
        return x
    std = 1.0 if schedule is None else prior_std(schedule, schedule.t_max)
    with_mark = watermark.embed(x if schedule is None else x / std, keys)
    if getattr(with_mark, "shape", None) != x.shape or (carrier == "pictures" and with_mark.dtype != x.dtype):
        returned = f"embed returns {described(with_mark)} for {described(x)}"
        raise ValueError(f"{watermark.identity}: {returned}. Valid: an array of the same shape and type")
    return with_mark if schedule is None else std * with_mark


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
    """Runs a sampler or a driver along a plan, and returns the samples and the counts of a cache or driver.

    Args:
        sampler, denoise, schedule, x, plan, keys, after_step: the arguments of `samplers.sample`.
        driver: function that returns x at the end of the plan, or (x, two numbers about the batch); only
            `samplers.sample` supports a cache.
    """
    if driver is not samplers.sample:
        driven = driver(sampler=sampler, denoise=denoise, schedule=schedule, x=x, plan=plan, keys=keys)
        return driven if isinstance(driven, tuple) else (driven, None)
    x, memory = samplers.sample_with_memory(sampler, denoise, schedule, x, plan, keys, after_step=after_step)
    return x, caching.work(memory)


def in_batches(
    program: Callable[[Any], tuple[Any, Any]], rows: Any, size: int, done: Callable[[int], None] = lambda done: None
) -> tuple[Any, np.ndarray]:
    """The samples of any number of rows, generated in batches of one size, and the sums of two numbers per batch.

    Args:
        program: (pytree of arrays `[size, ...]`) -> (samples, an array or a pytree of arrays `[size, ...]`,
            `caching.Work`, other numbers or None), where a sample depends only on its row.
        rows: pytree of arrays `[N, ...]`.
        size: number of rows in a batch.
        done: function that is called after each batch with the number of finished samples.

    Returns:
        (samples, arrays `[N, ...]` of the same structure, sums `[2]`).
    """
    counts: list[np.ndarray] = []
    x = chunks.applied(_counted(program, counts), rows, size, done)
    return x, sum(counts, np.zeros(2, np.int64))


def batches(program: Callable[[Any], tuple[Any, Any]], rows: Any, size: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields the samples of one batch of `in_batches` after another; a batch is generated when it is requested.

    Args:
        program: function of a batch, as in `in_batches`.
        rows: pytree of arrays `[N, ...]`.
        size: number of rows in a batch.

    Yields:
        (samples, arrays `[size, ...]`, in the last batch of the remaining rows, the two numbers of the batch `[2]`).
    """
    counts: list[np.ndarray] = []
    for part in chunks.parts(_counted(program, counts), rows, size):
        yield part, counts[-1]


def _counted(program: Callable[[Any], tuple[Any, Any]], counts: list[np.ndarray]) -> Callable[[Any], Any]:
    """The samples of a batch; its two numbers, zeros for None, are appended to the list."""

    def samples_of_batch(batch: Any) -> Any:
        x, work = program(batch)
        counts.append(np.zeros(2, np.int64) if work is None else np.array([np.asarray(count) for count in work]))
        return x

    return samples_of_batch


def skipped(work: Any, network: Any, sampler: samplers.Sampler, plan: Plan) -> float | None:
    """The share of a network's blocks that a cache has skipped; None if nothing was counted, as without a cache.

    Args:
        work: counts of `caching.Work`.
        network: module of the network.
        sampler: sampler of the trajectories that are counted.
        plan: plan of these trajectories.
    """
    run, evaluations = map(int, work)
    if not evaluations:
        return None
    length = facts.feature_blocks(network)
    # The later evaluations of a step run all blocks, and the cache does not count them.
    all_evaluations = evaluations / plan.solved * sampler.nfe(plan.solved)
    return (evaluations * length - run) / (all_evaluations * length)


def finite(x: Array) -> Array:
    """Whether all values of each sample are finite, Bool `[B]`.

    Args:
        x: samples `[B, ...]`, float.
    """
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def check_finite(number: int, infinite: int, settings: str, advice: str) -> None:
    """Warns of samples that are not finite, which pictures and symbols hide: NaN is black or -1 there.

    Args:
        number: the number of samples, at least 1.
        infinite: the number of samples with a value that is NaN or infinite, or with a symbol that is -1.
        settings: the settings of all samples, for the message.
        advice: the settings to try instead, for the message.

    Raises:
        ValueError: if no sample is finite.
    """
    message = (
        f"{infinite} of {number} samples are not finite; values that are NaN are black in pictures, and -1 in symbols. "
        f"They were made with {settings}. Try {advice}."
    )
    if infinite == number:
        raise ValueError(message)
    if infinite:
        warnings.warn(message, stacklevel=2)


public.declare(__name__)
