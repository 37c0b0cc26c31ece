"""Infilling: any positions may be known, and a sampler draws the others."""

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
from diffusion.discrete.processes import check_symbols
from diffusion.discrete.sampling_loop import SymbolSampler, require_symbol_sampler
from diffusion.timesteps import Plan


def infilling(sampler: SymbolSampler, values: Array, known: Array) -> SymbolSampler:
    """The sampler with fixed values at known positions.

    For masks, a known symbol is unmasked from the start and after every step. With the exact predictor, an exact
    sampler then follows the exact conditional distribution. For other processes, known symbols are drawn from q(x_s |
    x_0) after every step, and equal the values at s = 0. The network then sees noise as in training, but the other
    positions were drawn given different noise, so the distribution is exact only for independent positions.

    Facts:
        nfe: the sampler's
        paper: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution"; for
            other processes the replacement of Lugmayr et al. 2022, "RePaint"

    Args:
        sampler: any sampler of symbols.
        values: int `[B, ...]` symbols, or `[...]` if all examples share them; symbols at unknown positions are ignored.
        known: Bool in the shape of values, True at known positions.

    Raises:
        ValueError: if values and known have different shapes; when sampling, if they do not have the shape of x or of
            an example, or a known value is the mask or not a symbol of the process.
    """
    require_symbol_sampler(sampler)
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
        if not (isinstance(values, Tracer) or isinstance(known, Tracer)):
            chosen = np.asarray(values)[np.asarray(known, bool)]
            check_symbols(process, chosen, "infilling: values")
            if process.mask is not None and np.any(chosen == process.mask):
                raise ValueError(
                    f"infilling: a known value is the mask symbol, {process.mask}. Valid: symbols of the data"
                )
        if process.mask is None:
            return sampler.init(x, process, plan)  # at t = 1, known positions are noise as well
        return sampler.init(jnp.where(known, jnp.asarray(values, jnp.int32), x.astype(jnp.int32)), process, plan)

    def step(state: Any, predict: Predictor, process: AnyPath, plan: Plan, i: ArrayLike, keys: Array) -> Any:
        if process.mask is not None:
            state = sampler.step(state, predict, process, plan, i, keys)
            return _with_sample(state, jnp.where(known, jnp.asarray(values, jnp.int32), state[0]))
        step_keys, value_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        state = sampler.step(state, predict, process, plan, i, step_keys)
        clean = jnp.broadcast_to(jnp.asarray(values), state[0].shape)
        noised = draw(value_keys, process.marginal(clean, jnp.broadcast_to(jnp.asarray(plan.s)[i], (len(clean),))))
        return _with_sample(state, jnp.where(known, noised, state[0]))

    return sampler._replace(init=init, step=step)


def _with_sample(state: Any, x: Array) -> Any:
    """The state with another current sample, which is its first element."""
    return state._replace(**{state._fields[0]: x}) if hasattr(state, "_fields") else (x, *state[1:])
