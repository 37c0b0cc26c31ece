"""The number of micro-batches in a step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
from jax.sharding import Mesh

NUMBER = 4  # number of micro-batches on one CPU device; docs/speed.md has the measurements


def number(batch_size: int, mesh: Mesh, block: int = 1) -> int:
    """The number of micro-batches with which a step is usually fastest: four on one CPU device, one elsewhere.

    On a CPU, the activations of a micro-batch take a quarter of the memory and stay in the caches, and summing the
    gradients costs little. An accelerator needs large products. A network that `convolves` should also process its
    batch at once.

    Args:
        batch_size: number of examples in a step, >= 1.
        mesh: the mesh of the devices on which the step runs.
        block: number of consecutive examples that stay in one micro-batch, >= 1 (see `Objective.examples`).

    Returns:
        The number. If four does not divide the batch into micro-batches of complete blocks, it is 1.
    """
    alone = mesh.size == 1 and jax.default_backend() == "cpu"
    return NUMBER if alone and batch_size % (NUMBER * block) == 0 else 1


def convolves(function: Callable, *args: Any) -> bool:
    """Whether a function contains convolutions, whose derivatives take 25 times as long inside a loop of XLA on a CPU.

    A convolution that only cuts a picture into patches does not count.

    Args:
        function: the function to trace, e.g. a network's forward pass.
        args: the function's arguments, arrays or their shapes.
    """
    return _convolves(jax.make_jaxpr(function)(*args).jaxpr)


def _convolves(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.params["dimension_numbers"].rhs_spec
            window = tuple(equation.invars[1].aval.shape[axis] for axis in kernel[2:])
            if window != tuple(equation.params["window_strides"]) or set(window) == {1}:
                return True
        if any(map(_convolves, jax.extend.core.jaxprs_in_params(equation.params))):
            return True
    return False
