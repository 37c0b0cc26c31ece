"""Qwen 2.5 VL: an image tower, whose tokens stand in the text that a language model reads.

picture [B, H, W, 3] -> patches -> layers, most of which attend within windows -> 2 x 2 tokens as one -> [B, h, w, D]
ids [B, N], with h w placeholders for each picture -> embeddings, the picture's tokens in their places -> decoder
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.cross_attention import xavier
from diffusion.models.layers.embeddings import rotate_halves
from diffusion.models.layers.rotary import grid_positions
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.vision_layers import PROJECTIONS, GatedMlp, VisionTransformer, images_checked, normalised
from diffusion.models.text_encoders.clip import MEAN, STD, Encoded
from diffusion.models.text_encoders.decoder import DecoderEncoder, RmsNorm, frequencies
from diffusion.models.text_encoders.placeholders import in_places

THETA = 10_000.0  # base of the tower's rotary frequencies
EPSILON = 1e-6  # epsilon of the tower's norms
FRAMES = 2  # frames of one patch; a picture is a clip of two equal frames


def windows(rows: int, columns: int, side: int) -> np.ndarray:
    """The tokens of each window of a grid, row by row: int [windows, side^2], -1 where a window has fewer tokens.

    Windows begin at the upper left; those at the lower and the right edge may be smaller.

    Args:
        rows, columns: the sides of the grid in tokens.
        side: the side of a window in tokens.
    """
    high, wide = -(-rows // side), -(-columns // side)
    grid = np.full((high * side, wide * side), -1)
    grid[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    return grid.reshape(high, side, wide, side).swapaxes(1, 2).reshape(high * wide, side**2)


def text_positions(placeholders: jax.Array, grids: Sequence[tuple[int, int]]) -> jax.Array:
    """The three coordinates of the tokens of a text with pictures, int [B, N, 3].

    A token of the text has its number three times. In a picture of h x w tokens that begins at number n, the token in
    row r and column c has (n, n + r, n + c). The text after the picture begins at n + max(h, w).

    Args:
        placeholders: Bool [B, N], True where a picture's token stands; as many in each row as the pictures have.
        grids: (h, w) of the pictures' tokens, in the order of the text.

    Reference: Bai et al., "Qwen2.5-VL Technical Report", 2025, section 2.1.2 (MRoPE).
    """
    before = jnp.cumsum(placeholders, axis=1) - placeholders  # of the pictures' tokens
    words = jnp.cumsum(~placeholders, axis=1) - ~placeholders
    sizes = [height * width for height, width in grids]
    ends = np.cumsum(sizes)
    advance = np.cumsum([0, *(max(grid) for grid in grids)])
    number = words + jnp.asarray(advance)[jnp.searchsorted(jnp.asarray(ends), before, side="right")]
    within = np.concatenate([grid_positions(*grid) for grid in grids])
    shifts = jnp.asarray(np.pad(within, ((0, 0), (1, 0))))[jnp.clip(before, 0, len(within) - 1)]
    return number[..., None] + jnp.where(placeholders[..., None], shifts, 0)


class PatchEmbedding(nn.Module):
    """The patches of pictures as tokens, [B, H, W, 3] -> [B, N, width]; the kernel has parts for two equal frames."""

    width: int
    patch: int
    dtype: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        kernel = self.param("kernel", xavier, (FRAMES, 3 * self.patch**2, self.width))
        return patchify(images.astype(self.dtype), self.patch) @ kernel.astype(self.dtype).sum(0)


class Attention(nn.Module):
    """Attention among all tokens of a picture (`whole`) or within each window; [B, N, D] -> [B, N, D]."""

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array, grouped: np.ndarray, whole: jax.Array) -> jax.Array:
        dense = lambda name: nn.DenseGeneral(
            (self.heads, x.shape[-1] // self.heads), dtype=self.dtype, kernel_init=xavier, name=name
        )
        q, k, v = (layout.split(dense(name)(x), "batch", "tokens", "heads", None) for name in PROJECTIONS)
        q = rotate_halves(q, angles)
        k = rotate_halves(k, angles)
        everywhere = lambda q, k, v: attention(q, k, v, self.attention)
        out = jax.lax.cond(whole, everywhere, lambda q, k, v: self._by_window(q, k, v, grouped), q, k, v)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")(out)

    def _by_window(self, q: jax.Array, k: jax.Array, v: jax.Array, grouped: np.ndarray) -> jax.Array:
        """`grouped` is what `windows` returns."""
        batch, tokens, *size = q.shape
        within = lambda a: a[:, np.maximum(grouped, 0)].reshape(-1, grouped.shape[1], *size)
        bias = jnp.tile(mask_bias(jnp.asarray(grouped >= 0)), (batch, 1, 1, 1))
        out = attention(within(q), within(k), within(v), self.attention, bias).reshape(batch, -1, *size)
        place = np.zeros(tokens, int)
        place[grouped[grouped >= 0]] = np.flatnonzero(grouped.ravel() >= 0)
        return out[:, place]


class Layer(nn.Module):
    """x <- x + attention(norm(x)), then x <- x + mlp(norm(x)). Returns (x, None), as a scan expects."""

    heads: int
    hidden: int
    windows: tuple[tuple[int, ...], ...]
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array, whole: jax.Array) -> tuple[jax.Array, None]:
        norm = lambda name: RmsNorm(EPSILON, False, self.dtype, name=name)
        attend = Attention(self.heads, self.attention, self.dtype, name="attention")
        x = x + attend(norm("norm_1")(x), angles, np.array(self.windows), whole)
        x = x + GatedMlp(self.hidden, self.dtype, name="mlp")(norm("norm_2")(x))
        return layout.split(x, "batch", "tokens", None), None


class QwenVision(VisionTransformer):
    """The image tower of Qwen 2.5 VL: pictures [B, H, W, 3] in [-1, 1] -> tokens [B, H / side, W / side, features].

    The pictures are normalised inside by the mean and standard deviation of CLIP's training pictures. A token is
    merge x merge patches. The rotary positions of patch (r, c) turn half of the pairs of a head by r, half by c.

    Attributes:
        width, depth, heads, hidden: fields of `VisionTransformer`.
        features: number of features of a token that it returns, the language model's width.
        patch: side of a patch in pixels.
        merge: side of a token in patches.
        window: side of a window in pixels, at least `side`.
        full_attention: the layers that attend to the whole picture, 0 the first.

    Reference: Bai et al., "Qwen2.5-VL Technical Report", 2025, section 2.1.1.
    """

    features: int = 3584
    patch: int = 14
    merge: int = 2
    window: int = 112
    full_attention: tuple[int, ...] = (7, 15, 23, 31)
    positive = ("merge", "window")

    def check_fields(self) -> None:
        super().check_fields()
        if self.width // self.heads % 4:
            raise ValueError(
                f"width / heads = {self.width // self.heads}. Valid: a multiple of 4, two pairs of features for rows "
                "and columns"
            )
        if self.window < self.side:
            raise ValueError(f"window={self.window} is smaller than a token of {self.side} pixels")
        if any(not 0 <= layer < self.depth for layer in self.full_attention):
            raise ValueError(f"full_attention={self.full_attention} must be layers, 0 to {self.depth - 1}")

    @property
    def side(self) -> int:
        """The side of a token in pixels."""
        return self.patch * self.merge

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """The tokens of pictures [B, H, W, 3] in [-1, 1] whose sides `side` divides."""
        images_checked(images, self.side)
        rows, columns = (side // self.patch for side in images.shape[1:3])
        x = PatchEmbedding(self.width, self.patch, self.dtype, name="patches")(normalised(images, MEAN, STD))
        turns = frequencies(self.width // self.heads // 2, THETA)
        row, column = grid_positions(rows, columns).T
        angles = jnp.asarray(np.concatenate([np.outer(row, turns), np.outer(column, turns)], axis=1), jnp.float32)
        grouped = windows(rows, columns, self.window // self.side * self.merge)
        seeing_all = np.isin(np.arange(self.depth), self.full_attention)
        stack = scanned(Layer, self.depth, "none", self.is_initializing(), (nn.broadcast, 0))
        grouped = tuple(map(tuple, grouped.tolist()))
        x, _ = stack(self.heads, self.hidden, grouped, self.attention, self.dtype, name="layers")(x, angles, seeing_all)
        x = RmsNorm(EPSILON, False, self.dtype, name="norm")(x)
        x = x.reshape(len(x), rows // self.merge, self.merge, columns // self.merge, self.merge, self.width)
        x = x.swapaxes(2, 3).reshape(*x.shape[:2], columns // self.merge, -1)
        hidden = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=xavier, name="hidden")(x)
        out = nn.Dense(self.features, dtype=self.dtype, kernel_init=xavier, name="out")
        return out(nn.gelu(hidden, approximate=False))


class QwenVL(nn.Module):
    """Qwen 2.5 VL as text encoder: ids [B, N] and the tokens of pictures -> states [B, N, K width].

    Attributes:
        vision: image tower.
        text: decoder of the language model.
        placeholder: id of the tokens in whose places a picture's tokens stand, row by row.
        sections: how many pairs of features of a head turn with each of the three coordinates of `text_positions`;
            they sum to half of the decoder's `head_size`.
    """

    vision: QwenVision
    text: DecoderEncoder
    placeholder: int = 151655
    sections: tuple[int, int, int] = (16, 24, 24)

    def __post_init__(self):
        if sum(self.sections) != self.text.head_size // 2:
            raise ValueError(
                f"sections={self.sections} must sum to head_size / 2 = {self.text.head_size // 2} of the decoder"
            )
        if self.vision.features != self.text.width:
            raise ValueError(
                f"the tower's tokens have {self.vision.features} features, the decoder's {self.text.width}: they must "
                "be as many"
            )
        super().__post_init__()

    def __call__(
        self,
        ids: jax.Array,
        mask: jax.Array | None = None,
        *,
        pictures: Sequence[jax.Array] = (),
        layers: Sequence[int] = (-1,),
    ) -> Encoded:
        """The states of texts, as `DecoderEncoder` returns them.

        Args:
            ids: integers [B, N]; each row has as many placeholders as the pictures have tokens.
            mask: Bool [B, N], True where other tokens may attend to a token, with padding on the right; None: True for
                all.
            pictures: tokens [h, w, width] of the pictures of every text, in its order, as `see` returns them.
            layers: numbers of the layers to return, which `DecoderEncoder` explains.
        """
        if self.is_initializing():
            self.see(jnp.zeros((1, self.vision.side, self.vision.side, 3)))
        if not pictures:
            return self.text(ids, mask, layers=layers)
        replaced = in_places(ids, self.placeholder, pictures)
        positions = text_positions(replaced[0], [(picture.shape[0], picture.shape[1]) for picture in pictures])
        turns = frequencies(self.text.head_size, self.text.theta, self.text.scaling)
        angles = positions[..., np.repeat(np.arange(3), self.sections)] * jnp.asarray(turns, jnp.float32)
        return self.text(ids, mask, layers=layers, replaced=replaced, angles=angles)

    def see(self, images: jax.Array) -> jax.Array:
        """The tokens of pictures, as the tower returns them."""
        return self.vision(images)
