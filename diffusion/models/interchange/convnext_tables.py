"""ConvNeXt and ConvNeXt V2 by the names of transformers (ConvNextModel, ConvNextV2Model), timm and torchvision (V1)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from diffusion.io import schema
from diffusion.models.image_encoders import convnext
from diffusion.models.image_encoders.convnext import ConvNeXt
from diffusion.models.interchange.family import BLOCKS, EPSILON, SIZES, Family, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import SAME, Layout, Row, conv, mlp, norm, with_ones, within
from diffusion.models.interchange.transformers_config import STORED, unread

RESPONSE = with_ones(before=3)
CLASSIFIER = {
    r"classifier(\.2)?\.(weight|bias)|head\.fc\.(weight|bias)": "the last layer, which gives ImageNet's classes"
}
UNUSED = ("drop_path_rate", "image_size", "layer_scale_init_value", "out_features", "out_indices", "stage_names")
NAMES = {1: "ConvNextModel", 2: "ConvNextV2Model"}
KINDS = {1: "convnext", 2: "convnextv2"}


class Names(NamedTuple):
    """The names of a library.

    Attributes:
        stem: names of the first convolution and its norm.
        down: stage -> name of the norm, 0, and the convolution, 1, before it.
        block: (stage, number) -> the beginning of the names of a block.
        parts: parts of a block: the depthwise convolution, the norm, the two dense layers, GRN, and the scale.
        last: name of the last norm.
        response: layout of GRN's vectors.
        scale: layout of the scale.
    """

    stem: tuple[str, str]
    down: Callable[[int], str]
    block: Callable[[int, int], str]
    parts: tuple[str, str, str, str, str, str]
    last: str
    response: Layout = SAME
    scale: Layout = SAME


TRANSFORMERS = Names(
    ("embeddings.patch_embeddings", "embeddings.layernorm"),
    lambda stage: f"encoder.stages.{stage}.downsampling_layer",
    lambda stage, number: f"encoder.stages.{stage}.layers.{number}.",
    ("dwconv", "layernorm", "pwconv1", "pwconv2", "grn", "layer_scale_parameter"),
    "layernorm",
    response=RESPONSE,
)
TIMM = Names(
    ("stem.0", "stem.1"),
    lambda stage: f"stages.{stage}.downsample",
    lambda stage, number: f"stages.{stage}.blocks.{number}.",
    ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "mlp.grn", "gamma"),
    "head.norm",
)
TORCHVISION = Names(
    ("features.0.0", "features.0.1"),
    lambda stage: f"features.{2 * stage}",
    lambda stage, number: f"features.{2 * stage + 1}.{number}.",
    ("block.0", "block.2", "block.3", "block.5", "", "layer_scale"),
    "classifier.0",
    scale=with_ones(after=2),
)


def _rows(module: ConvNeXt, names: Names) -> list[Row]:
    depthwise, middle, hidden, out, grn, scale = names.parts
    block = [*conv(depthwise, "depthwise"), *norm(middle, "norm"), *mlp(hidden, out, "")]
    if module.version == 2:
        block += [Row(f"{grn}.weight", "response/scale", names.response)]
        block += [Row(f"{grn}.bias", "response/bias", names.response)]
    else:
        block += [Row(scale, "scale", names.scale)]
    table = [*conv(names.stem[0], "stem"), *norm(names.stem[1], "stem_norm"), *norm(names.last, "norm")]
    for stage, depth in enumerate(module.depths):
        if stage:
            before = names.down(stage)
            table += [*norm(f"{before}.0", f"down_{stage}_norm"), *conv(f"{before}.1", f"down_{stage}")]
        for number in range(depth):
            table += within(block, names.block(stage, number), f"stage_{stage}_block_{number}/")
    return table


def _config(version: int) -> FieldTable:
    return FieldTable(
        NAMES[version],
        ConvNeXt,
        (
            Follows("num_channels", 3),
            Follows("patch_size", 4),
            Follows("num_stages", lambda module: len(module.depths)),
            Field("hidden_sizes", "widths", (96, 192, 384, 768), SIZES),
            Field("depths", "depths", (3, 3, 9, 3), schema.several(BLOCKS, 1, 16)),
            Follows("hidden_act", "gelu"),
            Field("layer_norm_eps", "epsilon", 1e-12, EPSILON),
        ),
        unread=unread(*UNUSED, model_type=KINDS[version]),
        required={"version": version},
    )


def _family(version: int) -> Family:
    by = lambda names: functools.partial(_rows, names=names)
    tables = {
        "transformers": by(TRANSFORMERS),
        "with its classifier": lambda module: within(_rows(module, TRANSFORMERS), f"{KINDS[version]}."),
        "timm": by(TIMM),
    }
    tables |= {"torchvision": by(TORCHVISION)} if version == 1 else {}
    config = _config(version)
    return config.family(
        lambda module: (array(1, module.patch, module.patch, 3),),
        tables,
        **STORED,
        dropped=CLASSIFIER,
        published={
            f"ConvNeXt {name}": config.describe(convnext.preset(name))
            for name in convnext.PRESETS
            if name.startswith(f"V{version}")
        },
        also={NAMES[version].replace("Model", "ForImageClassification"): {}},
    )


FAMILIES = (_family(2), _family(1))
