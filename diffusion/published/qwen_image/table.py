"""Qwen-Image's transformer by the names of diffusers' QwenImageTransformer2DModel; its authors have the same."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.joint_rows import DIFFUSERS, shift_and_scale, stream_rows
from diffusion.models.interchange.rows import Row, linear, stacked, within
from diffusion.published.flux.table import PACKED_BIAS, PACKED_IN, PACKED_OUT
from diffusion.published.qwen_image.network import PATCH, QwenImage

NAME = "QwenImageTransformer2DModel"
STREAMS = {
    ours: names._replace(modulation=f"{theirs}_mod.1", mlp=(f"{theirs}_mlp.net.0.proj", f"{theirs}_mlp.net.2"))
    for ours, theirs, names in zip(("image", "text"), ("img", "txt"), DIFFUSERS)
}


def table(module: QwenImage) -> list[Row]:
    """The rows of a network."""
    rows = [
        *linear("img_in", "patch_embedding", PACKED_IN),
        Row("txt_norm.weight", "text_norm/scale"),
        *linear("txt_in", "text_embedding"),
        *linear("time_text_embed.timestep_embedder.linear_1", "time/hidden"),
        *linear("time_text_embed.timestep_embedder.linear_2", "time/out"),
        *shift_and_scale("norm_out.linear", "final_modulation", module.width, True),
        Row("proj_out.weight", "final/kernel", PACKED_OUT),
        Row("proj_out.bias", "final/bias", PACKED_BIAS),
    ]
    layer = [row for ours, names in STREAMS.items() for row in stream_rows(names, ours, True)]
    for i in range(module.depth):
        rows += within(stacked(layer, i), f"transformer_blocks.{i}.", "blocks/")
    return rows


def build(config: Mapping[str, Any]) -> QwenImage:
    """Our module for a config.json of QwenImageTransformer2DModel."""
    fields = Fields(NAME, config, ("pooled_projection_dim",))
    fields.only("patch_size", PATCH)
    fields.only("guidance_embeds", False)
    inputs = fields.take("in_channels", 64)
    outputs = fields.take("out_channels", 16, MAYBE_SIZE) or inputs
    if inputs != PATCH**2 * outputs:
        raise Refusal(f"{NAME}: in_channels = {inputs} is not supported; supported: 4 out_channels, {4 * outputs}.")
    heads = fields.take("num_attention_heads", 24)
    module = QwenImage(
        channels=outputs,
        width=heads * fields.take("attention_head_dim", 128),
        depth=fields.take("num_layers", 60, DEPTH),
        heads=heads,
        text_width=fields.take("joint_attention_dim", 3584),
        axes=fields.take("axes_dims_rope", (16, 56, 56), SIZES),
    )
    fields.end()
    return module


def describe(module: QwenImage) -> dict[str, Any]:
    """The config.json of one of our modules; the inverse of `build`."""
    return {
        "patch_size": PATCH,
        "in_channels": PATCH**2 * module.channels,
        "out_channels": module.channels,
        "num_layers": module.depth,
        "attention_head_dim": module.width // module.heads,
        "num_attention_heads": module.heads,
        "joint_attention_dim": module.text_width,
        "guidance_embeds": False,
        "axes_dims_rope": list(module.axes),
    }


def example(module: QwenImage) -> tuple:
    """Arguments of a small call."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    condition = {"text": array(1, 1, module.text_width), "text_mask": jax.ShapeDtypeStruct((1, 1), jnp.bool_)}
    return array(1, PATCH, PATCH, module.channels), array(1), condition


FAMILY = Family(
    NAME,
    QwenImage,
    build,
    describe,
    example,
    {"diffusers": table},
    published={"Qwen-Image": {}},
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
