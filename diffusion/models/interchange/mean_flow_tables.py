"""The MeanFlow family: the parameters of its authors' JAX code, in checkpoints of Flax (`flax_files`).

| family      | code              | network                                            |
|-------------|-------------------|----------------------------------------------------|
| MeanFlowDiT | Gsunshine/meanflow, models/models_dit.py | `DiT` of two times          |
| imfDiT      | Lyy-iiis/imeanflow, models/imfDiT.py     | `MiT`                       |
| pmfDiT      | Lyy-iiis/pMF, models/pmfDiT.py           | `MiT` with `clean`          |

A config holds the arguments of the class. Of a checkpoint the average is read, "ema_params". The second head of imfDiT
and pmfDiT, for the velocity at a single time, only training uses.
"""

__all__ = []

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.dit import DiT, dit_preset
from diffusion.models.interchange.family import DEPTH, Family, Fields, require
from diffusion.models.interchange.flax_rows import flax_linear, flax_patches
from diffusion.models.interchange.rows import Layout, Row, stacked
from diffusion.models.interchange.square_images import require_classes, side_and_channels
from diffusion.models.mit import TOKENS, MiT, imf_preset, pmf_preset

FIRST = Layout(lambda a, shape: a[0], lambda a: a[None])
PREFIXES = ("", "ema_params.net.", "params.net.", "net.")
PMF_AVERAGES = (1000, 500, 2000)  # half-lives in thousand pictures, the names of its averages
THEIR_TOKENS = {"class": "class", "strength": "omega", "start": "t_min", "end": "t_max", "duration": "time"}
THEIR_EMBEDDERS = {"strength": "omega", "start": "cfg_t_start", "end": "cfg_t_end", "duration": "h"}
SECOND_HEAD = {
    r"v_heads_\d+\..*|v_final_layer\..*": "the head for the velocity at a single time, which only training uses"
}


def _embedder(theirs: str, ours: str) -> list[Row]:
    return [
        *flax_linear(f"{theirs}.mlp.layers_0", f"{ours}/hidden"),
        *flax_linear(f"{theirs}.mlp.layers_2", f"{ours}/out"),
    ]


# ==== MeanFlow: DiT with two embeddings of times ====


def _dit_rows(module: DiT) -> list[Row]:
    table = [
        *flax_patches("x_embedder.proj", "patch_embedding", module.patch),
        *_embedder("t_embedder", "timestep_embedding"),
        *_embedder("h_embedder", "timestep_embedding_2"),
        Row("y_embedder.embedding_table._flax_embedding.embedding", "label_embedding/embedding"),
        *flax_linear("final_layer.adaLN_modulation.layers_1", "final_modulation/dense"),
        *flax_linear("final_layer.linear", "final"),
    ]
    for layer in range(module.depth):
        before = f"blocks.layers_{layer}"
        table += stacked(
            [
                *flax_linear(f"{before}.adaLN_modulation.layers_1", "blocks/modulation/dense"),
                *flax_linear(f"{before}.attn.qkv", "blocks/attention/qkv"),
                *flax_linear(f"{before}.attn.proj", "blocks/attention/out", "inputs"),
                *flax_linear(f"{before}.mlp.fc1", "blocks/mlp/hidden"),
                *flax_linear(f"{before}.mlp.fc2", "blocks/mlp/out"),
            ],
            layer,
        )
    return table


def _build_dit(config: Mapping[str, Any]) -> DiT:
    fields = Fields("MeanFlowDiT", config, ("class_dropout_prob",))
    size = fields.take("input_size", 32)
    module = DiT(
        patch=fields.take("patch_size", 2),
        width=fields.take("hidden_size", 1152),
        depth=fields.take("depth", 28, DEPTH),
        heads=fields.take("num_heads", 16),
        num_classes=fields.take("num_classes", 1000),
        mlp_ratio=fields.take("mlp_ratio", 4.0),
        learn_sigma=fields.take("learn_sigma", False),
        times=2,
        shape=(size, size, fields.take("in_channels", 4)),
    )
    fields.end()
    return module


def _describe_dit(module: DiT) -> dict[str, Any]:
    required = {"norm": "layernorm", "mlp": "gelu", "positions": "sincos", "qk_norm": False, "times": 2}
    required |= {"strength": False, "frequency_shift": 0, "own_embeddings": False}
    _check("MeanFlowDiT", module, required)
    return {**_sizes(module), "mlp_ratio": module.mlp_ratio, "learn_sigma": module.learn_sigma}


# ==== Improved and pixel MeanFlow: MiT ====


def _mit_rows(module: MiT) -> list[Row]:
    tokens = FIRST if module.clean else Layout(lambda a, shape: a, lambda a: a)
    table = [
        Row("y_embedder.embedding_table._flax_embedding.embedding", "label_embedding/embedding"),
        Row("u_final_layer.norm.kernel", "final_norm/scale"),
        *flax_linear("u_final_layer.linear", "final"),
        *(Row(f"{THEIR_TOKENS[name]}_tokens", f"{name}_tokens", tokens) for name in TOKENS),
        *(
            row
            for ours, theirs in THEIR_EMBEDDERS.items()
            for row in _embedder(f"{theirs}_embedder", f"{ours}_embedding")
        ),
    ]
    if module.bottleneck:
        table += flax_patches("x_embedder.proj1", "patch_bottleneck", module.patch)
        table += flax_patches("x_embedder.proj2", "patch_embedding", 1)
    else:
        table += flax_patches("x_embedder.proj", "patch_embedding", module.patch)
    if module.clean:
        table.append(Row("pos_embed", "positions", FIRST))
    shared = module.depth - _head(module)
    for layer in range(module.depth):
        before = f"shared_blocks_{layer}" if layer < shared else f"u_heads_{layer - shared}"
        table += stacked(
            [
                *(
                    row
                    for i, name in enumerate("qkv")
                    for row in flax_linear(
                        f"{before}.attn.{name}_proj", "blocks/attention/qkv", at=(slice(None), i), bias=False
                    )
                ),
                *flax_linear(f"{before}.attn.out_proj", "blocks/attention/out", "inputs", bias=False),
                Row(f"{before}.attn.q_norm.kernel", "blocks/attention/query_norm/scale"),
                Row(f"{before}.attn.k_norm.kernel", "blocks/attention/key_norm/scale"),
                Row(f"{before}.norm1.kernel", "blocks/attention_norm/scale"),
                Row(f"{before}.norm2.kernel", "blocks/mlp_norm/scale"),
                *flax_linear(f"{before}.mlp.w1", "blocks/mlp/hidden", at=(slice(None), 0), bias=False),
                *flax_linear(f"{before}.mlp.w3", "blocks/mlp/hidden", at=(slice(None), 1), bias=False),
                *flax_linear(f"{before}.mlp.w2", "blocks/mlp/out", bias=False),
                Row(f"{before}.attn_scale", "blocks/attention_gate"),
                Row(f"{before}.mlp_scale", "blocks/mlp_gate"),
            ],
            layer,
        )
    return table


def _head(module: MiT) -> int:
    """How many of the last blocks have separate names: 8 in the published networks."""
    return min(8, module.depth - 1)


def _build_mit(clean: bool, config: Mapping[str, Any]) -> MiT:
    name = "pmfDiT" if clean else "imfDiT"
    constants = ("token_init_constant", "embedding_init_constant", "weight_init_constant", "eval", "eval_mode")
    fields = Fields(name, config, constants)
    size = fields.take("input_size", 256 if clean else 32)
    width = fields.take("hidden_size", 768)
    depth = fields.take("depth", 16 if clean else 12, DEPTH)
    fields.only("mlp_ratio", 8 / 3)
    fields.only("aux_head_depth", min(8, depth - 1))
    for field, count in (("class", 8), ("time", 4), ("cfg", 4), ("interval", 2)):
        fields.only(f"num_{field}_tokens", count)
    module = MiT(
        patch=fields.take("patch_size", 16 if clean else 2),
        width=width,
        depth=depth,
        heads=fields.take("num_heads", 12),
        num_classes=fields.take("num_classes", 1000),
        bottleneck=(128 if width <= 1024 else 256) if clean else 0,
        clean=clean,
        shape=(size, size, fields.take("in_channels", 3 if clean else 4)),
    )
    fields.end()
    return module


def _describe_mit(clean: bool, module: MiT) -> dict[str, Any]:
    bottleneck = (128 if module.width <= 1024 else 256) if clean else 0
    _check("pmfDiT" if clean else "imfDiT", module, {"clean": clean, "bottleneck": bottleneck})
    return {**_sizes(module), "aux_head_depth": _head(module)}


def _check(name: str, module: Any, required: Mapping[str, Any]) -> None:
    require(name, module, required)
    require_classes(name, module)
    side_and_channels(name, module, (32, 32, 4))


def _sizes(module: Any) -> dict[str, Any]:
    return {
        "input_size": module.shape[0],
        "patch_size": module.patch,
        "in_channels": module.shape[-1],
        "hidden_size": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "num_classes": module.num_classes,
    }


def _example(module: Any) -> tuple:
    image = jax.ShapeDtypeStruct((1, *(module.shape or (module.patch, module.patch, 4))), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    return image, (t, t), jax.ShapeDtypeStruct((1,), jnp.int32)


MEAN_FLOW = Family(
    "MeanFlowDiT",
    DiT,
    _build_dit,
    _describe_dit,
    _example,
    {"flax": _dit_rows},
    library="",
    published={
        f"MeanFlow-{size}, 256 x 256": _describe_dit(dit_preset(size, 1000, times=2, shape=(32, 32, 4)))
        for size in ("B/4", "B/2", "L/2", "XL/2")
    },
    prefixes=PREFIXES,
)
IMF = Family(
    "imfDiT",
    MiT,
    functools.partial(_build_mit, False),
    functools.partial(_describe_mit, False),
    _example,
    {"flax": _mit_rows},
    library="",
    dropped=SECOND_HEAD,
    published={
        f"iMF-{size}, 256 x 256": _describe_mit(False, imf_preset(size, 1000, shape=(32, 32, 4)))
        for size in ("B/2", "M/2", "L/2", "XL/2")
    },
    prefixes=PREFIXES,
)
PMF = Family(
    "pmfDiT",
    MiT,
    functools.partial(_build_mit, True),
    functools.partial(_describe_mit, True),
    _example,
    {"flax": _mit_rows},
    library="",
    dropped=SECOND_HEAD,
    published={
        f"pMF-{size}, {16 * patch} x {16 * patch}": _describe_mit(True, pmf_preset(size, 1000))
        for patch in (16, 32)
        for size in (f"B/{patch}", f"L/{patch}", f"H/{patch}")
    },
    prefixes=(*(f"ema_params.{name}.net." for name in PMF_AVERAGES), *PREFIXES),  # in the order of preference
)
FAMILIES = (MEAN_FLOW, IMF, PMF)
