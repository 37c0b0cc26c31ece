"""Rows and fields that LightningDiT shares with the networks whose code was derived from its code."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion.models.interchange.attention_layouts import cut_heads, neighbours, rotary
from diffusion.models.interchange.family import Computed
from diffusion.models.interchange.field_table import Choice, Field, Follows
from diffusion.models.interchange.rows import DENSE_OUT, Row, linear, mlp, query_key_norms
from diffusion.models.layers.embeddings import rope_angles


def block_rows(module: Any, width: int, heads: int) -> list[Row]:
    """The rows of a block, with names relative to the block.

    Args:
        module: a network with the fields `norm`, `mlp` and `qk_norm`.
        width: number of features of a token in the block.
        heads: number of heads of the block's attention.
    """
    turned = rotary(neighbours(width // heads))
    table = [
        *linear("adaLN_modulation.1", "modulation/dense"),
        *cut_heads("attn.qkv", width, turned),
        *linear("attn.proj", "attention/out", DENSE_OUT),
    ]
    if module.norm == "scaled_rmsnorm":
        table.append(Row("norm1.weight", "attention_norm/scale"))
        table.append(Row("norm2.weight", "mlp_norm/scale"))
    if module.qk_norm:
        table += query_key_norms("attn.{1}_norm.weight", "attention", turned.scale)
    hidden, out = ("w12", "w3") if module.mlp == "swiglu" else ("fc1", "fc2")
    return table + mlp(f"mlp.{hidden}", f"mlp.{out}", "mlp/")


def switch(theirs: str, ours: str, default: bool, on: Any, off: Any) -> Choice:
    """A field of the published config that selects one of two values of our field.

    Args:
        theirs: the published name of the field.
        ours: the name of our field.
        default: the published default.
        on: the value of our field if the published field is True.
        off: the value of our field if the published field is False or null.
    """
    return Choice(theirs, ours, {default: on if default else off} | {True: on, False: off, None: off})


def _qk_norm(normed: bool, ours: Mapping[str, Any]) -> bool:
    if normed and ours["norm"] != "scaled_rmsnorm":
        raise ValueError("use_qknorm = True is supported only with use_rmsnorm = True.")
    return normed


def options(default: bool) -> tuple[Choice | Field | Follows, ...]:
    """The fields of LightningDiT's config that select variants; the fields of positions differ from class to class.

    Args:
        default: whether the published fields for SwiGLU and RMSNorm are True by default.
    """
    return (
        switch("use_rmsnorm", "norm", default, "scaled_rmsnorm", "layernorm"),
        switch("use_swiglu", "mlp", default, "swiglu", "gelu"),
        Field("use_qknorm", "qk_norm", False, read=_qk_norm),
        Follows("wo_shift", False, silent=True),
    )


def rotary_tables(name: str, side: int, head_size: int, others: int = 0) -> dict[str, Computed]:
    """The published tables of rotary positions (`VisionRotaryEmbeddingFast`): each cosine and sine twice side by side.

    Args:
        name: the published name of the module that holds the tables.
        side: side of a square grid, in tokens.
        head_size: number of features of a head.
        others: number of tokens before those of the grid, which are not rotated.

    Returns:
        {name of a tensor: how to compute it}; each tensor is [others + side^2, head_size].
    """

    def table(function: Callable[[np.ndarray], np.ndarray]) -> Computed:
        def make() -> np.ndarray:
            angles = rope_angles(side, side, head_size).reshape(side**2, -1).astype(np.float64)
            angles = np.pad(angles, ((others, 0), (0, 0)))
            return np.repeat(function(angles), 2, axis=-1).astype(np.float32)

        return Computed((others + side**2, head_size), make)

    return {f"{name}.freqs_cos": table(np.cos), f"{name}.freqs_sin": table(np.sin)}
