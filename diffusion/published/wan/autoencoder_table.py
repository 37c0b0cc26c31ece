"""AutoencoderKLVideo by diffusers' names of Wan 2.1's autoencoder, which Qwen-Image has under another name.

The encoder's layers are in one list with one count: blocks, and the convolutions that halve.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.models.interchange.autoencoder_tables import per_channel
from diffusion.models.interchange.family import LAYERS, MAYBE_SIZE, SIZE, SIZES, array
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import CONV, POINT, Layout, Row, linear, with_ones

# A convolution of videos: theirs [out, in, F, H, W], ours [F, H, W, in, out].
VIDEO = Layout(lambda a, shape: a.transpose(2, 3, 4, 1, 0), lambda a: a.transpose(4, 3, 0, 1, 2))
# One along the frames: theirs [out, in, F, 1, 1], ours [F, in, out].
TIME = Layout(lambda a, shape: a[..., 0, 0].transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0)[..., None, None])
# One of single pixels: theirs [out, in, 1, 1, 1], ours [in, out].
PIXEL = Layout(lambda a, shape: a[..., 0, 0, 0].T, lambda a: a.T[..., None, None, None])
FRAME_SCALE, VIDEO_SCALE = with_ones(after=2), with_ones(after=3)
WAN = {  # mean and deviation of the channels of Wan 2.1's latents, which the config has as its defaults
    "latents_mean": (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
                     -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    "latents_std": (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
                    1.6382, 1.1253, 2.8251, 1.9160),
}  # fmt: skip
HALVINGS = schema.several(schema.like(True), 0, 16)
NUMBERS = schema.several(schema.number(), 1)


def video_conv(theirs: str, ours: str) -> list[Row]:
    """A causal convolution of videos, which diffusers has within a module."""
    return linear(f"{theirs}.conv", ours, VIDEO)


def video_rows(
    module: Any, block: Callable[[str, str, bool], list[Row]], resize: Callable[[str, str], list[Row]]
) -> list[Row]:
    """The convolutions and blocks of an encoder and its decoder, whose levels are separate lists in diffusers.

    Args:
        module: module with its `widths` and `layers`.
        block: (their name, our name, whether it has a shortcut) -> rows of a residual block.
        resize: (their name, our name) -> rows of the convolution between two levels.
    """
    widths, last = module.widths, len(module.widths) - 1
    rows = []
    for side in ("encoder", "decoder"):
        rows += video_conv(f"{side}.conv_in", f"{side}/conv_in") + video_conv(f"{side}.conv_out", f"{side}/conv_out")
        for j in range(2):
            rows += block(f"{side}.mid_block.resnets.{j}", f"{side}/middle_block_{j}", False)
    for i, width in enumerate(widths):
        down = ("encoder", "down", i, module.layers, widths[max(i - 1, 0)], i < last)
        up = ("decoder", "up", last - i, module.layers + 1, widths[min(i + 1, last)], i > 0)
        for side, way, number, layers, before, resized in (down, up):
            theirs = f"{side}.{way}_blocks.{number}"
            for j in range(layers):
                shortcut = j == 0 and before != width
                rows += block(f"{theirs}.resnets.{j}", f"{side}/level_{i}_block_{j}", shortcut)
            if resized:
                rows += resize(f"{theirs}.{way}samplers.0.conv", f"{side}/{way}_{i}")
    return rows


class Kernels(NamedTuple):
    """The layouts of an autoencoder's convolutions: over a box, along the frames, and of single pixels."""

    box: Layout = VIDEO
    time: Layout = TIME
    pixel: Layout = PIXEL


# Of pictures alone, without an axis of the frames: theirs [out, in, H, W], ours [1, H, W, in, out] and [1, in, out].
STILL = Kernels(
    Layout(lambda a, shape: CONV.to_ours(a, shape[1:])[None], lambda a: CONV.to_theirs(a[0])),
    Layout(lambda a, shape: POINT.to_ours(a, shape[1:])[None], lambda a: POINT.to_theirs(a[0])),
    POINT,
)


def _norm(theirs: str, ours: str, layout: Layout = VIDEO_SCALE) -> Row:
    return Row(f"{theirs}.gamma", f"{ours}/scale", layout)


def _block(theirs: str, ours: str, shortcut: bool, box: Layout = VIDEO) -> list[Row]:
    rows = [_norm(f"{theirs}.norm{k}", f"{ours}/norm_{k}") for k in (1, 2)]
    for k in (1, 2):
        rows += linear(f"{theirs}.conv{k}", f"{ours}/conv_{k}", box)
    return rows + linear(f"{theirs}.conv_shortcut", f"{ours}/shortcut", box) * shortcut


def _ends(side: str, box: Layout = VIDEO) -> list[Row]:
    """Rows that the encoder and the decoder share: the first and the last convolution, and the middle."""
    mixing, ours = f"{side}.mid_block.attentions.0", f"{side}/middle/mixing_0"
    return [
        *linear(f"{side}.conv_in", f"{side}/conv_in", box),
        *linear(f"{side}.conv_out", f"{side}/conv_out", box),
        _norm(f"{side}.norm_out", f"{side}/norm_out"),
        *_block(f"{side}.mid_block.resnets.0", f"{side}/middle/block_0", False, box),
        *_block(f"{side}.mid_block.resnets.1", f"{side}/middle/block_1", False, box),
        _norm(f"{mixing}.norm", f"{ours}/norm", FRAME_SCALE),
        *linear(f"{mixing}.to_qkv", f"{ours}/qkv", POINT),
        *linear(f"{mixing}.proj", f"{ours}/project", POINT),
    ]


def residual_rows(module: AutoencoderKLVideo) -> list[Row]:
    """Rows of Wan 2.2's autoencoder, whose encoder has a list for each level, as the decoder."""
    levels = len(module.widths)
    kernels = STILL if module.still else Kernels()
    rows = []
    for side, widths, extra in (("encoder", module.widths, 0), ("decoder", module.decoder_widths or module.widths, 1)):
        rows += _ends(side, kernels.box)
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)] if side == "encoder" else widths[min(i + 1, levels - 1)]
            theirs = f"encoder.down_blocks.{i}" if side == "encoder" else f"decoder.up_blocks.{levels - 1 - i}"
            for j in range(module.layers + extra):
                ours = f"{side}/level_{i}_block_{j}"
                rows += _block(f"{theirs}.resnets.{j}", ours, j == 0 and before != width, kernels.box)
            resampled, level, at = (
                (i + 1 < levels, i, f"{theirs}.downsampler")
                if side == "encoder"
                else (i > 0, i - 1, f"{theirs}.upsampler")
            )
            if resampled:
                spatial, temporal = ("down", "halve") if side == "encoder" else ("up", "double")
                rows += linear(f"{at}.resample.1", f"{side}/{spatial}_{i}", CONV)
                rows += linear(f"{at}.time_conv", f"{side}/{temporal}_{i}", kernels.time) * module.temporal[level]
    rows += linear("quant_conv", "moments_conv", kernels.pixel)
    return rows + linear("post_quant_conv", "latents_conv", kernels.pixel)


def _rows(module: AutoencoderKLVideo) -> list[Row]:
    if module.residual:
        return residual_rows(module)
    widths, levels = module.widths, len(module.widths)
    rows = _ends("encoder") + _ends("decoder")
    layer = 0
    for i, width in enumerate(widths):
        for j in range(module.layers):
            new = j == 0 and i > 0 and widths[i - 1] != width
            rows += _block(f"encoder.down_blocks.{layer}", f"encoder/level_{i}_block_{j}", new)
            layer += 1
        if i + 1 < levels:
            rows += linear(f"encoder.down_blocks.{layer}.resample.1", f"encoder/down_{i}", CONV)
            if module.temporal[i]:
                rows += linear(f"encoder.down_blocks.{layer}.time_conv", f"encoder/halve_{i}", TIME)
            layer += 1
        theirs = f"decoder.up_blocks.{levels - 1 - i}"
        for j in range(module.layers + 1):
            new = j == 0 and i + 1 < levels and widths[i + 1] // 2 != width
            rows += _block(f"{theirs}.resnets.{j}", f"decoder/level_{i}_block_{j}", new)
        if i:
            rows += linear(f"{theirs}.upsamplers.0.resample.1", f"decoder/up_{i}", CONV)
            if module.temporal[i - 1]:
                rows += linear(f"{theirs}.upsamplers.0.time_conv", f"decoder/double_{i}", TIME)
    rows += linear("quant_conv", "moments_conv", PIXEL)
    return rows + linear("post_quant_conv", "latents_conv", PIXEL)


def _read_widths(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths of the encoder and the decoder, from the multiples of one number."""
    base, multiples, outer = values.values()
    outer = outer or base
    if multiples[0] != 1:
        raise ValueError(f"dim_mult = {multiples} is not supported. Supported: multiples that begin with 1.")
    if outer != base and not ours.get("residual"):
        raise ValueError(f"decoder_base_dim must equal base_dim, {base}, unless is_residual is true.")
    wider = {} if outer == base else {"decoder_widths": tuple(outer * one for one in multiples)}
    return {"widths": tuple(base * one for one in multiples), **wider}


def _write_widths(module: AutoencoderKLVideo) -> dict[str, Any]:
    base, *outer = module.widths[0], *module.decoder_widths[:1]
    if any(width % base for width in module.widths):
        raise ValueError(f"diffusers needs widths that are multiples of the first; this network has {module.widths}.")
    if [width * base for width in module.decoder_widths] != [width * one for one in outer for width in module.widths]:
        raise ValueError(
            f"diffusers uses the multiples of the encoder, {module.widths}, also in the decoder; this network has "
            "others there."
        )
    multiples = [width // base for width in module.widths]
    return {"base_dim": base, "dim_mult": multiples, "decoder_base_dim": outer[0] if outer else ABSENT}


def pixels(theirs: str) -> Field:
    """The channels of a picture; a patch has the channels of all of its pixels."""

    def read(channels: int, ours: Mapping[str, Any]) -> int:
        patch = ours["patch"]
        if channels % patch**2:
            raise ValueError(
                f"{theirs} = {channels} is not a multiple of the {patch**2} pixels of patch_size = {patch}."
            )
        return channels // patch**2

    return Field(theirs, "picture_channels", 3, SIZE, read, write=channels_of_patch)


def channels_of_patch(module: AutoencoderKLVideo) -> int:
    """The number of channels of a picture whose patches are folded into its channels."""
    return module.picture_channels * module.patch**2


def _read_latents(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our channels, scale and shift of the latents."""
    latents, mean, deviation = values.values()
    if {len(mean), len(deviation)} != {latents} or min(deviation) <= 0:
        raise ValueError(
            f"latents_mean and latents_std must have z_dim = {latents} numbers each, and latents_std must be above 0."
        )
    return {"latent_channels": latents, "scale": tuple(1 / one for one in deviation), "shift": mean}


def _write_latents(module: AutoencoderKLVideo) -> dict[str, Any]:
    return {
        "z_dim": module.latent_channels,
        "latents_mean": per_channel(module, module.shift).tolist(),
        "latents_std": (1 / per_channel(module, module.scale)).tolist(),
    }


def level_fields(
    multiples: tuple[int, ...],
    outer: int | None,
    halvings: tuple[bool, ...],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
) -> tuple[Group | Follows | Field, ...]:
    """The fields of levels and latents.

    Args:
        multiples: default of dim_mult.
        outer: default of decoder_base_dim.
        halvings: default of temperal_downsample.
        mean, deviation: defaults of latents_mean and latents_std, one number for each channel of the latents.
    """
    widths = {"base_dim": (96, SIZE), "dim_mult": (multiples, SIZES), "decoder_base_dim": (outer, MAYBE_SIZE)}
    latents = {"z_dim": (len(mean), SIZE), "latents_mean": (mean, NUMBERS), "latents_std": (deviation, NUMBERS)}
    return (
        Group(widths, _read_widths, _write_widths),
        Follows("attn_scales", ()),
        Group(latents, _read_latents, _write_latents),
        Field("num_res_blocks", "layers", 2, LAYERS),
        Field("temperal_downsample", "temporal", halvings, HALVINGS),
    )


LEVELS = level_fields((1, 2, 4, 4), None, (False, True, True), WAN["latents_mean"], WAN["latents_std"])
FACTORS = Group(  # repeated, and not read
    {"scale_factor_temporal": (None, schema.ANY), "scale_factor_spatial": (None, schema.ANY)},
    lambda values, ours: {},
    lambda module: {"scale_factor_temporal": module.time_factor, "scale_factor_spatial": module.factor},
)
CONFIG = FieldTable(
    "AutoencoderKLWan",
    AutoencoderKLVideo,
    (
        Field("is_residual", "residual", False),
        Field(
            "patch_size",
            "patch",
            None,
            MAYBE_SIZE,
            read=lambda size, ours: size or 1,
            write=lambda module: None if module.patch == 1 else module.patch,
        ),
        *LEVELS,
        pixels("in_channels"),
        Follows("out_channels", channels_of_patch),
        FACTORS,
    ),
    unread={"dropout": 0.0, "clip_output": None},
    required={"still": False},
)
QWEN_CONFIG = FieldTable(
    "AutoencoderKLQwenImage",
    AutoencoderKLVideo,
    (*LEVELS, pixels("input_channels")),
    unread={"dropout": 0.0, "clip_output": None, "scale_factor_temporal": None, "scale_factor_spatial": None},
    required={"residual": False, "patch": 1, "decoder_widths": (), "still": False},
)


def video(module: Any) -> tuple:
    """A small video of an autoencoder."""
    return (array(1, 1 + module.time_factor, module.factor, module.factor, module.picture_channels),)


FAMILIES = {
    "AutoencoderKLWan": CONFIG.family(video, {"diffusers": _rows}, published={"Wan 2.1": {}}),
    "AutoencoderKLQwenImage": QWEN_CONFIG.family(video, {"diffusers": _rows}),
}
