"""AutoencoderKL and VQModel by the names of diffusers (current, and before 0.14) and of the original repositories."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.autoencoder_vq import VQModel
from diffusion.models.autoencoders.encoder_decoder import Options
from diffusion.models.interchange.family import LAYERS, MAYBE_NUMBER, MAYBE_SIZE, SCALE, SIZES, array
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import CONV, DENSE, POINT, SAME, Layout, Row, linear, norm, within

Autoencoder = AutoencoderKL | VQModel
"""The networks that these tables describe."""


class Names(NamedTuple):
    """A layout's names of the parts of the encoder and the decoder; {n} counts levels from the picture, {m} from below.

    Attributes:
        encoder: names in a level: its blocks, its attentions, the convolution that halves.
        decoder: names in a level: its blocks, its attentions, the convolution that doubles.
        middle: the first block, the attention, the second block.
        norm_out: the last norm.
        shortcut: the shortcut of a block.
        mixing: names in an attention: norm, query, key, value, projection.
        point: layout of the attention's kernels.
    """

    encoder: tuple[str, str, str]
    decoder: tuple[str, str, str]
    middle: tuple[str, str, str]
    norm_out: str
    shortcut: str
    mixing: tuple[str, str, str, str, str]
    point: Layout


DIFFUSERS = Names(
    encoder=("down_blocks.{n}.resnets", "down_blocks.{n}.attentions", "down_blocks.{n}.downsamplers.0.conv"),
    decoder=("up_blocks.{m}.resnets", "up_blocks.{m}.attentions", "up_blocks.{m}.upsamplers.0.conv"),
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    norm_out="conv_norm_out",
    shortcut="conv_shortcut",
    mixing=("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    point=DENSE,
)
"""The names of diffusers since 0.14."""
EARLY_DIFFUSERS = DIFFUSERS._replace(mixing=("group_norm", "query", "key", "value", "proj_attn"))
ORIGINAL = Names(
    encoder=("down.{n}.block", "down.{n}.attn", "down.{n}.downsample.conv"),
    decoder=("up.{n}.block", "up.{n}.attn", "up.{n}.upsample.conv"),
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    norm_out="norm_out",
    shortcut="nin_shortcut",
    mixing=("norm", "q", "k", "v", "proj_out"),
    point=POINT,
)


def block_rows(names: Names, theirs: str, ours: str, shortcut: bool) -> list[Row]:
    """A residual block."""
    rows = []
    for k in (1, 2):
        rows += norm(f"{theirs}.norm{k}", f"{ours}/norm_{k}")
        rows += linear(f"{theirs}.conv{k}", f"{ours}/conv_{k}", CONV)
    return rows + (linear(f"{theirs}.{names.shortcut}", f"{ours}/shortcut", CONV) if shortcut else [])


def mixing_rows(names: Names, theirs: str, ours: str) -> list[Row]:
    """Attention over pixels."""
    first, *dense = names.mixing
    rows = norm(f"{theirs}.{first}", f"{ours}/norm")
    for name, part in zip(dense, ("query", "key", "value", "project")):
        rows += linear(f"{theirs}.{name}", f"{ours}/{part}", names.point)
    return rows


def side_rows(module: Autoencoder | Options, names: Names, encoder: bool) -> list[Row]:
    """The encoder or the decoder of an autoencoder, or of its options."""
    levels = len(module.widths)
    rows = [
        *linear("conv_in", "conv_in", CONV),
        *linear("conv_out", "conv_out", CONV),
        *norm(names.norm_out, "norm_out"),
    ]
    for k in (0, 1):
        rows += block_rows(names, names.middle[2 * k], f"middle/block_{k}", shortcut=False)
    if module.middle_attention:
        rows += mixing_rows(names, names.middle[1], "middle/mixing_0")
    for i, width in enumerate(module.widths):
        blocks, mixings, resize = (
            name.format(n=i, m=levels - 1 - i) for name in (names.encoder if encoder else names.decoder)
        )
        before = module.widths[max(i - 1, 0) if encoder else min(i + 1, levels - 1)]
        for j in range(module.layers if encoder else module.layers + 1):
            rows += block_rows(names, f"{blocks}.{j}", f"level_{i}/block_{j}", shortcut=j == 0 and before != width)
            if i in module.attention_levels:
                rows += mixing_rows(names, f"{mixings}.{j}", f"level_{i}/mixing_{j}")
        if encoder and i + 1 < levels:
            rows += linear(resize, f"down_{i}", CONV)
        if not encoder and i:
            rows += linear(resize, f"up_{i}", CONV)
    return rows


def body_rows(module: Autoencoder, names: Names) -> list[Row]:
    """The encoder and the decoder."""
    return within(side_rows(module, names, True), "encoder.", "encoder/") + within(
        side_rows(module, names, False), "decoder.", "decoder/"
    )


def kl_rows(module: AutoencoderKL, names: Names) -> list[Row]:
    """The whole autoencoder."""
    rows = body_rows(module, names)
    behind, before = module.convs
    rows += linear("quant_conv", "moments_conv", CONV) * behind
    return rows + linear("post_quant_conv", "latents_conv", CONV) * before


def vq_rows(module: VQModel, names: Names) -> list[Row]:
    """The whole autoencoder."""
    return [
        *body_rows(module, names),
        *linear("quant_conv", "before_codes", CONV),
        *linear("post_quant_conv", "behind_codes", CONV),
        Row("quantize.embedding.weight", "codebook", SAME),
    ]


STATISTICS = schema.optional(schema.several(schema.number(), 1))  # the mean and deviation of each channel of latents


def _read_levels(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, and the levels with attention."""
    widths, down, up = values.values()
    attends = tuple(kind == "AttnDownEncoderBlock2D" for kind in down)
    types = tuple(f"{'Attn' if one else ''}{{}}Block2D" for one in attends)
    if (
        len(down) != len(widths)
        or down != tuple(kind.format("DownEncoder") for kind in types)
        or up != tuple(kind.format("UpDecoder") for kind in reversed(types))
    ):
        raise ValueError(
            f"down_block_types = {down!r} and up_block_types = {up!r} are not supported for {len(widths)} levels. "
            "Supported: (Attn)DownEncoderBlock2D, one for each of block_out_channels, and (Attn)UpDecoderBlock2D in "
            "the reverse order."
        )
    return {"widths": widths, "attention_levels": tuple(i for i, one in enumerate(attends) if one)}


def _write_levels(module: Autoencoder) -> dict[str, Any]:
    attends = ["Attn" if i in module.attention_levels else "" for i in range(len(module.widths))]
    return {
        "block_out_channels": list(module.widths),
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in attends],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(attends)],
    }


INPUT_RANGE = Field(
    "input_range",
    "input_range",
    (-1.0, 1.0),
    schema.several(schema.number(), 2, 2),
    read=lambda ends, _: tuple(map(float, ends)),
    # A field of this library alone: the other library ignores it with a warning.
    write=lambda module: ABSENT if module.input_range == (-1, 1) else module.input_range,
)
"""The range of the pictures that the encoder takes."""


def body(widths: tuple[int, ...] = (64,), layers: int = 1) -> tuple[Group | Follows | Field, ...]:
    """The fields of the encoder and the decoder.

    Args:
        widths: default of block_out_channels, one number for each level.
        layers: default of layers_per_block.
    """
    levels = {
        "block_out_channels": (widths, SIZES),
        "down_block_types": (("DownEncoderBlock2D",) * len(widths), None),
        "up_block_types": (("UpDecoderBlock2D",) * len(widths), None),
    }
    return (
        Group(levels, _read_levels, _write_levels),
        Follows("act_fn", "silu"),
        Field("in_channels", "picture_channels", 3),
        Field("layers_per_block", "layers", layers, LAYERS),
        Field("norm_num_groups", "groups", 32),
        Field("mid_block_add_attention", "middle_attention", True),
        INPUT_RANGE,
    )


CONVS = Group(
    {"use_quant_conv": (True, None), "use_post_quant_conv": (True, None)},
    lambda convs, _: {
        "quantization_convs": convs["use_quant_conv"],
        "decoder_conv": None if len({*convs.values()}) == 1 else convs["use_post_quant_conv"],
    },
    lambda module: dict(zip(("use_quant_conv", "use_post_quant_conv"), module.convs)),
)
"""The fields of the convolutions behind the encoder and before the decoder."""


def _read_scale(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our scale and shift, one for all channels or one for each."""
    scale, shift, mean, deviation = values.values()
    if (mean is None) != (deviation is None) or (mean is not None and shift):
        raise ValueError("latents_mean and latents_std must be set together, and without shift_factor.")
    if mean is None:
        return {"scale": scale, "shift": shift or 0.0}
    return {"scale": tuple(scale / one for one in deviation), "shift": mean}


def per_channel(module: Any, factor: Any) -> np.ndarray:
    """A scale or a shift as a number for each channel of the latents, float64 [D]."""
    return np.broadcast_to(np.asarray(factor, np.float64), module.latent_channels)


def _write_scale(module: AutoencoderKL) -> dict[str, Any]:
    if isinstance(module.scale, tuple) or isinstance(module.shift, tuple):
        return {
            "scaling_factor": 1.0,
            "latents_mean": per_channel(module, module.shift).tolist(),
            "latents_std": (1 / per_channel(module, module.scale)).tolist(),
        }
    return {"scaling_factor": module.scale, "shift_factor": module.shift or None}


KL_CONFIG = FieldTable(
    "AutoencoderKL",
    AutoencoderKL,
    (
        CONVS,
        Group(
            {
                "scaling_factor": (0.18215, SCALE),
                "shift_factor": (None, MAYBE_NUMBER),
                "latents_mean": (None, STATISTICS),
                "latents_std": (None, STATISTICS),
            },
            _read_scale,
            _write_scale,
        ),
        *body(),
        Field(
            "out_channels",
            "decoded_channels",
            3,
            read=lambda channels, ours: None if channels == ours["picture_channels"] else channels,
            write=lambda module: module.decoded_channels or module.picture_channels,
        ),
        Field("latent_channels", "latent_channels", 4),
    ),
    unread={"sample_size": None, "force_upcast": None},
    required={"packed": 1},
)


def one_scale(default: float) -> Field:
    """diffusers' scaling_factor of latents with one scale for all channels, and no shift.

    Args:
        default: theirs.
    """

    def write(module: Autoencoder) -> Any:
        if np.ndim(module.scale) or np.any(module.shift):
            raise ValueError(
                f"diffusers has one scaling_factor and no shift here, but this network has scale={module.scale}, "
                f"shift={module.shift}."
            )
        return module.scale

    return Field("scaling_factor", "scale", default, SCALE, write=write)


def levels_of(field: str, kind: str) -> Follows:
    """The kinds of the blocks of all levels, which are equal."""
    return Follows(field, lambda module: (kind,) * len(module.widths))


def picture(module: Autoencoder) -> tuple[jax.ShapeDtypeStruct]:
    """A small picture."""
    return (array(1, module.factor, module.factor, module.picture_channels),)


def _write_codes(module: VQModel) -> int:
    if module.finite_levels:
        raise ValueError("this network uses finite scalar quantization, which diffusers does not have.")
    return module.codes


VQ_CONFIG = FieldTable(
    "VQModel",
    VQModel,
    (
        Follows("norm_type", "group", silent=True),
        Field("latent_channels", "latent_channels", 3),
        *body(),
        Follows("out_channels", lambda module: module.picture_channels, default=3),
        Field("num_vq_embeddings", "codes", 256, write=_write_codes),
        Field(
            "vq_embed_dim",
            "code_channels",
            None,
            MAYBE_SIZE,
            read=lambda channels, ours: channels or ours["latent_channels"],
        ),
        one_scale(0.18215),
    ),
    # lookup_from_codebook selects the input of the library's decode; ours has look_up instead.
    unread={"sample_size": None, "force_upcast": None, "lookup_from_codebook": None},
)


def tables(rows: Callable[[Any, Names], list[Row]]) -> dict[str, Callable[[Any], list[Row]]]:
    """The layouts, by their names."""
    names = {"diffusers": DIFFUSERS, "early diffusers": EARLY_DIFFUSERS, "original": ORIGINAL}
    return {layout: partial(lambda names, module: rows(module, names), one) for layout, one in names.items()}


def sizes(levels: int, attention: tuple[int, ...] = (), widths: tuple[int, ...] = (128, 256, 512, 512)) -> dict:
    """The published configs have these in common."""
    kinds = tuple("Attn" if i in attention else "" for i in range(levels))
    return {
        "block_out_channels": widths[:levels],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "down_block_types": tuple(f"{kind}DownEncoderBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)),
    }


WITHOUT_CONVS = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
TRAINING = (r"loss\..*", r"model_ema\..*")  # leftovers of the autoencoder's training in the file
KL = KL_CONFIG.family(
    picture,
    tables(kl_rows),
    ignored=TRAINING,
    published={
        "Stable Diffusion": {**sizes(4), "scaling_factor": 0.18215},
        "Stable Diffusion XL": {**sizes(4), "scaling_factor": 0.13025},
        "Stable Diffusion 3": {**sizes(4), **WITHOUT_CONVS, "scaling_factor": 1.5305, "shift_factor": 0.0609},
        "FLUX.1": {**sizes(4), **WITHOUT_CONVS, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    },
    prefixes=("", "first_stage_model.", "vae."),
    # No tensor holds the scale of the latents: the network trained on them determines it.
    beside={
        "Stable Diffusion": r"cond_stage_model\.",
        "Stable Diffusion XL": r"conditioner\.",
        "Stable Diffusion 3": r"model\.diffusion_model\.joint_blocks\.",
        "FLUX.1": r"model\.diffusion_model\.double_blocks\.",
    },
)
VQ = VQ_CONFIG.family(
    picture,
    tables(vq_rows),
    ignored=TRAINING,
    published={
        "VQ-f4": {**sizes(3), "latent_channels": 3, "num_vq_embeddings": 8192, "scaling_factor": 1.0},
        "VQ-f8": {
            **sizes(4, attention=(3,), widths=(128, 256, 256, 512)),
            "latent_channels": 4,
            "num_vq_embeddings": 16384,
            "scaling_factor": 1.0,
        },
        "VQ-f16": {
            **sizes(5, attention=(4,), widths=(128, 128, 256, 256, 512)),
            "latent_channels": 8,
            "num_vq_embeddings": 16384,
            "scaling_factor": 1.0,
        },
    },
    prefixes=("", "first_stage_model."),
)
FAMILIES = (KL, VQ)
