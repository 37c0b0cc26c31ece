"""A small convolutional classifier, trained only on real images, whose last hidden layer serves as features.

It is written only with jax.lax: the library's mathematics does not depend on a network library.
"""

import functools
import hashlib
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from jax import Array

from diffusion.arrays import chunks
from diffusion.io import failures, files, limits, safetensors_files
from diffusion.metrics.attribute_reader import he_normal

Params = dict[str, Array]
"""Arrays by their names."""

DIM = 64  # features: as many as a digit has pixels
STEPS = 600
BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
DROPOUT = 0.3
LABEL_SMOOTHING = 0.05
_CHUNK = 500  # images in one call of the compiled forward pass
_in_memory: dict[pathlib.Path, "Classifier"] = {}  # a process trains once, even if it cannot write a file


class Classifier(NamedTuple):
    """A trained classifier: its parameters, and a hash that identifies them.

    Attributes:
        params: name -> float32 array.
        digest: sha256 of the parameters; two classifiers of one digest give the same features.
    """

    params: Params
    digest: str


def train(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    steps: int = STEPS,
    advance: Callable[[int], None] = lambda done: None,
) -> Classifier:
    """Trains on real images by AdamW with a cosine decay; shifts by up to one pixel are the only augmentation.

    Args:
        images: uint8 [N, H, W, C], real training images.
        labels: int [N] in 0..K-1, at least two classes.
        seed: the seed of the initial weights, batches, shifts and dropout; the same seed gives the same classifier.
        steps: number of updates with batches of 128.
        advance: called with the number of updates done.

    Returns:
        The classifier.

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if shapes do not fit, labels are negative, there is only one class, or steps is below 1.
    """
    _check(images, labels)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    key = jax.random.key(seed)
    params = _init(jax.random.fold_in(key, 0), images.shape[1:], int(labels.max()) + 1)
    state = _optimizer(steps).init(params)
    stream = jax.random.fold_in(key, 1)
    x = jnp.asarray(images)
    y = jnp.asarray(labels, jnp.int32)
    for step in range(steps):  # a Python loop: XLA's CPU convolutions are many times slower inside a scan
        params, state = _update(params, state, x, y, jax.random.fold_in(stream, step), steps)
        advance(step + 1)
    return _classifier(jax.tree.map(np.asarray, params))


def cached(
    images: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    folder: pathlib.Path | str | None = None,
    training: Callable[[np.ndarray, np.ndarray, int], Classifier] | None = None,
) -> Classifier:
    """The classifier of these images, from its file if there is one; otherwise it is trained and stored.

    The file's name is a hash of the data, the seed and this module's source, so that a change of any of them trains a
    new one. A damaged file is replaced. If the folder cannot be written, the next run trains again.

    Args:
        images: uint8 [N, H, W, C].
        labels: int [N] in 0..K-1.
        seed: the seed of `train`.
        folder: the folder of the files; by default DIFFUSION_CACHE or else ~/.cache/diffusion, there "classifiers".
        training: a function that calls `train` and shows its progress; None for `train` itself.

    Returns:
        The classifier.

    Raises:
        TypeError, ValueError: as in `train`.
    """
    _check(images, labels)
    if folder is None:
        folder = files.cache("classifiers")
    path = pathlib.Path(folder) / f"{_key(images, labels, seed)}.safetensors"
    if path in _in_memory:
        return _in_memory[path]
    if path.is_file():
        try:
            _in_memory[path] = _classifier(safetensors_files.load(path))
            return _in_memory[path]
        except (limits.Refused, OSError) as error:
            if failures.is_machine_failure(error):
                raise
            warnings.warn(f"{path} cannot be read ({error}); training the classifier again", stacklevel=2)
    classifier = _in_memory[path] = (training or train)(images, labels, seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # whole or not at all
            unfinished = pathlib.Path(scratch) / path.name
            arrays = {name: np.asarray(leaf) for name, leaf in classifier.params.items()}
            unfinished.write_bytes(safetensors.numpy.save(arrays))
            os.replace(unfinished, path)
    except OSError as error:
        warnings.warn(f"the classifier cannot be kept in {path.parent} ({error}); set DIFFUSION_CACHE", stacklevel=2)
    return classifier


def features(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The last hidden layer, after its GELU (with ReLU a third of the units never fire).

    Args:
        classifier: a trained classifier.
        images: uint8 [B, H, W, C], of the shape it was trained on.

    Returns:
        float32 [B, 64].

    Raises:
        TypeError, ValueError: if the images have another type or shape.
    """
    return _batched(_features, classifier, images)


def predict(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The most probable class of each image.

    Args:
        classifier: a trained classifier.
        images: uint8 [B, H, W, C], of the shape it was trained on.

    Returns:
        int64 [B].

    Raises:
        TypeError, ValueError: if the images have another type or shape.
    """
    return _batched(_logits, classifier, images).argmax(axis=1)


def _optimizer(steps):
    return optax.adamw(lambda step: LEARNING_RATE * (1 + jnp.cos(jnp.pi * step / steps)) / 2, weight_decay=WEIGHT_DECAY)


@jax.jit
def _update(params, state, images, labels, key, steps):
    batch_key, shift_key, dropout_key = jax.random.split(key, 3)
    rows = jax.random.randint(batch_key, (BATCH,), 0, len(images))
    gradient = jax.grad(_loss)(params, _shift(shift_key, images[rows]), labels[rows], dropout_key)
    change, state = _optimizer(steps).update(gradient, state, params)
    return optax.apply_updates(params, change), state


def _init(key: Array, shape: tuple[int, ...], classes: int) -> Params:
    """He-normal weights: two convolutions, then one more after each halving, down to sides of 4; two dense layers."""
    height, width, channels = shape
    sizes = [32, 64]
    while max(height, width) > 4:
        height = -(-height // 2)
        width = -(-width // 2)
        sizes.append(64)
    params = {}
    for i, size in enumerate(sizes):
        params[f"conv{i}"] = he_normal(jax.random.fold_in(key, i), (3, 3, channels, size))
        params[f"bias{i}"] = jnp.zeros(size)
        channels = size
    params["hidden"] = he_normal(jax.random.fold_in(key, 100), (height * width * channels, DIM))
    params["hidden_bias"] = jnp.zeros(DIM)
    params["out"] = 0.1 * he_normal(jax.random.fold_in(key, 101), (DIM, classes))
    params["out_bias"] = jnp.zeros(classes)
    return params


def _features(params: Params, images: Array) -> Array:
    x = images.astype(jnp.float32) / 255
    count = sum(name.startswith("conv") for name in params)
    for i in range(count):
        if i >= 2:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        x = jax.lax.conv_general_dilated(
            x, params[f"conv{i}"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.gelu(x + params[f"bias{i}"])
    return jax.nn.gelu(x.reshape(len(x), -1) @ params["hidden"] + params["hidden_bias"])


def _logits(params, images):
    return _features(params, images) @ params["out"] + params["out_bias"]


def _loss(params, images, labels, key):
    hidden = _features(params, images)
    hidden = hidden * jax.random.bernoulli(key, 1 - DROPOUT, hidden.shape) / (1 - DROPOUT)
    logits = hidden @ params["out"] + params["out_bias"]
    target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), LABEL_SMOOTHING)
    return optax.softmax_cross_entropy(logits, target).mean()


def _shift(key, images):
    """Moves each image by -1, 0 or 1 pixel in both directions; zeros come in at the border."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 3)
    cut = lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])
    return jax.vmap(cut)(padded, corners)


_compiled = {function: jax.jit(function) for function in (_features, _logits)}


def _batched(function, classifier, images):
    """The function over chunks of one size; refuses images that the classifier does not take."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise TypeError(f"the classifier takes uint8 images, got {images.dtype}")
    channels = classifier.params["conv0"].shape[2]
    expected = jax.eval_shape(lambda: _init(jax.random.key(0), images.shape[1:], 2)) if images.ndim == 4 else {}
    if (
        images.ndim != 4
        or images.shape[3] != channels
        or (
            expected["hidden"].shape != classifier.params["hidden"].shape or expected.keys() != classifier.params.keys()
        )
    ):
        raise ValueError(f"images {list(images.shape)} are not of the shape [B, H, W, {channels}] it was trained on")
    return chunks.applied(functools.partial(_compiled[function], classifier.params), images, _CHUNK)


def _check(images, labels):
    if images.dtype != np.uint8:
        raise TypeError(f"the classifier takes uint8 images, got {images.dtype}")
    if images.ndim != 4 or labels.shape != (len(images),):
        raise ValueError(
            f"images and labels have the shapes {list(images.shape)} and {list(labels.shape)}. Valid: [N, H, W, C] and "
            "[N]"
        )
    if len(np.unique(labels)) < 2 or labels.min() < 0:
        raise ValueError(f"labels must have at least two classes, counted from 0; got {np.unique(labels).tolist()}")


def _key(images, labels, seed):
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes())
    digest.update(f"{seed} {images.shape}".encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(labels, np.int64).tobytes())
    return digest.hexdigest()[:32]


def _classifier(params):
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(f"{name} {params[name].shape} {params[name].dtype}".encode())
        digest.update(np.ascontiguousarray(params[name]).tobytes())
    return Classifier(params, digest.hexdigest())
