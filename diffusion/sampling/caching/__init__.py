"""Caches: a part of a network runs only in some steps; the other steps reuse its earlier output.

    network = lambda x, clock, condition, **reuse: module.apply(params, x, clock, condition, **reuse)
    make = lambda network: guidance.classifier_free(guidance.together(network, schedule, v, (labels, null)), 4.0)
    denoise = caching.cached(make, network, caching.first_block(0.1))
    x, memory = samplers.sample_with_memory(samplers.ddim(), denoise, schedule, noise, plan, keys)
    caching.work(memory).run    # blocks that ran

A cache is a pair of functions with a memory, which `samplers.sample` carries. A network supports caches through
optional arguments of its call, which cost nothing otherwise (`diffusion.models.layers.block_reuse`).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from diffusion.arrays import arguments
from diffusion.package import public
from diffusion.sampling.caching.deep_cache import deep_cache as deep_cache
from diffusion.sampling.caching.evaluations import evaluations as evaluations
from diffusion.sampling.caching.measures import Measures as Measures, fitted as fitted, measured as measured
from diffusion.sampling.caching.remembered_calls import (
    Cache as Cache,
    Remembered as Remembered,
    Work as Work,
    cached as cached,
    work as work,
)
from diffusion.sampling.caching.residual_caches import (
    first_block as first_block,
    mag_cache as mag_cache,
    tea_cache as tea_cache,
)
from diffusion.sampling.caching.taylor_seer import taylor_seer as taylor_seer

__all__ = ["CACHES", "named"]

CACHES: dict[str, Callable[..., Cache]] = {
    function.__name__: function for function in (deep_cache, first_block, mag_cache, taylor_seer, tea_cache)
}
"""The caches by their names in configs and requests."""


def named(entry: Mapping[str, Any], **supplied: Any) -> Cache:
    """The cache for an entry {"name": ..., **arguments}.

    Args:
        entry: an entry of JSON, whose name is one of `CACHES`.
        **supplied: default values for arguments that the entry omits; those that the cache's function lacks are
            ignored.

    Raises:
        ValueError: if the name or an argument is unknown, or an argument is missing or invalid.
    """
    values = dict(entry)
    name = values.pop("name", None)
    if name not in CACHES:
        raise ValueError(f"cache: there is no cache {name!r}. Valid: {', '.join(CACHES)}")
    parameters = inspect.signature(CACHES[name]).parameters
    supplied = {argument: value for argument, value in supplied.items() if argument in parameters}
    if unknown := values.keys() - parameters.keys():
        raise ValueError(f"cache {name}: it takes no {', '.join(sorted(unknown))}. Valid: {', '.join(parameters)}")
    needed = [argument for argument, parameter in parameters.items() if parameter.default is parameter.empty]
    if missing := [argument for argument in needed if argument not in values | supplied]:
        raise ValueError(f"cache {name}: it needs {', '.join(missing)}")
    for argument, value in values.items():
        kind = parameters[argument].annotation
        if kind is not inspect.Parameter.empty and not arguments.fits(value, kind):
            raise ValueError(f"cache {name}: {argument} = {value!r}. Valid: {inspect.formatannotation(kind)}")
    return CACHES[name](**{**supplied, **values})


public.declare(__name__)
