"""The names of MaskDiT's tensors and fields in the authors' repository (Anima-Lab/MaskDiT, models/maskdit.py).

A config holds the arguments of the repository's class `DiT`. A checkpoint holds the averaged parameters under "ema";
their names begin with "model.", because EDM's preconditioning wraps the network.

Reference: Zheng et al. 2023, "Fast Training of Diffusion Models with Masked Transformers".
"""

from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange.dit_tables import ORIGINAL_BLOCK
from diffusion.models.interchange.family import DEPTH, Computed
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import Row, layers, linear, mlp, patches, with_ones
from diffusion.models.interchange.square_images import dit_sizes, example, patches_on_a_side, sincos_table
from diffusion.models.mask_dit import MaskDiT, mask_dit_preset

TOKEN = with_ones(before=2)


def _rows(module: MaskDiT) -> list[Row]:
    table = [
        *linear("x_embedder.proj", "patch_embedding", patches(module.patch)),
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "timestep_embedding/"),
        *linear("decoder_layer.adaLN_modulation.1", "decoder_modulation/dense"),
        *linear("decoder_layer.linear", "decoder_embedding"),
        Row("mask_token", "mask_token", TOKEN),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    if module.num_classes:
        table += linear("y_embedder.embedding_table", "label_embedding", bias=False)
    table += layers(ORIGINAL_BLOCK, module.depth, "blocks.", "blocks/")
    return table + layers(ORIGINAL_BLOCK, module.decoder_depth, "decoder_blocks.", "decoder_blocks/")


DECODER = {"decoder_hidden_size": 512, "decoder_depth": 8, "decoder_num_heads": 16}
OURS = ("decoder_width", "decoder_depth", "decoder_heads")


def _decoder(module: MaskDiT) -> dict[str, Any]:
    """The decoder's sizes as fields of a config; none for the authors' sizes, which their configs do not state."""
    sizes = dict(zip(DECODER, (getattr(module, name) for name in OURS)))
    return {} if sizes == DECODER else sizes


def _mask_token(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    if not values["mae_loss_coef"] > 0:
        raise ValueError("mae_loss_coef = 0 leaves out the mask token, but this network always has one.")
    return {}


CONFIG = FieldTable(
    "MaskDiT",
    MaskDiT,
    (
        *dit_sizes(32, 4),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        Field("num_classes", "num_classes", 1000),
        Follows("use_decoder", True),
        Group({"mae_loss_coef": (0.1, None)}, _mask_token, lambda module: {"mae_loss_coef": 0.1}),
        Group(
            {name: (size, DEPTH if name == "decoder_depth" else None) for name, size in DECODER.items()},
            lambda values, ours: dict(zip(OURS, values.values())),
            _decoder,
        ),
        *(
            Follows(field, False, silent=True)
            for field in ("learn_sigma", "pad_cls_token", "direct_cls_token", "use_encoder_feat")
        ),
        Follows("ext_feature_dim", 0, silent=True),
    ),
    unread={"class_dropout_prob": None},
)


def _example(module: MaskDiT) -> tuple:
    image, t, label = example(module)
    return image, t, label if module.num_classes else None


def _positions(module: MaskDiT) -> dict[str, Computed]:
    side = patches_on_a_side(module)
    tables = {"pos_embed": module.width, "decoder_pos_embed": module.decoder_width}
    return {name: sincos_table(side, width) for name, width in tables.items()}


FAMILY = CONFIG.family(
    _example,
    {"original": _rows},
    library="",
    computed=_positions,
    published={
        f"MaskDiT-XL/2, {8 * size} x {8 * size}": CONFIG.describe(mask_dit_preset("XL/2", shape=(size, size, 4)))
        for size in (32, 64)
    },
    prefixes=("", "model."),
)
