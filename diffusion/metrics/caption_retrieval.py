"""Retrieval of a picture's caption among many, by two small towers that depend on no text encoder.

The tower of pictures is the network of `attribute_reader`; a caption is the sum of a vector for each of its words. Both
train by CLIP's loss, which moves a picture nearer to its own caption than to the others of its batch.
"""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion.arrays import chunks
from diffusion.arrays.arguments import is_count
from diffusion.metrics import attribute_reader, bootstrap

DIM = 64  # dimension of the space that both towers share
WEIGHT_DECAY = 0.05
SHARPNESS = 16.0  # factor of the cosines


class Retriever(NamedTuple):
    """Trained towers.

    Attributes:
        params: name -> float32 array.
        words: number of each known word.
        digest: sha256 of the parameters.
    """

    params: dict[str, np.ndarray]
    words: dict[str, int]
    digest: str


def train(
    images: np.ndarray,
    captions: Sequence[str],
    *,
    steps: int = 2000,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Retriever:
    """Trains both towers by AdamW with a cosine decay.

    Args:
        images: uint8 [N, H, W, 3], H and W multiples of 8.
        captions: N texts.
        steps: number of updates, >= 1.
        batch_size: pictures in an update, >= 1.
        seed: the seed of the initial weights, batches and changes.
        progress: called after every step with its number and the loss.

    Raises:
        TypeError, ValueError: as in `attribute_reader.train`, and if the numbers of images and captions differ.
    """
    attribute_reader.check(images)
    if len(captions) != len(images):
        raise ValueError(
            f"there are {len(images)} pictures but {len(captions)} captions; each picture needs one caption"
        )
    counts = Counter(word for text in captions for word in split(text))
    words = {word: i for i, word in enumerate(sorted(counts))}
    attribute_reader.check_training(steps, batch_size)
    caption_bags = bags(captions, words)
    key = jax.random.key(seed)
    keys = [jax.random.fold_in(key, i) for i in range(3)]
    params = attribute_reader.init_hidden(keys[0], images.shape[1:])
    params["picture"] = attribute_reader.he_normal(keys[1], (attribute_reader.DIM, DIM))
    params["word"] = 0.3 * jax.random.normal(keys[2], (len(words), DIM))

    def loss(params, key, x, bag):
        score = SHARPNESS * _pictures(params, attribute_reader.changed(key, x)) @ _unit(bag @ params["word"]).T
        right = jnp.arange(len(x))
        cross = optax.softmax_cross_entropy_with_integer_labels
        return (cross(score, right) + cross(score.T, right)).mean() / 2

    rng = np.random.default_rng(seed)

    def batch():
        rows = rng.choice(len(images), min(batch_size, len(images)), replace=False)
        return images[rows], caption_bags[rows]

    keys_of_steps = lambda step: jax.random.fold_in(key, step + 3)
    params = attribute_reader.minimised(loss, params, keys_of_steps, batch, steps, WEIGHT_DECAY, progress)
    digest = hashlib.sha256(b"".join(params[name].tobytes() for name in sorted(params))).hexdigest()
    return Retriever(params, words, digest)


def similarities(retriever: Retriever, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """The cosine of each picture with each caption, float32 [N, M].

    Args:
        retriever: the trained towers, from `train`.
        images: uint8 [N, H, W, 3].
        captions: M texts; unknown words are ignored.
    """
    texts = bags(captions, retriever.words) @ np.asarray(retriever.params["word"])
    texts /= np.maximum(np.linalg.norm(texts, axis=-1, keepdims=True), 1e-6)
    return features(retriever, images) @ texts.T


def features(retriever: Retriever, images: np.ndarray) -> np.ndarray:
    """The embeddings of pictures in the space of both towers, float32 [N, DIM] of length 1."""
    attribute_reader.check(images)
    return chunks.applied(functools.partial(_compiled, retriever.params), images, attribute_reader.CHUNK)


def retrieved(scores: np.ndarray, captions: Sequence[str], among: int = 50, seed: int = 0) -> dict:
    """The share of pictures whose own caption is the nearest of `among`; the others are captions of other pictures.

    Args:
        scores: the score of each picture with the caption of every picture, [N, N]; from `similarities`.
        captions: N texts; equal ones are never drawn as others.
        among: number of candidates, the picture's own caption included, >= 2.
        seed: the seed of the draws.

    Returns:
        {"share", "interval" (Wilson's, 95 %), "count", "among", "chance": 1 / among}.

    Raises:
        ValueError: if there are fewer than `among` different captions, or among is below 2.
    """
    if not (is_count(among) and among >= 2):
        raise ValueError(f"retrieved: among = {among} must be an integer of at least 2")
    number = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    if len(number) < among:
        raise ValueError(f"retrieval among {among} captions needs {among} different ones; there are only {len(number)}")
    row = {i: captions.index(text) for text, i in number.items()}
    rng = np.random.default_rng(seed)
    right = []
    for i, text in enumerate(captions):
        others = rng.permutation(np.delete(np.arange(len(number)), number[text]))[: among - 1]
        right.append(bool(scores[i, i] > scores[i, [row[other] for other in others.tolist()]].max()))
    return bootstrap.share(right) | {"among": among, "chance": 1 / among}


def split(text: str) -> list[str]:
    """The words of a caption, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def bags(captions: Sequence[str], words: dict[str, int]) -> np.ndarray:
    """The count of each known word in each caption, float32 [N, words]."""
    counts = np.zeros((len(captions), len(words)), np.float32)
    for i, text in enumerate(captions):
        for word in split(text):
            if word in words:
                counts[i, words[word]] += 1
    return counts


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def _pictures(params: dict[str, Array], images: Array) -> Array:
    return _unit(attribute_reader.hidden(params, images) @ params["picture"])


_compiled = jax.jit(_pictures)
