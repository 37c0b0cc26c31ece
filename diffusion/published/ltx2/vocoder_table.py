"""LTX-2's vocoder by diffusers' names, LTX2Vocoder of 2.0."""

from diffusion.io import schema
from diffusion.models.interchange.family import SIZE, SIZES, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import Layout, Row, linear
from diffusion.published.ltx2.vocoder import LTX2Vocoder

NAME = "LTX2Vocoder"
# A convolution of sequences: theirs [out, in, L], ours [L, in, out].
SEQUENCE = Layout(lambda a, shape: a.transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0))
# A transposed one: theirs [in, out, L], ours that of the spread input, whose samples are in the other order.
TRANSPOSED = Layout(lambda a, shape: a.transpose(2, 0, 1)[::-1], lambda a: a[::-1].transpose(1, 2, 0))


def _rows(module: LTX2Vocoder) -> list[Row]:
    table = [row for name in ("conv_in", "conv_out") for row in linear(name, name, SEQUENCE)]
    side = len(module.block_kernels)
    for i in range(len(module.kernels)):
        table += linear(f"upsamplers.{i}", f"lengthen_{i}", TRANSPOSED)
        for j, dilations in enumerate(module.dilations):
            for k in range(len(dilations)):
                for theirs, ours in (("convs1", "first"), ("convs2", "second")):
                    name = f"resnets.{i * side + j}.{theirs}.{k}"
                    table += linear(name, f"level_{i}_block_{j}/{ours}_{k}", SEQUENCE)
    return table


CONFIG = FieldTable(
    NAME,
    LTX2Vocoder,
    (
        Field("in_channels", "features", 128, SIZE),
        Field("hidden_channels", "width", 1024, SIZE),
        Field("out_channels", "waves", 2, SIZE),
        Field("upsample_kernel_sizes", "kernels", (16, 15, 8, 4, 4), SIZES),
        Field("upsample_factors", "factors", (6, 5, 2, 2, 2), SIZES),
        Field("resnet_kernel_sizes", "block_kernels", (3, 7, 11), SIZES),
        Field("resnet_dilations", "dilations", ((1, 3, 5),) * 3, schema.several(SIZES, 1, 16)),
        Field("leaky_relu_negative_slope", "slope", 0.1, schema.number(0, 1)),
        Field("output_sampling_rate", "sample_rate", 24000, SIZE),
        Follows("act_fn", "leaky_relu"),
        Follows("antialias", False),
        Follows("final_act_fn", "tanh"),
        Follows("final_bias", True),
    ),
    unread={"antialias_ratio": 2, "antialias_kernel_size": 12},
)


def _example(module: LTX2Vocoder) -> tuple:
    return (array(1, 1, module.features, 1),)


FAMILY = CONFIG.family(_example, {"diffusers": _rows}, published={"LTX-2": {}})
FAMILIES = {FAMILY.name: FAMILY}
