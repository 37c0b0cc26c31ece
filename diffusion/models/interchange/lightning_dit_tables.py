"""LightningDiT: the names of the authors' repository (hustvl/LightningDiT, models/lightningdit.py).

A config holds the arguments of its class there. A checkpoint of its train.py has several networks: "ema" is the one
that is published and sampled.
"""

__all__ = []

from collections.abc import Mapping
from typing import Any

from diffusion.models.dit import DiT
from diffusion.models.interchange.family import DEPTH, Computed, Family, Fields, Refusal, require
from diffusion.models.interchange.lightning_rows import block_rows, options, rotary_tables
from diffusion.models.interchange.rows import SAME, Row, linear, patches, stacked
from diffusion.models.interchange.square_images import example, side_and_channels
from diffusion.models.layers.embeddings import sincos_positions


def _rows(module: DiT) -> list[Row]:
    table = [
        *linear("x_embedder.proj", "patch_embedding", patches(module.patch)),
        *linear("t_embedder.mlp.0", "timestep_embedding/hidden"),
        *linear("t_embedder.mlp.2", "timestep_embedding/out"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding", SAME),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    if module.norm == "scaled_rmsnorm":
        table.append(Row("final_layer.norm_final.weight", "final_norm/scale"))
    for layer in range(module.depth):
        table += stacked(block_rows(module, module.width, module.heads, f"blocks.{layer}", "blocks"), layer)
    return table


def _build(config: Mapping[str, Any]) -> DiT:
    fields = Fields("LightningDiT", config, ("use_checkpoint",))
    size = fields.take("input_size", 32)
    fields.only("learn_sigma", False)
    if not fields.take("class_dropout_prob", 0.1) > 0:
        raise Refusal("LightningDiT: class_dropout_prob = 0 leaves out the null class, which this network has.")
    module = DiT(
        patch=fields.take("patch_size", 2),
        width=fields.take("hidden_size", 1152),
        depth=fields.take("depth", 28, DEPTH),
        heads=fields.take("num_heads", 16),
        num_classes=fields.take("num_classes", 1000),
        mlp_ratio=fields.take("mlp_ratio", 4.0),
        shape=(size, size, fields.take("in_channels", 32)),
        **options(fields, default=False),
    )
    fields.end()
    return module


def _describe(module: DiT) -> dict[str, Any]:
    required = {"learn_sigma": False, "times": 1, "strength": False, "frequency_shift": 0, "own_embeddings": False}
    require("LightningDiT", module, required)
    if module.norm == "rmsnorm" or module.positions == "rope" or not module.num_classes:
        raise Refusal(
            f"LightningDiT: norm = {module.norm!r}, positions = {module.positions!r} and num_classes = "
            f"{module.num_classes} cannot be written to it; its RMSNorm has scales, its positions are sin-cos ones "
            "with or without rotary ones, and it is conditional on a class."
        )
    size, channels = side_and_channels("LightningDiT", module, (16, 16, 32))
    return {
        "input_size": size,
        "patch_size": module.patch,
        "in_channels": channels,
        "hidden_size": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "class_dropout_prob": 0.1,
        "num_classes": module.num_classes,
        "use_qknorm": module.qk_norm,
        "use_swiglu": module.mlp == "swiglu",
        "use_rope": module.positions == "sincos_rope",
        "use_rmsnorm": module.norm == "scaled_rmsnorm",
    }


def _example(module: DiT) -> tuple:
    return example(module, module.shape[-1] if module.shape else 32)


def _computed(module: DiT) -> dict[str, Computed]:
    side = (module.shape[0] if module.shape else 0) // module.patch
    width = module.width
    tables = {"pos_embed": Computed((1, side**2, width), lambda: sincos_positions(side, side, width)[None])}
    if module.positions == "sincos_rope":
        tables |= rotary_tables("feat_rope", side, width // module.heads)
    return tables


def _published(width: int, depth: int, heads: int) -> dict[str, Any]:
    options = {"use_swiglu": True, "use_rope": True, "use_rmsnorm": True}
    sizes = {"hidden_size": width, "depth": depth, "num_heads": heads}
    return {"input_size": 16, "patch_size": 1, "in_channels": 32, **sizes, **options}


FAMILY = Family(
    "LightningDiT",
    DiT,
    _build,
    _describe,
    _example,
    {"original": _rows},
    library="",
    computed=_computed,
    published={"LightningDiT-XL/1, 256 x 256": _published(1152, 28, 16)},
    prefixes=("", "module."),
)
