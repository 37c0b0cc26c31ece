"""Weights stored in 8 bits: int8 or fp8 with a scale for each output channel, and dequantised in the product."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = {"int8": (jnp.int8, 127.0), "fp8": (jnp.float8_e4m3fn, 448.0)}
"""Types by their names, with the largest number of each."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A kernel as values of 8 bits times a scale: a pytree node in the place of the array, which layers read as one.

    Where a layer asks for an array (`jnp.asarray`) it becomes values * scale, so that a scan over layers holds one
    layer's floats at a time.

    Attributes:
        values: int8 or float8_e4m3fn, of the kernel's shape.
        scale: float32 with the kernel's number of axes; an axis that a product sums over has length 1, or the number of
            blocks for a file in blocks.
    """

    values: Any
    scale: Any

    def __jax_array__(self) -> jax.Array:
        """float32 values * scale."""
        scale = self.scale
        for axis, side in enumerate(self.values.shape):
            if scale.shape[axis] not in (1, side):
                scale = jnp.repeat(scale, side // scale.shape[axis], axis)
        return self.values.astype(scale.dtype) * scale

    shape = property(lambda self: self.values.shape)
    ndim = property(lambda self: self.values.ndim)
    dtype = property(lambda self: self.scale.dtype)


class Stored(NamedTuple):
    """The effect of quantisation on parameters: bytes and errors.

    Attributes:
        before, after: bytes of all parameters.
        error: root mean square of the kernels' error over the kernels' root mean square.
        largest: largest error of a value, as a share of the largest value of its channel.
        kernels: number of arrays that are quantised.
    """

    before: int
    after: int
    error: float
    largest: float
    kernels: int

    def __str__(self) -> str:
        """The text that a command prints."""
        return (
            f"{self.kernels} kernels in 8 bits: {self.after / 1e6:.1f} MB in place of {self.before / 1e6:.1f}, "
            f"error {100 * self.error:.2f} % rms, at most {100 * self.largest:.2f} % of a channel's largest"
        )


def quantised(params: Any, kind: str) -> Any:
    """Parameters whose kernels are stored in 8 bits; biases, norms, tables and embeddings stay as they are.

        values = round(kernel / scale),    scale = max |kernel| of a channel / 127    (int8)

    In fp8 (e4m3) the scale is the power of two from max |kernel| / 448 upwards, so that the product with it is exact
    and a kernel of powers of two from 2^-9 scale on stays what it is. The error of a value is at most 1/16 of it, or
    2^-10 scale where that is larger: smaller values of a channel become 0. A channel is an output of a layer, and each
    layer of a stack has its own. Only storage changes: activations and products stay in the network's compute type.

    Args:
        params: parameters of a Linen network, a tree with "kernel" leaves.
        kind: "int8" or "fp8".

    Returns:
        The tree with `Quantised` in the place of each kernel; the network's `apply` takes it as it takes params.

    Raises:
        ValueError: for another kind, or parameters without kernels, or whose kernels are quantised.
    """
    if kind not in KINDS:
        raise ValueError(f"quantised = {kind!r}. Valid: {', '.join(KINDS)}")
    if has_quantised(params):
        raise ValueError("the kernels of these parameters are already quantised")
    result = _each(params, False, lambda kernel, axes: _quantise(kernel, axes, kind))
    if not any(isinstance(leaf, Quantised) for leaf in jax.tree.leaves(result, is_leaf=is_quantised)):
        raise ValueError("these parameters have no kernel to quantise. Valid: the parameters of a Linen network")
    return result


def stored(before: Any, after: Any) -> Stored:
    """The bytes and the errors of quantised parameters beside the original ones.

    Args:
        before: the parameters.
        after: the result of `quantised` for them.
    """
    size = lambda tree: int(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))
    square, error, largest, number = 0.0, 0.0, 0.0, 0
    for kernel, node in zip(jax.tree.leaves(before), jax.tree.leaves(after, is_leaf=is_quantised), strict=True):
        if not isinstance(node, Quantised):
            continue
        number += 1
        axes = tuple(i for i in range(node.ndim) if node.scale.shape[i] != node.shape[i])
        values = [float(value) for value in _compared(jnp.asarray(kernel), node, axes)]
        square, error, largest = square + values[0], error + values[1], max(largest, values[2])
    return Stored(size(before), size(after), (error / square) ** 0.5 if square else 0.0, largest, number)


@functools.partial(jax.jit, static_argnames=("axes",))
def _compared(kernel: jax.Array, node: Quantised, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    kernel = kernel.astype(jnp.float32)
    difference = jnp.abs(jnp.asarray(node) - kernel)
    top = jnp.max(jnp.abs(kernel), axis=axes, keepdims=True)
    share = jnp.where(top > 0, difference / jnp.where(top > 0, top, 1), 0)
    return jnp.sum(kernel**2), jnp.sum(difference**2), jnp.max(share)


@functools.partial(jax.jit, static_argnames=("axes", "kind"))
def _quantise(kernel: jax.Array, axes: tuple[int, ...], kind: str) -> Quantised:
    dtype, top = KINDS[kind]
    kernel = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(kernel), axis=axes, keepdims=True) / top
    if kind == "fp8":
        fraction, exponent = jnp.frexp(scale)
        scale = jnp.ldexp(jnp.float32(1), exponent - (fraction == 0.5))
    scale = jnp.where(scale >= jnp.finfo(jnp.float32).tiny, scale, 1)
    values = kernel / scale
    return Quantised((jnp.rint(values) if kind == "int8" else values).astype(dtype), scale)


def _each(tree: Any, stacked: bool, change: Any) -> Any:
    """The tree with (kernel, its summed axes) changed; `stacked`: the first axis counts layers."""
    if not isinstance(tree, Mapping):
        return tree
    if "kernel" in tree and hasattr(tree["kernel"], "ndim"):
        axes = _summed(tree["kernel"].shape[stacked:], getattr(tree.get("bias"), "shape", ())[stacked:])
        changed = {"kernel": change(tree["kernel"], tuple(axis + stacked for axis in axes))} if axes else {}
        return {**tree, **changed}
    stacked = stacked or _is_stack(tree)
    return {name: _each(entry, stacked, change) for name, entry in tree.items()}


def _is_stack(tree: Mapping[str, Any]) -> bool:
    """Whether the first axis of all arrays of a module counts the layers of a scan: they share its length."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    kernels = [leaf for path, leaf in leaves if path[-1] == jax.tree_util.DictKey("kernel")]
    lengths = {leaf.shape[:1] for _, leaf in leaves}
    return len(lengths) == 1 and () not in lengths and bool(kernels) and all(leaf.ndim >= 3 for leaf in kernels)


def _summed(kernel: tuple[int, ...], bias: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a layer's kernel that its product sums over: all but its bias's axes.

    Without a bias the last is the output's, or all but the first where that is wider than the next: [D, heads, size],
    [D, 3, heads, size].
    """
    outputs = len(bias) if bias and kernel[len(kernel) - len(bias) :] == bias else 0
    if not outputs:
        outputs = len(kernel) - 1 if len(kernel) > 2 and kernel[0] > kernel[1] else 1
    return tuple(range(len(kernel) - outputs))


def has_quantised(params: Any) -> bool:
    """Whether a network has kernels in 8 bits."""
    return any(map(is_quantised, jax.tree.leaves(params, is_leaf=is_quantised)))


def is_quantised(node: Any) -> bool:
    """Whether a node of a pytree is a kernel in 8 bits; an `is_leaf` of `jax.tree`."""
    return isinstance(node, Quantised)
