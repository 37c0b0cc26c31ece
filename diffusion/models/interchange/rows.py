"""Maps tensors of another library's file to parts of our parameters and back, by the rows of one table for each family.

A family's table is a list of rows, written once and used in both directions:

    Row("blocks.3.attn1.to_q.weight", "blocks/attention/qkv/kernel", DENSE, at=(3, slice(None), 0))

means that their tensor, transposed, is layer 3, query, of our stacked and fused kernel [L, D, 3, heads, size].
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Layout(NamedTuple):
    """The same numbers in two arrangements.

    Attributes:
        to_ours: (their array, shape of our part) -> our part.
        to_theirs: our part -> their array; the inverse.
    """

    to_ours: Callable[[Any, tuple[int, ...]], Any]
    to_theirs: Callable[[Any], Any]


SAME = Layout(lambda a, shape: a, lambda a: a)
# A bias or a scale: theirs is a vector, and ours may be split into heads.
VECTOR = Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape(-1))
# A dense layer: theirs [out, in], ours [in, *out].
DENSE = Layout(lambda a, shape: a.T.reshape(shape), lambda a: a.reshape(a.shape[0], -1).T)
# A dense layer over several axes (the heads of attention): theirs [out, in], ours [*in, out].
DENSE_OUT = Layout(lambda a, shape: a.T.reshape(shape), lambda a: a.reshape(-1, a.shape[-1]).T)
# A convolution: theirs [out, in, H, W], ours [H, W, in, out].
CONV = Layout(lambda a, shape: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# A 1x1 convolution that is a dense layer of ours: theirs [out, in, 1, 1], ours [in, *out].
POINT = Layout(lambda a, shape: a[:, :, 0, 0].T.reshape(shape), lambda a: a.reshape(a.shape[0], -1).T[:, :, None, None])
# A table of positions: theirs [1, rows columns, D], ours [rows, columns, D].
GRID = Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape(1, -1, a.shape[-1]))


def with_ones(before: int = 0, after: int = 0) -> Layout:
    """The layout of an array that has axes of length 1 only in the other library.

    Args:
        before, after: numbers of these axes before and after its own axes.
    """
    return Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape((1,) * before + a.shape + (1,) * after))


LEADING = with_ones(before=1)


def patches(side: int) -> Layout:
    """The layout of a patch embedding: theirs a strided convolution [out, C, p, p], ours a dense layer [p p C, out].

    Args:
        side: p, of a patch in pixels; the values of our token are row by row, channels last.
    """
    return Layout(
        lambda a, shape: a.transpose(2, 3, 1, 0).reshape(shape),
        lambda a: a.reshape(side, side, -1, a.shape[-1]).transpose(3, 2, 0, 1),
    )


BLOCK = 128  # numbers along each of two axes: a block of theirs and one of ours stay in the processor's caches


def fill(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Copies `theirs`, of the same shape, into `ours`; a transposed array block by block, in a third of the time.

    Args:
        ours: an array in the order of C.
        theirs: an array in any order of its axes; its numbers are converted to the type of `ours`.
    """
    nearest = min(range(theirs.ndim), key=lambda axis: (theirs.shape[axis] == 1, theirs.strides[axis]), default=0)
    inner = theirs.ndim - 1  # the axis of ours that is cut: the first of those whose numbers make a block
    while inner > nearest + 1 and math.prod(theirs.shape[inner:]) < BLOCK:
        inner -= 1
    if inner <= nearest or min(theirs.shape[nearest], math.prod(theirs.shape[inner:])) < BLOCK:
        ours[...] = theirs
        return
    steps = [1] * inner + [max(1, BLOCK // math.prod(theirs.shape[inner + 1 :]))]
    steps[nearest] = BLOCK
    for begin in itertools.product(*(range(0, side, step) for side, step in zip(theirs.shape, steps))):
        block = tuple(slice(first, first + step) for first, step in zip(begin, steps))
        ours[block] = theirs[block].astype(ours.dtype, order="K")  # in their order first: it reads each row once


class Row(NamedTuple):
    """One line of a table: a tensor of the other library, or some rows of it, and the part of our leaf that it fills.

    Attributes:
        theirs: its name in the file.
        ours: the leaf's path among our parameters, "blocks/mlp/hidden/kernel".
        layout: the conversion between the two.
        at: index of the part in our leaf, such as `(3, slice(None), 0)`; () is the whole leaf.
        rows: (start, stop) along the first axis of theirs, if rows of a table share one tensor; None for all of it.
        copies: names of further tensors of theirs with the same numbers, which are compared, and written too.
    """

    theirs: str
    ours: str
    layout: Layout = SAME
    at: tuple = ()
    rows: tuple[int, int] | None = None
    copies: tuple[str, ...] = ()


Block = tuple[tuple[int, int], ...]
"""The part of a leaf that a device holds: (begin, stop) along each of its axes."""


class Mismatch(ValueError):
    """The tensors of a file differ from the table; the message names them and the expected shapes."""


def stacked(rows: Iterable[Row], layer: int) -> list[Row]:
    """The rows of one layer, for leaves whose first axis counts the layers of a scan.

    Args:
        rows: rows of the layer, without that axis.
        layer: its index along the first axis of our leaves.
    """
    return [row._replace(at=(layer, *row.at)) for row in rows]


def within(rows: Iterable[Row], theirs: str = "", ours: str = "") -> list[Row]:
    """The same rows with a prefix before their names, ours, or both.

    Args:
        rows: rows of a part of a network.
        theirs: prefix of each of their names, with its dot: "down_blocks.0.".
        ours: prefix of each of our paths, with its slash: "down_0/".
    """
    longer = lambda names: tuple(theirs + name for name in names)
    return [row._replace(theirs=theirs + row.theirs, ours=ours + row.ours, copies=longer(row.copies)) for row in rows]


def linear(theirs: str, ours: str, kernel: Layout = DENSE, at: tuple = (), bias: bool = True) -> list[Row]:
    """The rows of a dense layer: "weight" to "kernel" and, if it has one, "bias" to "bias".

    Args:
        theirs: its name, "blocks.0.attn.proj".
        ours: its path, "blocks/attention/out".
        kernel: layout of the kernel, DENSE or DENSE_OUT.
        at: index of the part in our kernel; the bias omits the axis of inputs.
        bias: whether it has one.
    """
    rows = [Row(f"{theirs}.weight", f"{ours}/kernel", kernel, at)]
    outputs = tuple(index for index in at if index != slice(None))
    return rows + [Row(f"{theirs}.bias", f"{ours}/bias", VECTOR, outputs)] * bias


def mlp(hidden: str, out: str, ours: str) -> list[Row]:
    """The rows of two dense layers, such as an MLP and the embedding of a time.

    Args:
        hidden: their name of the first, "mlp.fc1".
        out: their name of the second.
        ours: the beginning of our two paths, before "hidden" and "out", such as "mlp/".
    """
    return linear(hidden, f"{ours}hidden") + linear(out, f"{ours}out")


def two_linear(theirs: str, ours: str) -> list[Row]:
    """The rows of `mlp` as diffusers names the two layers of its embeddings: linear_1 and linear_2.

    Args:
        theirs: their name of the embedding, "time_embed.timestep_embedder".
        ours: the beginning of our two paths, such as "time/".
    """
    return mlp(f"{theirs}.linear_1", f"{theirs}.linear_2", ours)


def conv(theirs: str, ours: str) -> list[Row]:
    """The rows of a convolution of pictures."""
    return linear(theirs, ours, CONV)


def side_by_side(theirs: Iterable[str], ours: str, bias: bool = True) -> list[Row]:
    """The rows of several of their dense layers that are one layer here, such as fused queries, keys and values.

    Args:
        theirs: their names, in the order of the second axis of our kernel [in, K, *out].
        ours: the path of our layer.
        bias: whether they have biases.
    """
    return [row for part, name in enumerate(theirs) for row in linear(name, ours, at=(slice(None), part), bias=bias)]


def cut(theirs: str, ours: Iterable[str], width: int, bias: bool = True) -> list[Row]:
    """The rows of one of their dense layers whose outputs are, in order, the outputs of several of our layers.

    Args:
        theirs: its name before "weight" and "bias": "attn.qkv." or "attn.in_proj_".
        ours: the paths of ours, in the order of its outputs.
        width: number of outputs of each.
        bias: whether it has one.
    """
    rows = []
    for part, path in enumerate(ours):
        outputs = (part * width, (part + 1) * width)
        rows.append(Row(f"{theirs}weight", f"{path}/kernel", DENSE, rows=outputs))
        rows += [Row(f"{theirs}bias", f"{path}/bias", VECTOR, rows=outputs)] * bias
    return rows


def norm(theirs: str, ours: str, affine: bool = True) -> list[Row]:
    """The rows of a norm with a scale and a bias; none for one without parameters."""
    return affine * [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def query_key_norms(theirs: str, ours: str, layout: Layout = SAME) -> list[Row]:
    """The rows of the scales that normalise queries and keys.

    Args:
        theirs: their whole name of a scale, with {0} for "query" or "key", or {1} for its first letter.
        ours: our path of the attention.
        layout: layout of a scale.
    """
    return [Row(theirs.format(name, name[0]), f"{ours}/{name}_norm/scale", layout) for name in ("query", "key")]


def layers(layer: Sequence[Row], depth: int, theirs: str, ours: str, first: int = 0) -> list[Row]:
    """The rows of a stack of equal layers.

    Args:
        layer: rows of one layer, by its own names.
        depth: number of layers.
        theirs: prefix before the number of a layer, "encoder.layer.".
        ours: path of the stack, with its slash.
        first: their number of the first layer.
    """
    return [row for i in range(depth) for row in within(stacked(layer, i), f"{theirs}{first + i}.", ours)]


def renamed(table: Iterable[Row], parts: Mapping[str, str]) -> list[Row]:
    """The same rows with other names of theirs.

    Args:
        table: the rows.
        parts: {a part of their names: what stands in its place}, replaced in this order.
    """
    replaced = lambda name: functools.reduce(lambda name, pair: name.replace(*pair), parts.items(), name)
    return [row._replace(theirs=replaced(row.theirs)) for row in table]


def names(table: Iterable[Row]) -> set[str]:
    """The names of all their tensors in a table."""
    return {name for row in table for name in (row.theirs, *row.copies)}


def check_cover(table: Sequence[Row], leaves: Mapping[str, Any]) -> None:
    """Refuses a table that does not fill every leaf exactly once.

    Args:
        table: the rows.
        leaves: our leaves by path, anything with a shape.

    Raises:
        ValueError: naming the leaf.
    """
    filled = {path: np.zeros(_outer(table, path, leaf.shape), np.int32) for path, leaf in leaves.items()}
    for row in table:
        if row.ours not in leaves:
            raise ValueError(f"the table names {row.ours!r}, but the network has no such parameter")
        filled[row.ours][row.at] += 1
    for path, counts in filled.items():
        if not (counts == 1).all():
            raise ValueError(
                f"the table must fill each part of {path} {leaves[path].shape} exactly once, but fills it "
                f"{counts.min()} to {counts.max()} times"
            )


def _outer(table: Sequence[Row], path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The leaf's shape up to the last axis that a row indexes, so that counting is as cheap as the index."""
    return shape[: max((len(row.at) for row in table if row.ours == path), default=0)]


def their_shapes(table: Sequence[Row], leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape that each of their tensors must have, by name.

    Args:
        table: the rows.
        leaves: our leaves by path, anything with a shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for row in table:
        shape = _shape_after(row.layout.to_theirs, part_shape(leaves[row.ours].shape, row.at))
        if row.rows is not None:
            if shape[0] != row.rows[1] - row.rows[0]:
                raise ValueError(f"rows {row.rows} of {row.theirs} must be {shape[0]} rows")
            shape = (max(row.rows[1], shapes.get(row.theirs, (0,))[0]), *shape[1:])
        shapes |= dict.fromkeys((row.theirs, *row.copies), shape)
    return shapes


@functools.lru_cache(4096)  # cached: the blocks of a network repeat a few layouts and shapes
def _shape_after(function: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    return jax.eval_shape(function, jax.ShapeDtypeStruct(shape, np.float32)).shape


def part_shape(shape: tuple[int, ...], at: tuple) -> tuple[int, ...]:
    """The shape of `leaf[at]` for a leaf of this shape."""
    return np.broadcast_to(np.int8(0), shape)[at].shape


def common(at: tuple, block: Block) -> tuple[tuple, tuple] | None:
    """The numbers that a part of our leaf and a block of it have in common.

    Args:
        at: index of the part in the leaf, as in `Row`.
        block: the block.

    Returns:
        Their index in the block, and their index in the part; None if they have none in common.
    """
    in_block, in_part = [], []
    for axis, (begin, stop) in enumerate(block):
        entry = at[axis] if axis < len(at) else slice(None)
        if isinstance(entry, int):
            if not begin <= entry < stop:
                return None
            in_block.append(entry - begin)
            continue
        first = entry.start or 0
        lower, upper = max(begin, first), stop if entry.stop is None else min(stop, entry.stop)
        if lower >= upper:
            return None
        in_block.append(slice(lower - begin, upper - begin))
        in_part.append(slice(lower - first, upper - first))
    return tuple(in_block), tuple(in_part)


def compare(expected: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Refuses a file with a missing, a superfluous or a misshapen tensor.

    Args:
        expected: shapes by name, from the table.
        shapes: shapes by name, from the file.
        what: the file and the architecture, for the message.

    Raises:
        Mismatch: naming the first few of each kind.
    """
    problems = [f"{name} {list(shape)} is missing" for name, shape in expected.items() if name not in shapes]
    problems += [f"{name} {list(shape)} is superfluous" for name, shape in shapes.items() if name not in expected]
    problems += [
        f"{name} has shape {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    if problems:
        more = f", and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise Mismatch(f"{what}: {'; '.join(problems[:6])}{more}.")


def first_difference(expected: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The first tensor, in the network's order, that is missing, has another shape or is not the network's, in words.

    Args:
        expected: shapes by name, from the table.
        shapes: shapes by name, from the file.

    Returns:
        What differs, for a message; "" if nothing does.
    """
    for name, shape in expected.items():
        if name not in shapes:
            return f"{name} {list(shape)} is missing"
        if tuple(shapes[name]) != tuple(shape):
            return f"{name} has the shape {list(shapes[name])}, not {list(shape)}"
    return next((f"it has no {name}, which the file has" for name in shapes if name not in expected), "")
