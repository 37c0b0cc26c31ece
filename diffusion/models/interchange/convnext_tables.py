"""ConvNeXt and ConvNeXt V2 by the names of transformers (ConvNextModel, ConvNextV2Model), timm and torchvision (V1)."""

from collections.abc import Callable

from diffusion.io import schema
from diffusion.models.image_encoders import convnext
from diffusion.models.image_encoders.convnext import ConvNeXt
from diffusion.models.interchange.family import BLOCKS, SIZES, Family, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import SAME, Layout, Row, conv, mlp, norm, with_ones, within
from diffusion.models.interchange.transformers_config import STORED, unread

RESPONSE = with_ones(before=3)
SCALE = with_ones(after=2)
CLASSIFIER = {
    r"classifier(\.2)?\.(weight|bias)|head\.fc\.(weight|bias)": "the last layer, which gives ImageNet's classes"
}
UNUSED = ("drop_path_rate", "image_size", "layer_scale_init_value", "out_features", "out_indices", "stage_names")
NAMES = {1: "ConvNextModel", 2: "ConvNextV2Model"}
KINDS = {1: "convnext", 2: "convnextv2"}


def _rows(
    module: ConvNeXt,
    stem: tuple[str, str],
    down: Callable[[int], str],
    block: Callable[[int, int, str], str],
    parts: tuple[str, str, str, str, str, str],
    vectors: Layout,
    last: str,
) -> list[Row]:
    """The table of a library.

    Args:
        module: ours.
        stem: its names of the first convolution and its norm.
        down: stage -> its name of the norm, 0, and the convolution, 1, before it.
        block: (stage, number, part) -> its name of a part of a block.
        parts: parts of a block: the depthwise convolution, the norm, the two dense layers, GRN, and the scale.
        vectors: layout of GRN's vectors, or of the scale.
        last: its name of the last norm.
    """
    depthwise, middle, hidden, out, grn, scale = parts
    table = [*conv(stem[0], "stem"), *norm(stem[1], "stem_norm"), *norm(last, "norm")]
    for stage, depth in enumerate(module.depths):
        if stage:
            table += [*norm(f"{down(stage)}.0", f"down_{stage}_norm"), *conv(f"{down(stage)}.1", f"down_{stage}")]
        for number in range(depth):
            ours = f"stage_{stage}_block_{number}"
            name = lambda part, stage=stage, number=number: block(stage, number, part)
            table += [
                *conv(name(depthwise), f"{ours}/depthwise"),
                *norm(name(middle), f"{ours}/norm"),
                *mlp(name(hidden), name(out), f"{ours}/"),
            ]
            if module.version == 2:
                table += [
                    Row(f"{name(grn)}.weight", f"{ours}/response/scale", vectors),
                    Row(f"{name(grn)}.bias", f"{ours}/response/bias", vectors),
                ]
            else:
                table.append(Row(name(scale), f"{ours}/scale", vectors))
    return table


TRANSFORMERS = ("dwconv", "layernorm", "pwconv1", "pwconv2", "grn", "layer_scale_parameter")
TIMM = ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "mlp.grn", "gamma")
TORCHVISION = ("block.0", "block.2", "block.3", "block.5", "", "layer_scale")


def _transformers(module: ConvNeXt) -> list[Row]:
    return _rows(
        module,
        ("embeddings.patch_embeddings", "embeddings.layernorm"),
        lambda stage: f"encoder.stages.{stage}.downsampling_layer",
        lambda stage, number, part: f"encoder.stages.{stage}.layers.{number}.{part}",
        TRANSFORMERS,
        RESPONSE if module.version == 2 else SAME,
        "layernorm",
    )


def _timm(module: ConvNeXt) -> list[Row]:
    return _rows(
        module,
        ("stem.0", "stem.1"),
        lambda stage: f"stages.{stage}.downsample",
        lambda stage, number, part: f"stages.{stage}.blocks.{number}.{part}",
        TIMM,
        SAME,
        "head.norm",
    )


def _torchvision(module: ConvNeXt) -> list[Row]:
    return _rows(
        module,
        ("features.0.0", "features.0.1"),
        lambda stage: f"features.{2 * stage}",
        lambda stage, number, part: f"features.{2 * stage + 1}.{number}.{part}",
        TORCHVISION,
        SCALE,
        "classifier.0",
    )


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
            Field("layer_norm_eps", "epsilon", 1e-12),
        ),
        unread=unread(*UNUSED, model_type=KINDS[version]),
        required={"version": version},
    )


def _family(version: int) -> Family:
    tables = {
        "transformers": _transformers,
        "with its classifier": lambda module: within(_transformers(module), f"{KINDS[version]}."),
        "timm": _timm,
    }
    if version == 1:
        tables["torchvision"] = _torchvision
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
