"""Infilling: some positions are known, any of them, and a sampler draws the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.discrete.categorical import draw
from diffusion.discrete.metric_paths import AnyPath
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.timesteps import Plan


def infilling(sampler: SymbolSampler, values: Array, known: Array) -> SymbolSampler:
    """The sampler that keeps known positions.

    Under masks a known symbol shows from the start and after every step. The exact predictor then gives the conditional
    law, and samplers that are exact stay so. Under another process known symbols are drawn from q(x_s | x_0) after
    every step, and are the values at s = 0. The network sees the noise that it was trained on, but the other positions
    were drawn beside other noise: the law is exact for independent positions alone.

    Facts:
        nfe: as many as the sampler says
        paper: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution"; for
            other processes the replacement of Lugmayr et al. 2022, "RePaint"

    Args:
        sampler: any sampler of symbols.
        values: int `[B, ...]` symbols, or `[...]` if all examples share them; symbols at unknown positions are not
            read.
        known: Bool, which positions are known; of the shape of values.

    Raises:
        ValueError: if the two are of two shapes; when it samples, if they are not of the shape of x or of an example,
            or if a known value is the mask.
    """
    if jnp.shape(values) != jnp.shape(known):
        raise ValueError(
            f"infilling: values has the shape {jnp.shape(values)} and known {jnp.shape(known)}; both must have one "
            "shape"
        )

    def init(x: Array, process: AnyPath, plan: Plan) -> Any:
        if jnp.shape(known) not in (x.shape, x.shape[1:]):
            raise ValueError(
                f"infilling: x has the shape {x.shape}, but the values have {jnp.shape(known)}; both must have one "
                "shape"
            )
        if process.mask is None:
            return sampler.init(x, process, plan)  # at t = 1 known positions are noise too
        traced = isinstance(values, Tracer) or isinstance(known, Tracer)
        if not traced and np.any(np.asarray(known) & (np.asarray(values) == process.mask)):
            raise ValueError(f"infilling: a known value is the mask symbol, {process.mask}. Valid: symbols of the data")
        return sampler.init(jnp.where(known, values, x), process, plan)

    def step(state: Any, predict: Predictor, process: AnyPath, plan: Plan, i: ArrayLike, keys: Array) -> Any:
        if process.mask is not None:
            state = sampler.step(state, predict, process, plan, i, keys)
            return _with_sample(state, jnp.where(known, values, state[0]).astype(jnp.int32))
        step_keys, value_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        state = sampler.step(state, predict, process, plan, i, step_keys)
        clean = jnp.broadcast_to(jnp.asarray(values), state[0].shape)
        noised = draw(value_keys, process.marginal(clean, jnp.broadcast_to(jnp.asarray(plan.s)[i], (len(clean),))))
        return _with_sample(state, jnp.where(known, noised, state[0]))

    return sampler._replace(init=init, step=step)


def _with_sample(state: Any, x: Array) -> Any:
    """A state with another current sample, its first part."""
    return state._replace(**{state._fields[0]: x}) if hasattr(state, "_fields") else (x, *state[1:])
