"""EDM's augmentation: flips and geometric changes of a training image, and the numbers that describe them to a network.

It runs where the training step runs, and each example has its own key. A matrix product makes the image twice as fine,
an interpolation reads it at the moved positions, and another matrix product makes it coarse again. The filter is the
low-pass filter of a wavelet, so a picture that is not moved stays the same.

    fine = U x U^T,    moved[p] = fine(G^-1 p),    out = D moved D^T

Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020, appendix B, as used by "Elucidating
the Design Space of Diffusion-Based Generative Models", 2022, appendix F.2: the network receives the numbers of the
change, and zeros (no change) when sampling, so that no change leaks into the samples.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.objectives.augmented import Augmentation

NUMBERS = 9  # how many numbers describe a change
SYM6 = (  # low-pass filter of the symlet with six vanishing moments (Daubechies, "Ten Lectures on Wavelets", 1992)
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
BORDER = len(SYM6) // 4  # coarse pixels around the image that its filter reads
SCALE, MOVE = 0.2, 0.125  # standard deviations: of log2 of the sizes, and of the shift over the side


def edm_augmentation(probability: float = 0.12, mirror: bool = True) -> Augmentation:
    """EDM's augmentation of one image.

    | change                                            | with            | numbers          |
    |---------------------------------------------------|-----------------|------------------|
    | mirrored left to right                            | 1/2             | 0 or 1           |
    | mirrored top to bottom                            | probability / 2 | 0 or 1           |
    | scaled by 2^(0.2 n)                               | probability     | n                |
    | turned by an angle in [-pi, pi]                   | probability     | cos - 1, sin     |
    | stretched by 2^(0.2 n) along r, shrunk across it  | probability     | n cos r, n sin r |
    | moved by side / 8 times (n, m)                    | probability     | n, m             |

    with n and m from N(0, 1), and the direction r in [-pi, pi], or 0 half of the time. At probability 0 nothing at all
    is done. Beyond the image is its reflection, and beyond that grey.

    Args:
        probability: the probability of each change, in [0, 1]; 0.12 for CIFAR-10, 0.15 for FFHQ and AFHQ in the paper.
        mirror: whether images are mirrored left to right; not for digits.

    Returns:
        A function (key, image float [H, W, C] in [-1, 1]) -> (image of that shape, float32 [9] that describes the
        change; zeros where nothing was changed, and the image is then exactly as it was).

    Raises:
        ValueError: if the probability is out of range.

    Reference: Karras et al., 2020, appendix B; Karras et al., 2022, appendix F.2 and table 6.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"edm_augmentation: probability = {probability} must be in [0, 1]; 0.12 is CIFAR-10's")

    if probability == 0:
        return Augmentation(lambda key, image: (image, jnp.zeros(NUMBERS)), NUMBERS)

    def augment(key: Array, image: Array) -> tuple[Array, Array]:
        uniform_key, normal_key = jax.random.split(key)
        u = jax.random.uniform(uniform_key, (10,))
        n = jax.random.normal(normal_key, (4,))
        left = (u[0] < 0.5) & mirror
        top = (u[1] < 0.5) & (u[2] < probability)
        image = jnp.where(left, image[:, ::-1], image)
        image = jnp.where(top, image[::-1], image)
        scaled, turned, stretched, shifted = u[3:7] < probability
        scale, stretch, right, down = n * jnp.stack([scaled, stretched, shifted, shifted])
        angle, direction = (2 * u[7:9] - 1) * math.pi * jnp.stack([turned, stretched & (u[9] < 0.5)])
        numbers = [left, top, scale, jnp.cos(angle) - 1, jnp.sin(angle), stretch * jnp.cos(direction),
                stretch * jnp.sin(direction), right, down]  # fmt: skip
        height, width, _ = image.shape
        inverse = (
            _stretch(-scale, -scale)
            @ _turn(angle)
            @ _turn(-direction)
            @ _stretch(-stretch, stretch)
            @ _turn(direction)
            @ _shift(-MOVE * width * right, -MOVE * height * down)
        )
        still = ~(scaled | turned | stretched | shifted)
        moved = transform(image, inverse).astype(image.dtype)
        return jnp.where(still, image, moved), jnp.stack(numbers, dtype=jnp.float32)

    return Augmentation(augment, NUMBERS)


def transform(image: Array, inverse: Array) -> Array:
    """The image as seen through an affine map: out(p) = image(inverse p), p = (x, y, 1) from the image's middle.

    Args:
        image: the image, float [H, W, C].
        inverse: the inverse map, float [3, 3], from positions in the result to positions in the image, in pixels, x to
            the right, y down.

    Returns:
        float [H, W, C].
    """
    height, width, _ = image.shape
    product = lambda matrix, x: jnp.einsum("ij,j...->i...", matrix, x, precision="highest")
    both = lambda rows, columns, x: product(columns, product(rows, x).swapaxes(0, 1)).swapaxes(0, 1)
    fine = both(_finer(height), _finer(width), image)
    # A pixel has two samples on the fine grid; the filter's centre lies half a sample before the pixel's.
    inverse = _shift(-0.5, -0.5) @ jnp.diag(jnp.array([2.0, 2.0, 1.0])) @ inverse
    inverse = inverse @ jnp.diag(jnp.array([0.5, 0.5, 1.0])) @ _shift(0.5, 0.5)
    y, x = (jnp.arange(2 * (side + 2 * BORDER)) - (side + 2 * BORDER - 0.5) for side in (height, width))
    positions = jnp.stack(jnp.broadcast_arrays(x[None, :], y[:, None], jnp.ones((1, 1))))
    columns, rows, _ = jnp.einsum("ij,jyx->iyx", inverse, positions, precision="highest")
    moved = _read(fine, rows + (fine.shape[0] - 1) / 2, columns + (fine.shape[1] - 1) / 2)
    return both(_coarser(height), _coarser(width), moved)


def _read(image: Array, rows: Array, columns: Array) -> Array:
    """Values of an image [H, W, C] between its samples, by bilinear interpolation; zero outside."""
    height, width, _ = image.shape
    top = jnp.floor(rows)
    left = jnp.floor(columns)
    total = 0.0
    for i, down in ((top, rows - top), (top + 1, top + 1 - rows)):
        for j, right in ((left, columns - left), (left + 1, left + 1 - columns)):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            value = image[jnp.clip(i, 0, height - 1).astype(jnp.int32), jnp.clip(j, 0, width - 1).astype(jnp.int32)]
            total += jnp.where(inside, (1 - down) * (1 - right), 0)[..., None] * value
    return total


def _finer(side: int) -> np.ndarray:
    """[2 (3 side - 2), side]: reflects an axis on both sides, and makes it twice as fine."""
    reflected = np.pad(np.arange(side), side - 1, mode="reflect")
    finer = np.zeros((2 * len(reflected), side), np.float32)
    half = len(SYM6) // 2
    for n, source in enumerate(reflected):
        for k, weight in enumerate(SYM6):
            row = 2 * n + k - half + 1
            if 0 <= row < len(finer):
                finer[row, source] += weight
    return finer


def _coarser(side: int) -> np.ndarray:
    """[side, 2 (side + 2 BORDER)]: makes an axis half as fine, and cuts off its border."""
    coarser = np.zeros((side, 2 * (side + 2 * BORDER)), np.float32)
    half = len(SYM6) // 2
    for n in range(side):
        start = 2 * (n + BORDER) - half + 1
        coarser[n, start : start + len(SYM6)] = SYM6
    return coarser


def _stretch(x: Array, y: Array) -> Array:
    """Factors 2^(0.2 x) along x and 2^(0.2 y) along y."""
    return jnp.diag(jnp.stack([jnp.exp2(SCALE * x), jnp.exp2(SCALE * y), jnp.ones_like(x)]))


def _turn(angle: Array) -> Array:
    """The rotation by an angle in the plane, [3, 3], on coordinates (x, y, 1)."""
    cos = jnp.cos(angle)
    sin = jnp.sin(angle)
    one = jnp.ones_like(angle)
    zero = jnp.zeros_like(angle)
    return jnp.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one]).reshape(3, 3)


def _shift(right: Array | float, down: Array | float) -> Array:
    return jnp.eye(3).at[0, 2].set(right).at[1, 2].set(down)
