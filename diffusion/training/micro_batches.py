"""The best number of micro-batches of a step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
from jax.sharding import Mesh

NUMBER = 4  # number of micro-batches on one CPU device; docs/speed.md has the measurements


def number(batch_size: int, mesh: Mesh, block: int = 1) -> int:
    """The number of micro-batches of the fastest step, by a rule: four on one CPU device, one anywhere else.

    On a CPU the activations of a part stay nearer to the cores and take a quarter of the memory; the sums of the
    gradients cost little. An accelerator needs large products. A network that `convolves` should also take its batch
    whole.

    Args:
        batch_size: examples in a step, >= 1.
        mesh: the mesh of the devices that the step runs on.
        block: the number of consecutive examples that stay in one part, >= 1 (see `Objective.examples`).

    Returns:
        The number; it divides the batch, and each part divides into blocks.
    """
    alone = mesh.size == 1 and jax.default_backend() == "cpu"
    return NUMBER if alone and batch_size % (NUMBER * block) == 0 else 1


def convolves(function: Callable, *args: Any) -> bool:
    """Whether a function convolves; XLA's derivative of a convolution takes 25 times as long inside a loop on a CPU.

    Cutting a picture into patches does not count.

    Args:
        function: the function to trace, e.g. a network's forward pass.
        args: its arguments, arrays or their shapes.
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
