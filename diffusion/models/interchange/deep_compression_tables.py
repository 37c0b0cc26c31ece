"""The tables of AutoencoderDC in the layouts of diffusers and of the original repository (efficientvit)."""

from collections.abc import Callable, Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_dc import AutoencoderDC, Levels
from diffusion.models.interchange.autoencoder_tables import INPUT_RANGE, one_scale, picture
from diffusion.models.interchange.family import DEPTH, SIZE, SIZES
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Group
from diffusion.models.interchange.rows import CONV, DENSE, POINT, Layout, Row, linear, within

Table = list[Row]
"""Rows of a table of names."""


def _norm(theirs: str, ours: str, kind: str = "rms_norm") -> Table:
    rows = [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]
    if kind == "batch_norm":
        rows += [Row(f"{theirs}.running_mean", f"{ours}/mean"), Row(f"{theirs}.running_var", f"{ours}/var")]
    return rows


def _conv(theirs: str, ours: str, layout: Layout = CONV, bias: bool = True) -> Table:
    return linear(theirs, ours, layout, bias=bias)


def _diffusers_plain(norm: str) -> Table:
    return _conv("conv1", "conv_1") + _conv("conv2", "conv_2", bias=False) + _norm("norm", "norm", norm)


def _original_plain(norm: str) -> Table:
    rows = _conv("conv1.conv", "conv_1") + _conv("conv2.conv", "conv_2", bias=False) + _norm("conv2.norm", "norm", norm)
    return within(rows, "main.")


def _diffusers_vit(channels: int, scales: int, norm: str, j: int) -> Table:
    rows = []
    for i, name in enumerate("qkv"):
        at = (slice(None), slice(i * channels, (i + 1) * channels))
        rows.append(Row(f"to_{name}.weight", "qkv/kernel", DENSE, at))
    for i in range(scales):
        rows += _conv(f"to_qkv_multiscale.{i}.proj_in", f"near_{i}", bias=False)
        rows += _conv(f"to_qkv_multiscale.{i}.proj_out", f"mixed_{i}", bias=False)
    rows += _conv("to_out", "project", DENSE, bias=False) + _norm("norm_out", "norm", norm)
    gated = _conv("conv_inverted", "widen", POINT) + _conv("conv_depth", "near")
    gated += _conv("conv_point", "project", POINT, bias=False) + _norm("norm", "norm")
    return within(rows, "attn.", f"mixing_{j}/") + within(gated, "conv_out.", f"gated_{j}/")


def _original_vit(channels: int, scales: int, norm: str, j: int) -> Table:
    rows = _conv("qkv.conv", "qkv", POINT, bias=False)
    for i in range(scales):
        rows += _conv(f"aggreg.{i}.0", f"near_{i}", bias=False) + _conv(f"aggreg.{i}.1", f"mixed_{i}", bias=False)
    rows += _conv("proj.conv", "project", POINT, bias=False) + _norm("proj.norm", "norm", norm)
    gated = _conv("inverted_conv.conv", "widen", POINT) + _conv("depth_conv.conv", "near")
    gated += _conv("point_conv.conv", "project", POINT, bias=False) + _norm("point_conv.norm", "norm")
    return within(rows, "context_module.main.", f"mixing_{j}/") + within(gated, "local_module.main.", f"gated_{j}/")


def _levels(module: AutoencoderDC, encoder: bool, original: bool) -> Table:
    """The rows of one side's levels, each followed by halving (encoder) or preceded by doubling (decoder)."""
    levels = module.encoder_levels if encoder else module.decoder_levels
    block_name = "stages.{}.op_list.{}." if original else f"{'down' if encoder else 'up'}_blocks.{{}}.{{}}."
    # In the original repository, only a strided convolution has no module around it.
    inner = "main.conv.conv" if not encoder or module.shuffle_down else "main.conv"
    rows = []
    for i in range(levels.first, len(levels.widths)):
        last = i + 1 == len(levels.widths)
        doubles = not encoder and not last
        for j in range(levels.layers[i]):
            if levels.blocks[i] == "ResBlock":
                block = within((_original_plain if original else _diffusers_plain)(levels.norms[i]), "", f"block_{j}/")
            else:
                vit = _original_vit if original else _diffusers_vit
                block = vit(levels.widths[i], len(levels.scales[i]), levels.norms[i], j)
            rows += within(block, block_name.format(i, j + doubles), f"level_{i}/")
        if not last:
            resize = _conv(inner if original else "conv", "conv")
            rows += within(
                resize, block_name.format(i, levels.layers[i] if encoder else 0), f"{'down' if encoder else 'up'}_{i}/"
            )
    return rows


def _ends(module: AutoencoderDC, encoder: bool, original: bool) -> Table:
    """The rows of the first and the last convolution of one side."""
    levels = module.encoder_levels if encoder else module.decoder_levels
    shuffled = module.shuffle_down if encoder else True  # the convolution is then inside a module, see _levels
    if original:
        into, out, norm = (
            ("project_in.conv", "project_out.{}op_list.0.conv", "")
            if encoder
            else ("project_in.{}conv", "project_out.op_list.2.conv", "project_out.op_list.0")
        )
        main = "main." if (module.out_shortcut if encoder else module.in_shortcut) else ""
        into = into.format(main)
        out = out.format(main)
        inner = ".conv" if shuffled else ""
    else:
        into, out, norm, inner = "conv_in", "conv_out", "norm_out", ".conv"
    # If level 0 has no layers, the convolution at the picture's side halves or doubles.
    if encoder:
        first = _conv(into + inner, "in/conv") if levels.first else _conv(into, "conv_in")
        return first + _conv(out, "conv_out")
    last = _conv(out + inner, "out/conv") if levels.first else _conv(out, "conv_out")
    return _conv(into, "conv_in") + _norm(norm, "norm_out") + last


def _rows(original: bool) -> Callable[[AutoencoderDC], Table]:
    def rows(module: AutoencoderDC) -> Table:
        side = lambda encoder: _ends(module, encoder, original) + _levels(module, encoder, original)
        return within(side(True), "encoder.", "encoder/") + within(side(False), "decoder.", "decoder/")

    return rows


WIDTHS = (128, 256, 512, 512, 1024, 1024)
WORDS = schema.either(schema.text(), schema.several(schema.text()))  # one text for all levels, or one for each
SCALES = ((), (), (), (5,), (5,), (5,))
OF_ENCODERS = ("rms_norm", "silu")  # the norm and the activation at every level of an encoder
OF_DECODERS = {"decoder_norm_types": ("rms_norm", WORDS), "decoder_act_fns": ("silu", WORDS)}


def _side(side: str, layers: tuple[int, ...], others: Mapping[str, Any]) -> Group:
    """The fields of the levels of the encoder or the decoder.

    Args:
        side: "encoder" or "decoder".
        layers: the default number of layers of each level.
        others: the fields of norms and activations, which only the decoder has.
    """
    theirs = {
        f"{side}_block_out_channels": (WIDTHS, SIZES),
        f"{side}_block_types": ("ResBlock", WORDS),
        f"{side}_qkv_multiscales": (SCALES, schema.several(schema.several(SIZE))),
        f"{side}_layers_per_block": (layers, schema.several(DEPTH)),
        **others,
    }

    def read(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
        widths, blocks, scales, depths, *kinds = values.values()
        norms, activations = kinds or OF_ENCODERS
        per_level = lambda value: (value,) * len(widths) if isinstance(value, str) else value
        levels = Levels(widths, depths, per_level(blocks), scales, per_level(norms), per_level(activations))
        return {f"{side}_levels": levels}

    def write(module: AutoencoderDC) -> dict[str, Any]:
        levels = getattr(module, f"{side}_levels")
        kinds = {*zip(levels.norms, levels.activations)}
        if not others and kinds != {OF_ENCODERS}:
            raise ValueError("an encoder must have rms_norm and silu at every level, as diffusers' has.")
        values = (levels.widths, levels.blocks, levels.scales, levels.layers, levels.norms, levels.activations)
        return dict(zip(theirs, values))

    return Group(theirs, read, write)


CONFIG = FieldTable(
    "AutoencoderDC",
    AutoencoderDC,
    (
        one_scale(1.0),
        _side("encoder", (2, 2, 2, 3, 3, 3), {}),
        _side("decoder", (3,) * 6, OF_DECODERS),
        Field("latent_channels", "latent_channels", 32),
        Field("in_channels", "picture_channels", 3),
        Field("attention_head_dim", "head_size", 32),
        Choice("downsample_block_type", "shuffle_down", {"pixel_unshuffle": True, "conv": False, "Conv": False}),
        Choice("upsample_block_type", "shuffle_up", {"pixel_shuffle": True, "interpolate": False}),
        Field("encoder_out_shortcut", "out_shortcut", True),
        Field("decoder_in_shortcut", "in_shortcut", True),
        Field("decoder_conv_act_fn", "last_activation", "relu"),
        INPUT_RANGE,
    ),
)


def imagenet(levels: int, latent_channels: int) -> dict[str, Any]:
    """The config of one of the paper's autoencoders, whose decoders have batch norms at the first three levels."""
    widths = (*WIDTHS, 2048, 2048)[:levels]
    wide = levels - 3
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * wide
    return {
        "latent_channels": latent_channels,
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_layers_per_block": (0, 4, 8) + (2,) * wide,
        "decoder_layers_per_block": (0, 5, 10) + (2,) * wide,
        "encoder_qkv_multiscales": ((),) * levels,
        "decoder_qkv_multiscales": ((),) * levels,
        "decoder_norm_types": ("batch_norm",) * 3 + ("rms_norm",) * wide,
        "decoder_act_fns": ("relu",) * 3 + ("silu",) * wide,
    }


VIT = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
FAMILY = CONFIG.family(
    picture,
    {"diffusers": _rows(original=False), "original": _rows(original=True)},
    ignored=(r".*\.num_batches_tracked",),
    published={
        "dc-ae-f32c32-sana": {
            "encoder_block_types": VIT,
            "decoder_block_types": VIT,
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "scaling_factor": 0.41407,
        },
        "dc-ae-f32c32-in": {**imagenet(6, 32), "scaling_factor": 0.3189},
        "dc-ae-f32c32-mix": {**imagenet(6, 32), "scaling_factor": 0.4552},
        "dc-ae-f64c128-in": {**imagenet(7, 128), "scaling_factor": 0.2889},
        "dc-ae-f64c128-mix": {**imagenet(7, 128), "scaling_factor": 0.4538},
        "dc-ae-f128c512-in": {**imagenet(8, 512), "scaling_factor": 0.4883},
        "dc-ae-f128c512-mix": {**imagenet(8, 512), "scaling_factor": 0.3620},
    },
    # No name of a file identifies these models.
    beside={name: "$^" for name in ("dc-ae-f32c32-in", "dc-ae-f64c128-in", "dc-ae-f128c512-in")},
)
