"""Counts the multiply-adds of a network's forward pass and its parameters, without computing any array."""

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from diffusion.experiments.remake.claims import Published, Remake
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.layers import scan

MOST_LAYERS = 1000
FIGURES = ("{}: Gflops", "{}: parameters, millions")
XLA = "{}: Gflops, XLA's count"


def network_cost(network: Any, shape: tuple[int, ...]) -> tuple[float, float]:
    """Counts one example's forward pass of a class-conditional network.

    Args:
        network: the module, called as (x, clock, labels).
        shape: the shape of one example.

    Returns:
        The number of multiply-adds in products and convolutions, in units of 10^9, and of parameters, in 10^6.
    """
    inputs, variables = _traced(network, shape)
    return counted_flops(network.apply, variables, *inputs) / 2e9, _millions(variables)


def cost_remake(
    table: Mapping[str, tuple[float, float]],
    network: Callable[[str], tuple[Any, tuple[int, ...]]],
    half_widths: Mapping[str, float] | None = None,
    count: Callable[[Any, tuple[int, ...]], tuple[float, float]] = network_cost,
    unstated: str = "what is counted. We count matrix products and convolutions; a multiply and an add are one flop.",
    **fields: Any,
) -> Remake:
    """The remake of a table of networks' Gflops and parameters, with XLA's count of the Gflops beside them.

    Args:
        table: {network: (Gflops, millions of parameters)}, in the order of the paper; Gflops are 10^9 multiply-adds of
            a forward pass.
        network: a function from a name in the table to (module, shape of one example).
        half_widths: {network: half a unit of the last printed digit of its Gflops}; 0.5 for networks that are missing,
            and for the parameters, which are printed in whole millions.
        count: a function (module, shape) -> (Gflops, millions of parameters).
        unstated: the choice that the paper does not state.
        **fields: the name, title, paper and place, and other fields of `Remake`.
    """

    def measure(part: str, quick: bool) -> dict[str, float]:
        del quick
        module, shape = network(part)
        costs = (*count(module, shape), xla_gflops(module, shape))
        return {figure.format(part): cost for figure, cost in zip((*FIGURES, XLA), costs, strict=True)}

    published = [
        Published(figure.format(name), cost, width)
        for name, costs in table.items()
        for figure, cost, width in zip(FIGURES, costs, ((half_widths or {}).get(name, 0.5), 0.5), strict=True)
    ]
    beside = [XLA.format(part) for part in table]
    source = "the paper's text"
    return Remake(
        published=published,
        parts=list(table),
        measure=measure,
        beside=beside,
        source=source,
        unstated=[unstated],
        **fields,
    )


def xla_gflops(network: Any, shape: tuple[int, ...]) -> float:
    """Half of XLA's count of the operations of one example's forward pass, in units of 10^9.

    XLA also counts additions and other elementwise operations, but no products of a convolution with its padding. It
    counts the body of a scan once; therefore the scans of layers are unrolled here.
    """
    inputs, variables = _traced(network, shape)
    with mock.patch.dict(scan.UNROLLED, dict.fromkeys(scan.UNROLLED, MOST_LAYERS)):
        lowered = jax.jit(network.apply).lower(variables, *inputs)
    return (lowered.cost_analysis() or {})["flops"] / 2e9


def parameters(network: Any, shape: tuple[int, ...]) -> float:
    """The number of parameters of a class-conditional network for examples of a shape, in units of 10^6."""
    return _millions(_traced(network, shape)[1])


def _traced(network: Any, shape: tuple[int, ...]) -> tuple[tuple, Any]:
    """The shapes of a network's inputs and of its variables."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    clock = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    return (x, clock, labels), jax.eval_shape(network.init, jax.random.key(0), x, clock, labels)


def _millions(variables: Any) -> float:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
