"""AuraFlow's transformer by the names of diffusers' AuraFlowTransformer2DModel and of its authors' single files."""

import math
from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.joint_rows import shift_and_scale
from diffusion.models.interchange.rows import (
    DENSE_OUT,
    GRID,
    LEADING,
    Layout,
    Row,
    layers,
    linear,
    mlp,
    patches,
    side_by_side,
    within,
)
from diffusion.published.auraflow.network import AuraFlow

NAME = "AuraFlowTransformer2DModel"


# Their names of adaLN; of queries, keys, values and the layer out of the attention; of the MLP's gate, of the layer
# beside it and of the layer out.
_Names = tuple[str, tuple[str, ...], tuple[str, ...]]


def _original(modulation: str, number: int, mlp: str) -> _Names:
    attention = tuple(f"attn.w{number}{part}" for part in "qkvo")
    return f"{modulation}.1", attention, tuple(f"{mlp}.c_{part}" for part in ("fc1", "fc2", "proj"))


PICTURE, TEXT = (
    (names.modulation, names.attention, tuple(f"{mlp}.{part}" for part in ("linear_1", "linear_2", "out_projection")))
    for names, mlp in zip(joint_rows.DIFFUSERS, ("ff", "ff_context"))
)
STREAMS = {  # {layout: names of the picture's stream, of the text's, and of both as one}
    "diffusers": (PICTURE, TEXT, PICTURE),
    "original": (_original("modX", 2, "mlpX"), _original("modC", 1, "mlpC"), _original("modCX", 1, "mlp")),
}
STACKS = {
    "diffusers": ("joint_transformer_blocks.", "single_transformer_blocks."),
    "original": ("double_layers.", "single_layers."),
}
ENDS = {  # ours: (diffusers', the original)
    "patch_embedding": ("pos_embed.proj", "init_x_linear"),
    "positions": ("pos_embed.pos_embed", "positional_encoding"),
    "registers": ("register_tokens", "register_tokens"),
    "text_embedding": ("context_embedder", "cond_seq_linear"),
    "time/hidden": ("time_step_proj.linear_1", "t_embedder.mlp.0"),
    "time/out": ("time_step_proj.linear_2", "t_embedder.mlp.2"),
    "final_modulation": ("norm_out.linear", "modF.1"),
    "final": ("proj_out", "final_linear"),
}


def _by_pixel(patch: int) -> Layout:
    """The layout of the patch embedding: theirs orders the values of a token by channel, ours by pixel."""
    conv = patches(patch)
    return Layout(
        lambda a, shape: conv.to_ours(a.reshape(len(a), -1, patch, patch), shape),
        lambda a: conv.to_theirs(a).reshape(a.shape[-1], -1),
    )


def _stream(theirs: _Names, ours: str) -> list[Row]:
    modulation, (*enter, leave), (*hidden, out) = theirs
    rows = [
        *linear(modulation, "modulation/dense", bias=False),
        *side_by_side(enter, "attention/qkv", bias=False),
        *linear(leave, "attention/out", DENSE_OUT, bias=False),
        *side_by_side(hidden, "mlp/hidden", bias=False),
        *linear(out, "mlp/out", bias=False),
    ]
    return within(rows, ours=f"{ours}/")


def table(module: AuraFlow, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    names = {ours: theirs[layout == "original"] for ours, theirs in ENDS.items()}
    rows = [
        *linear(names["patch_embedding"], "patch_embedding", _by_pixel(module.patch)),
        Row(names["positions"], "positions", GRID),
        Row(names["registers"], "registers", LEADING),
        *linear(names["text_embedding"], "text_embedding", bias=False),
        *mlp(names["time/hidden"], names["time/out"], "time/"),
        *linear(names["final"], "final", bias=False),
    ]
    final = shift_and_scale(names["final_modulation"], "final_modulation", module.width, layout == "diffusers")
    rows += [row for row in final if not row.theirs.endswith(".bias")]
    picture, text, both = STREAMS[layout]
    joint, single = STACKS[layout]
    rows += layers(_stream(picture, "image") + _stream(text, "text"), module.depth, joint, "blocks/")
    return rows + layers(_stream(both, "tokens"), module.singles, single, "single_blocks/")


def _side(number: int, ours: Mapping[str, Any]) -> int:
    side = math.isqrt(number)
    if side * side != number:
        raise ValueError(f"pos_embed_max_size = {number} is not supported; supported: squares, such as 1024.")
    return side


CONFIG = FieldTable(
    NAME,
    AuraFlow,
    (
        Field("patch_size", "patch", 2),
        Field("in_channels", "channels", 4),
        Follows("out_channels", lambda module: module.channels, default=4),
        Field("num_mmdit_layers", "depth", 4, DEPTH),
        Field("num_single_dit_layers", "singles", 32, DEPTH),
        *width_of_heads(12, 256),
        Field("joint_attention_dim", "text_width", 2048),
        Follows("caption_projection_dim", lambda module: module.width, default=3072),
        Field("pos_embed_max_size", "positions", 1024, read=_side, write=lambda module: module.positions**2),
    ),
    unread={"sample_size": None},
)

FAMILY = CONFIG.family(
    prompted(),
    by_layout(table, STREAMS),
    published={"AuraFlow 0.1, 0.2": {"pos_embed_max_size": 4096}, "AuraFlow 0.3": {"pos_embed_max_size": 9216}},
    prefixes=("model.diffusion_model.", "model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
