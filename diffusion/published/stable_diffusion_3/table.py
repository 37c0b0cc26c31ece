"""SD3's transformer by the names of diffusers' SD3Transformer2DModel and of Stability AI's single files."""

from collections.abc import Callable, Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, prompted
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Group, width_of_heads
from diffusion.models.interchange.joint_rows import StreamNames, projection_rows, shift_and_scale, stream_rows
from diffusion.models.interchange.rows import GRID, Row, linear, patches, stacked, within
from diffusion.published.stable_diffusion_3.network import MMDiT

NAME = "SD3Transformer2DModel"
LAYERS_VALID = schema.several(DEPTH)  # valid values of dual_attention_layers
LAYERS = {  # {layout: names of a layer's picture stream, text stream and second attention}
    "diffusers": (
        *joint_rows.DIFFUSERS,
        (("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"), ("attn2.norm_q.weight", "attn2.norm_k.weight")),
    ),
    "original": (
        *(
            StreamNames(
                f"{stream}_block.adaLN_modulation.1",
                (f"{stream}_block.attn.qkv", f"{stream}_block.attn.proj"),
                (f"{stream}_block.attn.ln_q.weight", f"{stream}_block.attn.ln_k.weight"),
                (f"{stream}_block.mlp.fc1", f"{stream}_block.mlp.fc2"),
            )
            for stream in ("x", "context")
        ),
        (("x_block.attn2.qkv", "x_block.attn2.proj"), ("x_block.attn2.ln_q.weight", "x_block.attn2.ln_k.weight")),
    ),
}
ENDS = {  # ours: (diffusers', the original)
    "conditioning/time/hidden": ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    "conditioning/time/out": ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    "conditioning/pooled/hidden": ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    "conditioning/pooled/out": ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    "text_embedding": ("context_embedder", "context_embedder"),
    "final": ("proj_out", "final_layer.linear"),
}


def table(layout: str) -> Callable[[MMDiT], list[Row]]:
    """The rows of a network, by the names of a layout.

    Args:
        layout: "diffusers" or "original".
    """
    diffusers = layout == "diffusers"
    image, text, second = LAYERS[layout]

    def rows(module: MMDiT) -> list[Row]:
        positions, patch, block, norm = (
            ("pos_embed.pos_embed", "pos_embed.proj", "transformer_blocks", "norm_out.linear")
            if diffusers
            else ("pos_embed", "x_embedder.proj", "joint_blocks", "final_layer.adaLN_modulation.1")
        )
        picture = stream_rows(image, "image", module.qk_norm)
        joint = picture + stream_rows(text, "text", module.qk_norm)
        dual = joint + projection_rows(second[0], second[1] if module.qk_norm else (), "self_attention")
        ends = shift_and_scale(text.modulation, "text/modulation", module.width, diffusers)
        ends += projection_rows(text.attention, text.norms if module.qk_norm else (), "text/attention", out=False)

        table = [
            # It is read, not computed: the original code leaves a buffer of zeros for the file to fill, and does not
            # say how the published numbers were computed.
            Row(positions, "positions_table", GRID),
            *linear(patch, "patch_embedding", patches(module.patch)),
            *shift_and_scale(norm, "final_modulation", module.width, diffusers),
        ]
        for ours, theirs in ENDS.items():
            table += linear(theirs[0 if diffusers else 1], ours)
        for i in range(module.depth):
            if i < module.dual:
                table += within(stacked(dual, i), f"{block}.{i}.", "dual_blocks/")
            elif i < module.depth - 1:
                table += within(stacked(joint, i - module.dual), f"{block}.{i}.", "blocks/")
            else:
                table += within(picture + ends, f"{block}.{i}.", "last_block/")
        return table

    return rows


def _dual(layers: tuple[int, ...], ours: Mapping[str, Any]) -> int:
    """The number of layers with a second attention, which are the first."""
    if layers != tuple(range(len(layers))) or len(layers) >= ours["depth"]:
        raise ValueError(
            f"dual_attention_layers = {layers} is not supported. Supported: the first of the {ours['depth']} layers "
            "in order, without the last."
        )
    return len(layers)


def _text_projection(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    (size,) = values.values()
    if size != ours["width"]:
        raise ValueError(
            f"caption_projection_dim = {size} must be the width of the picture's tokens, num_attention_heads * "
            f"attention_head_dim = {ours['width']}."
        )
    return {}


CONFIG = FieldTable(
    NAME,
    MMDiT,
    (
        Field("sample_size", "sample_size", 128),
        Field("patch_size", "patch", 2),
        Field("in_channels", "channels", 16),
        Field("num_layers", "depth", 18, DEPTH),
        *width_of_heads(18, 64),
        Field("joint_attention_dim", "text_width", 4096),
        Group(
            {"caption_projection_dim": (1152, None)},
            _text_projection,
            write=lambda module: {"caption_projection_dim": module.width},
        ),
        Field("pooled_projection_dim", "pooled_width", 2048),
        Field(
            "out_channels",
            "out_channels",
            16,
            MAYBE_SIZE,
            read=lambda channels, ours: ours["channels"] if channels is None else channels,
        ),
        Field("pos_embed_max_size", "positions", 96),
        Field("dual_attention_layers", "dual", (), LAYERS_VALID, _dual, write=lambda module: tuple(range(module.dual))),
        Choice("qk_norm", "qk_norm", {None: False, "rms_norm": True}),
    ),
)


def _published(heads: int, positions: int, dual: int = 0, qk_norm: str | None = "rms_norm") -> dict[str, Any]:
    """A published config: one layer for each head, and 64 features in a head."""
    return {
        "num_layers": heads,
        "num_attention_heads": heads,
        "caption_projection_dim": 64 * heads,
        "pos_embed_max_size": positions,
        "dual_attention_layers": list(range(dual)),
        "qk_norm": qk_norm,
    }


FAMILY = CONFIG.family(
    prompted(),
    {layout: table(layout) for layout in LAYERS},
    published={
        "SD3-medium": _published(24, 192, qk_norm=None),
        "SD3.5-medium": _published(24, 384, dual=13),
        "SD3.5-large": _published(38, 192),
    },
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
