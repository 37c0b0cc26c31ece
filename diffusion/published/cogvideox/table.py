"""CogVideoX's transformer by diffusers' names, CogVideoXTransformer3DModel."""

from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, array
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, Group, tuple_of, width_of_heads
from diffusion.models.interchange.rows import (
    DENSE_OUT,
    LEADING,
    Layout,
    Row,
    layers,
    linear,
    mlp,
    norm,
    patches,
    side_by_side,
    two_linear,
)
from diffusion.published.cogvideox.network import CogVideoX

NAME = "CogVideoXTransformer3DModel"
GROUP = 4  # frames of a clip in one of its latents


LAYER = [
    *norm("norm1.norm", "attention_norm"),
    *linear("norm1.linear", "attention_modulation/dense"),
    *norm("norm2.norm", "mlp_norm"),
    *linear("norm2.linear", "mlp_modulation/dense"),
    *side_by_side(("attn1.to_q", "attn1.to_k", "attn1.to_v"), "qkv"),
    *norm("attn1.norm_q", "query_norm"),
    *norm("attn1.norm_k", "key_norm"),
    *linear("attn1.to_out.0", "out", DENSE_OUT),
    *mlp("ff.net.0.proj", "ff.net.2", "mlp/"),
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
        *two_linear("time_embedding", "timestep_embedding/"),
        *norm("norm_final", "norm"),
        *norm("norm_out.norm", "norm_out"),
        *linear("norm_out.linear", "final_modulation/dense"),
        Row("proj_out.weight", "final/kernel", kernel),
        Row("proj_out.bias", "final/bias", bias),
    ]
    if module.learned:
        table += [Row("patch_embed.pos_embedding", "positions_of_all", LEADING)]
    if module.offset:
        table += two_linear("ofs_embedding", "offset_embedding/")
    table += layers(LAYER, module.depth, "transformer_blocks.", "blocks/")
    return table


POSITIONS = {
    "use_rotary_positional_embeddings": (False, None),
    "use_learned_positional_embeddings": (False, None),
    "max_text_seq_length": (226, None),
    "sample_frames": (49, None),
}


def _positions(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    rotary, learned, words, frames = values.values()
    if learned and not rotary:
        raise ValueError("learned positions are supported only together with rotary ones, as in the published models.")
    sizes = {"words": words, "learned": 1 + (frames - 1) // GROUP} if learned else {}
    return {"positions": "rope" if rotary else "sincos", **sizes}


def _their_positions(module: CogVideoX) -> dict[str, Any]:
    sizes = (module.words, 1 + (module.learned - 1) * GROUP) if module.learned else (ABSENT, ABSENT)
    return dict(zip(POSITIONS, (module.positions == "rope", bool(module.learned), *sizes)))


def _sees_frame(channels: int | None, ours: Mapping[str, Any]) -> int:
    """The channels of the latents; the network sees these, or also the channels of a first frame."""
    number: int = channels or ours["in_channels"]
    if ours["in_channels"] not in (number, 2 * number):
        raise ValueError(
            f"in_channels = {ours['in_channels']} is not supported. Supported: out_channels, {number}, or twice as "
            "many, for the latents of a first frame."
        )
    return number


def _offset(width: int | None, ours: Mapping[str, Any]) -> bool:
    if width not in (None, ours["time_width"]):
        raise ValueError(f"ofs_embed_dim = {width} is not supported; supported: None, {ours['time_width']}.")
    return width is not None


CONFIG = FieldTable(
    NAME,
    CogVideoX,
    (
        *width_of_heads(30, 64),
        Field("in_channels", "in_channels", 16),
        Field("out_channels", "channels", 16, MAYBE_SIZE, _sees_frame),
        Follows("flip_sin_to_cos", True),
        Follows("freq_shift", 0),
        Field("time_embed_dim", "time_width", 512),
        Field(
            "ofs_embed_dim",
            "offset",
            None,
            MAYBE_SIZE,
            _offset,
            lambda module: module.time_width if module.offset else None,
        ),
        Field("text_embed_dim", "text_width", 4096),
        Field("num_layers", "depth", 30, DEPTH),
        Follows("attention_bias", True),
        tuple_of("grid", {"sample_height": 60, "sample_width": 90}),
        Field("patch_size", "patch", 2),
        Field(
            "patch_size_t",
            "frames",
            None,
            MAYBE_SIZE,
            read=lambda frames, ours: frames or 1,
            write=lambda module: None if module.frames == 1 else module.frames,
        ),
        Follows("activation_fn", "gelu-approximate"),
        Follows("timestep_activation_fn", "silu"),
        Follows("norm_elementwise_affine", True),
        Follows("norm_eps", 1e-5),
        tuple_of("spacing", {"temporal_interpolation_scale": 1.0, "spatial_interpolation_scale": 1.875}),
        Follows("temporal_compression_ratio", GROUP, silent=True),
        Group(POSITIONS, _positions, _their_positions),
    ),
    unread={"dropout": None, "patch_bias": None},
)


def _example(module: CogVideoX) -> tuple:
    shape = (module.learned, *module.grid) if module.learned else (module.frames, module.patch, module.patch)
    return array(1, *shape, module.in_channels), array(1), {"text": array(1, module.words or 1, module.text_width)}


BIG = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
FAMILY = CONFIG.family(
    _example,
    {"diffusers": _rows},
    published={
        "CogVideoX 2b": {},
        "CogVideoX 5b": BIG,
        "CogVideoX 1.5 5b": BIG | {"patch_size_t": 2},
        "CogVideoX 5b from a picture": BIG | {"in_channels": 32, "use_learned_positional_embeddings": True},
    },
)
FAMILIES = {FAMILY.name: FAMILY}
