"""U-ViT: the names of the authors' repository (libs/uvit.py, libs/uvit_t2i.py); no library has adopted it.

A config holds the arguments of its class there. In the networks trained for guidance (1001 rows) the last class is the
null class. The networks of ImageNet at 64 x 64 pixels have none, so that here their `num_classes` is 999.
"""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, DENSE_OUT, Layout, Row, linear, patches, stacked
from diffusion.models.u_vit import UViT

POSITIONS = Layout(lambda a, shape: a[0], lambda a: a[None])


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def _block(module: UViT, theirs: str, ours: str, skip: bool = False) -> list[Row]:
    width = module.width
    return [
        *_norm(f"{theirs}.norm1", f"{ours}/norm_1"),
        *_norm(f"{theirs}.norm2", f"{ours}/norm_2"),
        *(
            row._replace(rows=(i * width, (i + 1) * width))
            for i, name in enumerate(("query", "key", "value"))
            for row in linear(f"{theirs}.attn.qkv", f"{ours}/attention/{name}", bias=module.qkv_bias)
        ),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out", DENSE_OUT),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/hidden"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
        *(linear(f"{theirs}.skip_linear", f"{ours}/skip") if skip else ()),
    ]


def _rows(module: UViT) -> list[Row]:
    table = [
        *linear("patch_embed.proj", "patch_embedding", patches(module.patch)),
        Row("pos_embed", "positions", POSITIONS),
        *_norm("norm", "norm"),
        *linear("decoder_pred", "final"),
        *_block(module, "mid_block", "middle_block"),
    ]
    if module.time_mlp:
        table += [*linear("time_embed.0", "time_hidden"), *linear("time_embed.2", "time_out")]
    if module.num_classes:
        table += [Row("label_emb.weight", "label_embedding/embedding")]
    if module.text_width:
        table += linear("context_embed", "text_embedding")
    if module.last_conv:
        table += linear("final_layer", "final_conv", CONV)
    for layer in range(module.depth // 2):
        table += stacked(_block(module, f"in_blocks.{layer}", "in_blocks"), layer)
        table += stacked(_block(module, f"out_blocks.{layer}", "out_blocks", skip=True), layer)
    return table


def _build(config: Mapping[str, Any]) -> UViT:
    fields = Fields("UViT", config, ("use_checkpoint",))
    fields.only("qk_scale", None)
    fields.only("skip", True)
    size = fields.take("img_size", 224)
    if config.get("clip_dim"):
        fields.only("num_classes", -1)
        condition = {
            "text_width": fields.take("clip_dim", None, MAYBE_SIZE),
            "text_tokens": fields.take("num_clip_token", 77),
        }
    else:
        condition = {"num_classes": max(fields.take("num_classes", -1), 1) - 1}
        if config.get("num_classes") == 1:
            raise Refusal("UViT: num_classes = 1 is not supported; it counts the classes and the null class, or is -1.")
    module = UViT(
        shape=(size, size, fields.take("in_chans", 3)),
        patch=fields.take("patch_size", 16),
        width=fields.take("embed_dim", 768),
        depth=fields.take("depth", 12, DEPTH),
        heads=fields.take("num_heads", 12),
        mlp_ratio=fields.take("mlp_ratio", 4.0),
        qkv_bias=fields.take("qkv_bias", False),
        time_mlp=fields.take("mlp_time_embed", False),
        last_conv=fields.take("conv", True),
        **condition,
    )
    fields.end()
    return module


def _describe(module: UViT) -> dict[str, Any]:
    size, other, channels = module.shape
    if size != other:
        raise Refusal(f"UViT: shape = {module.shape} cannot be written to it; its images are square.")
    condition = {"num_classes": module.num_classes + 1 if module.num_classes else -1}
    if module.text_width:
        condition = {"clip_dim": module.text_width, "num_clip_token": module.text_tokens}
    return {
        "img_size": size,
        "patch_size": module.patch,
        "in_chans": channels,
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "qkv_bias": module.qkv_bias,
        "mlp_time_embed": module.time_mlp,
        "conv": module.last_conv,
        **condition,
    }


def _example(module: UViT) -> tuple:
    struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((1, *shape), dtype)
    condition = {"text": struct(module.text_tokens, module.text_width)} if module.text_width else None
    return struct(*module.shape), struct(), struct(dtype=jnp.int32) if module.num_classes else condition


def _published(size: int, patch: int, channels: int, width: int, depth: int, heads: int, **others: Any) -> dict:
    return {
        "img_size": size,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        **others,
    }


FAMILY = Family(
    "UViT",
    UViT,
    _build,
    _describe,
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
