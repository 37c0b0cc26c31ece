"""HunyuanImage 2.1's transformer by the names of diffusers' HunyuanImageTransformer2DModel."""

from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, SIZES, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, width_of_heads, zero_or_null
from diffusion.models.interchange.joint_rows import shift_and_scale, stream_rows
from diffusion.models.interchange.rows import POINT, Row, layers, linear, mlp
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
        *mlp(f"{times}timestep_embedder.linear_1", f"{times}timestep_embedder.linear_2", "time/"),
        *shift_and_scale("norm_out.linear", "final_modulation", module.width, True),
        *linear("proj_out", "final"),
        *text_rows(module.refiners),
    ]
    if module.glyph_width:
        rows += GLYPH_ROWS
    if module.times == 2:
        rows += mlp(f"{times}timestep_embedder_r.linear_1", f"{times}timestep_embedder_r.linear_2", "end/")
    if module.strength:
        rows += mlp(f"{times}guidance_embedder.linear_1", f"{times}guidance_embedder.linear_2", "strength_embedding/")
    joint = [
        row for stream, ours in zip(joint_rows.DIFFUSERS, ("image", "text")) for row in stream_rows(stream, ours, True)
    ]
    rows += layers(joint, module.depth, "transformer_blocks.", "blocks/")
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
    condition = {"text": array(1, 1, module.text_width), "text_mask": array(1, 1, dtype=bool)}
    if module.glyph_width:
        condition |= {"glyphs": array(1, 1, module.glyph_width), "glyph_mask": array(1, 1, dtype=bool)}
    condition |= {"strength": array(1)} if module.strength else {}
    clock = (array(1), array(1)) if module.times == 2 else array(1)
    return array(1, 1, 1, module.channels), clock, condition


FAMILY = CONFIG.family(
    _example,
    {"diffusers": table},
    published={
        "HunyuanImage-2.1": {"text_embed_2_dim": 1472},
        "HunyuanImage-2.1, distilled": {"text_embed_2_dim": 1472, "guidance_embeds": True, "use_meanflow": True},
    },
)
FAMILIES = {FAMILY.name: FAMILY}
