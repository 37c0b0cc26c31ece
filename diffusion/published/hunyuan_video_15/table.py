"""HunyuanVideo 1.5's transformer by the names of diffusers' HunyuanVideo15Transformer3DModel."""

from diffusion.models.interchange.family import DEPTH, SIZES, array, prompted
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.joint_rows import DIFFUSERS, both_streams, shift_and_scale
from diffusion.models.interchange.rows import Row, layers, linear, norm, two_linear, within
from diffusion.published.hunyuan_video.network import THETA
from diffusion.published.hunyuan_video.table import refiner_rows
from diffusion.published.hunyuan_video_15.network import HunyuanVideo15
from diffusion.published.wan.autoencoder_table import PIXEL

NAME = "HunyuanVideo15Transformer3DModel"

GLYPH_ROWS = [
    *norm("context_embedder_2.norm", "glyph_embedding/norm"),
    *linear("context_embedder_2.linear_1", "glyph_embedding/hidden_0"),
    *linear("context_embedder_2.linear_2", "glyph_embedding/hidden_1"),
    *linear("context_embedder_2.linear_3", "glyph_embedding/out"),
]
"""The rows of the embedding of words in quotes."""


def text_rows(refiners: int) -> list[Row]:
    """The rows of the text's refiner, by the number of its layers."""
    refiner, refined = "context_embedder.", "context_embedder.time_text_embed."
    rows = [
        *linear(f"{refiner}proj_in", "refiner/enter"),
        *two_linear(f"{refined}timestep_embedder", "refiner/conditioning/time/"),
        *two_linear(f"{refined}text_embedder", "refiner/conditioning/pooled/"),
    ]
    for i in range(refiners):
        rows += within(refiner_rows("diffusers"), f"{refiner}token_refiner.refiner_blocks.{i}.", f"refiner/block_{i}/")
    return rows


def table(module: HunyuanVideo15) -> list[Row]:
    """The rows of a network."""
    return [
        *linear("x_embedder.proj", "patch_embedding", PIXEL),
        *two_linear("time_embed.timestep_embedder", "time/"),
        Row("cond_type_embed.weight", "kinds"),
        *text_rows(module.refiners),
        *GLYPH_ROWS,
        *norm("image_embedder.norm_in", "picture_embedding/norm_in"),
        *two_linear("image_embedder", "picture_embedding/"),
        *norm("image_embedder.norm_out", "picture_embedding/norm_out"),
        *shift_and_scale("norm_out.linear", "final_modulation", module.width, True),
        *linear("proj_out", "final"),
        *layers(both_streams(DIFFUSERS), module.depth, "transformer_blocks.", "blocks/"),
    ]


CONFIG = FieldTable(
    NAME,
    HunyuanVideo15,
    (
        Field("out_channels", "channels", 32),
        Follows("in_channels", lambda module: 2 * module.channels + 1, default=65),
        *width_of_heads(16, 128),
        Field("num_layers", "depth", 54, DEPTH),
        Field("num_refiner_layers", "refiners", 2, DEPTH),
        Follows("mlp_ratio", 4.0),
        Follows("patch_size", 1),
        Follows("patch_size_t", 1),
        Follows("qk_norm", "rms_norm"),
        Field("text_embed_dim", "text_width", 3584),
        Field("text_embed_2_dim", "glyph_width", 1472),
        Field("image_embed_dim", "patch_width", 1152),
        Follows("rope_theta", THETA),
        Field("rope_axes_dim", "axes", (16, 56, 56), SIZES),
        Field("target_size", "side", 640),
        Choice("task_type", "from_image", {"i2v": True, "t2v": False}),
        Follows("use_meanflow", False),
    ),
)


def _example(module: HunyuanVideo15) -> tuple:
    x, t, condition = prompted(1, 1, 1, masked=True)(module)
    condition |= {"glyphs": array(1, 1, module.glyph_width), "glyph_mask": array(1, 1, dtype=bool)}
    condition |= {"patches": array(1, 1, module.patch_width)} if module.from_image else {}
    return x, t, condition


FAMILY = CONFIG.family(
    _example,
    {"diffusers": table},
    published={
        "HunyuanVideo-1.5, 480p": {"task_type": "t2v"},
        "HunyuanVideo-1.5, 480p, from an image": {"task_type": "i2v"},
    },
)
FAMILIES = {FAMILY.name: FAMILY}
