"""MaskDiT: the names of the authors' repository (Anima-Lab/MaskDiT, models/maskdit.py).

A config holds the arguments of its class `DiT` there. A checkpoint has the average as "ema", with the prefix "model."
of EDM's preconditioning.
"""

__all__ = []

from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange.dit_tables import original_block_rows
from diffusion.models.interchange.family import DEPTH, Computed, Family, Fields, Refusal
from diffusion.models.interchange.rows import Layout, Row, linear, patches, stacked
from diffusion.models.interchange.square_images import example, side_and_channels
from diffusion.models.layers.embeddings import sincos_positions
from diffusion.models.mask_dit import MaskDiT, mask_dit_preset

TOKEN = Layout(lambda a, shape: a.reshape(shape), lambda a: a[None, None])


def _rows(module: MaskDiT) -> list[Row]:
    table = [
        *linear("x_embedder.proj", "patch_embedding", patches(module.patch)),
        *linear("t_embedder.mlp.0", "timestep_embedding/hidden"),
        *linear("t_embedder.mlp.2", "timestep_embedding/out"),
        *linear("decoder_layer.adaLN_modulation.1", "decoder_modulation/dense"),
        *linear("decoder_layer.linear", "decoder_embedding"),
        Row("mask_token", "mask_token", TOKEN),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    if module.num_classes:
        table += linear("y_embedder.embedding_table", "label_embedding", bias=False)
    for theirs, ours, depth in (
        ("blocks", "blocks", module.depth),
        ("decoder_blocks", "decoder_blocks", module.decoder_depth),
    ):
        for layer in range(depth):
            table += stacked(original_block_rows(f"{theirs}.{layer}", ours), layer)
    return table


def _build(config: Mapping[str, Any]) -> MaskDiT:
    fields = Fields("MaskDiT", config, ("class_dropout_prob",))
    size = fields.take("input_size", 32)
    for field in ("learn_sigma", "pad_cls_token", "direct_cls_token", "use_encoder_feat"):
        fields.only(field, False)
    fields.only("use_decoder", True)
    fields.only("ext_feature_dim", 0)
    if not fields.take("mae_loss_coef", 0.1) > 0:
        raise Refusal("MaskDiT: mae_loss_coef = 0 leaves out the mask's token, which this network has.")
    module = MaskDiT(
        patch=fields.take("patch_size", 2),
        width=fields.take("hidden_size", 1152),
        depth=fields.take("depth", 28, DEPTH),
        heads=fields.take("num_heads", 16),
        num_classes=fields.take("num_classes", 1000),
        # Fields of ours: theirs has one decoder.
        decoder_width=fields.take("decoder_hidden_size", 512),
        decoder_depth=fields.take("decoder_depth", 8, DEPTH),
        decoder_heads=fields.take("decoder_num_heads", 16),
        mlp_ratio=fields.take("mlp_ratio", 4.0),
        shape=(size, size, fields.take("in_channels", 4)),
    )
    fields.end()
    return module


def _describe(module: MaskDiT) -> dict[str, Any]:
    size, channels = _square(module)
    decoder_fields = {
        "decoder_hidden_size": module.decoder_width,
        "decoder_depth": module.decoder_depth,
        "decoder_num_heads": module.decoder_heads,
    }
    return {
        "input_size": size,
        "patch_size": module.patch,
        "in_channels": channels,
        "hidden_size": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "num_classes": module.num_classes,
        "use_decoder": True,
        "mae_loss_coef": 0.1,
        **({} if tuple(decoder_fields.values()) == (512, 8, 16) else decoder_fields),
    }


def _square(module: MaskDiT) -> tuple[int, int]:
    return side_and_channels("MaskDiT", module, (32, 32, 4))


def _example(module: MaskDiT) -> tuple:
    image, t, label = example(module, _square(module)[1])
    return image, t, label if module.num_classes else None


def _positions(module: MaskDiT) -> dict[str, Computed]:
    side = _square(module)[0] // module.patch
    table = lambda width: Computed((1, side**2, width), lambda: sincos_positions(side, side, width)[None])
    return {"pos_embed": table(module.width), "decoder_pos_embed": table(module.decoder_width)}


FAMILY = Family(
    "MaskDiT",
    MaskDiT,
    _build,
    _describe,
    _example,
    {"original": _rows},
    library="",
    computed=_positions,
    published={
        f"MaskDiT-XL/2, {8 * size} x {8 * size}": _describe(mask_dit_preset("XL/2", shape=(size, size, 4)))
        for size in (32, 64)
    },
    prefixes=("", "model."),
)
