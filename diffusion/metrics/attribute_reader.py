"""A small network that predicts the class of each attribute of a picture, to judge whether pictures fit their prompts.

The network trains only on real pictures and their attributes, and never sees the prompt of a picture. Its last hidden
layer serves as features. Like `classifier`, it is written without a library of networks.
"""

__all__ = [
    "OtherModel",
    "Reader",
    "cached",
    "changed",
    "check",
    "check_labels",
    "check_training",
    "features",
    "fitted",
    "from_params",
    "he_normal",
    "hidden",
    "init_hidden",
    "init_linear",
    "logits",
    "margins",
    "minimised",
    "most_probable",
    "neighbourhoods",
    "read",
    "shifted",
    "train",
]

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from safetensors.numpy import save

from diffusion.arrays import chunks
from diffusion.arrays.arguments import is_count
from diffusion.arrays.boxes import space_to_depth
from diffusion.io import failures, files, safetensors_files
from diffusion.package import public

PATCH = 4  # side of a patch in pixels; each patch becomes WIDTHS[0] numbers
WIDTHS = (48, 64, 96)  # features of a patch, of the 3 x 3 patches around every second one, and of 3 x 3 of these
DIM = 128  # number of features of a picture
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
CHUNK = 250  # pictures in one call of the compiled forward pass


class Reader(NamedTuple):
    """A trained reader.

    Attributes:
        params: name -> float32 array.
        classes: number of classes of each attribute.
        digest: sha256 of the parameters.
    """

    params: dict[str, Array]
    classes: dict[str, int]
    digest: str


def train(
    images: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    steps: int = 3000,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Reader:
    """Trains a reader by AdamW with a cosine decay, on the mean cross entropy of the attributes.

    Pictures are blurred and their contrast and brightness are changed at random, so that the reader does not depend on
    the traces of a decoder.

    Args:
        images: uint8 [N, H, W, 3], H and W multiples of 8.
        labels: the classes of each attribute by its name, int [N] in 0..K-1.
        steps: number of updates, >= 1.
        batch_size: pictures in an update, >= 1.
        seed: the seed of the initial weights, batches and changes.
        progress: called after every step with its number and the loss.

    Raises:
        TypeError: if the pictures are not uint8.
        ValueError: if shapes do not fit.
    """
    check(images)
    check_labels(labels, len(images), "pictures")
    init = lambda key, classes: _init(key, images.shape[1:], classes)
    how = {"steps": steps, "batch_size": batch_size, "seed": seed, "progress": progress}
    return fitted(hidden, init, (images,), labels, change=changed, **how)


def fitted(
    hidden: Callable[..., Array],
    init: Callable[[Array, Mapping[str, int]], dict[str, Array]],
    inputs: tuple[np.ndarray, ...],
    labels: Mapping[str, np.ndarray],
    *,
    change: Callable[[Array, Array], Array],
    steps: int,
    batch_size: int,
    seed: int,
    progress: Callable[[int, float], None],
) -> Reader:
    """The training of a reader whose last hidden layer is (params, *inputs `[B, ...]`) -> `[B, DIM]`.

    Args:
        hidden: the hidden layer.
        init: (key, number of classes of each attribute) -> params, with those of `init_linear`.
        inputs: arrays `[N, ...]`.
        labels: the classes of each attribute by its name, int `[N]` in 0..K-1.
        change: (key, the first input `[B, ...]`) -> the same, changed at random.
        steps, batch_size, seed, progress: the arguments of `train`.
    """
    check_training(steps, batch_size)
    classes = {name: int(np.max(column)) + 1 for name, column in labels.items()}
    key = jax.random.key(seed)
    params = init(jax.random.fold_in(key, 0), classes)

    def loss(params, key, inputs, labels):
        first, *beside = inputs
        last = hidden(params, change(key, first), *beside)
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(last @ params[f"{name}/out"] + params[f"{name}/bias"], y)
            for name, y in labels.items()
        ]
        return jnp.mean(jnp.stack(losses))

    rng = np.random.default_rng(seed)

    def batch():
        rows = rng.integers(0, len(inputs[0]), batch_size)
        return tuple(array[rows] for array in inputs), {name: np.asarray(y)[rows] for name, y in labels.items()}

    keys = lambda step: jax.random.fold_in(key, step + 1)
    return from_params(minimised(loss, params, keys, batch, steps, WEIGHT_DECAY, progress), classes)


def check_training(steps: int, batch_size: int) -> None:
    """Refuses a training without a step or a picture.

    Raises:
        ValueError: if one of them is no integer of at least 1.
    """
    if not (is_count(steps) and is_count(batch_size)):
        raise ValueError(f"steps = {steps} and batch_size = {batch_size} must be integers of at least 1")


def minimised(
    loss: Callable[..., Array],
    params: dict[str, Array],
    keys: Callable[[int], Array],
    batch: Callable[[], tuple[Any, ...]],
    steps: int,
    weight_decay: float,
    progress: Callable[[int, float], None],
) -> dict[str, np.ndarray]:
    """The parameters after steps of AdamW with a cosine decay.

    Args:
        loss: (params, key, *batch) -> the loss.
        params: the initial parameters.
        keys: number of a step, from 0 -> its key.
        batch: () -> the arrays of the next step.
        steps: number of updates.
        weight_decay: the decay of the weights in a step, as a share of the learning rate.
        progress: called after every step with its number and the loss.
    """
    optimizer = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps), weight_decay=weight_decay)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, key, arrays):
        value, gradient = jax.value_and_grad(loss)(params, key, *arrays)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    for step in range(steps):
        params, state, value = update(params, state, keys(step), batch())
        progress(step + 1, value)
    return jax.tree.map(np.asarray, params)


def read(reader: Reader, images: np.ndarray) -> dict[str, np.ndarray]:
    """The most probable class of each attribute, int64 [N] each.

    Args:
        reader: a result of `train`.
        images: uint8 [N, H, W, 3], with the H and W of the pictures that the reader was trained on.

    Raises:
        TypeError, ValueError: if the images have another type or shape.
    """
    return most_probable(reader, features(reader, images))


def most_probable(reader: Reader, last: np.ndarray) -> dict[str, np.ndarray]:
    """The most probable class of each attribute, int64 `[N]` each, by features `[N, DIM]`."""
    return {name: values.argmax(1) for name, values in logits(reader, last).items()}


def logits(reader: Reader, last: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of each attribute, float32 `[N, K]` each, by features `[N, DIM]`."""
    params = jax.tree.map(np.asarray, reader.params)
    return {name: last @ params[f"{name}/out"] + params[f"{name}/bias"] for name in reader.classes}


def margins(reader: Reader, last: np.ndarray, refused: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The margin of a class's logit over all others, float32 `[N]` for each attribute.

        m = l_r - max over k != r of l_k

    `read` takes a picture for class r where m > 0.

    Args:
        reader: a result of `train`.
        last: features of N pictures, `[N, DIM]`.
        refused: r of each attribute, the class "none of these".
    """
    scores = logits(reader, last)
    others = {name: np.delete(scores[name], number, axis=1).max(1) for name, number in refused.items()}
    return {name: scores[name][:, number] - others[name] for name, number in refused.items()}


def shifted(reader: Reader, refused: Mapping[str, int], shift: float) -> Reader:
    """A reader whose logits of the class "none of these" are larger by a shift, so that it refuses more.

    With the shift -q, for the quantile q of order 1 - a of the `margins` of real pictures, it refuses a share a of
    them.

    Args:
        reader: a result of `train`.
        refused: the class of each attribute, as in `margins`.
        shift: the number that is added to the logit of this class; if it is negative, the reader refuses less.
    """
    params = {name: np.array(value) for name, value in reader.params.items()}
    for name, number in refused.items():
        params[f"{name}/bias"][number] += shift
    return from_params(params, reader.classes)


def features(reader: Reader, images: np.ndarray) -> np.ndarray:
    """The last hidden layer, float32 [N, DIM]; arguments as in `read`."""
    check(images)
    expected = jax.eval_shape(lambda: _init(jax.random.key(0), images.shape[1:], reader.classes))
    if expected["hidden"].shape != reader.params["hidden"].shape:
        raise ValueError(
            f"pictures have the shape {list(images.shape[1:])}, but the reader was trained on another size"
        )
    return chunks.applied(functools.partial(_compiled, reader.params), images, CHUNK)


class OtherModel(ValueError):
    """A file holds the parameters of another model than the reader."""


def cached(
    name: str,
    train: Callable[[], Reader],
    folder: pathlib.Path | None = None,
    shapes: Callable[[], Mapping[str, Any]] | None = None,
) -> Reader:
    """The reader in a file; if the file is missing or damaged, a new reader, which is then kept in that file.

    Args:
        name: the name of the file without its ending, which must encode all that the reader depends on.
        train: a function that trains a new reader.
        folder: the folder of the file; "readers" in the library's cache by default.
        shapes: () -> {parameter: array, or its shape and type} of such a reader; None to read any file.

    Raises:
        OtherModel: if the parameters in the file have other names or shapes.
        failures.Unreadable: if this machine could not read the file.
    """
    path = (folder or files.cache("readers")) / f"{name}.safetensors"
    try:
        params = safetensors_files.load(path)
        if shapes is not None:
            _check_model(path, params, jax.eval_shape(shapes))
        classes = {key: int(value) for key, value in safetensors_files.header(path).metadata.items()}
        return from_params(params, classes)
    except OtherModel:
        raise
    except (OSError, ValueError) as error:
        if failures.is_machine_failure(error):
            raise failures.Unreadable(f"{path} could not be read: {error}.") from error
        reader = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as file:
        arrays = {key: np.asarray(leaf) for key, leaf in reader.params.items()}
        file.write(save(arrays, {key: str(value) for key, value in reader.classes.items()}))
    return reader


def _check_model(path: pathlib.Path, params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses parameters of other names or shapes; the message names the first such parameter."""
    for name in sorted({*params, *expected}):
        ours, theirs = (list(arrays[name].shape) if name in arrays else "missing" for arrays in (expected, params))
        if ours != theirs:
            raise OtherModel(
                f"{path} is of another model: its {name} is {theirs}, and this judge's is {ours}. Valid: the file of "
                "this judge, or no file, so that a new judge is trained"
            )


def _init(key: Array, shape: tuple[int, ...], classes: Mapping[str, int]) -> dict[str, Array]:
    """The weights of the hidden layers, and of a linear layer for each attribute."""
    return init_hidden(key, shape) | init_linear(key, classes)


def init_linear(key: Array, classes: Mapping[str, int]) -> dict[str, Array]:
    """The weights of a linear layer `[DIM, K]` for each attribute of K classes."""
    params = {}
    for i, (name, number) in enumerate(sorted(classes.items())):
        params[f"{name}/out"] = 0.1 * he_normal(jax.random.fold_in(key, 200 + i), (DIM, number))
        params[f"{name}/bias"] = jnp.zeros(number)
    return params


def init_hidden(key: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """He-normal weights of the layers below the last, for pictures of a shape [H, W, C]."""
    height, width, channels = shape
    params = {}
    reads = PATCH * PATCH * channels
    for i, size in enumerate(WIDTHS):
        params[f"layer{i}"] = he_normal(jax.random.fold_in(key, i), (reads, size))
        params[f"bias{i}"] = jnp.zeros(size)
        reads = 9 * size
    params["hidden"] = he_normal(jax.random.fold_in(key, 100), (height // 8 * (width // 8) * WIDTHS[-1], DIM))
    params["anywhere"] = he_normal(jax.random.fold_in(key, 101), (WIDTHS[-1], DIM))
    params["hidden_bias"] = jnp.zeros(DIM)
    return params


def he_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal numbers of variance 2 / (the product of all sides but the last)."""
    return jax.random.normal(key, shape) * np.sqrt(2 / np.prod(shape[:-1]))


def hidden(params: Mapping[str, Array], images: Array) -> Array:
    """The last hidden layer [B, DIM] of pictures [B, H, W, 3] in 0..255."""
    x = space_to_depth(images.astype(jnp.float32) / 127.5 - 1, (PATCH, PATCH))
    for i, stride in enumerate((0, 2, 1)):
        # Convolutions are matrix products of neighbourhoods, because XLA's convolutions are many times slower on a CPU.
        x = neighbourhoods(x, stride) if stride else x
        x = jax.nn.gelu(x @ params[f"layer{i}"] + params[f"bias{i}"])
    # The last layer reads each position, and the largest values over all positions, because of which a shape need not
    # be learned at every position.
    anywhere = x.max((1, 2)) @ params["anywhere"]
    return jax.nn.gelu(x.reshape(len(x), -1) @ params["hidden"] + anywhere + params["hidden_bias"])


def neighbourhoods(x: Array, stride: int) -> Array:
    """The 3 x 3 values around every stride-th position, zeros beyond the border.

    Args:
        x: values of a grid, `[B, H, W, C]`.
        stride: step between the positions, which divides H and W.

    Returns:
        The neighbourhoods, `[B, H / stride, W / stride, 9 C]`, in each of which the C values of the 9 positions follow
        each other from the upper left to the lower right.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


_compiled = jax.jit(hidden)


def changed(key: Array, images: Array) -> Array:
    """Pictures `[B, H, W, 3]` in 0..255, as float32, each blurred and changed in contrast and brightness at random."""
    x = images.astype(jnp.float32)
    blur, bright, contrast = jax.random.split(key, 3)
    draw = functools.partial(jax.random.uniform, shape=(len(x), 1, 1, 1))
    near = (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1) + jnp.roll(x, 1, 2) + jnp.roll(x, -1, 2)) / 4
    x = x + draw(blur, minval=0.0, maxval=0.5) * (near - x)
    return 128 + (x - 128) * draw(contrast, minval=0.9, maxval=1.1) + draw(bright, minval=-8.0, maxval=8.0)


def check(images: np.ndarray) -> None:
    """Refuses pictures of another type or shape."""
    if images.dtype != np.uint8:
        raise TypeError(f"the reader takes uint8 pictures, got {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] % 8 or images.shape[2] % 8:
        raise ValueError(f"pictures must be [N, H, W, 3] with sides that are multiples of 8; got {list(images.shape)}")


def check_labels(labels: Mapping[str, np.ndarray], number: int, noun: str) -> None:
    """Refuses labels of which there are not `number` for each attribute; `noun` is what they label, for the message."""
    if any(np.shape(column) != (number,) for column in labels.values()) or not labels:
        shapes = {name: list(np.shape(column)) for name, column in labels.items()}
        raise ValueError(f"each attribute needs one label for each of the {number} {noun}; got {shapes}")


def from_params(params: dict[str, Any], classes: dict[str, int]) -> Reader:
    """The reader of these parameters and classes, with their digest."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(f"{name} {params[name].shape} {params[name].dtype}".encode())
        digest.update(np.ascontiguousarray(params[name]).tobytes())
    return Reader(params, classes, digest.hexdigest())


public.declare(__name__, renamed={"of": "from_params"})
