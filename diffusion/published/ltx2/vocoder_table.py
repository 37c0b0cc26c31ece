"""LTX-2's vocoders by diffusers' names: LTX2Vocoder of 2.0, and LTX2VocoderWithBWE of 2.3."""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.family import SIZE, SIZES, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, Inline
from diffusion.models.interchange.rows import VECTOR, Layout, Row, linear, with_ones, within
from diffusion.published.ltx2.vocoder import TAPS, LTX2Vocoder, LTX2WideVocoder

NAME, WIDE = "LTX2Vocoder", "LTX2VocoderWithBWE"
# A convolution of sequences: theirs [out, in, L], ours [L, in, out].
SEQUENCE = Layout(lambda a, shape: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0))
# A transposed one: theirs [in, out, L], ours that of the spread input, whose samples are in the other order.
TRANSPOSED = Layout(lambda a, shape: a.transpose(2, 0, 1)[::-1], lambda a: a[::-1].transpose(1, 2, 0))
FILTER = with_ones(before=2)
BASIS = Layout(lambda a, shape: a[:, 0].T, lambda a: a.T[:, None])
MEL = Layout(lambda a, shape: a.T, lambda a: a.T)


def _snake(theirs: str, ours: str) -> list[Row]:
    filters = [Row(f"{theirs}.{part}sample.filter", f"{ours}/{name}", FILTER) for part, name in
               (("up", "lengthen"), ("down", "shorten"))]  # fmt: skip
    return filters + [Row(f"{theirs}.act.{name}", f"{ours}/{name}", VECTOR) for name in ("alpha", "beta")]


def _rows(module: LTX2Vocoder) -> list[Row]:
    table = linear("conv_in", "conv_in", SEQUENCE) + linear("conv_out", "conv_out", SEQUENCE, bias=module.biased_end)
    table += _snake("act_out", "snake_out") if module.snake else []
    side = len(module.block_kernels)
    for i in range(len(module.kernels)):
        table += linear(f"upsamplers.{i}", f"lengthen_{i}", TRANSPOSED)
        for j, dilations in enumerate(module.dilations):
            theirs, ours = f"resnets.{i * side + j}", f"level_{i}_block_{j}"
            for k in range(len(dilations)):
                for number, name in ((1, "first"), (2, "second")):
                    table += linear(f"{theirs}.convs{number}.{k}", f"{ours}/{name}_{k}", SEQUENCE)
                    if module.snake:
                        table += _snake(f"{theirs}.acts{number}.{k}", f"{ours}/{name}_snake_{k}")
    return table


def _wide_rows(module: LTX2WideVocoder) -> list[Row]:
    table = within(_rows(module.vocoder), "vocoder.", "vocoder/")
    table += within(_rows(module.extension), "bwe_generator.", "extension/")
    bases = (("forward", "basis"), ("inverse", "inverse"))
    table += [Row(f"mel_stft.stft_fn.{theirs}_basis", ours, BASIS) for theirs, ours in bases]
    return [*table, Row("mel_stft.mel_basis", "mel", MEL)]


def _table(defaults: LTX2Vocoder, prefix: str = "", rate: str = "output_sampling_rate") -> FieldTable:
    """The fields of a vocoder, whose names begin with the prefix; the rate has a name of its own."""
    plain = lambda theirs, ours, valid: Field(prefix + theirs, ours, getattr(defaults, ours), valid)
    choices = lambda values, first: {
        name: values[name] for name in sorted(values, key=lambda name: values[name] != first)
    }
    rows = (
        plain("in_channels", "features", SIZE),
        plain("hidden_channels", "width", SIZE),
        plain("out_channels", "waves", SIZE),
        plain("upsample_kernel_sizes", "kernels", SIZES),
        plain("upsample_factors", "factors", SIZES),
        plain("resnet_kernel_sizes", "block_kernels", SIZES),
        plain("resnet_dilations", "dilations", schema.several(SIZES, 1, 16)),
        plain("leaky_relu_negative_slope", "slope", schema.number(0, 1)),
        Field(rate, "sample_rate", defaults.sample_rate, SIZE),
        Choice(f"{prefix}act_fn", "snake", choices({"leaky_relu": False, "snakebeta": True}, defaults.snake)),
        Choice(f"{prefix}final_act_fn", "bounded", choices({"tanh": True, None: False}, defaults.bounded)),
        plain("final_bias", "biased_end", schema.FLAG),
        Follows(f"{prefix}antialias", lambda module: module.snake, default=defaults.snake),
        Follows(f"{prefix}antialias_ratio", 2),
        Follows(f"{prefix}antialias_kernel_size", TAPS),
    )
    return FieldTable(NAME, LTX2Vocoder, rows)


CONFIG = _table(LTX2Vocoder())
PARTS = LTX2WideVocoder()
WIDE_CONFIG = FieldTable(
    WIDE,
    LTX2WideVocoder,
    (
        Inline("vocoder", _table(PARTS.vocoder, rate="input_sampling_rate")),
        Inline("extension", _table(PARTS.extension, "bwe_")),
        Field("filter_length", "window", 512, SIZE),
        Follows("window_length", lambda module: module.window),
        Field("hop_length", "hop", 80, SIZE),
        Field("num_mel_channels", "bands", 64, SIZE),
    ),
)


def _example(module: LTX2Vocoder) -> tuple:
    return (array(1, 1, module.features, 1),)


def _wide_example(module: LTX2WideVocoder) -> tuple:
    return _example(module.vocoder)


FAMILY = CONFIG.family(_example, {"diffusers": _rows}, published={"LTX-2": {}})
WIDE_FAMILY = WIDE_CONFIG.family(_wide_example, {"diffusers": _wide_rows}, published={"LTX-2.3": {}})
FAMILIES: Mapping[str, Any] = {FAMILY.name: FAMILY, WIDE_FAMILY.name: WIDE_FAMILY}
