"""Drawings of one shape as 64 symbols: each patch of 4 x 4 pixels becomes the index of its nearest code.

    picture uint8 [32, 32, 3] - patches [64, 48] - the nearest of 512 codes - symbols [64]

Lloyd's algorithm learns the codebook directly on patches, without a network. A class is a pair of a colour and a shape
that `shapes.scenes` does not withhold. Size, position and paper vary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data import transforms
from diffusion.data.shapes import drawing, scenes
from diffusion.metrics import reconstruction_error
from diffusion.models.autoencoders import quantizers

SEED = 7_501  # seed of the pictures
SIDE, PATCH = 32, 4  # pixels along a side
GRID = SIDE // PATCH
TOKENS, CHANNELS = GRID**2, 3 * PATCH**2
PAIRS = tuple((c, s) for c in scenes.COLOURS for s in scenes.SHAPES if (c, s) not in scenes.WITHHELD)
"""The colour and the shape of each class."""
ONE_PLAIN = scenes.Shares((1, 0, 0, 0), (1, 0, 0))


class Drawings(NamedTuple):
    """Drawings of one split.

    Attributes:
        images: uint8 `[N, 32, 32, 3]`.
        label: the classes, int32 `[N]`, indices of `PAIRS`.
    """

    images: np.ndarray
    label: np.ndarray


def drawings(number: int, split: str) -> Drawings:
    """The first drawings of the split "train" or "test", which use different random numbers."""
    images, labels = [], []
    for row in range(number):
        lot = scenes.Lot(SEED, ("train", "test").index(split), row)
        scene = scenes.draw(lot, shares=ONE_PLAIN)
        images.append(halved(drawing.draw(scene, lot)))
        labels.append(PAIRS.index((scene.colour, scene.shape)))
    return Drawings(np.stack(images), np.array(labels, np.int32))


def halved(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 `[H, W, 3]` of half the sides: the rounded means of squares of 2 x 2 pixels."""
    height, width, channels = picture.shape
    squares = picture.reshape(height // 2, 2, width // 2, 2, channels)
    return np.round(squares.mean((1, 3))).astype(np.uint8)


def scene_of(label: int) -> scenes.Scene:
    """The scene of a class, without a size and a position."""
    colour, shape = PAIRS[label]
    return scenes.Scene("one", "plain", colour, shape)


def patches(images: np.ndarray) -> np.ndarray:
    """The patches float32 `[N, 64, 48]` in [-1, 1], in rows, of pictures uint8 `[N, 32, 32, 3]`."""
    squares = images.reshape(-1, GRID, PATCH, GRID, PATCH, 3).swapaxes(2, 3)
    return transforms.to_model(squares.reshape(-1, TOKENS, CHANNELS))


def joined(vectors: np.ndarray) -> np.ndarray:
    """The pictures of patches; the inverse of `patches`."""
    squares = np.asarray(transforms.to_uint8(vectors)).reshape(-1, GRID, GRID, PATCH, PATCH, 3)
    return squares.swapaxes(2, 3).reshape(-1, SIDE, SIDE, 3)


@jax.jit
def _iterated(book: quantizers.Codebook, z: jax.Array, key: jax.Array) -> quantizers.Codebook:
    """Each code becomes the mean of its vectors (no moving average); a code without any restarts at a vector."""
    indices, _ = quantizers.nearest(z, book.codes)
    book = quantizers.codebook_update(book, z, indices, decay=0.0, epsilon=0.0)
    return quantizers.restart_dead(book, z, key)[0]


def codebook(vectors: np.ndarray, size: int, iterations: int, seed: int = 0) -> np.ndarray:
    """Codes float32 `[size, D]` after Lloyd's iterations on vectors `[N, D]`, from vectors chosen at random.

    Reference: Linde, Buzo & Gray, "An Algorithm for Vector Quantizer Design", 1980.
    """
    z = jnp.asarray(vectors)
    book = quantizers.codebook_init(z[np.random.default_rng(seed).permutation(len(z))[:size]])
    for i in range(iterations):
        book = _iterated(book, z, jax.random.fold_in(jax.random.key(seed), i))
    return np.asarray(book.codes)


def tokens(codes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The indices of the nearest codes of vectors `[..., D]`, int32 `[...]`."""
    return np.asarray(quantizers.nearest(jnp.asarray(vectors), jnp.asarray(codes))[0])


def figures(codes: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """How well codes represent pictures.

    Returns:
        {"psnr": the mean PSNR of the decoded pictures in dB, "ssim": their mean structural similarity, "used": the
        share of codes that occur, "perplexity": the effective number of codes}.
    """
    numbers = tokens(codes, patches(images))
    pair = jnp.asarray(joined(codes[numbers])), jnp.asarray(images)
    counts = quantizers.histogram(jnp.asarray(numbers), len(codes))
    return {
        "psnr": float(jnp.mean(reconstruction_error.psnr(*pair))),
        "ssim": float(jnp.mean(reconstruction_error.ssim(*pair))),
        "used": float(quantizers.usage(counts)),
        "perplexity": float(quantizers.perplexity(counts)),
    }
