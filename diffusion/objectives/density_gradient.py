"""Networks that receive the gradient of an unnormalised density, as in path-space samplers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import traced
from diffusion.parameterizations import Network
from diffusion.schedules import left_broadcast


def with_density_gradient(
    network: Network,
    log_density: Callable[[Array], Array],
    gate: Callable[[Array], Array] | None = None,
    limit: float = 100.0,
) -> Network:
    """A network that receives and adds the gradient of log gamma, as the published drifts of path-space samplers do.

        output = network(x_t, clock, g) + gate(clock) g,    g = grad log gamma at x_t, each number within +-limit

    The network receives g as the condition's entry "vector" `[B, D]`, which `models.MLP` with vector_width = D reads.
    With a network that ignores it, the output has the paper's form NN_1(x, t) + NN_2(t) grad log gamma(x). Objectives,
    denoisers and samplers use the result like any other network. A parameterization that scales the network's input,
    as `edm` does, moves the point at which the gradient is taken. No derivative flows through g.

    Each call costs a gradient of log gamma.

    Facts:
        paper: Zhang and Chen 2022, "Path Integral Sampler", section 4, the parameterization of the control; Vargas et
            al. 2023, "Denoising Diffusion Samplers", appendix on the network

    Args:
        network: the network (x_t, clock, condition) -> output.
        log_density: x `[B, ...]` -> log gamma `[B]`, whose number b depends only on example b.
        gate: clock `[B]` -> factors of the gradient, `[B]` or `[B, ...]`; None adds no gradient to the output.
        limit: largest size of a number of the gradient, > 0.

    Raises:
        ValueError: if limit is not positive; when called, if log_density returns another shape than `[B]`.
    """
    if not traced(limit) and not limit > 0:
        raise ValueError(f"with_density_gradient: limit = {limit} must be positive")

    def informed(x_t: Array, clock: Array, condition: Any = None) -> Array:
        values, pull = jax.vjp(log_density, x_t)
        require_shape(values, x_t.shape[:1], "the log-densities, one number for each sample,")
        gradient = jax.lax.stop_gradient(jnp.clip(pull(jnp.ones_like(values))[0], -limit, limit))
        labels = condition if isinstance(condition, Mapping) else {} if condition is None else {"label": condition}
        output = network(x_t, clock, {**labels, "vector": flattened(gradient)})
        if gate is None:
            return output
        return output + left_broadcast(gate(jnp.broadcast_to(clock, x_t.shape[:1])), gradient) * gradient

    return informed
