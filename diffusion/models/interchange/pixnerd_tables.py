"""PixNerd: the names of the authors' repository (MCG-NJU/PixNerd, src/models/transformer/pixnerd_c2i.py).

A config holds the arguments of its class there. A checkpoint of its training has several networks: "ema_denoiser" is
the one that is published and sampled.
"""

import functools

from diffusion.models.interchange.ddt_tables import both_depths, plain_block_rows, unfolded
from diffusion.models.interchange.field_table import Field, FieldTable
from diffusion.models.interchange.rows import Row, cut, layers, linear, mlp
from diffusion.models.interchange.square_images import CLASSES, example, side_of_shape
from diffusion.models.pixnerd import SIZES, PixNerd, pixnerd_preset


def _rows(module: PixNerd) -> list[Row]:
    table = [
        *linear("s_embedder.proj", "patch_embedding", unfolded(module.patch)),
        *linear("x_embedder.embedder.0", "pixel_embedding"),
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "timestep_embedding/"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding"),
        Row("final_layer.norm.weight", "final_norm/scale"),
        *linear("final_layer.linear", "final"),
    ]
    table += layers(plain_block_rows(module.width, module.heads), module.depth, "blocks.", "blocks/")
    numbers = module.field_ratio * module.field_width**2
    field = [Row("norm.weight", "norm/scale"), *cut("param_generator1.0.", ("first", "second"), numbers)]
    return table + layers(field, module.field_depth, "blocks.", "field_blocks/", first=module.depth)


CONFIG = FieldTable(
    "PixNerDiT",
    PixNerd,
    (
        side_of_shape("input_size", 256, "in_channels", 4),  # the first is ours: theirs takes pictures of any size
        Field("patch_size", "patch", 2),
        Field("hidden_size", "width", 1152),
        Field("hidden_size_x", "field_width", 64),
        Field("nerf_mlpratio", "field_ratio", 4),
        Field("num_groups", "heads", 12),
        both_depths("num_blocks", "num_cond_blocks", "field_depth"),
        CLASSES,
    ),
    # These and the paths change nothing that the class computes.
    unread=dict.fromkeys(("learn_sigma", "deep_supervision", "weight_path", "load_ema")),
    required={"frequencies": 8, "mlp_ratio": 4.0, "span": 16.0},
)
FAMILY = CONFIG.family(
    functools.partial(example, channels=3),
    {"original": _rows},
    library="",
    published={
        f"PixNerd-{name}, 256 x 256": CONFIG.describe(pixnerd_preset(name, shape=(256, 256, 3))) for name in SIZES
    },
    prefixes=("", "ema_denoiser."),
)
