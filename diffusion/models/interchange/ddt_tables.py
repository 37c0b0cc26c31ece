"""DDT and DiT^DH: the names of the repositories of their authors.

DDT: MCG-NJU/DDT, src/models/denoiser/decoupled_improved_dit.py. DiT^DH: bytetriper/RAE, stage2/models/DDT.py, the class
`DiTwDDTHead`. A config holds the arguments of the class. A checkpoint of DDT's training has several networks:
"ema_denoiser" is the one that is published and sampled.
"""

__all__ = ["plain_block_rows", "unfolded"]

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.ddt import DDT, DDT_SIZES, DIT_DH, DIT_DH_SIZES
from diffusion.models.interchange.attention_layouts import alternating, rotary
from diffusion.models.interchange.family import DEPTH, Computed, Family, Fields, Refusal, require
from diffusion.models.interchange.lightning_rows import block_rows, options, rotary_tables
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Layout, Row, linear, patches, stacked
from diffusion.models.interchange.square_images import example, require_classes, side_and_channels
from diffusion.models.layers.embeddings import sincos_positions

PLAIN = {"final_norm": "layernorm", "bias": False, "qk_norm": True, "positions": "rope", "span": 16.0}
PLAIN |= {"norm": "scaled_rmsnorm", "mlp": "swiglu", "mlp_ratio": 4.0, "clock": "positional", "silu_again": False}


def plain_block_rows(width: int, heads: int, theirs: str, ours: str) -> list[Row]:
    """The rows of a block of DDT's repository, and of those written after it.

    Args:
        width: width of the block.
        heads: number of heads of its attention.
        theirs: its name, "blocks.0".
        ours: its path, "blocks".
    """
    turned = rotary(alternating(width // heads))
    attention = [
        Row(
            f"{theirs}.attn.qkv.weight",
            f"{ours}/attention/qkv/kernel",
            DENSE if name == "v" else turned.kernel,
            (slice(None), i),
            (i * width, (i + 1) * width),
        )
        for i, name in enumerate("qkv")
    ]
    return [
        *attention,
        Row(f"{theirs}.attn.q_norm.weight", f"{ours}/attention/query_norm/scale", turned.scale),
        Row(f"{theirs}.attn.k_norm.weight", f"{ours}/attention/key_norm/scale", turned.scale),
        *linear(f"{theirs}.attn.proj", f"{ours}/attention/out", DENSE_OUT),
        Row(f"{theirs}.norm1.weight", f"{ours}/attention_norm/scale"),
        Row(f"{theirs}.norm2.weight", f"{ours}/mlp_norm/scale"),
        *linear(f"{theirs}.mlp.w1", f"{ours}/mlp/hidden", at=(slice(None), 0), bias=False),
        *linear(f"{theirs}.mlp.w3", f"{ours}/mlp/hidden", at=(slice(None), 1), bias=False),
        *linear(f"{theirs}.mlp.w2", f"{ours}/mlp/out", bias=False),
        *linear(f"{theirs}.adaLN_modulation.0", f"{ours}/modulation/dense"),
    ]


def unfolded(side: int) -> Layout:
    """A dense layer on patches: theirs [out, C p p], channel by channel, ours [p p C, out]."""
    return Layout(
        lambda a, shape: a.reshape(a.shape[0], -1, side, side).transpose(2, 3, 1, 0).reshape(shape),
        lambda a: a.reshape(side, side, -1, a.shape[-1]).transpose(3, 2, 0, 1).reshape(a.shape[-1], -1),
    )


def _folded(side: int) -> tuple[Layout, Layout]:
    """A dense layer to patches: theirs [C p p, in] and [C p p], ours [in, p p C] and [p p C]."""
    kernel = Layout(
        lambda a, shape: a.reshape(-1, side, side, a.shape[-1]).transpose(3, 1, 2, 0).reshape(shape),
        lambda a: a.reshape(a.shape[0], side, side, -1).transpose(3, 1, 2, 0).reshape(-1, a.shape[0]),
    )
    bias = Layout(
        lambda a, shape: a.reshape(-1, side, side).transpose(1, 2, 0).reshape(shape),
        lambda a: a.reshape(side, side, -1).transpose(2, 0, 1).reshape(-1),
    )
    return kernel, bias


def _embeddings(module: DDT) -> list[Row]:
    table = [
        *linear("t_embedder.mlp.0", "timestep_embedding/hidden"),
        *linear("t_embedder.mlp.2", "timestep_embedding/out"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding"),
    ]
    return table + [Row("t_embedder.W", "timestep_embedding/frequencies")] * (module.clock == "fourier")


def _stacks(module: DDT) -> list[tuple[int, str, int, int, int]]:
    """(number among their blocks, our path, layer, width, heads) of each block."""
    encoder = [(i, "blocks", i, module.width, module.heads) for i in range(module.depth)]
    return encoder + [
        (module.depth + i, "decoder_blocks", i, module.decoder_width, module.decoder_heads)
        for i in range(module.decoder_depth)
    ]


def _plain_rows(module: DDT) -> list[Row]:
    final, final_bias = linear("final_layer.linear", "final")
    kernel, bias = _folded(module.patch)
    table = [
        *linear("s_embedder.proj", "patch_embedding", unfolded(module.patch)),
        *linear("x_embedder.proj", "decoder_patch_embedding", unfolded(module.patch)),
        *_embeddings(module),
        *linear("final_layer.adaLN_modulation.0", "final_modulation/dense"),
        final._replace(layout=kernel),
        final_bias._replace(layout=bias),
    ]
    for number, ours, layer, width, heads in _stacks(module):
        table += stacked(plain_block_rows(width, heads, f"blocks.{number}", ours), layer)
    return table


def _head_rows(module: DDT) -> list[Row]:
    table = [
        *linear("s_embedder.proj", "patch_embedding", patches(1)),
        *linear("x_embedder.proj", "decoder_patch_embedding", patches(1)),
        *_embeddings(module),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    if module.decoder_width != module.width:
        table += linear("s_projector", "decoder_condition")
    if module.final_norm == "scaled_rmsnorm":
        table.append(Row("final_layer.norm_final.weight", "final_norm/scale"))
    for number, ours, layer, width, heads in _stacks(module):
        table += stacked(block_rows(module, width, heads, f"blocks.{number}", ours), layer)
    return table


def _build_plain(config: Mapping[str, Any]) -> DDT:
    # learn_sigma, deep_supervision and the paths change nothing that the class computes.
    fields = Fields("DDT", config, ("learn_sigma", "deep_supervision", "weight_path", "load_ema"))
    width = fields.take("hidden_size", 1152)
    depth = fields.take("num_encoder_blocks", 4, DEPTH)
    heads = fields.take("num_groups", 12)
    # A field of ours: theirs takes latents of any size.
    size = fields.take("input_size", 32)
    module = DDT(
        patch=fields.take("patch_size", 2),
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=width,
        decoder_depth=fields.take("num_blocks", 18, DEPTH) - depth,
        decoder_heads=heads,
        num_classes=fields.take("num_classes", 1000),
        shape=(size, size, fields.take("in_channels", 4)),
    )
    fields.end()
    return module


def _describe_plain(module: DDT) -> dict[str, Any]:
    side, channels = _check("DDT", module, PLAIN)
    if (module.decoder_width, module.decoder_heads) != (module.width, module.heads):
        raise Refusal(
            f"DDT: decoder_width = {module.decoder_width} and decoder_heads = {module.decoder_heads} cannot be written "
            f"to it; they are the encoder's, {module.width} and {module.heads}."
        )
    return {
        "input_size": side,
        "in_channels": channels,
        "patch_size": module.patch,
        "hidden_size": module.width,
        "num_groups": module.heads,
        "num_blocks": module.depth + module.decoder_depth,
        "num_encoder_blocks": module.depth,
        "num_classes": module.num_classes,
    }


def _build_head(config: Mapping[str, Any]) -> DDT:
    fields = Fields("DiTwDDTHead", config)
    size = fields.take("input_size", 1)
    fields.only("patch_size", 1, (1, 1))
    if not fields.take("class_dropout_prob", 0.1) > 0:
        raise Refusal("DiTwDDTHead: class_dropout_prob = 0 leaves out the null class, which this network has.")
    width, decoder_width = fields.take("hidden_size", (1152, 2048))
    depth, decoder_depth = fields.take("depth", (28, 2), schema.several(DEPTH, 2, 2))
    count = schema.whole(1)
    heads = fields.take("num_heads", (16, 16), schema.either(count, schema.several(count, 2, 2)))
    heads, decoder_heads = (heads, heads) if isinstance(heads, int) else heads
    fields.only("use_rope", True)
    chosen = options(fields, default=True)
    chosen["positions"] = "sincos_rope" if fields.take("use_pos_embed", True) else "rope"
    module = DDT(
        patch=1,
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
        num_classes=fields.take("num_classes", 1000),
        mlp_ratio=fields.take("mlp_ratio", 4.0),
        shape=(size, size, fields.take("in_channels", 768)),
        **DIT_DH | chosen | {"final_norm": chosen["norm"]},
    )
    fields.end()
    return module


def _describe_head(module: DDT) -> dict[str, Any]:
    required = {name: DIT_DH[name] for name in ("bias", "span", "clock", "silu_again")}
    side, channels = _check("DiTwDDTHead", module, {**required, "patch": 1, "final_norm": module.norm})
    if module.norm == "rmsnorm":
        raise Refusal("DiTwDDTHead: norm = 'rmsnorm' cannot be written to it; its RMSNorm has scales.")
    return {
        "input_size": side,
        "patch_size": 1,
        "in_channels": channels,
        "hidden_size": [module.width, module.decoder_width],
        "depth": [module.depth, module.decoder_depth],
        "num_heads": [module.heads, module.decoder_heads],
        "mlp_ratio": module.mlp_ratio,
        "class_dropout_prob": 0.1,
        "num_classes": module.num_classes,
        "use_qknorm": module.qk_norm,
        "use_swiglu": module.mlp == "swiglu",
        "use_rope": True,
        "use_rmsnorm": module.norm == "scaled_rmsnorm",
        "use_pos_embed": module.positions == "sincos_rope",
    }


def _check(name: str, module: DDT, required: Mapping[str, Any]) -> tuple[int, int]:
    """Refuses a DDT with options that the networks of a class lack; the side and the channels of its images."""
    require(name, module, required)
    require_classes(name, module)
    return side_and_channels(name, module, (32, 32, 4))


def _example(module: DDT) -> tuple:
    return example(module, module.shape[-1] if module.shape else 4)


def _tables(module: DDT) -> dict[str, Computed]:
    side = module.shape[0] if module.shape else 1
    width = module.width
    tables = rotary_tables("enc_feat_rope", side, width // module.heads)
    tables |= rotary_tables("dec_feat_rope", side, module.decoder_width // module.decoder_heads)
    if module.positions == "sincos_rope":
        tables["pos_embed"] = Computed((1, side**2, width), lambda: sincos_positions(side, side, width)[None])
    return tables


def _plain(size: str, side: int) -> dict[str, Any]:
    sizes = DDT_SIZES[size]
    return {
        "input_size": side,
        "hidden_size": sizes["width"],
        "num_groups": sizes["heads"],
        "num_blocks": sizes["depth"] + sizes["decoder_depth"],
        "num_encoder_blocks": sizes["depth"],
    }


def _head(size: str, channels: int = 768, side: int = 16) -> dict[str, Any]:
    sizes = DIT_DH_SIZES[size]
    both = lambda name: [sizes[name], sizes[f"decoder_{name}"]]
    widths = {"hidden_size": both("width"), "depth": both("depth"), "num_heads": both("heads")}
    return {"input_size": side, "in_channels": channels, **widths}


PLAIN_FAMILY = Family(
    "DDT",
    DDT,
    _build_plain,
    _describe_plain,
    _example,
    {"original": _plain_rows},
    library="",
    published={f"DDT-XL/2, {8 * side} x {8 * side}": _plain("XL", side) for side in (32, 64)},
    prefixes=("", "ema_denoiser."),
)
HEAD_FAMILY = Family(
    "DiTwDDTHead",
    DDT,
    _build_head,
    _describe_head,
    _example,
    {"original": _head_rows},
    library="",
    computed=_tables,
    published={f"DiT^DH-{size}, DINOv2-B": _head(size) for size in ("S", "XL")},
)
FAMILIES = (PLAIN_FAMILY, HEAD_FAMILY)
