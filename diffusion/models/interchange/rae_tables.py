"""Representation autoencoders: diffusers' AutoencoderRAE, and the decoders, which the authors publish separately.

diffusers builds an encoder of one of three kinds with few free sizes. Our other encoders are written under the name of
their class with their complete config, "encoder_config"; diffusers refuses to open such a file.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_rae import AutoencoderRAE
from diffusion.models.autoencoders.rae_decoder import PRESETS, SPAN, RAEDecoder, preset
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.image_encoders.ijepa import IJEPA
from diffusion.models.image_encoders.mae import MAE
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.interchange import dinov2_tables, dinov3_tables, siglip_tables, vit_tables
from diffusion.models.interchange.family import DEPTH, EPSILON, SCALE, SIZE, Computed, Family, Fields, Refusal, array
from diffusion.models.interchange.field_table import A_TABLE, Field, FieldTable
from diffusion.models.interchange.rows import (
    LEADING,
    Layout,
    Row,
    layers,
    linear,
    mlp,
    norm,
    renamed,
    with_ones,
    within,
)
from diffusion.models.interchange.vision_rows import attention
from diffusion.models.layers.embeddings import sincos_positions
from diffusion.models.layers.vision_layers import IMAGENET

NAME = "AutoencoderRAE"
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEAD = 64  # the number of features of a head in every encoder that diffusers builds
ENCODERS = {
    family.name: family
    for family in (*dinov2_tables.FAMILIES, dinov3_tables.FAMILY, siglip_tables.FAMILY, *vit_tables.FAMILIES)
}
# The fields that diffusers sets; the others have our defaults.
KINDS: dict[str, tuple[type[nn.Module], Mapping[str, Any]]] = {
    "dinov2": (DINOv2, {"size": 518, "registers": 4, "hidden": 4}),  # hidden is a multiple of the width
    "siglip2": (SigLIP, {"size": 256, "hidden": 3072}),
    "mae": (MAE, {"size": 224, "hidden": 3072}),
}
# Mean and standard deviation for pictures in [0, 1]; other encoders use ImageNet's.
NORMALISATIONS: dict[type, tuple] = {SigLIP: HALF}
# Names of transformers 5 inside an autoencoder's file; files that transformers itself writes do not use them.
ATTENTION = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
PLAIN = {**ATTENTION, "encoder.layer.": "layers.", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
RENAMED: dict[type, dict[str, str]] = {DINOv2: ATTENTION, MAE: PLAIN, IJEPA: PLAIN}
# Layouts of statistics: [C, h, w] or [C, 1, 1] in files, [h, w, C] or [C] here.
POSITIONS = Layout(lambda a, shape: a.transpose(1, 2, 0), lambda a: a.transpose(2, 0, 1))
CHANNELS = with_ones(after=2)


def _layers(module: RAEDecoder, query: str, out: str) -> list[Row]:
    """The rows of the decoder's layers and of the norm that follows them."""
    layer = norm("layernorm_before", "norm_1") + norm("layernorm_after", "norm_2") + attention(query, out)
    layer += mlp("intermediate.dense", "output.dense", "mlp/")
    return layers(layer, module.depth, "decoder_layers.", "layers/layers/") + norm("decoder_norm", "layers/norm")


def decoder_rows(module: RAEDecoder, query: str, out: str) -> list[Row]:
    """The rows of the decoder.

    Args:
        module: the decoder.
        query: the name in the file of a projection before the heads, see `vision_rows.attention`.
        out: the name in the file of the projection after the heads.
    """
    return [
        *linear("decoder_embed", "embed"),
        Row("trainable_cls_token", "class_token", LEADING),
        *_layers(module, query, out),
        *linear("decoder_pred", "out"),
    ]


def rows(module: AutoencoderRAE, transformers: int = 4) -> list[Row]:
    """The rows of the autoencoder under diffusers' names.

    Args:
        module: the autoencoder.
        transformers: the version of transformers whose names the encoder has: 4, as published, or 5.
    """
    encoder = _family_of(module.encoder)
    encoder_rows = encoder.tables.get(f"transformers {transformers}", encoder.tables["transformers"])(module.encoder)
    if transformers == 5:
        encoder_rows = renamed(encoder_rows, RENAMED.get(encoder.module, {}))
    table = within(encoder_rows, "encoder.", "encoder/")
    table += within(decoder_rows(module.decoder, "attention.to_{1}", "attention.to_out.0"), "decoder.", "decoder/")
    if module.statistics:
        layout = POSITIONS if len(module.statistics) == 3 else CHANNELS
        table += [Row(f"_latents_{name}", f"features_{name}", layout) for name in ("mean", "std")]
    return table


def _family_of(encoder: nn.Module) -> Family:
    for family in ENCODERS.values():
        if type(encoder) is family.module and (
            type(encoder) is not DINOv2 or (family.name == "Dinov2WithRegistersModel") == bool(encoder.registers)
        ):
            return family
    valid = ", ".join(sorted({family.module.__name__ for family in ENCODERS.values()}))
    raise Refusal(f"{NAME}: an encoder of the class {type(encoder).__name__} cannot be written. Valid: {valid}.")


# ==== The config ====


def _of_kind(kind: str, width: int, patch: int, depth: int) -> nn.Module:
    """The encoder that diffusers builds."""
    module, fixed = KINDS[kind]
    fixed = {**fixed, "hidden": 4 * width} if kind == "dinov2" else fixed
    if width % HEAD:
        raise Refusal(
            f"{NAME}: encoder_hidden_size = {width} is not supported. Supported: multiples of {HEAD}, the size of a "
            "head."
        )
    return module(width=width, depth=depth, heads=width // HEAD, patch=patch, affine=False, **fixed)


def _build_encoder(fields: Fields) -> nn.Module:
    kind = fields.take("encoder_type", "dinov2")
    described = fields.take("encoder_config", None, schema.optional(A_TABLE))
    affine = fields.take("encoder_affine", False)
    fused = fields.take("encoder_fused_layers", ())
    width = fields.take("encoder_hidden_size", 768)
    patch = fields.take("encoder_patch_size", 14)
    depth = fields.take("encoder_num_hidden_layers", 12, DEPTH)
    if kind in KINDS and described is None:
        return _of_kind(kind, width, patch, depth)
    if kind not in ENCODERS or described is None:
        raise Refusal(f"{NAME}: encoder_type = {kind!r} is not known. Valid: {', '.join((*KINDS, *ENCODERS))}.")
    options = {"fused": fused} if fused else {}
    return ENCODERS[kind].build(described).clone(affine=affine, **options)


def _normalisation(encoder: nn.Module) -> tuple:
    return NORMALISATIONS.get(type(encoder), IMAGENET)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of nested lists."""
    return (len(value), *_shape(value[0])) if isinstance(value, (list, tuple)) and value else ()


def _statistics(config: Mapping[str, Any], width: int) -> tuple[int, ...]:
    """The shape, in our order of axes, of the statistics in diffusers' config, which are nested lists."""
    shape = _shape(config.get("latents_mean"))
    if shape != _shape(config.get("latents_std")):
        raise Refusal(
            f"{NAME}: latents_mean has the shape {shape} and latents_std {_shape(config.get('latents_std'))}; both "
            "must have one shape."
        )
    if not shape:
        return tuple(config.get("_statistics", ()))
    if len(shape) != 3 or shape[0] != width:
        raise Refusal(
            f"{NAME}: latents_mean of shape {shape} is not supported: the encoder has {width} features. Supported: "
            f"({width}, 1, 1) and ({width}, h, w)."
        )
    return (width,) if shape[1:] == (1, 1) else (*shape[1:], width)


def _build(config: Mapping[str, Any]) -> AutoencoderRAE:
    fields = Fields(NAME, config, ("noise_tau", "use_encoder_loss", "latents_mean", "latents_std"))
    encoder: Any = _build_encoder(fields)
    fields.only("num_channels", 3)
    fields.only("reshape_to_2d", True)
    patch = fields.take("patch_size", 16)
    size = fields.take("encoder_input_size", 224)
    if size % encoder.patch:
        raise Refusal(
            f"{NAME}: encoder_input_size = {size} is not supported: the encoder's patch of {encoder.patch} does not "
            "divide it."
        )
    fields.only("image_size", None, size // encoder.patch * patch)
    mean, std = _normalisation(encoder)
    fields.only("encoder_norm_mean", *((None,) if (mean, std) == IMAGENET else ()), mean)
    fields.only("encoder_norm_std", *((None,) if (mean, std) == IMAGENET else ()), std)
    pixels = schema.several(schema.number(), 3, 3)
    decoder = RAEDecoder(
        encoder.width,
        width=fields.take("decoder_hidden_size", 512),
        depth=fields.take("decoder_num_hidden_layers", 8, DEPTH),
        heads=fields.take("decoder_num_attention_heads", 16),
        hidden=fields.take("decoder_intermediate_size", 2048),
        patch=patch,
        mean=fields.take("decoder_norm_mean", mean, pixels),
        std=fields.take("decoder_norm_std", std, pixels),
    )
    statistics = _statistics(config, encoder.width)
    grid = (size // encoder.patch,) * 2
    if len(statistics) == 3 and statistics[:2] != grid:
        raise Refusal(f"{NAME}: latents_mean has {statistics[:2]} positions, but the encoder has {grid} here.")
    module = AutoencoderRAE(encoder, decoder, statistics, scale=fields.take("scaling_factor", 1.0, SCALE))
    fields.end()
    return module


def _describe(module: AutoencoderRAE) -> dict[str, Any]:
    encoder, decoder = module.encoder, module.decoder
    if isinstance(module.scale, tuple) or module.shift != 0:
        raise Refusal(
            f"{NAME} has one scaling_factor and no shift, but this network has {module.scale}, {module.shift}."
        )
    if decoder.picture_channels != 3:
        raise Refusal(
            f"{NAME}: picture_channels = {decoder.picture_channels} cannot be written in this format. Valid: 3."
        )
    # Without statistics per position our network accepts pictures of any size, but diffusers' network only one size.
    rows_of_patches = module.statistics[0] if len(module.statistics) == 3 else 16
    mean, std = _normalisation(encoder)
    extra_fields = (
        {}
        if (decoder.mean, decoder.std) == (mean, std)
        else {"decoder_norm_mean": list(decoder.mean), "decoder_norm_std": list(decoder.std)}
    )
    return {
        **_described_encoder(encoder),
        "encoder_hidden_size": encoder.width,
        "encoder_patch_size": encoder.patch,
        "encoder_num_hidden_layers": encoder.depth,
        "encoder_input_size": rows_of_patches * encoder.patch,
        "encoder_norm_mean": list(mean),
        "encoder_norm_std": list(std),
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.hidden,
        "patch_size": decoder.patch,
        "num_channels": 3,
        "scaling_factor": module.scale,
        **extra_fields,
        **({"_statistics": list(module.statistics)} if module.statistics else {}),
    }


def _described_encoder(encoder: Any) -> dict[str, Any]:
    """The fields that name the encoder: a kind that diffusers knows, or the name of our family with its config."""
    for kind, (module, _) in KINDS.items():
        if type(encoder) is module and encoder.width % HEAD == 0:
            if encoder == _of_kind(kind, encoder.width, encoder.patch, encoder.depth):
                return {"encoder_type": kind}
    family = _family_of(encoder)
    fused = list(getattr(encoder, "fused", ()))
    without: dict[str, Any] = {"fused": ()} if fused else {}
    plain = encoder.clone(affine=True, **without)
    return {
        "encoder_type": family.name,
        "encoder_config": family.describe(plain),
        "encoder_affine": encoder.affine,
        **({"encoder_fused_layers": fused} if fused else {}),
    }


def _repeated(module: AutoencoderRAE, params: Any) -> dict[str, Any]:
    """The statistics as nested lists, for diffusers' config."""
    if not module.statistics:
        return {}
    layout = POSITIONS if len(module.statistics) == 3 else CHANNELS
    theirs = lambda name: layout.to_theirs(np.asarray(params[f"features_{name}"], np.float32)).tolist()
    return {f"latents_{name}": theirs(name) for name in ("mean", "std")}


def _computed(module: AutoencoderRAE) -> dict[str, Computed]:
    numbers = dict(zip(("mean", "std"), _normalisation(module.encoder)))
    tables = {
        f"encoder_{name}": Computed(
            (1, 3, 1, 1), lambda values=values: np.asarray(values, np.float32).reshape(1, 3, 1, 1)
        )
        for name, values in numbers.items()
    }
    if not module.statistics:
        constants: dict[str, Callable] = {"mean": np.zeros, "std": np.ones}
        tables |= {
            f"_latents_{name}": Computed((1,), lambda values=values: values(1)) for name, values in constants.items()
        }
    encoder = _family_of(module.encoder)
    if encoder.computed:
        tables |= {f"encoder.{name}": computed for name, computed in encoder.computed(module.encoder).items()}
    return tables


def _example(module: AutoencoderRAE) -> tuple[jax.ShapeDtypeStruct]:
    grid = module.statistics[:2] if len(module.statistics) == 3 else (1, 1)
    return (array(1, *(module.factor * side for side in grid), module.picture_channels),)


FAMILY = Family(
    NAME,
    AutoencoderRAE,
    _build,
    _describe,
    _example,
    {"diffusers": rows, "diffusers, transformers 5": functools.partial(rows, transformers=5)},
    ignored=(r"decoder\.decoder_pos_embed",),
    computed=_computed,
    repeated=_repeated,
)


# ==== The authors' decoders ====


PIXELS = schema.several(schema.number(), 3, 3)
DECODER_CONFIG = FieldTable(
    "RAEDecoder",
    RAEDecoder,
    (
        Field("hidden_size", "features", 768),
        Field("decoder_hidden_size", "width", 1152),
        Field("decoder_num_hidden_layers", "depth", 28, DEPTH),
        Field("decoder_num_attention_heads", "heads", 16),
        Field("decoder_intermediate_size", "hidden", 4096),
        Field("patch_size", "patch", 16, SIZE),
        Field("norm_mean", "mean", IMAGENET[0], PIXELS),
        Field("norm_std", "std", IMAGENET[1], PIXELS),
        Field("layer_norm_eps", "epsilon", 1e-12, EPSILON),
    ),
    required={"picture_channels": 3},
)


def _positions(module: RAEDecoder) -> dict[str, Computed]:
    """The fixed positions of 16 x 16 patches that the authors' files hold."""
    side = int(SPAN)

    def make() -> np.ndarray:
        table = sincos_positions(side, side, module.width, SPAN)
        return np.concatenate([np.zeros((1, module.width), np.float32), table])[None]

    return {"decoder_pos_embed": Computed((1, side * side + 1, module.width), make)}


DECODER_FAMILY = DECODER_CONFIG.family(
    lambda module: (array(1, 1, 1, module.features),),
    {"original": lambda module: decoder_rows(module, "attention.attention.{0}", "attention.output.dense")},
    stem="model",
    computed=_positions,
    published={
        f"{size}, {features} features": DECODER_CONFIG.describe(preset(size, features))
        for size in PRESETS
        for features in (768, 1024, 384)
    },
    prefixes=("", "decoder."),
)
FAMILIES = (FAMILY, DECODER_FAMILY)
