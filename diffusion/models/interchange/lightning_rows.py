"""Rows and fields that LightningDiT and the networks written after its code share."""

__all__ = ["block_rows", "options", "rotary_tables", "switch"]

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion.models.interchange.attention_layouts import neighbours, rotary
from diffusion.models.interchange.family import Computed
from diffusion.models.interchange.field_table import Choice, Field, Follows
from diffusion.models.interchange.rows import DENSE_OUT, Row, linear
from diffusion.models.layers.embeddings import rope_angles


def block_rows(module: Any, width: int, heads: int, theirs: str, ours: str) -> list[Row]:
    """The rows of one of its blocks.

    Args:
        module: a network with the fields `norm`, `mlp` and `qk_norm`.
        width: width of the block.
        heads: number of heads of its attention.
        theirs: its name, "blocks.0".
        ours: its path, "blocks".
    """
    turned = rotary(neighbours(width // heads))
    table = [
        *linear(f"{theirs}.adaLN_modulation.1", f"{ours}/modulation/dense"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out", DENSE_OUT),
    ]
    for i, name in enumerate("qkv"):
        kernel, bias = linear(f"{theirs}.attn.qkv", f"{ours}/attention/qkv", at=(slice(None), i))
        if name != "v":
            kernel = kernel._replace(layout=turned.kernel)
            bias = bias._replace(layout=turned.bias)
        table += [row._replace(rows=(i * width, (i + 1) * width)) for row in (kernel, bias)]
    if module.norm == "scaled_rmsnorm":
        table.append(Row(f"{theirs}.norm1.weight", f"{ours}/attention_norm/scale"))
        table.append(Row(f"{theirs}.norm2.weight", f"{ours}/mlp_norm/scale"))
    if module.qk_norm:
        table.append(Row(f"{theirs}.attn.q_norm.weight", f"{ours}/attention/query_norm/scale", turned.scale))
        table.append(Row(f"{theirs}.attn.k_norm.weight", f"{ours}/attention/key_norm/scale", turned.scale))
    hidden, out = ("w12", "w3") if module.mlp == "swiglu" else ("fc1", "fc2")
    return [
        *table,
        *linear(f"{theirs}.mlp.{hidden}", f"{ours}/mlp/hidden"),
        *linear(f"{theirs}.mlp.{out}", f"{ours}/mlp/out"),
    ]


def switch(theirs: str, ours: str, default: bool, on: Any, off: Any) -> Choice:
    """A switch in their config between two values of our field."""
    return Choice(theirs, ours, {default: on if default else off} | {True: on, False: off, None: off})


def _qk_norm(normed: bool, ours: Mapping[str, Any]) -> bool:
    if normed and ours["norm"] != "scaled_rmsnorm":
        raise ValueError("use_qknorm = True is supported only with use_rmsnorm = True.")
    return normed


def options(default: bool) -> tuple[Choice | Field | Follows, ...]:
    """The rows of its switches; each class has its own rows of positions.

    Args:
        default: default of its switches for SwiGLU and RMSNorm.
    """
    return (
        switch("use_rmsnorm", "norm", default, "scaled_rmsnorm", "layernorm"),
        switch("use_swiglu", "mlp", default, "swiglu", "gelu"),
        Field("use_qknorm", "qk_norm", False, read=_qk_norm),
        Follows("wo_shift", False, silent=True),
    )


def rotary_tables(name: str, side: int, head_size: int, others: int = 0) -> dict[str, Computed]:
    """Their tables of rotary positions (`VisionRotaryEmbeddingFast`): cosines and sines, each twice side by side.

    Args:
        name: name of their module.
        side: side of a square grid, in tokens.
        head_size: number of features of a head.
        others: number of tokens before the grid's, which are not turned.
    """

    def table(function: Callable[[np.ndarray], np.ndarray]) -> Computed:
        def make() -> np.ndarray:
            angles = rope_angles(side, side, head_size).reshape(side**2, -1).astype(np.float64)
            angles = np.pad(angles, ((others, 0), (0, 0)))
            return np.repeat(function(angles), 2, axis=-1).astype(np.float32)

        return Computed((others + side**2, head_size), make)

    return {f"{name}.freqs_cos": table(np.cos), f"{name}.freqs_sin": table(np.sin)}
