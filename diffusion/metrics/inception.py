"""FID's Inception-v3 (2015-12-05), in whose features the published Frechet distances are measured.

It is the network of TensorFlow's `classify_image_graph_def.pb`, which is not torchvision's: average pools do not count
the padding, the last block's pool is a maximum, batch norms have no scale, and there are 1008 outputs.
Names are those of the graph: mixed .. mixed_2 are pytorch-fid's Mixed_5b .. 5d, mixed_3 .. mixed_7 are Mixed_6a .. 6e,
mixed_8 .. mixed_10 are Mixed_7a .. 7c.

For speed on a CPU, the convolutions of one pixel that enter a block are one matrix product, average pools come after
their convolution (both are linear), and every convolution has padding (see `_conv`).
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from diffusion.metrics import inception_weights
from diffusion.metrics.inception_weights import WeightsError

Params = dict[str, Array]
"""Arrays by their names."""

TAPS = ("64", "192", "768", "2048", "spatial", "logits")
SIZE = 299  # pixels of a side of the images in the published protocols
SMALLEST = 75  # least number of pixels of a side for which the last layer has a pixel
EPSILON = 1e-3  # epsilon of the batch norms
BATCH = 16  # images in one call of the compiled network
_SPATIAL_CHANNELS = 7  # channels of mixed_6/conv: 17 x 17 x 7 is about 2048 numbers


class Inception(NamedTuple):
    """The network.

    Attributes:
        params: `NAME.kernel` float32 [height, width, in, out] and `NAME.bias` [out] of each of 94 convolutions with its
            batch norm folded in, and `output.kernel` [2048, 1008] where the file has it.
        digest: sha256 of the tensors of the convolutions, whatever file they came in.
        logits: whether the file had the last layer.
        logits_digest: sha256 of the last layer's tensors, or None.
    """

    params: Params
    digest: str
    logits: bool
    logits_digest: str | None = None


def load(path: pathlib.Path | str) -> Inception:
    """Loads the network from pytorch-fid's .pth, a TorchScript file, or safetensors.

    Args:
        path: the file.

    Returns:
        The network. Its `record` says whether it is the one of 2015-12-05.

    Raises:
        WeightsError: if there is no such file, or it does not hold a network of this form.
    """
    weights = inception_weights.read(path)
    return Inception(fold(weights.tensors), weights.digest, weights.logits_digest is not None, weights.logits_digest)


def fold(tensors: dict[str, np.ndarray]) -> Params:
    """Folds each batch norm into its convolution, in float64: (k * x - mean) / sqrt(var + epsilon) + beta.

    Args:
        tensors: the tensors, from `inception_weights.read`.

    Returns:
        Parameters for `features`, float32.
    """
    params = {}
    for name in inception_weights.CONVOLUTIONS:
        scale = 1 / np.sqrt(tensors[f"{name}.var"].astype(np.float64) + EPSILON)
        kernel = tensors[f"{name}.weight"] * scale[:, None, None, None]
        params[f"{name}.kernel"] = kernel.transpose(2, 3, 1, 0)
        params[f"{name}.bias"] = tensors[f"{name}.beta"] - tensors[f"{name}.mean"] * scale
    if "output.weight" in tensors:
        params["output.kernel"] = tensors["output.weight"].T
    # NumPy converts them: jnp.asarray would compile a program for each shape.
    return {name: jax.device_put(np.array(array, np.float32, order="C")) for name, array in params.items()}


def record(inception: Inception) -> dict:
    """The record of the weights in a report: "network", "sha256", and "logits_sha256"."""
    return {
        "network": inception_weights.describe(inception.digest),
        "sha256": inception.digest,
        "logits_sha256": inception.logits_digest,
    }


def require_known(inception: Inception) -> None:
    """Refuses a network other than the one of the published numbers.

    Raises:
        WeightsError: if its digest is not in `inception_weights.KNOWN`.
    """
    if inception.digest not in inception_weights.KNOWN:
        raise WeightsError(
            f"These Inception weights have the digest {inception.digest}; published numbers are computed with "
            f"{' or '.join(inception_weights.KNOWN)}. {inception_weights.HOW_TO_GET}"
        )


@functools.partial(jax.jit, static_argnames="taps")
def features(params: Params, x: Array, taps: tuple[str, ...] = ("2048",)) -> dict[str, Array]:
    """The features of images.

    Args:
        params: the parameters, from `load` or `fold`.
        x: float32 [B, H, W, 3] in [-1, 1], H and W at least 75; 299 for comparable figures.
        taps: the layers to read. "64", "192", "768", "2048": averages over the pixels after the first pool, the second
            pool, mixed_7 (before the auxiliary classifier), and the last block; "spatial": the first 7 channels of
            mixed_6/conv, pixel by pixel, for sFID; "logits": the logits of the Inception Score, without their bias as
            in its first code.

    Returns:
        tap -> float32 [B, D] with D = 64, 192, 768, 2048; 7 per pixel of mixed_6, 2023 at 299 x 299; 1008.

    Raises:
        ValueError: for another tap or shape, or for "logits" where the file had no last layer.

    References:
        Szegedy et al. 2015, https://arxiv.org/abs/1512.00567; Heusel et al. 2017, https://arxiv.org/abs/1706.08500;
        for sFID, Nash et al. 2021, https://arxiv.org/abs/2103.03841.
    """
    _check(params, x.shape, taps)
    conv = functools.partial(_conv, params)
    taken = {}
    x = conv("conv", x, stride=2, pad=False)
    x = conv("conv_1", x, pad=False)
    x = _max_pool(conv("conv_2", x), stride=2)
    taken["64"] = x.mean((1, 2))
    x = conv("conv_4", conv("conv_3", x), pad=False)
    x = _max_pool(x, stride=2)
    taken["192"] = x.mean((1, 2))
    for name in ("mixed", "mixed_1", "mixed_2"):
        x = _block_a(params, name, x)
    x = _block_b(params, "mixed_3", x)
    for name in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
        x = _block_c(params, name, x)
        if name == "mixed_6":  # the first branch is the first part
            taken["spatial"] = x[..., :_SPATIAL_CHANNELS].reshape(len(x), -1)
    taken["768"] = x.mean((1, 2))
    x = _block_d(params, "mixed_8", x)
    x = _block_e(params, "mixed_9", x, last=False)
    x = _block_e(params, "mixed_10", x, last=True)
    taken["2048"] = x.mean((1, 2))
    if "logits" in taps:
        taken["logits"] = jnp.dot(taken["2048"], params["output.kernel"], precision="highest")
    return {tap: taken[tap] for tap in taps}


def extract(
    params: Params,
    images: np.ndarray,
    taps: Sequence[str] = ("2048",),
    prepare: Callable[[np.ndarray], np.ndarray] = lambda batch: batch,
    batch_size: int = BATCH,
) -> dict[str, np.ndarray]:
    """The features of any number of images, in batches of one size; the last batch is padded and then cut.

    Args:
        params: the parameters, from `load` or `fold`.
        images: the images [N, ...], as `prepare` takes them.
        taps: the layers to read, see `features`.
        prepare: images [b, ...] -> float32 [b, H, W, 3] in [-1, 1], such as a protocol's resize.
        batch_size: images in one call of the compiled network.

    Returns:
        tap -> float32 [N, D].

    Raises:
        TypeError, ValueError: if prepared images have another dtype or shape, or numbers outside [-1, 1].
    """
    taps = tuple(taps)
    if len(images) == 0:
        raise ValueError("features need at least one image")
    parts = []
    for start in range(0, len(images), batch_size):
        x = np.asarray(prepare(images[start : start + batch_size]))
        _check(params, x.shape, taps)
        _check_range(x)
        filled = np.concatenate([x, np.zeros((batch_size - len(x), *x.shape[1:]), np.float32)])
        parts.append({tap: (array, len(x)) for tap, array in features(params, filled, taps).items()})
        if len(parts) > 1:  # the host prepares one batch while the last one runs
            parts[-2] = _fetched(parts[-2])
    parts[-1] = _fetched(parts[-1])
    return {tap: np.concatenate([part[tap] for part in parts]) for tap in taps}


def _fetched(part):
    return {tap: np.asarray(array)[:count] for tap, (array, count) in part.items()}


# ==== Blocks ====


def _block_a(params, name, x):
    plain, a, b, pooled = _pixel_convs(params, name, x, ("conv", "tower.conv", "tower_1.conv", "tower_2.conv"), pool=3)
    a = _conv(params, f"{name}.tower.conv_1", a)
    b = _chain(params, f"{name}.tower_1", ("conv_1", "conv_2"), b)
    return jnp.concatenate([plain, a, b, pooled], -1)


def _block_b(params, name, x):
    plain = _conv(params, f"{name}.conv", x, stride=2, pad=False)
    a = _chain(params, f"{name}.tower", ("conv", "conv_1"), x)
    a = _conv(params, f"{name}.tower.conv_2", a, stride=2, pad=False)
    return jnp.concatenate([plain, a, _max_pool(x, stride=2)], -1)


def _block_c(params, name, x):
    plain, a, b, pooled = _pixel_convs(params, name, x, ("conv", "tower.conv", "tower_1.conv", "tower_2.conv"), pool=3)
    a = _chain(params, f"{name}.tower", ("conv_1", "conv_2"), a)
    b = _chain(params, f"{name}.tower_1", ("conv_1", "conv_2", "conv_3", "conv_4"), b)
    return jnp.concatenate([plain, a, b, pooled], -1)


def _block_d(params, name, x):
    a, b = _pixel_convs(params, name, x, ("tower.conv", "tower_1.conv"))
    a = _conv(params, f"{name}.tower.conv_1", a, stride=2, pad=False)
    b = _chain(params, f"{name}.tower_1", ("conv_1", "conv_2"), b)
    b = _conv(params, f"{name}.tower_1.conv_3", b, stride=2, pad=False)
    return jnp.concatenate([a, b, _max_pool(x, stride=2)], -1)


def _block_e(params, name, x, last):
    conv = lambda layer, y: _conv(params, f"{name}.{layer}", y)
    entering = ("conv", "tower_conv", "tower_1_conv")
    if last:
        plain, a, b = _pixel_convs(params, name, x, entering)
        pooled = conv("tower_2_conv", _max_pool(x, stride=1))
    else:
        plain, a, b, pooled = _pixel_convs(params, name, x, (*entering, "tower_2_conv"), pool=3)
    b = conv("tower_1_conv_1", b)
    a = [conv("tower_mixed_conv", a), conv("tower_mixed_conv_1", a)]
    b = [conv("tower_1_mixed_conv", b), conv("tower_1_mixed_conv_1", b)]
    return jnp.concatenate([plain, *a, *b, pooled], -1)


# ==== Layers ====


def _conv(params, name, x, stride=1, pad=True):
    """Convolution, batch norm, ReLU.

    A convolution without padding is computed with a row and a column of padding, whose outputs are then cut off: on
    CPUs XLA's convolution is up to four times slower when no side is padded.
    """
    kernel = params[f"{name}.kernel"]
    padding = "SAME" if pad else [(0, 1), (0, 1)]
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    if not pad:
        y = y[:, : (x.shape[1] - kernel.shape[0]) // stride + 1, : (x.shape[2] - kernel.shape[1]) // stride + 1]
    return jax.nn.relu(y + params[f"{name}.bias"])


def _chain(params, tower, names, x):
    for name in names:
        x = _conv(params, f"{tower}.{name}", x)
    return x


def _pixel_convs(params, block, x, names, pool=None):
    """Several 1 x 1 convolutions of one input as one matrix product; an average pool follows number `pool`."""
    kernels = [params[f"{block}.{name}.kernel"][0, 0] for name in names]
    y = jnp.dot(x, jnp.concatenate(kernels, axis=1), precision="highest")
    branches = jnp.split(y, np.cumsum([kernel.shape[1] for kernel in kernels])[:-1], axis=-1)
    if pool is not None:
        branches[pool] = _average_pool(branches[pool])
    return [jax.nn.relu(branch + params[f"{block}.{name}.bias"]) for branch, name in zip(branches, names)]


def _average_pool(x):
    """Averages of 3 x 3 pixels; at the border, averages of the pixels inside the image."""
    total = lambda y: lax.reduce_window(y, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _max_pool(x, stride):
    """Maxima of 3 x 3 pixels, padded at stride 1; by rows and then columns, which takes six slices instead of nine."""
    if stride == 1:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        last = (x.shape[axis] - 3) // stride * stride
        a, b, c = (lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


# ==== Checks ====


def _check(params, shape, taps):
    if unknown := set(taps) - set(TAPS):
        raise ValueError(f"unknown taps: {', '.join(sorted(unknown))}. Valid: {', '.join(TAPS)}")
    if not taps:
        raise ValueError(f"name at least one tap. Valid: {', '.join(TAPS)}")
    if "logits" in taps and "output.kernel" not in params:
        raise ValueError(f"this copy of the network has no logits. {inception_weights.HOW_TO_GET}")
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < SMALLEST:
        raise ValueError(
            f"Inception takes [B, H, W, 3] with sides of at least {SMALLEST} ({SIZE} for published numbers); got "
            f"{list(shape)}"
        )


def _check_range(x):
    if x.dtype != np.float32:
        raise TypeError(f"Inception takes float32 images in [-1, 1], got {x.dtype}")
    low = x.min()
    high = x.max()
    if not (low >= -1.001 and high <= 1.001):  # true for NaN as well
        raise ValueError(f"Inception takes images in [-1, 1], got numbers from {low:g} to {high:g}")
