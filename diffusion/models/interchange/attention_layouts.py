"""Layouts of attention with queries, keys and values from one layer; ours is [C, 3, heads, size]."""

from typing import NamedTuple

import numpy as np

from diffusion.models.interchange.rows import DENSE, VECTOR, Layout, Row, linear

OURS = "ihd"  # which of q, k, v; the head; the feature of the head


def fused(order: str, ones: int = 0) -> tuple[Layout, Layout]:
    """Layouts of the kernel and the bias of such a layer.

    Args:
        order: order of their rows from the outermost to the innermost: "ihd" as ours, "hid" if the queries, keys and
            values of a head are adjacent, "hdi" if the three of a feature are.
        ones: number of axes of length 1 after theirs [3 C, C], for a 1x1 convolution.

    Returns:
        (kernel: theirs [3 C, C, 1, ...], ours [C, 3, heads, size]; bias: theirs [3 C], ours [3, heads, size]).
    """
    to_ours = tuple(order.index(axis) for axis in OURS)
    to_theirs = tuple(OURS.index(axis) for axis in order)

    def split(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[OURS.index(axis) - 3] for axis in order)

    kernel = Layout(
        lambda a, shape: a.reshape(*split(shape), -1).transpose(3, *to_ours),
        lambda a: a.transpose(*(axis + 1 for axis in to_theirs), 0).reshape(-1, a.shape[0], *(1,) * ones),
    )
    bias = Layout(
        lambda a, shape: a.reshape(split(shape)).transpose(to_ours), lambda a: a.transpose(to_theirs).reshape(-1)
    )
    return kernel, bias


def interleaved(ones: int = 0) -> Layout:
    """The layout of a kernel with rows in the order "hdi"; ours is [C, 3 C] in the order "ihd".

    Args:
        ones: axes of length 1 after theirs.
    """
    kernel, _ = fused("hdi", ones)
    return Layout(
        lambda a, shape: kernel.to_ours(a, (shape[0], 3, 1, shape[0])).reshape(shape),
        lambda a: kernel.to_theirs(a.reshape(a.shape[0], 3, 1, -1)),
    )


def point_out(ones: int) -> Layout:
    """The layout of the projection after the heads: theirs [C, C, 1, ...], ours [heads, size, C] or [C, C]."""
    return Layout(
        lambda a, shape: np.reshape(a, a.shape[:2]).T.reshape(shape),
        lambda a: a.reshape(-1, a.shape[-1]).T.reshape(a.shape[-1], -1, *(1,) * ones),
    )


class Rotary(NamedTuple):
    """Layouts of queries and keys whose rotated pairs stand elsewhere in a head than ours; scores do not change.

    Ours stand as in `layers.embeddings.rotate`: the row's pairs, then the column's, the pair i of features i and
    i + D / 4 of its half.

    Attributes:
        kernel: theirs [heads D, C], ours [C, heads, D].
        bias: theirs [heads D], ours [heads, D].
        scale: theirs and ours [D], the scale of a norm of queries or keys.
    """

    kernel: Layout
    bias: Layout
    scale: Layout


def rotary(order: np.ndarray) -> Rotary:
    """The layouts for one order of a head's features.

    Args:
        order: [D], for each of our features the index of theirs.
    """
    back = np.argsort(order)
    size = len(order)
    kernel = Layout(
        lambda a, shape: a.reshape(-1, size, a.shape[-1])[:, order].transpose(2, 0, 1),
        lambda a: a[..., back].transpose(1, 2, 0).reshape(-1, a.shape[0]),
    )
    bias = Layout(lambda a, shape: a.reshape(-1, size)[:, order], lambda a: a[..., back].reshape(-1))
    return Rotary(kernel, bias, Layout(lambda a, shape: a[order], lambda a: a[back]))


def cut_heads(theirs: str, width: int, turned: Rotary, bias: bool = True) -> list[Row]:
    """The rows of their one layer of queries, keys and values, in this order; ours is "attention/qkv".

    Args:
        theirs: its name.
        width: number of outputs of each of the three.
        turned: the layouts of queries and keys.
        bias: whether it has one.
    """
    rows = []
    for i, layouts in enumerate((turned, turned, (DENSE, VECTOR))):
        part = linear(theirs, "attention/qkv", at=(slice(None), i), bias=bias)
        outputs = (i * width, (i + 1) * width)
        rows += [row._replace(layout=layout, rows=outputs) for row, layout in zip(part, layouts)]
    return rows


def neighbours(size: int) -> np.ndarray:
    """The order of heads that rotate neighbouring features, first with the row, then with the column.

    Args:
        size: features of a head, D; 4 divides it.
    """
    return np.arange(size).reshape(2, size // 4, 2).transpose(0, 2, 1).reshape(-1)


def alternating(size: int) -> np.ndarray:
    """The order of heads that rotate neighbouring features, in turn with the column and with the row.

    Args:
        size: features of a head, D; 4 divides it.
    """
    return np.arange(size).reshape(size // 4, 2, 2)[:, ::-1].transpose(1, 2, 0).reshape(-1)
