"""A small network that predicts the class of each attribute of a clip, such as its motion, to judge generated clips.

It extends `attribute_reader` to changes over time: its first layers read each frame together with the frames before and
after it, as further channels. Two more layers read the results of all frames, and additional numbers such as positions.
The outputs of the last of these layers are the features in which the Frechet distance of clips is computed.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays import chunks
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader

DIM = 128  # features, as many as `attribute_reader.fitted` takes
CHUNK = 50  # clips in one call of the compiled forward pass


def train(
    clips: np.ndarray,
    beside: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    steps: int = 1200,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Reader:
    """Trains by AdamW with a cosine decay, on the mean cross entropy of the attributes.

    All frames of a clip are blurred and made paler or darker alike, at random.

    Args:
        clips: uint8 [N, F, H, W, 3], H and W multiples of 8.
        beside: further numbers of each clip, float32 [N, P], of about unit variance; P may be 0.
        labels: the classes of each attribute by its name, int [N] in 0..K-1.
        steps: number of updates.
        batch_size: clips in an update.
        seed: the seed of the initial weights, batches and changes.
        progress: called after every step with its number and the loss.

    Raises:
        TypeError: if the clips are not uint8.
        ValueError: if shapes do not fit.
    """
    _check(clips, beside)
    attribute_reader.check_labels(labels, len(clips), "clips")
    return attribute_reader.fitted(
        _hidden,
        lambda key, classes: _init(key, clips.shape[1:], beside.shape[1], classes),
        (clips, beside),
        labels,
        change=_changed,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )


def read(reader: Reader, clips: np.ndarray, beside: np.ndarray) -> dict[str, np.ndarray]:
    """The most probable class of each attribute, int64 [N] each.

    Args:
        reader: a result of `train`.
        clips: uint8 [N, F, H, W, 3], of the size of the training clips.
        beside: further numbers of each clip, float32 [N, P], as in training.

    Raises:
        TypeError, ValueError: if the arrays have another type or shape.
    """
    return attribute_reader.most_probable(reader, features(reader, clips, beside))


def features(reader: Reader, clips: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """The last hidden layer, float32 [N, DIM]; the arguments are those of `read`."""
    _check(clips, beside)
    shapes = (clips.shape[1:], beside.shape[1])
    expected = jax.eval_shape(lambda: _init(jax.random.key(0), *shapes, reader.classes))
    if any(expected[name].shape != reader.params[name].shape for name in ("hidden", "frames", "beside")):
        raise ValueError(
            f"clips of {list(clips.shape[1:])} with {beside.shape[1]} further numbers do not have the size that the "
            "reader was trained on"
        )
    run = lambda rows: _compiled(reader.params, *rows)
    return chunks.applied(run, (clips, beside), CHUNK)


def _check(clips: np.ndarray, beside: np.ndarray) -> None:
    """Refuses clips of another type or shape."""
    if np.ndim(clips) != 5:
        raise ValueError(f"clips must be [N, F, H, W, 3], got {list(np.shape(clips))}")
    attribute_reader.check(clips.reshape(-1, *clips.shape[2:]))
    if np.ndim(beside) != 2 or len(beside) != len(clips):
        raise ValueError(
            f"the further numbers of {len(clips)} clips must be [{len(clips)}, P], got {list(np.shape(beside))}"
        )


def _init(key: Array, shape: tuple[int, ...], numbers: int, classes: Mapping[str, int]) -> dict[str, Array]:
    """The weights of the layers on each frame, of the layer on all frames, and of a linear layer for each attribute."""
    frames, height, width, channels = shape
    size = DIM
    normal = lambda number, *shape: attribute_reader.he_normal(jax.random.fold_in(key, number), shape)
    params = attribute_reader.init_hidden(key, (height, width, 3 * channels))
    params["frames"] = normal(300, frames * size, size)
    params["any_frame"] = normal(301, size, size)
    params["beside"] = normal(302, numbers, size) if numbers else jnp.zeros((0, size))
    params["between"] = normal(303, size, size)
    params["frames_bias"], params["between_bias"] = jnp.zeros(size), jnp.zeros(size)
    return params | attribute_reader.init_linear(key, classes)


def _hidden(params: Mapping[str, Array], clips: Array, beside: Array) -> Array:
    """The last hidden layer [B, DIM] of clips [B, F, H, W, 3] in 0..255, and numbers [B, P]."""
    padded = jnp.concatenate([clips[:, :1], clips, clips[:, -1:]], axis=1)
    windows = jnp.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=-1)
    hidden = attribute_reader.hidden(params, windows.reshape(-1, *windows.shape[2:]))
    hidden = hidden.reshape(*clips.shape[:2], -1)
    anywhere = hidden.max(1) @ params["any_frame"] + beside @ params["beside"]
    joint = jax.nn.gelu(hidden.reshape(len(clips), -1) @ params["frames"] + anywhere + params["frames_bias"])
    return jax.nn.gelu(joint @ params["between"] + params["between_bias"])


_compiled = jax.jit(_hidden)


def _changed(key: Array, clips: Array) -> Array:
    """Clips in 0..255, each blurred and changed in contrast at random, in the same way for all its frames."""
    batch, frames, height, width, channels = clips.shape
    beside = clips.swapaxes(1, 2).reshape(batch, height, frames * width, channels)
    changed = attribute_reader.changed(key, beside)
    return changed.reshape(batch, height, frames, width, channels).swapaxes(1, 2)
