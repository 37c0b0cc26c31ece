"""HunyuanImage 2.1's transformer by the names of diffusers' HunyuanImageTransformer2DModel."""

from diffusion.models.interchange.family import DEPTH, SIZES, array, prompted
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, width_of_heads, zero_or_null
from diffusion.models.interchange.joint_rows import DIFFUSERS, both_streams, shift_and_scale
from diffusion.models.interchange.rows import POINT, Row, layers, linear, two_linear
from diffusion.published.flux.table import diffusers_single
from diffusion.published.hunyuan_image.network import HunyuanImage
from diffusion.published.hunyuan_video.network import THETA
from diffusion.published.hunyuan_video_15.table import GLYPH_ROWS, text_rows

NAME = "HunyuanImageTransformer2DModel"


def table(module: HunyuanImage) -> list[Row]:
    """The rows of a network."""
    times = "time_guidance_embed."
    rows = [
        *linear("x_embedder.proj", "patch_embedding", POINT),
        *two_linear(f"{times}timestep_embedder", "time/"),
        *shift_and_scale("norm_out.linear", "final_modulation", module.width, True),
        *linear("proj_out", "final"),
        *text_rows(module.refiners),
    ]
    if module.glyph_width:
        rows += GLYPH_ROWS
    if module.times == 2:
        rows += two_linear(f"{times}timestep_embedder_r", "end/")
    if module.strength:
        rows += two_linear(f"{times}guidance_embedder", "strength_embedding/")
    rows += layers(both_streams(DIFFUSERS), module.depth, "transformer_blocks.", "blocks/")
    return rows + layers(diffusers_single(), module.singles, "single_transformer_blocks.", "single_blocks/")


CONFIG = FieldTable(
    NAME,
    HunyuanImage,
    (
        Field("in_channels", "channels", 64),
        Follows("out_channels", lambda module: module.channels, default=64, optional=True),
        *width_of_heads(28, 128),
        Field("num_layers", "depth", 20, DEPTH),
        Field("num_single_layers", "singles", 40, DEPTH),
        Field("num_refiner_layers", "refiners", 2, DEPTH),
        Follows("mlp_ratio", 4.0),
        Follows("patch_size", (1, 1)),
        Follows("qk_norm", "rms_norm"),
        Field("guidance_embeds", "strength", False),
        Field("text_embed_dim", "text_width", 3584),
        zero_or_null("text_embed_2_dim", "glyph_width"),
        Follows("rope_theta", THETA),
        Field("rope_axes_dim", "axes", (64, 64), SIZES),
        Choice("use_meanflow", "times", {False: 1, True: 2}),
    ),
)


def _example(module: HunyuanImage) -> tuple:
    x, t, condition = prompted(1, 1, masked=True)(module)
    if module.glyph_width:
        condition |= {"glyphs": array(1, 1, module.glyph_width), "glyph_mask": array(1, 1, dtype=bool)}
    return x, (t, t) if module.times == 2 else t, condition


FAMILY = CONFIG.family(
    _example,
    {"diffusers": table},
    published={
        "HunyuanImage-2.1": {"text_embed_2_dim": 1472},
        "HunyuanImage-2.1, distilled": {"text_embed_2_dim": 1472, "guidance_embeds": True, "use_meanflow": True},
    },
)
FAMILIES = {FAMILY.name: FAMILY}
