"""The cost of a network: the multiply-adds of one forward pass, and its parameters; no array is made."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from diffusion.experiments.remake.claims import Published
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.layers import scan

MOST_LAYERS = 1000
XLA = "{}: Gflops, XLA's count"


def cost_figures(name: str, gflops: float, millions: float) -> dict[str, float]:
    """The figures of a network's cost: 10^9 multiply-adds of a forward pass, and 10^6 parameters."""
    return {f"{name}: Gflops": gflops, f"{name}: parameters, millions": millions}


def published_costs(table: Mapping[str, tuple[float, float]], half_width: float) -> list[Published]:
    """The published figures of a table {network: (Gflops, millions of parameters)}.

    Args:
        table: the table, in the order of the paper.
        half_width: half a unit of the last digit of its Gflops; parameters are printed in whole millions.
    """
    widths = (half_width, 0.5)
    return [
        Published(figure, value, width)
        for name, costs in table.items()
        for (figure, value), width in zip(cost_figures(name, *costs).items(), widths, strict=True)
    ]


def network_cost(network: Any, shape: tuple[int, ...]) -> tuple[float, float]:
    """Counts one example's forward pass of a class-conditional network.

    Args:
        network: the module, called as (x, clock, labels).
        shape: the shape of one example.

    Returns:
        (10^9 multiply-adds of products and convolutions, 10^6 parameters).
    """
    inputs, variables = _traced(network, shape)
    return counted_flops(network.apply, variables, *inputs) / 2e9, _millions(variables)


def measured_cost(name: str, network: Any, shape: tuple[int, ...]) -> dict[str, float]:
    """The figures of a network's cost, and XLA's count beside them."""
    figures = cost_figures(name, *network_cost(network, shape))
    return figures | {XLA.format(name): xla_gflops(network, shape)}


def xla_gflops(network: Any, shape: tuple[int, ...]) -> float:
    """10^9 multiply-adds of one example's forward pass by XLA's count of the program.

    XLA counts additions and the like too, of a convolution no products with padding, and a scanned body once: all
    layers stand in one turn of their scan.
    """
    inputs, variables = _traced(network, shape)
    with mock.patch.dict(scan.UNROLLED, dict.fromkeys(scan.UNROLLED, MOST_LAYERS)):
        lowered = jax.jit(network.apply).lower(variables, *inputs)
    return (lowered.cost_analysis() or {})["flops"] / 2e9


def parameters(network: Any, shape: tuple[int, ...]) -> float:
    """10^6 parameters of a class-conditional network for examples of a shape."""
    return _millions(_traced(network, shape)[1])


def _traced(network: Any, shape: tuple[int, ...]) -> tuple[tuple, Any]:
    """The shapes of a network's inputs and of its variables."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    clock = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    return (x, clock, labels), jax.eval_shape(network.init, jax.random.key(0), x, clock, labels)


def _millions(variables: Any) -> float:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
