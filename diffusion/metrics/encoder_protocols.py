"""The protocols of distances in the features of image encoders, as data, and their encoders, read from files.

| protocol      | network, features                            | resize                                  |
|---------------|----------------------------------------------|-----------------------------------------|
| dgm-eval      | DINOv2 ViT-L/14, class token [1024]          | Pillow's bicubic to 224, rounded        |
| edm2-dinov2   | the same                                     | bicubic to 224, antialiased, in floats  |
| cmmd          | CLIP ViT-L/14 at 336, image embedding [768]  | centre square, Pillow's bicubic to 336  |
| cmmd-siglip2  | SigLIP 2 So400m/14 at 384, pooled [1152]     | centre square, Pillow's bicubic to 384  |
| fdr-convnext  | ConvNeXt V2-B, mean of the patches [1024]    | bicubic to 224, antialiased, in floats  |
| fdr-mae       | MAE ViT-L/16, class token [1024]             | the same                                |

To add one: a line in PROTOCOLS.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from diffusion.arrays import chunks
from diffusion.io import limits
from diffusion.io.leaf_names import leaves_of
from diffusion.metrics import resizing
from diffusion.metrics.inception_weights import WeightsError, digest
from diffusion.metrics.protocols import require_bytes
from diffusion.metrics.references import Space
from diffusion.models import interchange
from diffusion.models.image_encoders import convnext, dinov2, mae, siglip
from diffusion.models.interchange import clip_tables, folders, rows, tensor_files
from diffusion.models.interchange.family import Family
from diffusion.models.text_encoders import clip

BATCH = 16  # images in one call of the compiled network


class EncoderProtocol(NamedTuple):
    """The protocol of a distance in an encoder's features.

    Attributes:
        name: the protocol's name in PROTOCOLS.
        network: its published name, for reports.
        family: the family of its file, a name of `interchange.FAMILIES`.
        module: a function () -> the network, without parameters.
        features: a function (network, parameters, images [B, size, size, 3] in [-1, 1]) -> [B, D].
        dimensions: D, the number of features.
        size: side of the images that the network sees, in pixels.
        resize: the way in which images are resized to that size, a name of RESIZES.
        rounding: the map from a model's floats to bytes, a name of `protocols.ROUNDINGS`.
        split: the split of the dataset in its published references.
        reports: the figures that its own code prints, names of metrics.
        neighbours: k of precision and recall.
        overlap_rows: the most rows of each set in precision, recall, density and coverage; 0: all.
        edm2: the name of the Frechet distance in its features in EDM2's tools; "" if they do not know it.
        beside: regular expressions for names of tensors that belong to other networks in the file.
        notes: other differences between its code and ours.
        source: the publication or code that defines it.
    """

    name: str
    network: str
    family: str
    module: Callable[[], nn.Module]
    features: Callable[[Any, Any, jax.Array], jax.Array]
    dimensions: int
    size: int
    resize: str
    rounding: str
    split: str
    reports: tuple[str, ...]
    neighbours: int
    overlap_rows: int
    edm2: str
    beside: tuple[str, ...]
    notes: str
    source: str


def _square(images: np.ndarray) -> np.ndarray:
    """The middle square."""
    height, width = images.shape[1:3]
    side = min(height, width)
    top = (height - side) // 2
    left = (width - side) // 2
    return images[:, top : top + side, left : left + side]


# (uint8 [B, H, W, 3], side) -> numbers in [0, 255] [B, side, side, 3]
RESIZES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "Pillow's bicubic, bytes": resizing.pillow,
    "bicubic, antialiased, floats": lambda images, to: resizing.resize(images, "bicubic_pil", to),
    "centre square, Pillow's bicubic, bytes": lambda images, to: resizing.pillow(_square(images), to),
}
_pooled = lambda network, params, images: network.apply({"params": params}, images).pooled
_clip = lambda network, params, images: network.apply({"params": params}, clip.normalised(images)).pooled
_DINOV2 = EncoderProtocol(
    name="dgm-eval",
    network="DINOv2 ViT-L/14",
    family="Dinov2Model",
    # 0.1: as the authors' code, from which the published figures are, interpolates the positions.
    module=lambda: dinov2.preset("ViT-L/14", offset=0.1),
    features=_pooled,
    dimensions=1024,
    size=224,
    resize="Pillow's bicubic, bytes",
    rounding="round(y * 255)",
    split="train",
    reports=("fid", "kid", "pr", "dc"),
    neighbours=5,
    overlap_rows=10_000,
    edm2="fd_dinov2",
    beside=(),
    notes="FD (also called FDD, FD-DINOv2) of up to 50,000 samples; precision, recall, density and coverage with k = 5 "
    "of 10,000 of each, drawn by another generator than ours. Images are read from files, so that they were rounded "
    "when they were saved.",
    source="Stein et al., Exposing flaws of generative model evaluation metrics, 2023; layer6ai-labs/dgm-eval, "
    "dgm_eval/models/dinov2.py and __main__.py",
)
_CMMD = EncoderProtocol(
    name="cmmd",
    network="CLIP ViT-L/14 at 336 pixels",
    family="CLIPVisionModelWithProjection",
    module=lambda: interchange.FAMILIES["CLIPVisionModelWithProjection"].build(
        {**clip_tables.LARGE_VISION, "image_size": 336}
    ),
    features=_clip,
    dimensions=768,
    size=336,
    resize="centre square, Pillow's bicubic, bytes",
    rounding="round(y * 255)",
    split="train",
    reports=("cmmd",),
    neighbours=3,
    overlap_rows=0,
    edm2="",
    beside=(r"text_model\..*", r"text_projection\.weight", "logit_scale"),
    notes="The paper's reference is the 30,000 images of COCO's validation set. The authors' code drops the images of "
    "an incomplete last batch, and computes in float32.",
    source="Jayasumana et al., Rethinking FID, 2024; google-research/google-research, cmmd/embedding.py, io_util.py "
    "and distance.py",
)
_FDR = _DINOV2._replace(
    name="fdr-convnext",
    network="ConvNeXt V2-B",
    family="ConvNextV2Model",
    module=lambda: convnext.preset("V2-B", epsilon=1e-6),
    features=lambda network, params, images: network.apply({"params": params}, images).patches.mean(axis=1),
    resize="bicubic, antialiased, floats",
    rounding="round(y * 255)",
    reports=("fid",),
    neighbours=3,
    overlap_rows=0,
    edm2="",
    notes="Of FDr^6, whose ratio divides by 56.87, that of the validation set. The weights are those fine-tuned on "
    "ImageNet-22k and then ImageNet-1k (fcmae_ft_in22k_in1k). The authors compute in bfloat16.",
    source="Yang et al., Representation Frechet Loss for Visual Generation, 2026; their code, "
    "frechet_distance/repr_models.py and eval_all_fds.py",
)
PROTOCOLS: dict[str, EncoderProtocol] = {
    protocol.name: protocol
    for protocol in (
        _DINOV2,
        _DINOV2._replace(
            name="edm2-dinov2",
            resize="bicubic, antialiased, floats",
            rounding="clip(x * 127.5 + 128)",
            reports=("fid",),
            neighbours=3,
            overlap_rows=0,
            notes="50,000 samples, and the published figure is the least of three such sets. The resize is PyTorch's, "
            "which EDM2's code calls almost the same as dgm-eval's.",
            source="NVlabs/edm2, calculate_metrics.py",
        ),
        _CMMD,
        _CMMD._replace(
            name="cmmd-siglip2",
            network="SigLIP 2 So400m/14 at 384 pixels",
            family="SiglipVisionModel",
            module=lambda: siglip.preset("So400m/14@384"),
            features=_pooled,
            dimensions=1152,
            size=384,
            beside=(),
            notes="CMMD's kernel in the embeddings of a newer encoder: a variant without a published figure.",
            source="Jayasumana et al., 2024; Tschannen et al., SigLIP 2, 2025",
        ),
        _FDR,
        _FDR._replace(
            name="fdr-mae",
            network="MAE ViT-L/16",
            family="ViTMAEModel",
            module=lambda: mae.preset("ViT-L/16", epsilon=1e-6),
            features=_pooled,
            notes="Of FDr^6, whose ratio divides by 0.04, that of the validation set.",
        ),
    )
}


class Encoder(NamedTuple):
    """The network of a protocol, out of a file.

    Attributes:
        protocol: its protocol.
        module: the network.
        params: its parameters, float32.
        digest: sha256 of the parameters, whatever file they came in.
    """

    protocol: EncoderProtocol
    module: nn.Module
    params: Any
    digest: str


def load(protocol: EncoderProtocol, path: str | pathlib.Path) -> Encoder:
    """Loads a protocol's network from a folder or a safetensors file, as transformers writes them.

    Args:
        protocol: the protocol whose network the file must hold.
        path: the folder or file.

    Raises:
        WeightsError: if there is no such file, or it holds another network; names the first tensor, or else the first
            field of its config.json, that differs.
    """
    path = pathlib.Path(path).expanduser()
    family = interchange.FAMILIES[protocol.family]
    module = protocol.module()
    try:
        tensors = tensor_files.open_tensors(path).without((*family.ignored, *protocol.beside))
    except (OSError, limits.Refused) as error:
        raise WeightsError(str(error)) from error
    leaves = leaves_of(folders.shapes_of(family, module))
    expected = {layout: folders.expected_of(family, module, layout, leaves) for layout in folders.layouts(family)}
    layout = max(expected, key=lambda layout: len(expected[layout].keys() & tensors.shapes.keys()))
    if difference := rows.first_difference(expected[layout], tensors.shapes):
        raise WeightsError(f"{path} does not hold {protocol.network}: {difference}.")
    if path.is_dir() and (difference := _other_config(family, module, folders.read_config(path))):
        raise WeightsError(f"{path} does not hold {protocol.network}: {difference}.")
    params = folders.read(folders.Found(family, module, layout, tensors))
    return Encoder(
        protocol, module, params, digest({name: np.asarray(leaf) for name, leaf in leaves_of(params).items()})
    )


def _other_config(family: Family, module: nn.Module, config: Mapping[str, Any]) -> str:
    """The first field in which a folder's config describes another network of the same shapes."""
    if "vision_config" in config and family is clip_tables.VISION_PROJECTION:  # the config is that of a whole CLIPModel
        both = clip_tables.BOTH.build(config)
        configured = clip.CLIPVisionProjection(both.vision, both.features)
    else:
        configured = folders.built(family, config)
    theirs = family.describe(configured)
    ours = family.describe(module)
    fields = (f"its config.json has {name} = {theirs[name]!r}, not {ours[name]!r}" for name in ours)
    return next((text for text, name in zip(fields, ours) if theirs[name] != ours[name]), "")


def record(encoder: Encoder) -> dict:
    """The record of the weights in a report: "network" and "sha256"."""
    return {"network": encoder.protocol.network, "sha256": encoder.digest}


def described(protocol: EncoderProtocol) -> dict:
    """The protocol as a report holds it: its fields that are data."""
    values = {name: value for name, value in protocol._asdict().items() if name not in ("module", "features", "beside")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def space(encoder: Encoder) -> Space:
    """The features of an encoder under its protocol, to compare images in.

    Args:
        encoder: the encoder, from `load`.

    Returns:
        The space, with one tap "features".
    """
    protocol = encoder.protocol

    @jax.jit
    def features(params, images):
        with jax.default_matmul_precision("highest"):
            return protocol.features(encoder.module, params, images)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        network = lambda few: features(encoder.params, prepared(protocol, few))  # resized images are larger
        return {"features": chunks.applied(network, images, BATCH)}

    identity = {
        "features": protocol.network,
        "weights": encoder.digest,
        "resize": protocol.resize,
        "size": protocol.size,
    }
    rules = {"neighbours": protocol.neighbours, "overlap_rows": protocol.overlap_rows, "edm2": protocol.edm2}
    return Space(extract, ("features",), "features", protocol.rounding, identity, protocol.dimensions, **rules)


def prepared(protocol: EncoderProtocol, images: np.ndarray) -> np.ndarray:
    """The network's input, float32 [B, size, size, 3] in about [-1, 1], of bytes; errors as `require_bytes`."""
    require_bytes(images)
    colour = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
    return np.asarray(RESIZES[protocol.resize](colour, protocol.size), np.float32) / 127.5 - 1
