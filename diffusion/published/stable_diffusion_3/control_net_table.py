"""SD 3's ControlNets by diffusers' names: the parameters of the transformer's first layers, of a hint and residuals."""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, Fields, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Group, Inline
from diffusion.models.interchange.joint_rows import stream_rows
from diffusion.models.interchange.rows import Row, layers, linear, patches
from diffusion.published.stable_diffusion_3 import table as mmdit_tables
from diffusion.published.stable_diffusion_3.control_net import MMDiTControlNet

NAME = "SD3ControlNetModel"
TEXT_WIDTH = 4096  # default of joint_attention_dim
ENDS = ("final", "last_block/")  # the parts of a transformer that a ControlNet lacks
EMBEDDING = ("patch_embedding/", "positions_table")
WORDS = ("text_embedding/", "blocks/", "dual_blocks/")


def table(module: MMDiTControlNet) -> list[Row]:
    """All rows of a ControlNet."""
    base = module.base.clone(depth=module.depth + 1, dual=min(module.base.dual, module.depth))
    lacks = (*ENDS, *(() if module.embeds else EMBEDDING), *(() if module.text else WORDS))
    rows = [row for row in mmdit_tables.table("diffusers")(base) if not row.ours.startswith(lacks)]
    if not module.text:
        layer = stream_rows(joint_rows.DIFFUSERS[0], "image", False)
        rows += layers(layer, module.depth, "transformer_blocks.", "blocks/")
    rows += linear("pos_embed_input.proj", "hint_embedding", patches(base.patch))
    for k in range(module.depth):
        rows += linear(f"controlnet_blocks.{k}", f"residual_{k}")
    return rows


def _layers(fields: Fields, ours: Mapping[str, Any]) -> int:
    """The number of layers of a transformer: a ControlNet's, those with a second attention, and a last one."""
    dual = fields.take("dual_attention_layers", (), mmdit_tables.LAYERS_VALID)
    return max(ours["depth"], len(dual)) + 1


def _text_width(fields: Fields, ours: Mapping[str, Any]) -> int:
    """The width of a transformer's text, also where the ControlNet reads none."""
    return fields.take("joint_attention_dim", TEXT_WIDTH, MAYBE_SIZE) or TEXT_WIDTH


def _read_text(width: int | None, ours: Mapping[str, Any]) -> bool:
    """Whether the ControlNet reads the text."""
    if width is None and ours["base"].dual:
        raise ValueError(
            f"dual_attention_layers = {tuple(range(ours['base'].dual))} have no effect without joint_attention_dim."
        )
    return width is not None


def _read_positions(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the ControlNet embeds the latents itself."""
    embeds, positions = values.values()
    if embeds and positions != "sincos":
        raise ValueError(f"pos_embed_type = {positions!r} is not supported; supported: 'sincos'.")
    return {"embeds": embeds}


CONFIG = FieldTable(
    NAME,
    MMDiTControlNet,
    (
        Field("num_layers", "depth", 18, DEPTH),
        Inline("base", mmdit_tables.CONFIG, {"num_layers": _layers, "joint_attention_dim": _text_width}),
        Field(
            "joint_attention_dim",
            "text",
            TEXT_WIDTH,
            MAYBE_SIZE,
            _read_text,
            write=lambda module: module.base.text_width if module.text else None,
        ),
        Group(
            {"use_pos_embed": (True, None), "pos_embed_type": ("sincos", schema.ANY)},
            _read_positions,
            lambda module: {"use_pos_embed": module.embeds, "pos_embed_type": "sincos"},
        ),
        Field(
            "extra_conditioning_channels",
            "hint_channels",
            0,
            DEPTH,
            read=lambda extra, ours: ours["base"].channels + extra,
            write=lambda module: module.hint_channels - module.base.channels,
        ),
        Choice("force_zeros_for_pooled_projection", "pooled", {True: False, False: True}),
    ),
)


def example(module: MMDiTControlNet) -> tuple:
    """Arguments of a small call."""
    x, t, condition = mmdit_tables.FAMILY.example(module.base)
    hint = array(*x.shape[:3], module.hint_channels)
    return x if module.embeds else array(1, 1, module.base.width), t, condition, hint


FAMILY = CONFIG.family(example, {"diffusers": table})
FAMILIES = {FAMILY.name: FAMILY}
