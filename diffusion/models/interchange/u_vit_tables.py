"""U-ViT: the names of the authors' repository (libs/uvit.py, libs/uvit_t2i.py); no library has adopted it.

A config holds the arguments of its class there. In the networks trained for guidance (1001 rows) the last class is the
null class. The networks of ImageNet at 64 x 64 pixels have none, so that here their `num_classes` is 999.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import (
    CONV,
    DENSE_OUT,
    LEADING,
    Row,
    cut,
    layers,
    linear,
    mlp,
    norm,
    patches,
    within,
)
from diffusion.models.interchange.square_images import side_of_shape
from diffusion.models.interchange.vision_rows import HEADS
from diffusion.models.u_vit import UViT


def _rows(module: UViT) -> list[Row]:
    block = [
        *norm("norm1", "norm_1"),
        *norm("norm2", "norm_2"),
        *cut("attn.qkv.", HEADS, module.width, module.qkv_bias),
        *linear("attn.proj", "attention/out", DENSE_OUT),
        *mlp("mlp.fc1", "mlp.fc2", "mlp/"),
    ]
    table = [
        *linear("patch_embed.proj", "patch_embedding", patches(module.patch)),
        Row("pos_embed", "positions", LEADING),
        *norm("norm", "norm"),
        *linear("decoder_pred", "final"),
        *within(block, "mid_block.", "middle_block/"),
        *layers(block, module.depth // 2, "in_blocks.", "in_blocks/"),
        *layers([*block, *linear("skip_linear", "skip")], module.depth // 2, "out_blocks.", "out_blocks/"),
    ]
    if module.time_mlp:
        table += mlp("time_embed.0", "time_embed.2", "time_")
    if module.num_classes:
        table += [Row("label_emb.weight", "label_embedding/embedding")]
    if module.text_width:
        table += linear("context_embed", "text_embedding")
    if module.last_conv:
        table += linear("final_layer", "final_conv", CONV)
    return table


def _condition(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields of the condition: the width of words, or the number of classes; theirs counts the null class."""
    classes, width, words = values.values()
    if width and classes != -1:
        raise ValueError(f"num_classes = {classes} is not supported together with clip_dim. Supported: -1.")
    if words and not width:
        raise ValueError(f"num_clip_token = {words} has no effect without clip_dim.")
    if classes == 1:
        raise ValueError(
            "num_classes = 1 is not supported: it counts the classes and the null class. Valid: -1 for no classes, or "
            "at least 2."
        )
    return {"text_width": width, "text_tokens": words or 77} if width else {"num_classes": max(classes, 1) - 1}


def _their_condition(module: UViT) -> dict[str, Any]:
    if module.text_width:
        return {"clip_dim": module.text_width, "num_clip_token": module.text_tokens}
    return {"num_classes": module.num_classes + 1 if module.num_classes else -1}


CONFIG = FieldTable(
    "UViT",
    UViT,
    (
        side_of_shape("img_size", 224, "in_chans", 3),
        Field("patch_size", "patch", 16),
        Field("embed_dim", "width", 768),
        Field("depth", "depth", 12, DEPTH),
        Field("num_heads", "heads", 12),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        Field("qkv_bias", "qkv_bias", False),
        Field("mlp_time_embed", "time_mlp", False),
        Field("conv", "last_conv", True),
        Group(
            {"num_classes": (-1, None), "clip_dim": (None, MAYBE_SIZE), "num_clip_token": (None, MAYBE_SIZE)},
            _condition,
            _their_condition,
        ),
        Follows("qk_scale", None, silent=True),
        Follows("skip", True, silent=True),
    ),
    unread={"use_checkpoint": None},
)


def _example(module: UViT) -> tuple:
    condition = {"text": array(1, module.text_tokens, module.text_width)} if module.text_width else None
    return array(1, *module.shape), array(1), array(1, dtype=jnp.int32) if module.num_classes else condition


def _published(size: int, patch: int, channels: int, width: int, depth: int, heads: int, **others: Any) -> dict:
    names = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads")
    return dict(zip(names, (size, patch, channels, width, depth, heads))) | others


FAMILY = CONFIG.family(
    _example,
    {"original": _rows},
    library="",
    published={
        "CIFAR-10, S/2": _published(32, 2, 3, 512, 12, 8),
        "CelebA 64 x 64, S/4": _published(64, 4, 3, 512, 12, 8),
        "ImageNet 64 x 64, M/4": _published(64, 4, 3, 768, 16, 12, num_classes=1000),
        "ImageNet 64 x 64, L/4": _published(64, 4, 3, 1024, 20, 16, num_classes=1000),
        "ImageNet 256 x 256, L/2": _published(32, 2, 4, 1024, 20, 16, num_classes=1001),
        "ImageNet 256 x 256, H/2": _published(32, 2, 4, 1152, 28, 16, num_classes=1001, conv=False),
        "ImageNet 512 x 512, L/4": _published(64, 4, 4, 1024, 20, 16, num_classes=1001),
        "ImageNet 512 x 512, H/4": _published(64, 4, 4, 1152, 28, 16, num_classes=1001, conv=False),
        "COCO, S/2": _published(32, 2, 4, 512, 12, 8, clip_dim=768, num_clip_token=77),
        "COCO, S/2, deep": _published(32, 2, 4, 512, 16, 8, clip_dim=768, num_clip_token=77),
    },
)
