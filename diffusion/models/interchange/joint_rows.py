"""Rows for the layers of `models.layers.joint_blocks` under any names; SD 3's and Flux's tables share them."""

from collections.abc import Sequence
from typing import NamedTuple

from diffusion.models.interchange.rows import DENSE_OUT, Row, linear, mlp, side_by_side, within


class StreamNames(NamedTuple):
    """The names in a file for one stream of a joint layer.

    Attributes:
        modulation: name of the layer of adaLN.
        attention: names of the projections to queries, keys and values (three, or one for a joint projection), and of
            the output projection.
        norms: full names of the norms of queries and keys, which end in ".weight" or ".scale".
        mlp: names of the two layers of the MLP.
    """

    modulation: str
    attention: tuple[str, ...]
    norms: tuple[str, str]
    mlp: tuple[str, str]


# Diffusers' names for the two streams of a joint layer: the picture's and the text's.
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
        out: whether the module has an output projection.
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
        names: the names in the file.
        ours: name of our stream, "image" or "text".
        qk_norm: whether queries and keys are normalised.
    """
    rows = linear(names.modulation, "modulation/dense")
    rows += projection_rows(names.attention, names.norms if qk_norm else (), "attention")
    return within(rows + mlp(*names.mlp, "mlp/"), ours=f"{ours}/")


def both_streams(names: Sequence[StreamNames]) -> list[Row]:
    """The rows of a joint layer with norms, from the names in the file for the picture's and the text's stream."""
    return [row for one, ours in zip(names, ("image", "text")) for row in stream_rows(one, ours, True)]


def shift_and_scale(theirs: str, ours: str, width: int, scale_first: bool) -> list[Row]:
    """The rows of an adaLN with a shift and a scale. Diffusers puts the scale first, our code and the original last.

    Args:
        theirs: name of the dense layer in the file.
        ours: path of our `Modulation`.
        width: number of features of a vector.
        scale_first: whether the file's layer puts the scale first.
    """
    if not scale_first:
        return linear(theirs, f"{ours}/dense")
    halves = [(0, width), (width, 2 * width)]
    return [
        row._replace(rows=half)
        for i, half in zip((1, 0), halves)
        for row in linear(theirs, f"{ours}/dense", at=(slice(None), i))
    ]
