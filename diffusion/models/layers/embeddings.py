"""Embeddings of a transformer's other inputs: the time, the class label, the position of a token."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.not_a_number import table_rows
from diffusion.arrays.promotion import promoted
from diffusion.models.layers.constants import constant


def sinusoid(
    t: jax.Array, size: int = 256, max_period: float = 10_000.0, shift: int = 0, sines_first: bool = False
) -> jax.Array:
    """Sinusoidal features of the time.

        w_i = max_period^(-i / (size / 2 - shift)),   i = 0 .. size / 2 - 1
        out = [cos(w t), sin(w t)]

    Args:
        t: the network's clock [B]; computed in float32 or wider (bfloat16 would round 999 to 1000).
        size: number of features, even.
        max_period: the longest period over 2 pi.
        shift: 1 if the last period is `max_period`, as in Ho et al. (2020) and some later libraries; 0 if the next
            period would be, as in most networks since.
        sines_first: whether the sines precede the cosines, as in Ho et al. (2020).

    Returns:
        [B, size], float32 or wider.

    Reference: Peebles & Xie, "Scalable Diffusion Models with Transformers", 2023, after Vaswani et al., 2017, sec. 3.5.
    """
    t = t.astype(promoted(t.dtype))
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(size // 2, dtype=t.dtype) / (size // 2 - shift))
    angles = t[:, None] * frequencies
    features = (jnp.sin, jnp.cos) if sines_first else (jnp.cos, jnp.sin)
    return jnp.concatenate([feature(angles) for feature in features], axis=-1)


class TimestepEmbedding(nn.Module):
    """A two-layer network (SiLU between) on sinusoidal features of the time: [B] -> [B, width].

    Attributes:
        width: number of features of the output.
        dtype: compute type of the two layers; the sinusoid itself stays in float32.
        shift: shift of the frequencies, see `sinusoid`.
        max_period: largest period of the frequencies, see `sinusoid`.
        hidden: number of features between the two layers; 0: `width`.
        bias: whether the two layers have a bias.
        features: number of features of the sinusoid, even.

    Reference: Peebles & Xie, 2023.
    """

    width: int
    dtype: str = "float32"
    shift: int = 0
    max_period: float = 10_000.0
    hidden: int = 0
    bias: bool = True
    features: int = 256

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        features = sinusoid(t, self.features, max_period=self.max_period, shift=self.shift)
        dense = lambda width, name: nn.Dense(width, self.bias, self.dtype, kernel_init=init, name=name)
        return dense(self.width, "out")(nn.silu(dense(self.hidden or self.width, "hidden")(features)))


class FourierEmbedding(nn.Module):
    """A two-layer network (SiLU between) on random Fourier features of the time: [B] -> [B, width].

        [sin(2 pi w t), cos(2 pi w t)],   w_i ~ N(0, 1), i < 256

    The frequencies w are constants: a leaf of the parameters, as in the files, without a gradient.

    Attributes:
        width: number of features of the output.
        dtype: compute type of the two layers; the features themselves are computed in float32 or wider.

    Reference: Zheng et al., "Diffusion Transformers with Representation Autoencoders", 2025: its code; after Tancik et
    al., "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains", 2020.
    """

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        t = t.astype(promoted(t.dtype))
        frequencies = constant(self, "frequencies", nn.initializers.normal(1.0), (256,))
        angles = 2 * jnp.pi * t[:, None] * frequencies
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        hidden = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="hidden")(features)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="out")(nn.silu(hidden))


class LabelEmbedding(nn.Module):
    """One learned vector for each class and one for "no class": int [B] -> [B, width].

    Row `num_classes` is the null class, which label dropout and classifier-free guidance use.

    Attributes:
        num_classes: number of real classes; labels are 0 .. num_classes. Any other label gives NaN, not a wrong row.
        width: number of features of the output.
        dtype: type of the output.

    Reference: Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022.
    """

    num_classes: int
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, labels: jax.Array) -> jax.Array:
        table = self.param("embedding", nn.initializers.normal(0.02), (self.num_classes + 1, self.width), jnp.float32)
        return table_rows(table, labels).astype(self.dtype)


def sincos_positions(height: int, width: int, size: int, span: float | None = None) -> np.ndarray:
    """Fixed sin-cos embedding of the positions of a height x width grid.

        e(p) = [sin(p w), cos(p w)],   w_i = 10000^(-i / (size / 4)),   i = 0 .. size / 4 - 1
        out[row * width + column] = [e(column), e(row)]

    Args:
        height, width: the grid, in tokens.
        size: number of features; 4 divides it.
        span: end of the range [0, span) to which the positions are scaled, the same for pictures of any size; None for
            whole numbers.

    Returns:
        [height * width, size], float32 (computed in float64).

    Raises:
        ValueError: if 4 does not divide `size`.

    Reference: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022, whose code DiT uses: column first.
    """
    if size % 4:
        raise ValueError(f"2-D sin-cos positions need a width that is a multiple of 4; got {size}")
    row, column = _grid(height, width)
    if span is not None:
        row = row * span / height
        column = column * span / width
    angles = np.stack([column, row], axis=1)[:, :, None] * _frequencies(size // 4)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(height * width, size).astype(np.float32)


def rope_angles(
    height: int, width: int, head_size: int, theta: float = 10_000.0, span: float | None = None
) -> np.ndarray:
    """Angles of the axial rotary embedding: half of a head's features rotate with the row, half with the column.

        out[row * width + column] = [row w, column w],   w_i = theta^(-i / (head_size / 4)),   i < head_size / 4

    Args:
        height, width: the grid, in tokens.
        head_size: number of features of a head, a multiple of 4.
        theta: base of the frequencies.
        span: position of the last row and of the last column, the same for pictures of any size; None for whole
            numbers.

    Returns:
        [height * width, 2, head_size / 4] in radians, float32 (computed in float64).

    Raises:
        ValueError: if 4 does not divide `head_size`.

    Reference: Su et al., "RoFormer", 2021, equation 15; axial as in Heo et al., "Rotary Position Embedding for Vision
    Transformer", 2024, section 3.2.
    """
    if head_size % 4:
        raise ValueError(f"axial rotary positions need a head width that is a multiple of 4; got {head_size}")
    row, column = _grid(height, width)
    if span is not None:
        row = row * span / max(height - 1, 1)
        column = column * span / max(width - 1, 1)
    positions = np.stack([row, column], axis=1)
    return (positions[:, :, None] * _frequencies(head_size // 4, theta)).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates pairs of features by the angles of their token, so that q . k depends only on differences of positions.

        [a', b'] = [a cos - b sin, a sin + b cos]

    In each half (row, column) of the head the pair i is made of the features i and i + D / 4.

    Args:
        x: queries or keys [B, N, H, D].
        angles: [N, 2, D / 4] from `rope_angles`.

    Returns:
        [B, N, H, D], of the dtype of x (computed in float32).
    """
    cos = jnp.cos(angles)[:, None]
    sin = jnp.sin(angles)[:, None]
    a, b = jnp.moveaxis(x.reshape(*x.shape[:-1], 2, 2, -1), -2, 0)
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-2).reshape(x.shape).astype(x.dtype)


def rotate_halves(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates the pairs of features half a head apart by the angles of their token.

        [a', b'] = [a cos - b sin, a sin + b cos],   a, b = features i and i + D / 2

    Args:
        x: queries or keys [B, N, H, D].
        angles: [N, D / 2], or [B, N, D / 2] where each example has its own.

    Returns:
        [B, N, H, D], of the dtype of x (computed in float32).
    """
    cos = jnp.cos(angles)[..., None, :]
    sin = jnp.sin(angles)[..., None, :]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the tokens, each [height * width], in row-major order."""
    row, column = np.divmod(np.arange(height * width), width)
    return row.astype(np.float64), column.astype(np.float64)


def _frequencies(count: int, theta: float = 10_000.0) -> np.ndarray:
    """theta^(-i / count) for i = 0 .. count - 1."""
    return theta ** (-np.arange(count) / count)
