"""The parts of vision transformers: patches, positions, pre-norm layers, and a pooling head.

One layer is

    x = x + s_1 attention(norm(x));  x = x + s_2 mlp(norm(x))

with learned scales s of each feature in the DINO family, and s = 1 elsewhere.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import bicubic, layout, network_checks
from diffusion.models.layers.attention import attention
from diffusion.models.layers.clip_layers import Mlp, layer_norm
from diffusion.models.layers.cross_attention import CrossAttention, xavier
from diffusion.models.layers.embeddings import rotate_halves
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.scan import scanned

normal = nn.initializers.normal(0.02)
PROJECTIONS = ("query", "key", "value")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of each channel in [0, 1]


def normalised(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images in [-1, 1] as a network takes them: ((x + 1) / 2 - mean) / std of each channel."""
    shift = jnp.asarray([2 * m - 1 for m in mean], images.dtype)
    return (images - shift) / jnp.asarray([2 * s for s in std], images.dtype)


class Patches(nn.Module):
    """Tokens of the patches of images, [B, H, W, 3] -> [B, H W / p^2, width], row by row."""

    width: int
    patch: int
    dtype: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="dense")
        return dense(patchify(images.astype(self.dtype), self.patch))


class Positions(nn.Module):
    """Learned positions of a square grid, interpolated to the images' grid.

    Attributes:
        side: side of the grid that was learned, in patches.
        before: number of tokens before the patches that have a position too (the class token).
        antialias: whether the filter grows where the grid shrinks, see `bicubic.antialiased`.
        offset: the step of the interpolation is side / (n + offset) for n patches, and not side / n.
    """

    side: int
    before: int = 0
    antialias: bool = False
    offset: float = 0.0

    @nn.compact
    def __call__(self, width: int, height: int, columns: int) -> jax.Array:
        """Args:
            width: number of features of a token.
            height: number of rows of the images' grid, in patches.
            columns: number of columns of the images' grid.

        Returns:
            [before + height * columns, width].
        """
        learned = self.param("table", normal, (self.before + self.side**2, width))
        if (height, columns) == (self.side, self.side):
            return learned
        matrix = lambda to: (
            bicubic.antialiased(self.side, to)
            if self.antialias
            else bicubic.plain(self.side, to, self.side / (to + self.offset))
        )
        grid = learned[self.before :].reshape(self.side, self.side, width)
        grid = bicubic.interpolated(grid, matrix(height), matrix(columns))
        return jnp.concatenate([learned[: self.before], grid.reshape(-1, width)])


class SelfAttention(nn.Module):
    """Multi-head attention among tokens [B, N, D]; with angles, the last tokens' queries and keys rotate."""

    heads: int
    biased: tuple[str, ...]
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array | None) -> jax.Array:
        size = (self.heads, x.shape[-1] // self.heads)

        def project(name: str) -> jax.Array:
            bias = name in self.biased
            dense = nn.DenseGeneral(size, use_bias=bias, dtype=self.dtype, kernel_init=xavier, name=name)
            out = layout.split(dense(x), "batch", "tokens", "heads", None)
            return layout.attended(out)

        q = project("query")
        k = project("key")
        v = project("value")
        if angles is not None:
            before = x.shape[1] - len(angles)
            q, k = (jnp.concatenate([a[:, :before], rotate_halves(a[:, before:], angles)], axis=1) for a in (q, k))
        out = layout.split(attention(q, k, v, self.attention), "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")(out)
        return layout.split(out, "batch", "tokens", None)


class GatedMlp(nn.Module):
    """out(silu(gate(x)) * up(x)), as one product for both (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    hidden: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.DenseGeneral((2, self.hidden), dtype=self.dtype, kernel_init=xavier, name="hidden")(x)
        h = layout.split(h, "batch", "tokens", None, "hidden")
        h = nn.silu(h[:, :, 0]) * h[:, :, 1]
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=xavier, name="out")(h)


class VisionTransformer(CheckedNetwork):
    """The fields of an encoder of images whose layers are `Layers`.

    Attributes:
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
    """

    width: int
    depth: int
    heads: int
    hidden: int

    def check_fields(self) -> None:
        network_checks.tower(self)


class Layer(nn.Module):
    """One layer of `Layers`; returns (x, None), as a scan expects."""

    heads: int
    hidden: int
    mlp: str
    epsilon: float
    scale: bool
    biased: tuple[str, ...]
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array | None) -> tuple[jax.Array, None]:
        def add(x: jax.Array, change: jax.Array, name: str) -> jax.Array:
            if self.scale:
                change = change * self.param(name, nn.initializers.ones, (x.shape[-1],)).astype(change.dtype)
            return x + change

        mixed = SelfAttention(self.heads, self.biased, self.attention, self.dtype, name="attention")
        x = add(x, mixed(layer_norm(self.epsilon, self.dtype, "norm_1")(x), angles), "scale_1")
        mlp = (
            GatedMlp(self.hidden, self.dtype, name="mlp")
            if self.mlp == "swiglu"
            else Mlp(self.hidden, self.mlp, self.dtype, name="mlp")
        )
        x = add(x, mlp(layer_norm(self.epsilon, self.dtype, "norm_2")(x)), "scale_2")
        return layout.split(x, "batch", "tokens", None), None


class Layers(nn.Module):
    """A stack of scanned layers and the norm after them, [B, N, D] -> [B, N, D] float32, or the norm of several layers.

    Attributes:
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        epsilon: epsilon of the norms, > 0.
        mlp: its activation, "gelu" or "gelu_tanh"; "swiglu" for one that is gated.
        scale: whether each layer scales its changes, feature by feature.
        biased: the projections of attention with a bias, of PROJECTIONS.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type, "float32" or "bfloat16".
        affine: whether the last norm has a scale and a shift.
        recorded: layers, 1 .. depth in order, whose normalised outputs are returned in place of the last layer's.
    """

    depth: int
    heads: int
    hidden: int
    epsilon: float
    mlp: str = "gelu"
    scale: bool = False
    biased: tuple[str, ...] = PROJECTIONS
    attention: str = "auto"
    dtype: str = "float32"
    affine: bool = True
    recorded: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array | None = None, skip: int = 0) -> Any:
        """Args:
            x: tokens [B, N, D].
            angles: [M, D / heads / 2] of the last M tokens, see `embeddings.rotate_halves`; None rotates nothing.
            skip: number of last layers before which the state is also returned; 0 for no such state.

        Returns:
            [B, N, D] float32, normalised; [K, B, N, D] where K layers are kept; with `skip`: (that, [B, N, D] before
            the last `skip` layers, not normalised).

        Raises:
            ValueError: if all layers are skipped, or layers are skipped beside kept ones.
        """
        if skip and (self.recorded or not 0 < skip < self.depth):
            raise ValueError(
                f"skip={skip} must be in 1 .. {self.depth - 1} for {self.depth} layers, and cannot be combined with "
                "kept layers"
            )
        kept_layers = (self.depth - skip,) if skip else self.recorded
        x = layout.split(x.astype(self.dtype), "batch", "tokens", None)
        layers = scanned(Layer, self.depth, "none", self.is_initializing(), (nn.broadcast,), kept=kept_layers)(
            self.heads,
            self.hidden,
            self.mlp,
            self.epsilon,
            self.scale,
            self.biased,
            self.attention,
            self.dtype,
            name="layers",
        )
        x, tokens = layers(x, angles)
        out = layer_norm(self.epsilon, "float32", "norm", self.affine)(jnp.stack(tokens) if self.recorded else x)
        return (out, tokens[0].astype(jnp.float32)) if skip else out


def distilled_patches(
    encoder: Any, images: jax.Array, masked: jax.Array | None
) -> tuple[jax.Array, jax.Array, tuple[int, int]]:
    """The inputs of the DINO family: the tokens of the patches, the class token, and the grid of the patches.

    Args:
        encoder: module with `width`, `patch` and `dtype`, within its call.
        images: [B, H, W, 3] in [-1, 1]; the patch divides H and W.
        masked: Bool [B, N], True where the mask token replaces a patch, as in its training; None: nowhere.

    Returns:
        (tokens [B, N, width], class token [1, width], (rows, columns)).

    Raises:
        ValueError: for images of another shape or of integers.
    """
    grid = images_checked(images, encoder.patch)
    x = Patches(encoder.width, encoder.patch, encoder.dtype, name="patches")(normalised(images, *IMAGENET))
    mask_token = encoder.param("mask_token", nn.initializers.zeros, (1, encoder.width))
    if masked is not None:
        x = jnp.where(masked[..., None], mask_token.astype(x.dtype), x)
    return x, encoder.param("class_token", normal, (1, encoder.width)), grid


def encoder_layers(encoder: Any, mlp: str = "gelu", **others: Any) -> Layers:
    """The layers of an encoder, with its fields.

    Args:
        encoder: module with `depth`, `heads`, `hidden`, `epsilon`, `attention`, `dtype` and `affine`, within its call.
        mlp: the activation, see `Layers`.
        **others: other fields of `Layers`.
    """
    fields = (encoder.depth, encoder.heads, encoder.hidden, encoder.epsilon, mlp)
    kinds = {"attention": encoder.attention, "dtype": encoder.dtype, "affine": encoder.affine}
    return Layers(*fields, **kinds, **others, name="encoder")


class AttentionPool(nn.Module):
    """One vector of all tokens, [B, N, D] -> [B, D]: a learned query attends to them, and an MLP is added.

    Reference: Zhai et al., "Scaling Vision Transformers", 2022, section 3.2 (MAP head).
    """

    heads: int
    hidden: int
    mlp: str
    epsilon: float
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        query = jnp.broadcast_to(self.param("query", normal, (1, width)), (len(x), 1, width))
        pool = CrossAttention(
            self.heads, width // self.heads, bias=True, attention=self.attention, dtype=self.dtype, name="attention"
        )
        pooled = pool(query, x)
        mlp = Mlp(self.hidden, self.mlp, self.dtype, name="mlp")
        return (pooled + mlp(layer_norm(self.epsilon, self.dtype, "norm")(pooled)))[:, 0].astype(jnp.float32)


def images_checked(images: jax.Array, patch: int) -> tuple[int, int]:
    """Rows and columns of the images' grid of patches.

    Raises:
        ValueError: for other shapes than [B, H, W, 3] with sides that the patch divides, and for integers.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] % patch or images.shape[2] % patch:
        raise ValueError(
            f"this encoder takes images [B, H, W, 3] whose sides are multiples of {patch}; got shape {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"this encoder takes floats in [-1, 1]; got {images.dtype} (convert bytes b by b / 127.5 - 1)")
    return images.shape[1] // patch, images.shape[2] // patch
