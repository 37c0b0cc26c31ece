"""The protocols of published Frechet distances, as data: resize, scaling, rounding, reference.

Two figures compare only if their whole protocol is the same. All of these protocols have the network Inception-v3 of
2015-12-05 (`inception`); they differ before and after it. To add a protocol: a line in PROTOCOLS.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.metrics import inception, resizing


class Protocol(NamedTuple):
    """The protocol of an Inception figure.

    Attributes:
        name: the protocol's name in PROTOCOLS.
        resize: the way in which images are resized to 299 pixels, a name of `resizing.RESIZES`.
        scaling: the map from bytes to the network's range, a name of SCALINGS.
        rounding: the map from a model's floats in [-1, 1] to bytes, a name of ROUNDINGS; images of bytes do not change.
        taps: the network's taps that the protocol's own code measures.
        split: the split of the dataset in its published references.
        reports: the figures that its own code prints.
        score_splits: the splits of the Inception Score: "ten, shuffled", "every 5,000", or "one".
        notes: other differences between its code and ours.
        source: the publication or code that defines it.
        measures: the figures that are measured where none is named; () for the command's own choice.
        equal_rows: whether precision, recall, density and coverage are of equally many images of both sets; False where
            the protocol's own code takes all of both.
    """

    name: str
    resize: str
    scaling: str
    rounding: str
    taps: tuple[str, ...]
    split: str
    reports: tuple[str, ...]
    score_splits: str
    notes: str
    source: str
    measures: tuple[str, ...] = ()
    equal_rows: bool = True


def _clip(x: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(x, np.float32), -1, 1)


# Bytes of a model's output x in [-1, 1].
ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    # ADM, DiT, SiT, EDM: each byte stands for 1/127.5, and the nearest is taken.
    "clip(x * 127.5 + 128)": lambda x: np.clip(np.asarray(x, np.float32) * 127.5 + 128, 0, 255).astype(np.uint8),
    # MAR, torchvision's save_image (which adds 1/2 and drops the fraction, and so rounds halves up).
    "round(y * 255)": lambda x: np.floor((_clip(x) + 1) / 2 * 255 + 0.5).astype(np.uint8),
    # score_sde, DDPM's first code: darker by half a byte.
    "floor(y * 255)": lambda x: ((_clip(x) + 1) / 2 * 255).astype(np.uint8),
}

SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "(b - 128) / 128": lambda b: (b - 128) / 128,  # the graph of 2015-12-05 computes this
    "(b - 127.5) / 127.5": lambda b: b / 127.5 - 1,
}

_GRAPH = "(b - 128) / 128"
_TEN = "ten, shuffled"
_EDM = "clip(x * 127.5 + 128)"

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "adm",
            "bilinear_tf1",
            _GRAPH,
            _EDM,
            ("2048", "spatial", "logits"),
            "train",
            ("fid", "sfid", "is", "pr"),
            "every 5,000",
            "50,000 samples. FID and sFID against statistics of the training split; precision and recall (k = 3) "
            "against the 10,000 images that the reference file holds, in half precision where that does not overflow. "
            "IS over consecutive splits of 5,000, without the bias of the last layer.",
            "openai/guided-diffusion, evaluations/evaluator.py",
            equal_rows=False,
        ),
        Protocol(
            "edm",
            "bilinear_tf1",
            _GRAPH,
            _EDM,
            ("2048",),
            "train",
            ("fid",),
            _TEN,
            "50,000 samples, and the published figure is the least of three such sets (seeds 0-49999, 50000-99999, "
            "100000-149999), which is lower than a mean.",
            "NVlabs/edm, fid.py; the resize is in the network's file, as a grid_sample that equals TensorFlow 1's",
        ),
        Protocol(
            "pytorch-fid",
            "bilinear_torch",
            "(b - 127.5) / 127.5",
            "round(y * 255)",
            ("2048",),
            "train",
            ("fid",),
            _TEN,
            "Images are read from files, so that they were rounded when they were saved; the reference is the user's.",
            "mseitzer/pytorch-fid, src/pytorch_fid/inception.py and fid_score.py",
        ),
        Protocol(
            "torch-fidelity",
            "bilinear_tf1",
            _GRAPH,
            "round(y * 255)",
            ("2048", "logits"),
            "train",
            ("fid", "is", "kid", "pr", "mind"),
            _TEN,
            "IS over 10 splits of shuffled images, without the bias of the last layer; KID over 100 subsets of 1,000. "
            "Both shuffle with another generator than ours.",
            "toshas/torch-fidelity, torch_fidelity/feature_extractor_inceptionv3.py",
            equal_rows=False,
        ),
        Protocol(
            "mind",
            "bilinear_tf1",
            _GRAPH,
            "round(y * 255)",
            ("2048",),
            "train",
            ("mind",),
            _TEN,
            "1,000 directions, and as many images of each set: 1,000, 2,000 or 5,000 in the paper. The images and the "
            "directions are drawn by another generator than torch-fidelity's.",
            "Berthet et al., MIND, 2026; toshas/torch-fidelity, torch_fidelity/metric_mind.py",
            ("mind",),
        ),
        Protocol(
            "clean-fid",
            "bicubic_pil",
            _GRAPH,
            "round(y * 255)",
            ("2048",),
            "train",
            ("fid", "kid"),
            _TEN,
            "Its modes legacy_pytorch and legacy_tensorflow are pytorch-fid's and TensorFlow's resizes.",
            "GaParmar/clean-fid, cleanfid/resize.py and inception_torchscript.py",
        ),
        Protocol(
            "tf-gan",
            "bilinear_tf1",
            "(b - 127.5) / 127.5",
            "floor(y * 255)",
            ("2048", "logits"),
            "train",
            ("fid", "is", "kid"),
            "one",
            "As score_sde uses it up to 256 pixels: bytes by floor, all of the training split, IS in one split, from "
            "logits with the bias of the last layer, which ours leave out. The network is TF-Hub's copy of the same "
            "weights, which resizes inside.",
            "tensorflow/gan, inception_metrics.py; yang-song/score_sde, evaluation.py",
        ),
    )
}


def get(name: str) -> Protocol:
    """The protocol of a name.

    Args:
        name: the name, one of PROTOCOLS.

    Raises:
        ValueError: if there is none of that name; the message lists the valid names.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}. Valid: {', '.join(sorted(PROTOCOLS))}.")
    return PROTOCOLS[name]


def to_bytes(rounding: str, images: np.ndarray) -> np.ndarray:
    """A model's images as bytes.

    Args:
        rounding: the map from floats to bytes, a name of ROUNDINGS.
        images: uint8, returned unchanged, or floating in [-1, 1]; values beyond this range are clipped.

    Returns:
        uint8, of the same shape.

    Raises:
        TypeError: for another dtype.
        ValueError: if a number is NaN or infinite.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise TypeError(f"images are {images.dtype}. Valid: uint8 in 0..255, or floats in [-1, 1].")
    if not np.isfinite(images).all():
        row = int(np.argmin(np.isfinite(images.reshape(len(images), -1)).all(axis=1)))
        raise ValueError(f"image {row} of this batch holds NaN or infinity.")
    return ROUNDINGS[rounding](images)


def preprocess(protocol: Protocol, images: np.ndarray) -> np.ndarray:
    """The network's input: colours, 299 x 299 pixels, in about [-1, 1].

    Args:
        protocol: the protocol whose resize and scaling are applied.
        images: uint8 [B, H, W, C] with C = 3, or C = 1, which is repeated.

    Returns:
        float32 [B, 299, 299, 3].

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if they have another shape.
    """
    require_bytes(images)
    x = resizing.resize(images, protocol.resize, inception.SIZE)
    if protocol.resize == "bicubic_pil":
        x = np.clip(x, 0, 255)  # clean-fid clips the overshoot of the filter
    x = SCALINGS[protocol.scaling](x).astype(np.float32, copy=False)
    return np.repeat(x, 3, axis=3) if images.shape[3] == 1 else x


def require_bytes(images: np.ndarray) -> None:
    """Refuses images other than bytes [B, H, W, C] with C = 3, or 1 (grey).

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if they have another shape.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"images are {images.dtype}. Valid: uint8; `protocols.to_bytes` rounds a model's floats.")
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images have shape {list(images.shape)}. Valid: [B, H, W, 3], or [B, H, W, 1] for grey.")


def record(protocol: Protocol) -> dict:
    """The protocol as a report holds it: every field by its name."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in protocol._asdict().items()}
