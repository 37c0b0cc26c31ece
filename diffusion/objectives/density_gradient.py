"""Networks that receive the gradient of an unnormalised density, as those of path-space samplers do."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_shape
from diffusion.parameterizations import Network
from diffusion.schedules import left_broadcast


def with_density_gradient(
    network: Network,
    log_density: Callable[[Array], Array],
    gate: Callable[[Array], Array] | None = None,
    limit: float = 100.0,
) -> Network:
    """A network that knows where the density gamma rises: the published drift of path-space samplers.

        output = network(x_t, clock, g) + gate(clock) g,    g = grad log gamma at x_t, each number within +-limit

    The gradient g reaches the network as the condition's "vector" `[B, D]`, as `models.MLP` with vector_width = D takes
    it; a network that reads no vector has the form of the paper, NN_1(x, t) + NN_2(t) grad log gamma(x). The result is
    a network in any parameterization, which objectives, denoisers and samplers take like others. No derivative passes
    through g.

    Each call costs a gradient of log gamma.

    Facts:
        paper: Zhang and Chen 2022, "Path Integral Sampler", section 4, the parameterization of the control; Vargas et
            al. 2023, "Denoising Diffusion Samplers", appendix on the network

    Args:
        network: the network (x_t, clock, condition) -> output.
        log_density: x `[B, ...]` -> log gamma `[B]`, of which number b depends on example b alone.
        gate: clock `[B]` -> factors of the gradient, `[B]` or `[B, ...]`; None adds no gradient to the output.
        limit: largest size of a number of the gradient, > 0.

    Raises:
        ValueError: for a limit that is not positive; when called, for log-densities of another shape.
    """
    if not limit > 0:
        raise ValueError(f"with_density_gradient: limit = {limit} must be positive")

    def informed(x_t: Array, clock: Array, condition: Any = None) -> Array:
        values, pull = jax.vjp(log_density, x_t)
        require_shape(values, x_t.shape[:1], "the log-densities, one number a sample,")
        gradient = jax.lax.stop_gradient(jnp.clip(pull(jnp.ones_like(values))[0], -limit, limit))
        labels = condition if isinstance(condition, Mapping) else {} if condition is None else {"label": condition}
        output = network(x_t, clock, {**labels, "vector": gradient.reshape(len(x_t), -1)})
        if gate is None:
            return output
        return output + left_broadcast(gate(jnp.broadcast_to(clock, x_t.shape[:1])), gradient) * gradient

    return informed
