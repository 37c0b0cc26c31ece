"""PixNerd: the names of the authors' repository (MCG-NJU/PixNerd, src/models/transformer/pixnerd_c2i.py).

A config holds the arguments of its class there. A checkpoint of its training has several networks: "ema_denoiser" is
the one that is published and sampled.
"""

__all__ = []

from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange.ddt_tables import plain_block_rows, unfolded
from diffusion.models.interchange.family import DEPTH, Family, Fields, require
from diffusion.models.interchange.rows import DENSE, VECTOR, Row, linear, stacked
from diffusion.models.interchange.square_images import example, require_classes, side_and_channels
from diffusion.models.pixnerd import SIZES, PixNerd, pixnerd_preset


def _rows(module: PixNerd) -> list[Row]:
    table = [
        *linear("s_embedder.proj", "patch_embedding", unfolded(module.patch)),
        *linear("x_embedder.embedder.0", "pixel_embedding"),
        *linear("t_embedder.mlp.0", "timestep_embedding/hidden"),
        *linear("t_embedder.mlp.2", "timestep_embedding/out"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding"),
        Row("final_layer.norm.weight", "final_norm/scale"),
        *linear("final_layer.linear", "final"),
    ]
    for layer in range(module.depth):
        table += stacked(plain_block_rows(module.width, module.heads, f"blocks.{layer}", "blocks"), layer)
    numbers = module.field_ratio * module.field_width**2
    for layer in range(module.field_depth):
        theirs = f"blocks.{module.depth + layer}"
        block = [Row(f"{theirs}.norm.weight", "field_blocks/norm/scale")]
        for i, name in enumerate(("first", "second")):
            part = (i * numbers, (i + 1) * numbers)
            block += [
                Row(f"{theirs}.param_generator1.0.weight", f"field_blocks/{name}/kernel", DENSE, rows=part),
                Row(f"{theirs}.param_generator1.0.bias", f"field_blocks/{name}/bias", VECTOR, rows=part),
            ]
        table += stacked(block, layer)
    return table


def _build(config: Mapping[str, Any]) -> PixNerd:
    # learn_sigma, deep_supervision and the paths change nothing that the class computes.
    fields = Fields("PixNerDiT", config, ("learn_sigma", "deep_supervision", "weight_path", "load_ema"))
    depth = fields.take("num_cond_blocks", 4, DEPTH)
    size = fields.take("input_size", 256)  # a field of ours: theirs takes pictures of any size
    module = PixNerd(
        patch=fields.take("patch_size", 2),
        width=fields.take("hidden_size", 1152),
        depth=depth,
        heads=fields.take("num_groups", 12),
        num_classes=fields.take("num_classes", 1000),
        field_width=fields.take("hidden_size_x", 64),
        field_depth=fields.take("num_blocks", 18, DEPTH) - depth,
        field_ratio=fields.take("nerf_mlpratio", 4),
        shape=(size, size, fields.take("in_channels", 4)),
    )
    fields.end()
    return module


def _describe(module: PixNerd) -> dict[str, Any]:
    require("PixNerDiT", module, {"frequencies": 8, "mlp_ratio": 4.0, "span": 16.0})
    require_classes("PixNerDiT", module)
    size, channels = side_and_channels("PixNerDiT", module, (256, 256, 3))
    return {
        "input_size": size,
        "in_channels": channels,
        "patch_size": module.patch,
        "hidden_size": module.width,
        "hidden_size_x": module.field_width,
        "nerf_mlpratio": module.field_ratio,
        "num_groups": module.heads,
        "num_blocks": module.depth + module.field_depth,
        "num_cond_blocks": module.depth,
        "num_classes": module.num_classes,
    }


def _example(module: PixNerd) -> tuple:
    return example(module, module.shape[-1] if module.shape else 3)


FAMILY = Family(
    "PixNerDiT",
    PixNerd,
    _build,
    _describe,
    _example,
    {"original": _rows},
    library="",
    published={f"PixNerd-{name}, 256 x 256": _describe(pixnerd_preset(name, shape=(256, 256, 3))) for name in SIZES},
    prefixes=("", "ema_denoiser."),
)
