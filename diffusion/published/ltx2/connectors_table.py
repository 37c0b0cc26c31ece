"""LTX-2's connectors between Gemma 3 and its transformer: diffusers' LTX2TextConnectors."""

from typing import Any

from diffusion.models.interchange.family import BLOCKS, SIZE, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import Layout, Row, layers, mlp
from diffusion.published.ltx2.connectors import LTX2Connectors
from diffusion.published.ltx_video.table import wide_attention

NAME = "LTX2TextConnectors"
# A feature of all states, then the next: theirs [out, E K], ours [K, E, out].
STATES = Layout(
    lambda a, shape: a.reshape(shape[2], shape[1], shape[0]).transpose(2, 1, 0),
    lambda a: a.transpose(2, 1, 0).reshape(a.shape[2], -1),
)
SIZES = {
    "video_connector_num_attention_heads": (30, SIZE),
    "video_connector_attention_head_dim": (128, SIZE),
    "audio_connector_num_attention_heads": (30, SIZE),
    "audio_connector_attention_head_dim": (128, SIZE),
}


def _rows(module: LTX2Connectors) -> list[Row]:
    layer = [*wide_attention("attn1", "attention", module.gated), *mlp("ff.net.0.proj", "ff.net.2", "mlp/")]
    projections = {"video_text_proj_in": "projection", "audio_text_proj_in": "sound_projection"}
    table = []
    for theirs, ours in projections.items() if module.separate else [("text_proj_in", "projection")]:
        table.append(Row(f"{theirs}.weight", f"{ours}/kernel", STATES))
        table += [Row(f"{theirs}.bias", f"{ours}/bias")] * module.biased
    for theirs, ours in (("video_connector", "connector"), ("audio_connector", "sound_connector")):
        table.append(Row(f"{theirs}.learnable_registers", f"{ours}/registers"))
        table += layers(layer, module.depth, f"{theirs}.transformer_blocks.", f"{ours}/blocks/")
    return table


def _read_widths(values: dict[str, Any], _: Any) -> dict[str, Any]:
    heads, size, sound_heads, sound_size = values.values()
    if heads != sound_heads:
        raise ValueError(
            f"video_connector_num_attention_heads = {heads} and audio_connector_num_attention_heads = {sound_heads} "
            "must be equal."
        )
    return {"heads": heads, "width": heads * size, "sound_width": heads * sound_size}


def _write_widths(module: LTX2Connectors) -> dict[str, Any]:
    sizes = (module.heads, module.width // module.heads, module.heads, module.sound_width // module.heads)
    return dict(zip(SIZES, sizes))


CONFIG = FieldTable(
    NAME,
    LTX2Connectors,
    (
        Field("caption_channels", "text_width", 3840),
        Field("text_proj_in_factor", "states", 49, BLOCKS),
        Group(SIZES, _read_widths, _write_widths),
        Field("video_connector_num_layers", "depth", 2, BLOCKS),
        Follows("audio_connector_num_layers", lambda module: module.depth, default=2),
        Field("video_connector_num_learnable_registers", "registers", 128, SIZE),
        Follows("audio_connector_num_learnable_registers", lambda module: module.registers, default=128),
        Field("video_gated_attn", "gated", False),
        Follows("audio_gated_attn", lambda module: module.gated, default=False),
        Field("per_modality_projections", "separate", False),
        Follows(
            "video_hidden_dim",
            lambda module: module.width if module.separate else 4096,
            default=4096,
            silent=lambda module: not module.separate,
        ),
        Follows(
            "audio_hidden_dim",
            lambda module: module.sound_width if module.separate else 2048,
            default=2048,
            silent=lambda module: not module.separate,
        ),
        Field("proj_bias", "biased", False),
        Choice("rope_type", "halves", {"interleaved": False, "split": True}),
        Follows("connector_rope_base_seq_len", 4096),
        Follows("rope_theta", 10000.0),
        Follows("rope_double_precision", True),
    ),
    unread={"causal_temporal_positioning": False},
)


def _example(module: LTX2Connectors) -> tuple:
    return array(1, module.registers, module.states * module.text_width), array(1, module.registers, dtype=bool)


FAMILY = CONFIG.family(_example, {"diffusers": _rows}, published={"LTX-2": {"rope_type": "split"}})
FAMILIES = {FAMILY.name: FAMILY}
