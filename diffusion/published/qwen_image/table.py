"""Qwen-Image's transformer by the names of diffusers' QwenImageTransformer2DModel; its authors have the same."""

from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange.family import DEPTH, SIZES, array, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group, width_of_heads
from diffusion.models.interchange.joint_rows import DIFFUSERS, both_streams, shift_and_scale
from diffusion.models.interchange.rows import Row, layers, linear, two_linear
from diffusion.published.flux.table import PACKED_IN, packed_out
from diffusion.published.qwen_image.network import PATCH, QwenImage

NAME = "QwenImageTransformer2DModel"
STREAMS = [
    names._replace(modulation=f"{theirs}_mod.1", mlp=(f"{theirs}_mlp.net.0.proj", f"{theirs}_mlp.net.2"))
    for theirs, names in zip(("img", "txt"), DIFFUSERS)
]


def table(module: QwenImage) -> list[Row]:
    """The rows of a network."""
    rows = [
        *linear("img_in", "patch_embedding", PACKED_IN),
        Row("txt_norm.weight", "text_norm/scale"),
        *linear("txt_in", "text_embedding"),
        *two_linear("time_text_embed.timestep_embedder", "time/"),
        *shift_and_scale("norm_out.linear", "final_modulation", module.width, True),
        *packed_out("proj_out"),
        *layers(both_streams(STREAMS), module.depth, "transformer_blocks.", "blocks/"),
    ]
    if module.layered:
        rows.append(Row("time_text_embed.addition_t_embedding.weight", "kinds/embedding"))
    return rows


LAYERS = ("use_additional_t_cond", "use_layer3d_rope")


def _read_layers(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    if len(set(values.values())) > 1:
        raise ValueError(f"{values}: of these two fields, both or neither must be true.")
    return {"layered": values["use_layer3d_rope"]}


def _example(module: QwenImage) -> tuple:
    x, t, condition = prompted(PATCH, PATCH, masked=True)(module)
    if not module.layered:
        return x, t, condition
    return array(1, 1, *x.shape[1:]), t, condition | {"pictures": (x,)}


CONFIG = FieldTable(
    NAME,
    QwenImage,
    (
        Follows("patch_size", PATCH),
        Field("out_channels", "channels", 16),
        Follows("in_channels", lambda module: PATCH**2 * module.channels, default=64),
        *width_of_heads(24, 128),
        Field("num_layers", "depth", 60, DEPTH),
        Field("joint_attention_dim", "text_width", 3584),
        Follows("guidance_embeds", False),
        Field("axes_dims_rope", "axes", (16, 56, 56), SIZES),
        Field("zero_cond_t", "clean", False),
        Group(
            {"use_additional_t_cond": (False, None), "use_layer3d_rope": (False, None)},
            _read_layers,
            lambda module: dict.fromkeys(LAYERS, module.layered) if module.layered else {},
        ),
    ),
    unread={"pooled_projection_dim": None},
)

FAMILY = CONFIG.family(
    _example,
    {"diffusers": table},
    published={"Qwen-Image": {}, "Qwen-Image-Layered": dict.fromkeys(LAYERS, True)},
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
