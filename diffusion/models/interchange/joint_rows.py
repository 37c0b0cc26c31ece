"""Rows of the layers of `models.layers.joint_blocks`, with any names: the shared part of SD3's and Flux's tables."""

from collections.abc import Sequence
from typing import NamedTuple

from diffusion.models.interchange.rows import DENSE_OUT, Row, linear, mlp, side_by_side, within


class StreamNames(NamedTuple):
    """Their names of one stream's part of a joint layer.

    Attributes:
        modulation: name of adaLN's layer.
        attention: names of queries, keys and values, three of them or one of all together, and of the projection out.
        norms: whole names of the norms of queries and keys, with ".weight" or ".scale".
        mlp: names of both layers.
    """

    modulation: str
    attention: tuple[str, ...]
    norms: tuple[str, str]
    mlp: tuple[str, str]


# Diffusers' names of a joint layer's streams, the picture's and the text's.
DIFFUSERS = (
    StreamNames(
        "norm1.linear",
        ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        ("attn.norm_q.weight", "attn.norm_k.weight"),
        ("ff.net.0.proj", "ff.net.2"),
    ),
    StreamNames(
        "norm1_context.linear",
        ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        ("attn.norm_added_q.weight", "attn.norm_added_k.weight"),
        ("ff_context.net.0.proj", "ff_context.net.2"),
    ),
)


def projection_rows(attention: tuple[str, ...], norms: tuple[str, ...], ours: str, out: bool = True) -> list[Row]:
    """The rows of `Projections`.

    Args:
        attention: names as in `StreamNames`.
        norms: names as in `StreamNames`; () if queries and keys are not normalised.
        ours: path of our module.
        out: whether it has a projection out.
    """
    *enter, leave = attention
    if len(enter) == 1:
        rows = linear(enter[0], f"{ours}/qkv")
    else:
        rows = side_by_side(enter, f"{ours}/qkv")
    rows += [Row(name, f"{ours}/{which}_norm/scale") for which, name in zip(("query", "key"), norms)]
    return rows + (linear(leave, f"{ours}/out", DENSE_OUT) if out else [])


def stream_rows(names: StreamNames, ours: str, qk_norm: bool) -> list[Row]:
    """The rows of a `Stream` that continues after its layer.

    Args:
        names: theirs.
        ours: "image" or "text".
        qk_norm: whether queries and keys are normalised.
    """
    rows = linear(names.modulation, "modulation/dense")
    rows += projection_rows(names.attention, names.norms if qk_norm else (), "attention")
    return within(rows + mlp(*names.mlp, "mlp/"), ours=f"{ours}/")


def both_streams(names: Sequence[StreamNames]) -> list[Row]:
    """The rows of a joint layer with norms, of their names of the picture's stream and of the text's."""
    return [row for one, ours in zip(names, ("image", "text")) for row in stream_rows(one, ours, True)]


def shift_and_scale(theirs: str, ours: str, width: int, scale_first: bool) -> list[Row]:
    """The rows of an adaLN of two vectors, whose order in diffusers is the reverse of ours and the original code's.

    Args:
        theirs: name of the dense layer.
        ours: path of our `Modulation`.
        width: number of features of a vector.
        scale_first: whether theirs begins with the scale.
    """
    if not scale_first:
        return linear(theirs, f"{ours}/dense")
    halves = [(0, width), (width, 2 * width)]
    return [
        row._replace(rows=half)
        for i, half in zip((1, 0), halves)
        for row in linear(theirs, f"{ours}/dense", at=(slice(None), i))
    ]
