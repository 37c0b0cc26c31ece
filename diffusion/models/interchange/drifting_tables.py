"""The generator of drifting models by the names of its authors' JAX checkpoints: ema_params.msgpack.

lambertae/drifting, jax/models/generator.py, whose modules have Flax's own names; a config holds the arguments of
`DitGen`. The code in JAX could be read in a copy of it (RahulBhalley/drifting, src/drifting_jax).
"""

import jax.numpy as jnp
import numpy as np

from diffusion.models.drifting import SIZES, DriftingDiT, drifting_preset
from diffusion.models.interchange.family import DEPTH, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.flax_rows import INPUTS, OUTPUTS
from diffusion.models.interchange.rows import LEADING, VECTOR, Layout, Row, layers, query_key_norms
from diffusion.models.interchange.square_images import dit_sizes

NAME = "DitGen"


def _order(size: int) -> np.ndarray:
    """Their feature for each feature of our head: ours rotate in two halves, and theirs pair i and i + size / 2."""
    half, part, pair = np.meshgrid(np.arange(2), np.arange(2), np.arange(size // 4), indexing="ij")
    return (part * (size // 2) + half * (size // 4) + pair).reshape(-1)


def _turned(heads: int, size: int) -> tuple[Layout, Layout, Layout]:
    """Layouts of the kernel and the bias of queries, keys and values, and of a norm of queries or keys."""
    order = _order(size)
    rows = np.arange(3 * heads * size).reshape(3, heads, size)
    rows[:2] = rows[:2][..., order]
    index = rows.reshape(-1)
    back = np.argsort(index)
    kernel = Layout(lambda a, shape: a[:, index].reshape(shape), lambda a: a.reshape(a.shape[0], -1)[:, back])
    bias = Layout(lambda a, shape: a[index].reshape(shape), lambda a: a.reshape(-1)[back])
    scale = Layout(lambda a, shape: a[order], lambda a: a[np.argsort(order)])
    return kernel, bias, scale


def _dense(theirs: str, ours: str, kernel: Layout = OUTPUTS, bias: Layout = VECTOR, at: tuple = ()) -> list[Row]:
    """The rows of their `TorchLinear`."""
    outputs = tuple(index for index in at if index != slice(None))
    return [
        Row(f"{theirs}.Dense_0.kernel", f"{ours}/kernel", kernel, at),
        Row(f"{theirs}.Dense_0.bias", f"{ours}/bias", bias, outputs),
    ]


def _rows(module: DriftingDiT) -> list[Row]:
    kernel, bias, scale = _turned(module.heads, module.width // module.heads)
    table = [
        Row("Embed_0.embedding", "label_embedding/embedding"),
        *(Row(f"noise_embeds_{i}.embedding", "style_embedding", at=(i,)) for i in range(module.codes)),
        *_dense("TimestepEmbedder_0.TorchLinear_0", "strength_embedding/hidden"),
        *_dense("TimestepEmbedder_0.TorchLinear_1", "strength_embedding/out"),
        Row("RMSNorm_0.weight", "strength_norm/scale"),
        *_dense("LightningDiT_0.TorchLinear_0", "patch_embedding"),
        Row("LightningDiT_0.pos_embed", "positions", LEADING),
        *_dense("LightningDiT_0.TorchLinear_1", "class_embedding"),
        Row("LightningDiT_0.cls_embed", "class_positions", LEADING),
        Row("LightningDiT_0.FinalLayer_0.RMSNorm_0.weight", "final_norm/scale"),
        *_dense("LightningDiT_0.FinalLayer_0.TorchLinear_0", "final_modulation/dense"),
        *_dense("LightningDiT_0.FinalLayer_0.TorchLinear_1", "final"),
    ]
    block = [
        Row("RMSNorm_0.weight", "attention_norm/scale"),
        Row("RMSNorm_1.weight", "mlp_norm/scale"),
        *_dense("TorchLinear_0", "modulation/dense"),
        *_dense("Attention_0.TorchLinear_0", "attention/qkv", kernel, bias),
        *_dense("Attention_0.TorchLinear_1", "attention/out", INPUTS),
        *query_key_norms("Attention_0.{1}_norm.weight", "attention", scale),
        *_dense("SwiGLUFFN_0.TorchLinear_0", "mlp/hidden", at=(slice(None), 0)),
        *_dense("SwiGLUFFN_0.TorchLinear_1", "mlp/hidden", at=(slice(None), 1)),
        *_dense("SwiGLUFFN_0.TorchLinear_2", "mlp/out"),
    ]
    return table + layers(block, module.depth, "LightningDiT_0.blocks_", "blocks/")


CONFIG = FieldTable(
    NAME,
    DriftingDiT,
    (
        *(Follows(f"use_{part}", True) for part in ("qknorm", "swiglu", "rope", "rmsnorm")),
        *dit_sizes(32, 4),
        Follows("out_channels", lambda module: module.shape[-1]),
        Follows("cond_dim", lambda module: module.width),
        Field(
            "num_classes",
            "num_classes",
            1001,
            read=lambda classes, ours: classes - 1,
            write=lambda module: module.num_classes + 1,
        ),
        Field("n_cls_tokens", "class_tokens", 16),
        Field("noise_coords", "codes", 32, DEPTH),
        Field("noise_classes", "styles", 64),
        Field("mlp_ratio", "mlp_ratio", 4.0),
    ),
    unread=dict.fromkeys(("use_bf16", "attn_fp32", "use_remat")),
)


FAMILY = CONFIG.family(
    lambda module: (array(1, *module.shape), array(1), array(1, dtype=jnp.int32)),
    {"flax": _rows},
    library="",
    published={
        f"Drifting-{size}/{patch}": CONFIG.describe(drifting_preset(f"{size}/{patch}"))
        for size in SIZES
        for patch in (2, 16)
    },
)
