"""CogVideoX's transformer by diffusers' names, CogVideoXTransformer3DModel."""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import DENSE_OUT, Layout, Row, linear, patches, stacked, within
from diffusion.published.cogvideox.network import CogVideoX

NAME = "CogVideoXTransformer3DModel"
WITHOUT_EFFECT = ("dropout", "patch_bias")
GROUP = 4  # frames of a clip in one of its latents
WHOLE = Layout(lambda a, shape: a.reshape(shape), lambda a: a[None])  # theirs [1, M + N, D]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


LAYER = [
    *_norm("norm1.norm", "attention_norm"),
    *linear("norm1.linear", "attention_modulation/dense"),
    *_norm("norm2.norm", "mlp_norm"),
    *linear("norm2.linear", "mlp_modulation/dense"),
    *(row for i, name in enumerate("qkv") for row in linear(f"attn1.to_{name}", "qkv", at=(slice(None), i))),
    *_norm("attn1.norm_q", "query_norm"),
    *_norm("attn1.norm_k", "key_norm"),
    *linear("attn1.to_out.0", "out", DENSE_OUT),
    *linear("ff.net.0.proj", "mlp/hidden"),
    *linear("ff.net.2", "mlp/out"),
]


def _outer(module: CogVideoX) -> tuple[Layout, Layout]:
    """Layouts of what puts out the values of boxes, channels first: theirs [C f p p, D] and [C f p p]."""
    box = (module.frames, module.patch, module.patch)
    kernel = Layout(
        lambda a, shape: a.reshape(-1, *box, a.shape[-1]).transpose(4, 1, 2, 3, 0).reshape(shape),
        lambda a: a.reshape(len(a), *box, -1).transpose(4, 1, 2, 3, 0).reshape(-1, len(a)),
    )
    bias = Layout(
        lambda a, shape: a.reshape(-1, *box).transpose(1, 2, 3, 0).reshape(shape),
        lambda a: a.reshape(*box, -1).transpose(3, 0, 1, 2).reshape(-1),
    )
    return kernel, bias


def _inner(module: CogVideoX) -> Layout:
    """The layout of what receives them: theirs a convolution of pictures, or [D, C f p p]."""
    if module.frames == 1:
        return patches(module.patch)
    box = (module.frames, module.patch, module.patch)
    return Layout(
        lambda a, shape: a.reshape(len(a), -1, *box).transpose(2, 3, 4, 1, 0).reshape(shape),
        lambda a: a.reshape(*box, -1, a.shape[-1]).transpose(4, 3, 0, 1, 2).reshape(a.shape[-1], -1),
    )


def _rows(module: CogVideoX) -> list[Row]:
    kernel, bias = _outer(module)
    table = [
        *linear("patch_embed.proj", "patch_embedding", _inner(module)),
        *linear("patch_embed.text_proj", "text_embedding"),
        *linear("time_embedding.linear_1", "timestep_embedding/hidden"),
        *linear("time_embedding.linear_2", "timestep_embedding/out"),
        *_norm("norm_final", "norm"),
        *_norm("norm_out.norm", "norm_out"),
        *linear("norm_out.linear", "final_modulation/dense"),
        Row("proj_out.weight", "final/kernel", kernel),
        Row("proj_out.bias", "final/bias", bias),
    ]
    if module.learned:
        table += [Row("patch_embed.pos_embedding", "positions_of_all", WHOLE)]
    if module.offset:
        table += [
            *linear("ofs_embedding.linear_1", "offset_embedding/hidden"),
            *linear("ofs_embedding.linear_2", "offset_embedding/out"),
        ]
    for layer in range(module.depth):
        table += within(stacked(LAYER, layer), f"transformer_blocks.{layer}.", "blocks/")
    return table


def _build(config: Mapping[str, Any]) -> CogVideoX:
    fields = Fields(NAME, config, WITHOUT_EFFECT)
    fields.only("flip_sin_to_cos", True)
    fields.only("freq_shift", 0)
    fields.only("attention_bias", True)
    fields.only("activation_fn", "gelu-approximate")
    fields.only("timestep_activation_fn", "silu")
    fields.only("norm_elementwise_affine", True)
    fields.only("norm_eps", 1e-5)
    inputs = fields.take("in_channels", 16, SIZE)
    channels = fields.take("out_channels", 16, MAYBE_SIZE) or inputs
    if inputs not in (channels, 2 * channels):
        raise Refusal(
            f"{NAME}: in_channels is supported as out_channels, {channels}, or twice as many, for the latents of a "
            f"first frame; this one has {inputs}."
        )
    rotary = fields.take("use_rotary_positional_embeddings", False)
    learned = fields.take("use_learned_positional_embeddings", False)
    if learned and not rotary:
        raise Refusal(f"{NAME}: learned positions are supported beside rotary ones alone, as they were published.")
    time_width = fields.take("time_embed_dim", 512, SIZE)
    offset = fields.only("ofs_embed_dim", None, time_width)
    longest_text = fields.take("max_text_seq_length", 226, SIZE)
    longest_video = fields.take("sample_frames", 49, SIZE)
    fields.only("temporal_compression_ratio", GROUP)
    heads = fields.take("num_attention_heads", 30, SIZE)
    try:
        module = CogVideoX(
            channels=channels,
            in_channels=inputs,
            width=heads * fields.take("attention_head_dim", 64, SIZE),
            depth=fields.take("num_layers", 30, DEPTH),
            heads=heads,
            text_width=fields.take("text_embed_dim", 4096, SIZE),
            time_width=time_width,
            patch=fields.take("patch_size", 2, SIZE),
            frames=fields.take("patch_size_t", None, MAYBE_SIZE) or 1,
            positions="rope" if rotary else "sincos",
            words=longest_text if learned else 0,
            learned=1 + (longest_video - 1) // GROUP if learned else 0,
            offset=offset is not None,
            grid=(fields.take("sample_height", 60, SIZE), fields.take("sample_width", 90, SIZE)),
            spacing=(
                fields.take("temporal_interpolation_scale", 1.0),
                fields.take("spatial_interpolation_scale", 1.875),
            ),
        )
    except ValueError as why:
        raise Refusal(f"{NAME}: {why}.") from None
    fields.end()
    return module


def _describe(module: CogVideoX) -> dict[str, Any]:
    shape = {"max_text_seq_length": module.words, "sample_frames": 1 + (module.learned - 1) * GROUP}
    return {
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "in_channels": module.in_channels,
        "out_channels": module.channels,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "time_embed_dim": module.time_width,
        "ofs_embed_dim": module.time_width if module.offset else None,
        "text_embed_dim": module.text_width,
        "num_layers": module.depth,
        "attention_bias": True,
        "sample_width": module.grid[1],
        "sample_height": module.grid[0],
        "patch_size": module.patch,
        "patch_size_t": None if module.frames == 1 else module.frames,
        "activation_fn": "gelu-approximate",
        "timestep_activation_fn": "silu",
        "norm_elementwise_affine": True,
        "norm_eps": 1e-5,
        "spatial_interpolation_scale": module.spacing[1],
        "temporal_interpolation_scale": module.spacing[0],
        "use_rotary_positional_embeddings": module.positions == "rope",
        "use_learned_positional_embeddings": bool(module.learned),
        **(shape if module.learned else {}),
    }


def _example(module: CogVideoX) -> tuple:
    array = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    if module.learned:
        x = array(module.learned, *module.grid, module.in_channels)
    else:
        x = array(module.frames, module.patch, module.patch, module.in_channels)
    return x, array(), {"text": array(module.words or 1, module.text_width)}


FAMILY = Family(
    NAME,
    CogVideoX,
    _build,
    _describe,
    _example,
    {"diffusers": _rows},
    published={
        "CogVideoX 2b": {},
        "CogVideoX 5b": {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        "CogVideoX 1.5 5b": {
            "num_attention_heads": 48,
            "num_layers": 42,
            "use_rotary_positional_embeddings": True,
            "patch_size_t": 2,
        },
        "CogVideoX 5b from a picture": {
            "num_attention_heads": 48,
            "num_layers": 42,
            "in_channels": 32,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": True,
        },
    },
)
FAMILIES = {FAMILY.name: FAMILY}
