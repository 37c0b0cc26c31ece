"""SD3's transformer by the names of diffusers' SD3Transformer2DModel and of Stability AI's single files."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZE, Family, Fields, Refusal
from diffusion.models.interchange.joint_rows import StreamNames, projection_rows, shift_and_scale, stream_rows
from diffusion.models.interchange.rows import Layout, Row, linear, patches, stacked, within
from diffusion.published.stable_diffusion_3.network import MMDiT

NAME = "SD3Transformer2DModel"
LAYERS_VALID = schema.several(DEPTH)  # of dual_attention_layers
# The table of positions is read, not computed: the original code leaves a buffer of zeros for the file to fill, and
# does not say how the published numbers were computed.
TABLE = Layout(lambda a, shape: a.reshape(shape), lambda a: a.reshape(1, -1, a.shape[-1]))
LAYERS = {  # by layout: of a layer the picture's stream, the text's, and the second attention
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
            Row(positions, "positions_table", TABLE),
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


def build(config: Mapping[str, Any]) -> MMDiT:
    """Our module for a config.json of SD3Transformer2DModel."""
    fields = Fields(NAME, config)
    heads, depth, channels = (
        fields.take(name, default, valid)
        for name, default, valid in (
            ("num_attention_heads", 18, SIZE),
            ("num_layers", 18, DEPTH),
            ("in_channels", 16, SIZE),
        )
    )
    width = heads * fields.take("attention_head_dim", 64)
    if fields.take("caption_projection_dim", 1152) != width:
        raise Refusal(
            f"{NAME}: caption_projection_dim = {config.get('caption_projection_dim', 1152)} is not the width "
            f"of the picture's tokens, num_attention_heads * attention_head_dim = {width}."
        )
    dual = fields.take("dual_attention_layers", (), LAYERS_VALID)
    if dual != tuple(range(len(dual))) or len(dual) >= depth:
        raise Refusal(
            f"{NAME}: dual_attention_layers = {dual} is not supported; supported are the first of the "
            f"{depth} layers, without the last."
        )
    out_channels = fields.take("out_channels", 16, MAYBE_SIZE)
    module = MMDiT(
        channels=channels,
        out_channels=channels if out_channels is None else out_channels,
        patch=fields.take("patch_size", 2),
        width=width,
        depth=depth,
        heads=heads,
        text_width=fields.take("joint_attention_dim", 4096),
        pooled_width=fields.take("pooled_projection_dim", 2048),
        positions=fields.take("pos_embed_max_size", 96),
        sample_size=fields.take("sample_size", 128),
        dual=len(dual),
        qk_norm=fields.only("qk_norm", None, "rms_norm") is not None,
    )
    fields.end()
    return module


def describe(module: MMDiT) -> dict[str, Any]:
    """The config.json of one of our modules."""
    return {
        "sample_size": module.sample_size,
        "patch_size": module.patch,
        "in_channels": module.channels,
        "num_layers": module.depth,
        "attention_head_dim": module.width // module.heads,
        "num_attention_heads": module.heads,
        "joint_attention_dim": module.text_width,
        "caption_projection_dim": module.width,
        "pooled_projection_dim": module.pooled_width,
        "out_channels": module.out_channels,
        "pos_embed_max_size": module.positions,
        "dual_attention_layers": list(range(module.dual)),
        "qk_norm": "rms_norm" if module.qk_norm else None,
    }


def example(module: MMDiT) -> tuple:
    """Arguments of a small call."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    condition = {"text": array(1, 1, module.text_width), "pooled": array(1, module.pooled_width)}
    return array(1, module.patch, module.patch, module.channels), array(1), condition


def _published(heads: int, positions: int, dual: int = 0, qk_norm: str | None = "rms_norm") -> dict[str, Any]:
    """A published config: one layer for each head, and 64 features in a head."""
    return {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": heads,
        "attention_head_dim": 64,
        "num_attention_heads": heads,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 64 * heads,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": positions,
        "dual_attention_layers": list(range(dual)),
        "qk_norm": qk_norm,
    }


FAMILY = Family(
    NAME,
    MMDiT,
    build,
    describe,
    example,
    {layout: table(layout) for layout in LAYERS},
    published={
        "SD3-medium": _published(24, 192, qk_norm=None),
        "SD3.5-medium": _published(24, 384, dual=13),
        "SD3.5-large": _published(38, 192),
    },
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
