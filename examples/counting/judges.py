"""Two judges of drawings that share no pictures, weights or architecture: one rewards, the other one measures.

    rewarding   `attribute_reader`, on drawings of one seed: patches of 4 pixels, and a dense layer over all positions
    measuring   convolutions from patches of 2 pixels to 16 positions, and a dense layer over all positions, their mean
                and their maximum, on drawings of another seed

A model that is trained on rewards may find pictures that only the rewarding judge accepts. The measuring judge, which
is not used in training, shows to what extent. Both judges learn from real drawings, a quarter of them corrupted, from
`examples.text.judge.pictures`.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays import chunks
from diffusion.data.shapes.scenes import NONE, Scene
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader
from diffusion.training.runtime import progress
from examples.text import judge

REWARDING_SEED, MEASURING_SEED = 7_301, 7_302  # seeds of the judges' pictures, used nowhere else
PICTURES = {"one": 10_000, "several": 14_000, "pair": 10_000, "word": 2_000}  # training pictures of each judge
STEPS = 3_000
ATTRIBUTES = {name: values for name, values in judge.ATTRIBUTES.items() if name != "word"}  # `drawn_words` reads words
PATCH = 2  # side of a patch of the measuring judge in pixels
WIDTHS = (16, 32, 64, 96)  # features of its patches and of its three convolutions
DIM = 128  # features of the last layer, as `attribute_reader.fitted` requires
PICTURE = (64, 64, 3)  # shape of a drawing
CHUNK = 100  # pictures in one call of its compiled forward pass


def rewarding(folder: pathlib.Path | None = None) -> Reader:
    """The judge that gives rewards, read from a folder (by default the library's cache), or trained now in minutes."""
    name = f"counting-rewarding-{REWARDING_SEED}-{STEPS}"
    return attribute_reader.cached(name, lambda: _trained(True), folder, lambda: _shapes(True))


def measuring(folder: pathlib.Path | None = None) -> Reader:
    """The judge that no training uses, read from a folder (by default the library's cache), or trained in minutes."""
    name = f"counting-measuring-{MEASURING_SEED}-{STEPS}"
    return attribute_reader.cached(name, lambda: _trained(False), folder, lambda: _shapes(False))


def _shapes(rewarding: bool) -> dict[str, Array]:
    """The initial weights of one of the judges, for their names and shapes."""
    classes = {name: len(values) for name, values in ATTRIBUTES.items()}
    key = jax.random.key(0)
    if not rewarding:
        return init(key, classes)
    return attribute_reader.init_hidden(key, PICTURE) | attribute_reader.init_linear(key, classes)


def _trained(rewarding: bool) -> Reader:
    """Trains one of the judges on its own drawings."""
    seed = REWARDING_SEED if rewarding else MEASURING_SEED
    images, shown = judge.pictures(seed, PICTURES)
    labels = {name: column for name, column in judge.labels(shown).items() if name in ATTRIBUTES}
    with progress.bar("training a judge", STEPS, "steps") as advance:
        how = {"steps": STEPS, "seed": seed, "progress": lambda step, _: advance(step)}
        if rewarding:
            return attribute_reader.train(images, labels, **how)
        return attribute_reader.fitted(
            hidden, init, (images,), labels, change=attribute_reader.changed, batch_size=64, **how
        )


def init(key: Array, classes: Mapping[str, int]) -> dict[str, Array]:
    """The weights of the measuring judge, for {attribute: number of its classes}."""
    params, reads = {}, PATCH * PATCH * 3
    for i, width in enumerate(WIDTHS):
        params[f"layer{i}"] = attribute_reader.he_normal(jax.random.fold_in(key, i), (reads, width))
        params[f"bias{i}"] = jnp.zeros(width)
        reads = 9 * width
    params["hidden"] = attribute_reader.he_normal(jax.random.fold_in(key, 100), (18 * WIDTHS[-1], DIM))
    params["hidden_bias"] = jnp.zeros(DIM)
    return params | attribute_reader.init_linear(key, classes)


def hidden(params: Mapping[str, Array], images: Array) -> Array:
    """The last hidden layer [B, DIM] of the measuring judge, of pictures [B, 64, 64, 3] in 0..255."""
    batch, height, width, channels = images.shape
    x = images.astype(jnp.float32) / 127.5 - 1
    x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, channels).swapaxes(2, 3)
    x = x.reshape(batch, height // PATCH, width // PATCH, -1)
    for i in range(len(WIDTHS)):
        x = attribute_reader.neighbourhoods(x, 2) if i else x
        x = jax.nn.gelu(x @ params[f"layer{i}"] + params[f"bias{i}"])
    pooled = jnp.concatenate([x.reshape(batch, -1), x.mean((1, 2)), x.max((1, 2))], axis=-1)
    return jax.nn.gelu(pooled @ params["hidden"] + params["hidden_bias"])


_compiled = jax.jit(hidden)


def features(reader: Reader, images: np.ndarray) -> np.ndarray:
    """The features of the measuring judge, float32 [N, DIM], of pictures uint8 [N, 64, 64, 3]."""
    attribute_reader.check(images)
    return chunks.applied(functools.partial(_compiled, reader.params), images, CHUNK)


def read(reader: Reader, last: np.ndarray) -> list[Scene]:
    """The scenes that a judge reads from its features [N, DIM]."""
    classes = attribute_reader.most_probable(reader, last)
    names: Any = ATTRIBUTES.items()
    scene = lambda row: Scene(**{name: values[classes[name][row]] for name, values in names}, word=NONE)
    return [scene(row) for row in range(len(last))]
