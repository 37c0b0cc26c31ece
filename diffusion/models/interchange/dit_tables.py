"""DiT and SiT: diffusers' DiTTransformer2DModel, and the networks of the papers' own repositories.

They hold the same numbers under different names, and embed the time differently: diffusers' features have the
frequencies 10000^(-i / 127), the papers' networks 10000^(-i / 128). A loaded network gives the outputs of the library
of its file; `module.clone(frequency_shift=0)` turns diffusers' network into the papers'.

A DiT trained in diffusers has separate embeddings of the time and the class in each block (`DiT.own_embeddings`);
a converted one has copies of one embedding.

SiT's velocity is the first half of the channels of the network's output; the other half is not trained. It points from
the noise to the data, against ours (`parameterizations.velocity`). REPA's SiT has no other half, its velocity points as
ours, and its files hold projectors too, which are left out.
"""

__all__ = ["original_block_rows"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.models.dit import DiT
from diffusion.models.interchange.family import DEPTH, Computed, Family, Fields, Refusal, require
from diffusion.models.interchange.rows import DENSE_OUT, SAME, Row, linear, patches, stacked, within
from diffusion.models.interchange.square_images import example, require_classes, side_and_channels
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.layers.embeddings import sincos_positions

ALIGNED = 8  # --encoder-depth of REPA's published networks


def _diffusers_rows(module: DiT) -> list[Row]:
    # Every block has its own embeddings of the time and the class; in converted files they are copies.
    block = "transformer_blocks.{}.norm1.emb.".format
    embeddings = [
        *linear("timestep_embedder.linear_1", "timestep_embedding/hidden"),
        *linear("timestep_embedder.linear_2", "timestep_embedding/out"),
        Row("class_embedder.embedding_table.weight", "label_embedding/embedding", SAME),
    ]
    if module.own_embeddings:
        table = [row for layer in range(module.depth) for row in within(stacked(embeddings, layer), block(layer))]
    else:
        table = [
            row._replace(
                theirs=block(0) + row.theirs,
                copies=tuple(block(layer) + row.theirs for layer in range(1, module.depth)),
            )
            for row in embeddings
        ]
    for layer in range(module.depth):
        before = f"transformer_blocks.{layer}"
        table += stacked(
            [
                *linear(f"{before}.norm1.linear", "blocks/modulation/dense"),
                *(
                    row
                    for i, name in enumerate("qkv")
                    for row in linear(f"{before}.attn1.to_{name}", "blocks/attention/qkv", at=(slice(None), i))
                ),
                *linear(f"{before}.attn1.to_out.0", "blocks/attention/out", DENSE_OUT),
                *linear(f"{before}.ff.net.0.proj", "blocks/mlp/hidden"),
                *linear(f"{before}.ff.net.2", "blocks/mlp/out"),
            ],
            layer,
        )
    return [
        *linear("pos_embed.proj", "patch_embedding", patches(module.patch)),
        *table,
        *linear("proj_out_1", "final_modulation/dense"),
        *linear("proj_out_2", "final"),
    ]


def _varied(module: DiT, tensors: Tensors) -> DiT:
    """With own embeddings if the blocks' embeddings differ; no config says so."""
    for row in _diffusers_rows(module):
        if row.copies and {row.theirs, *row.copies} <= tensors.shapes.keys():
            first = tensors.read(row.theirs)
            if any(not np.array_equal(tensors.read(copy), first, equal_nan=True) for copy in row.copies):
                return module.clone(own_embeddings=True)
    return module


def _legacy_rows(module: DiT) -> list[Row]:
    """REPA's first checkpoints: the blocks after the aligned one, the eighth, are a separate list."""
    renamed = []
    for row in _original_rows(module):
        first, number, *rest = row.theirs.split(".")
        if first == "blocks" and int(number) >= ALIGNED:
            row = row._replace(theirs=".".join(["decoder_blocks", str(int(number) - ALIGNED), *rest]))
        renamed.append(row)
    return renamed


def _original_rows(module: DiT) -> list[Row]:
    table = [
        *linear("x_embedder.proj", "patch_embedding", patches(module.patch)),
        *linear("t_embedder.mlp.0", "timestep_embedding/hidden"),
        *linear("t_embedder.mlp.2", "timestep_embedding/out"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding", SAME),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    for layer in range(module.depth):
        table += stacked(original_block_rows(f"blocks.{layer}", "blocks"), layer)
    return table


def original_block_rows(theirs: str, ours: str) -> list[Row]:
    """The rows of a block of DiT's repository, and of those written after it.

    Args:
        theirs: its name, "blocks.0".
        ours: its path, "blocks".
    """
    return [
        *linear(f"{theirs}.adaLN_modulation.1", f"{ours}/modulation/dense"),
        *linear(f"{theirs}.attn.qkv", f"{ours}/attention/qkv"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out", DENSE_OUT),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/hidden"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
    ]


def _build_diffusers(config: Mapping[str, Any]) -> DiT:
    # norm_eps belongs to the second norm alone, and moves it by less than float32 resolves.
    fields = Fields("DiTTransformer2DModel", config, ("dropout", "norm_num_groups", "norm_eps", "upcast_attention"))
    heads = fields.take("num_attention_heads", 16)
    size = fields.take("sample_size", 32)
    channels = fields.take("in_channels", 4)
    fields.only("activation_fn", "gelu-approximate")
    fields.only("norm_type", "ada_norm_zero")
    fields.only("norm_elementwise_affine", False)
    fields.only("attention_bias", True)
    fields.only("attention_type", "default")  # of the class before it
    module = DiT(
        patch=fields.take("patch_size", 2),
        width=heads * fields.take("attention_head_dim", 72),
        depth=fields.take("num_layers", 28, DEPTH),
        heads=heads,
        num_classes=fields.take("num_embeds_ada_norm", 1000),
        learn_sigma=fields.only("out_channels", None, channels, 2 * channels) == 2 * channels,
        frequency_shift=1,
        own_embeddings=fields.take("own_embeddings", False),
        shape=(size, size, channels),
    )
    fields.end()
    return module


def _describe_diffusers(module: DiT) -> dict[str, Any]:
    _refuse_others("DiTTransformer2DModel", module, mlp_ratio=4.0)
    if module.frequency_shift != 1:
        raise Refusal(
            "DiTTransformer2DModel: diffusers embeds the time of a DiT by the frequencies 10000^(-i / 127), and "
            "would make other pictures of a network with frequency_shift = 0, which has 10000^(-i / 128). "
            "module.clone(frequency_shift=1) is the network that it would make of these weights."
        )
    side, _, channels = _shape(module)
    return {
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "in_channels": channels,
        "out_channels": channels * (2 if module.learn_sigma else 1),
        "num_layers": module.depth,
        "sample_size": side,
        "patch_size": module.patch,
        "num_embeds_ada_norm": module.num_classes,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "attention_bias": True,
        # A field of ours: the library, which always has them, ignores it with a warning.
        **({"own_embeddings": True} if module.own_embeddings else {}),
    }


def _build_original(config: Mapping[str, Any]) -> DiT:
    fields = Fields("DiT", config)
    size = fields.take("input_size", 32)
    if not fields.take("class_dropout_prob", 0.1) > 0:
        raise Refusal("DiT: class_dropout_prob = 0 leaves out the null class, which this network has.")
    module = DiT(
        patch=fields.take("patch_size", 2),
        width=fields.take("hidden_size", 1152),
        depth=fields.take("depth", 28, DEPTH),
        heads=fields.take("num_heads", 16),
        num_classes=fields.take("num_classes", 1000),
        mlp_ratio=fields.take("mlp_ratio", 4.0),
        learn_sigma=fields.take("learn_sigma", True),
        shape=(size, size, fields.take("in_channels", 4)),
    )
    fields.end()
    return module


def _describe_original(module: DiT) -> dict[str, Any]:
    _refuse_others("DiT", module, frequency_shift=0, own_embeddings=False)
    side, _, channels = _shape(module)
    return {
        "input_size": side,
        "patch_size": module.patch,
        "in_channels": channels,
        "hidden_size": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "class_dropout_prob": 0.1,
        "num_classes": module.num_classes,
        "learn_sigma": module.learn_sigma,
    }


def _refuse_others(name: str, module: DiT, **required: Any) -> None:
    """Refuses a DiT with options that the papers' networks lack."""
    required |= {"norm": "layernorm", "mlp": "gelu", "positions": "sincos", "qk_norm": False}
    required |= {"times": 1, "strength": False}
    require(name, module, required)
    require_classes(name, module)
    side_and_channels(name, module, (32, 32, 4))


def _shape(module: DiT) -> tuple[int, int, int]:
    if module.shape is None:
        raise Refusal("DiT: it has no shape of images; use e.g. module.clone(shape=(32, 32, 4)).")
    return module.shape


def _example(module: DiT) -> tuple:
    return example(module, _shape(module)[-1])


def _positions(module: DiT) -> dict[str, Computed]:
    side = _shape(module)[0] // module.patch
    width = module.width
    return {"pos_embed": Computed((1, side**2, width), lambda: sincos_positions(side, side, width)[None])}


def _published(size: int) -> dict[str, Any]:
    return {"input_size": size, "patch_size": 2, "in_channels": 4, "hidden_size": 1152, "depth": 28, "num_heads": 16}


DIFFUSERS = Family(
    "DiTTransformer2DModel",
    DiT,
    _build_diffusers,
    _describe_diffusers,
    _example,
    {"diffusers": _diffusers_rows},
    published={f"DiT-XL/2, {8 * size} x {8 * size}": {"sample_size": size, "out_channels": 8} for size in (32, 64)},
    varied=_varied,
    also={"Transformer2DModel": {"norm_type": "ada_norm_zero"}},
)
ORIGINAL = Family(
    "DiT",
    DiT,
    _build_original,
    _describe_original,
    _example,
    {"original": _original_rows, "legacy": _legacy_rows},
    library="",
    computed=_positions,
    dropped={r"projectors\..*": "the projectors of representation alignment (REPA), which only training uses"},
    published={
        "DiT-XL/2, 256 x 256": _published(32),
        "DiT-XL/2, 512 x 512": _published(64),
        "SiT-XL/2, 256 x 256": _published(32),
        "SiT-XL/2 of REPA, 256 x 256": {**_published(32), "learn_sigma": False},
        "SiT-XL/2 of REPA, 512 x 512": {**_published(64), "learn_sigma": False},
    },
)
FAMILIES = (DIFFUSERS, ORIGINAL)
