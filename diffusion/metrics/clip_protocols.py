"""The protocols of Frechet distances of clips, as data, and their networks, read from files.

| protocol       | network, features                  | frames           | resize to 224          |
|----------------|------------------------------------|------------------|------------------------|
| fvd            | I3D, 400 logits                    | 16 that follow   | TensorFlow 1, bilinear |
| stylegan-v     | the same                           | 16 that follow   | PyTorch, bilinear      |
| stylegan-v-128 | the same                           | every 8th of 121 | the same               |
| cd-fvd         | VideoMAE V2, mean of the tokens    | 16 that follow   | the same               |

A new protocol is an entry of PROTOCOLS.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays import chunks
from diffusion.io import limits
from diffusion.io.leaf_names import leaves_of
from diffusion.metrics import i3d, resizing
from diffusion.metrics.inception_weights import WeightsError, digest
from diffusion.metrics.references import Space
from diffusion.models import interchange
from diffusion.models.image_encoders.videomae import VideoMAE
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.rows import Mismatch

BATCH = 2  # clips in one call of the compiled network
PUBLISHED = 2048  # number of clips with which published figures were computed
AUTHORS = 1e-6  # epsilon of the norms in the code of VideoMAE's authors

# A compiled function (clips float32 [B, F, S, S, 3], scaled as the protocol says) -> features [B, D]
_Features = Callable[[jax.Array], jax.Array]


class ClipNetwork(NamedTuple):
    """The network of a protocol, read from a file.

    Attributes:
        name: the network's name, for reports.
        features: the function clips -> features.
        dimensions: D, the number of features.
        digest: sha256 of the parameters.
    """

    name: str
    features: _Features
    dimensions: int
    digest: str


class ClipProtocol(NamedTuple):
    """The protocol of a Frechet distance of clips.

    Attributes:
        name: the protocol's name in PROTOCOLS.
        network: the published name of the network, for reports.
        open: a function from a file or folder to the network, which raises WeightsError.
        frames: the number F of frames of a clip.
        every: the step between the frames of a film that form a clip; 1 for frames that follow each other.
        size: side of the frames that the network sees, in pixels.
        resize: the way in which frames are resized to that size, a name of `resizing.RESIZES`.
        scaling: the map from bytes to the network's range, a name of SCALINGS.
        rounding: the map from a model's floats to bytes, a name of `protocols.ROUNDINGS`.
        split: the split of the dataset from which published references were computed.
        reports: the names of the metrics that the protocol's own code prints.
        frechet: the name of the protocol's Frechet distance.
        clips: the number of clips with which published figures are computed; 0 if no number is usual.
        notes: other differences between the protocol's code and ours.
        source: the publication or code that defines the protocol.
    """

    name: str
    network: str
    open: Callable[[pathlib.Path], ClipNetwork]
    frames: int
    every: int
    size: int
    resize: str
    scaling: str
    rounding: str
    split: str
    reports: tuple[str, ...]
    frechet: str
    clips: int
    notes: str
    source: str


SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "2 b / 255 - 1": lambda b: b / 127.5 - 1,
    "b / 255": lambda b: b / 255,
}


def _i3d(path: pathlib.Path) -> ClipNetwork:
    network = i3d.load(path)
    return ClipNetwork("I3D, 400 logits", functools.partial(i3d.features, network.params), i3d.CLASSES, network.digest)


def _videomae(path: pathlib.Path) -> ClipNetwork:
    """A VideoMAE of any size, read by the config of its folder, or by the names and shapes in a single file."""
    try:
        if path.is_dir():
            module, params = interchange.load(path)
        else:
            module, params = interchange.load(path, "VideoMAEForVideoClassification")
            module = module.clone(epsilon=AUTHORS, last_epsilon=AUTHORS)
    except (FileNotFoundError, Mismatch, Refusal, limits.Refused) as error:
        raise WeightsError(f"{path} holds no VideoMAE network: {error}") from error
    if not isinstance(module, VideoMAE):
        raise WeightsError(f"{path} holds {type(module).__name__}, not VideoMAE.")
    sha256 = digest({name: np.asarray(leaf) for name, leaf in leaves_of(params).items()})

    @jax.jit
    def features(params: Any, clips: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            output: Any = module.apply({"params": params}, clips)
            return output.pooled

    name = f"VideoMAE of width {module.width}, {module.depth} layers, mean of the tokens"
    return ClipNetwork(name, functools.partial(features, params), module.width, sha256)


_FVD = ClipProtocol(
    name="fvd",
    network="I3D, Kinetics-400",
    open=_i3d,
    frames=16,
    every=1,
    size=224,
    resize="bilinear_tf1",
    scaling="2 b / 255 - 1",
    rounding="round(y * 255)",
    split="train",
    reports=("fid",),
    frechet="fvd",
    clips=0,
    notes="The network of the published figures is TensorFlow Hub's i3d-kinetics-400, whose weights are not those of "
    "the authors' repository. Its logits are averaged over time.",
    source="Unterthiner et al., Towards accurate generative models of video, 2018; google-research/google-research, "
    "frechet_video_distance/frechet_video_distance.py",
)
_STYLEGAN_V = _FVD._replace(
    name="stylegan-v",
    resize="bilinear_torch",
    clips=PUBLISHED,
    notes="2,048 clips of 16 frames of each set (fvd2048_16f), each from a random frame of a film; ours draws another "
    "frame. Its covariances divide by N, ours by N - 1. Its network is a TorchScript copy of TensorFlow Hub's.",
    source="Skorokhodov et al., StyleGAN-V, 2022; universome/stylegan-v, src/metrics/frechet_video_distance.py",
)
PROTOCOLS: dict[str, ClipProtocol] = {
    protocol.name: protocol
    for protocol in (
        _FVD,
        _STYLEGAN_V,
        _STYLEGAN_V._replace(
            name="stylegan-v-128",
            every=8,
            notes="As stylegan-v, of every 8th of 128 frames (fvd2048_128f_subsample8f); a clip spans 121 of them.",
        ),
        _STYLEGAN_V._replace(
            name="cd-fvd",
            network="VideoMAE V2 ViT-g/14, fine-tuned on Something-Something V2",
            open=_videomae,
            scaling="b / 255",
            frechet="cd_fvd",
            notes="The authors' network is VideoMAE V2 ViT-g/14 (vit_g_hybrid_pt_1200e_ssv2_ft); any size is read, and "
            "figures of different weights do not compare. Its frames are in [0, 1], without ImageNet's mean and "
            "deviation. 2,048 generated clips, all real ones.",
            source="Ge et al., On the content bias in Frechet video distance, 2024; songweige/content-debiased-fvd, "
            "cdfvd/third_party/VideoMAEv2/utils.py",
        ),
    )
}


def load(protocol: ClipProtocol, path: str | pathlib.Path) -> ClipNetwork:
    """Loads a protocol's network.

    Args:
        protocol: the protocol whose network the file must hold.
        path: the file; for VideoMAE also the folder that transformers writes.

    Raises:
        WeightsError: if there is no such file, or it holds another network, or a network for clips of another shape.
    """
    network = protocol.open(pathlib.Path(path).expanduser())
    clips = jax.ShapeDtypeStruct((1, protocol.frames, protocol.size, protocol.size, 3), np.float32)
    try:
        jax.eval_shape(network.features, clips)
    except ValueError as error:
        raise WeightsError(f"{path} cannot read the clips of {protocol.name}: {error}") from error
    return network


def record(network: ClipNetwork) -> dict:
    """The record of the weights in a report: "network" and "sha256"."""
    return {"network": network.name, "sha256": network.digest}


def described(protocol: ClipProtocol) -> dict:
    """The description of the protocol in a report: all its fields except the function `open`."""
    values = {name: value for name, value in protocol._asdict().items() if name != "open"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def space(protocol: ClipProtocol, network: ClipNetwork) -> Space:
    """The space of a network's features under a protocol, in which clips are compared.

    Args:
        protocol: the protocol by which clips are prepared.
        network: the network, from `load`.

    Returns:
        The space, with one tap "features".
    """

    def extract(clips: np.ndarray) -> dict[str, np.ndarray]:
        features = lambda few: network.features(jnp.asarray(prepared(protocol, few)))  # resized clips are larger
        return {"features": chunks.applied(features, clips, BATCH)}

    identity = {
        "features": network.name,
        "weights": network.digest,
        "frames": protocol.frames,
        "every": protocol.every,
        "resize": protocol.resize,
        "scaling": protocol.scaling,
        "size": protocol.size,
    }
    names = {"frechet": protocol.frechet, "usual": protocol.clips}
    return Space(extract, ("features",), "features", protocol.rounding, identity, network.dimensions, **names)


def prepared(protocol: ClipProtocol, clips: np.ndarray) -> np.ndarray:
    """The input of a network for clips.

    Args:
        protocol: the protocol by which clips are prepared.
        clips: uint8 [B, F, H, W, C], with C = 3, or C = 1 for grey clips.

    Returns:
        float32 [B, F, size, size, 3], in the range of the protocol's `scaling`.

    Raises:
        TypeError: if the clips are not uint8.
        ValueError: if the clips have another shape.
    """
    if clips.dtype != np.uint8:
        raise TypeError(f"clips are {clips.dtype}. Valid: uint8; `protocols.to_bytes` rounds a model's floats.")
    if clips.ndim != 5 or clips.shape[1] != protocol.frames or clips.shape[4] not in (1, 3) or 0 in clips.shape:
        raise ValueError(f"clips have shape {list(clips.shape)}. Valid: [B, {protocol.frames}, H, W, 3 or 1].")
    colour = np.repeat(clips, 3, axis=4) if clips.shape[4] == 1 else clips
    frames = resizing.resize(colour.reshape(-1, *colour.shape[2:]), protocol.resize, protocol.size)
    scaled = SCALINGS[protocol.scaling](frames).astype(np.float32, copy=False)
    return scaled.reshape(*clips.shape[:2], *scaled.shape[1:])
