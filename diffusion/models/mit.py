"""MiT, the network of improved MeanFlow and pixel MeanFlow: every input is a few tokens of one sequence.

    class    strength   interval     duration       x [B, H, W, C]
      |         |        |    |         |                 |
    embedding   each sinusoid, MLP                  patches, dense
      |         |        |    |         |                 |
     8 x       4 x      2 x  2 x       4 x                |      copies, + learned vectors
      +---------+--------+----+---------+-----------------+
                                |
          [ RMSNorm, attention, gate; RMSNorm, SwiGLU, gate ] x depth
                                |
                RMSNorm, dense, unpatchify (only the picture's tokens)
                                |
                          [B, H, W, C]

The gates are learned vectors that start at 0. Nothing is modulated, and the time itself is no input.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from diffusion.arrays.boxes import unpatchify
from diffusion.models.layers import conditions, layout, network_checks
from diffusion.models.layers.attention import attention
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import xavier, zeros
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.embeddings import LabelEmbedding, TimestepEmbedding
from diffusion.models.layers.network_bases import Backbone, Clock, Condition, Numbers
from diffusion.models.layers.patches import embedded_patches
from diffusion.models.layers.products import rows_first
from diffusion.models.layers.rotary import axis_angles, turn
from diffusion.models.layers.stacks import Layered, Stack

TOKENS = {"class": 8, "strength": 4, "start": 2, "end": 2, "duration": 4}
PREFIX = sum(TOKENS.values())
SHORTEST = 0.05  # the least time by which a predicted picture is divided
small = nn.initializers.variance_scaling(0.32**2, "fan_in", "normal")


class _Block(nn.Module):
    """x <- x + gate * f(norm(x)), f = attention, SwiGLU; no dense layer has a bias.

    It takes tokens x [B, N, D] and rotary angles [N, size / 2], and returns (x, None), as a scan expects.
    """

    heads: int
    hidden: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array) -> tuple[jax.Array, None]:
        width = x.shape[-1]
        options: Any = {"use_bias": False, "dtype": self.dtype, "kernel_init": small, "dot_general": rows_first}
        norm = lambda name: nn.RMSNorm(dtype=self.dtype, name=name)
        gate = lambda name: self.param(name, zeros, (width,), jnp.float32).astype(x.dtype)
        x = x + gate("attention_gate") * _Attention(self.heads, self.attention, self.dtype, name="attention")(
            norm("attention_norm")(x), angles
        )
        x = x + gate("mlp_gate") * _Mlp(self.hidden, options, name="mlp")(norm("mlp_norm")(x))
        return layout.split(x, "batch", "tokens", None), None


class _Attention(nn.Module):
    """Self-attention [B, N, D] -> [B, N, D] with rotary positions and RMS-normalised queries and keys."""

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array) -> jax.Array:
        options: Any = {"use_bias": False, "dtype": self.dtype, "kernel_init": small, "dot_general": rows_first}
        qkv = nn.DenseGeneral((3, self.heads, x.shape[-1] // self.heads), **options, name="qkv")(x)
        qkv = layout.split(qkv, "batch", "tokens", None, "heads", None)
        qkv = layout.attended(qkv)
        q, k, v = (part.squeeze(2) for part in jnp.split(qkv, 3, axis=2))
        q = turn(nn.RMSNorm(dtype=self.dtype, name="query_norm")(q), angles)
        k = turn(nn.RMSNorm(dtype=self.dtype, name="key_norm")(k), angles)
        out = layout.attended(attention(q, k, v, self.attention))
        out = layout.split(out, "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), **options, name="out")(out)
        return layout.split(out, "batch", "tokens", None)


class _Mlp(nn.Module):
    """out(silu(a) * b), [a, b] = hidden(x), of that many hidden features."""

    features: int
    options: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.DenseGeneral((2, self.features), **self.options, name="hidden")(x)
        a, b = jnp.moveaxis(layout.split(h, "batch", "tokens", None, "hidden"), -2, 0)
        return nn.Dense(x.shape[-1], **self.options, name="out")(nn.silu(a) * b)


class MiT(Layered, Backbone):
    """The MiT: `apply(variables, x, (t, h), condition)` is a `Network` of two times, of `flow_maps.start_and_duration`.

    Parameters are float32 whatever the compute type, and so is the output. Layers are scanned. The second head that the
    authors train for the velocity at a single time is left out; `objectives.improved_mean_flow` has one on features.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token.
        depth: number of blocks.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`.
        bottleneck: features between the two dense layers that embed a patch; 0: one layer.
        default_strength: scale > 0 of the guidance that it imitates, of a condition without "strength"; 1: none.
        default_interval: times from and to which it is guided, of a condition without "interval".
        clean: whether the network is pixel MeanFlow's: the last layer gives the picture, and the output is (x -
            picture) / clip(t, 0.05, 1); rotary positions are the picture's rows and columns, and a learned table is
            added to all tokens. False: the last layer gives the output, and rotary positions count along the sequence.
        unroll: number of blocks in one turn of the scan, as `DiT`.
        shape: (H, W, C) of its images; with `clean` it takes no others.

    Reference: Geng et al., "Improved Mean Flows", 2025, section 4.3; Lu et al., "One-step Latent-free Image Generation
    with Pixel Mean Flows", 2026, section 4.
    """

    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    bottleneck: int = 0
    clean: bool = False
    default_strength: float = 1.0
    default_interval: tuple[float, float] = (0.0, 1.0)
    unroll: int = 0
    shape: tuple[int, int, int] | None = None
    times = 2
    strength = True
    interval = True
    ranks = (3,)
    positive = ("patch", "width", "depth", "heads", "num_classes", "default_strength")

    def check_fields(self) -> None:
        network_checks.positive(self, ("bottleneck", "unroll"), zero=True)
        if not 0 <= self.default_interval[0] < self.default_interval[1] <= 1:
            raise ValueError(f"default_interval={self.default_interval} must be two times, 0 <= start < end <= 1")
        network_checks.heads(self, 4)

    @property
    def hidden(self) -> int:
        """Hidden features of the MLP: 8 / 3 of the width, with `clean` rounded up to a multiple of 8."""
        hidden = int(8 * self.width / 3)
        return -(-hidden // 8) * 8 if self.clean else hidden

    @nn.compact
    def __call__(self, x: jax.Array, t: Clock, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: (the time t, the duration h = t - s), each [B] or []; a single t for h = 0, the velocity at t.
            condition: class labels int [B] in 0 .. num_classes; or a dict of "label", and if wanted "strength" [B], the
                scale > 0 of the guidance that it imitates, and "interval" [B, 2], the times from and to which it is
                guided.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C], the average velocity from t to s.

        Raises:
            ValueError: for shapes that do not fit, for a missing or an unexpected condition, and for a strength that is
                not positive, where it is no traced value.
        """
        batch = x.shape[0]
        entries = condition if isinstance(condition, Mapping) else {"label": condition}
        parts = conditions.entries(entries, (), ("label", "strength", "interval"))
        clocks = t if isinstance(t, tuple) else (t, jnp.zeros_like(t))
        self._check(x, clocks, parts)
        recorded = Features(features, self.feature_blocks)
        _, height, width, channels = x.shape
        rows = height // self.patch
        columns = width // self.patch

        narrow = None
        if self.bottleneck:
            narrow = nn.Dense(self.bottleneck, dtype=self.dtype, kernel_init=xavier, name="patch_bottleneck")
        tokens = embedded_patches(x, self.patch, self.width, self.dtype, narrow=narrow)

        strength = jnp.full(batch, self.default_strength) if parts["strength"] is None else parts["strength"]
        interval = jnp.tile(jnp.asarray(self.default_interval, jnp.float32), (batch, 1))
        interval = interval if parts["interval"] is None else parts["interval"]
        numbers = {
            "strength": 1 - 1 / strength,
            "start": interval[:, 0],
            "end": interval[:, 1],
            "duration": jnp.broadcast_to(clocks[1], (batch,)),
        }
        vectors = {
            "class": LabelEmbedding(self.num_classes, self.width, self.dtype, name="label_embedding")(parts["label"])
        }
        for name, number in numbers.items():
            vectors[name] = TimestepEmbedding(self.width, self.dtype, name=f"{name}_embedding")(number)
        init = nn.initializers.normal(self.width**-0.5)
        learned = {
            name: self.param(f"{name}_tokens", init, (count, self.width), jnp.float32) for name, count in TOKENS.items()
        }
        prefix = [learned[name].astype(tokens.dtype) + vectors[name][:, None] for name in TOKENS]
        tokens = jnp.concatenate([*prefix, tokens], axis=1)
        if self.clean:
            table = self.param("positions", nn.initializers.normal(0.02), tokens.shape[1:], jnp.float32)
            tokens = tokens + table.astype(tokens.dtype)
        tokens = layout.split(tokens, "batch", "tokens", None)

        picture = lambda tokens: tokens[:, PREFIX:]
        fields = (self.heads, self.hidden, self.attention, self.dtype)
        arguments = (jnp.asarray(self._angles(rows, columns)),)
        blocks = Stack(
            "blocks", self.depth, _Block, fields, arguments, (nn.broadcast,), picture=picture, unroll=self.unroll
        )
        tokens = picture(blocks.run(self, tokens, recorded))
        tokens = nn.RMSNorm(dtype=self.dtype, name="final_norm")(tokens)
        out = nn.Dense(self.patch**2 * channels, dtype=jnp.float32, kernel_init=zeros, bias_init=zeros, name="final")(
            tokens
        )
        out = unpatchify(out, self.patch, height, width)
        if self.clean:
            time = jnp.broadcast_to(clocks[0], (batch,)).astype(out.dtype)
            out = (x - out) / jnp.clip(time, SHORTEST, 1.0)[:, None, None, None]
        return recorded.beside(out)

    def _angles(self, rows: int, columns: int) -> np.ndarray:
        """[PREFIX + N, size / 2]: along the sequence, or only of the picture's rows and columns."""
        size = self.width // self.heads
        if not self.clean:
            return axis_angles(np.arange(PREFIX + rows * columns, dtype=np.float64)[:, None], (size,))
        grid = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(np.float64)
        return np.concatenate([np.zeros((PREFIX, size // 2), np.float32), axis_angles(grid, (size // 2, size // 2))])

    def _check(self, x, clocks, parts):
        network_checks.images(self, x)
        if len(clocks) != 2:
            raise ValueError(f"MiT receives two times, t and the duration; got {len(clocks)}")
        network_checks.times(self, x, *clocks)
        conditions.check_label(parts["label"], x.shape[0], self.num_classes)
        for name, shape in (("strength", x.shape[:1]), ("interval", (x.shape[0], 2))):
            if parts[name] is not None and parts[name].shape != shape:
                raise ValueError(f"the condition's {name!r} has shape {shape}; got {parts[name].shape}")
        strength = parts["strength"]
        # NumPy gives a number even while a program is compiled.
        if strength is not None and not isinstance(strength, Tracer) and not (np.asarray(strength) > 0).all():
            least = np.min(np.asarray(strength))
            raise ValueError(f"the condition's 'strength' must be positive (1: no guidance); got {least}")


# Width, depth, heads: MiT_*_2 of imeanflow's models/mit.py, MiT_*_16 and _32 of pMF's.
IMF_SIZES = {"B": (768, 12, 12), "M": (768, 24, 12), "L": (1024, 32, 16), "XL": (1024, 48, 16)}
PMF_SIZES = {"B": (768, 16, 12), "L": (1024, 32, 16), "H": (1280, 48, 16)}


def imf_preset(size: str, num_classes: int, **options: Any) -> MiT:
    """Builds the network of improved MeanFlow of a published size.

    Args:
        size: "B/2", "M/2", "L/2" or "XL/2", for latents (32, 32, 4) of Stable Diffusion's autoencoder.
        num_classes: number of classes; the paper's networks have 1000.
        **options: other fields of `MiT`.

    Returns:
        The module, without parameters; B/2 has 89M.

    Raises:
        ValueError: for an unknown size, and as `MiT`.

    Reference: Geng et al., 2025, table 4.
    """
    sizes = {f"{name}/2": (2, *fields) for name, fields in IMF_SIZES.items()}
    return MiT(*look_up(sizes, size, "size"), num_classes, **options)


def pmf_preset(size: str, num_classes: int, **options: Any) -> MiT:
    """Builds the network of pixel MeanFlow of a published size.

    Args:
        size: "B/16", "L/16", "H/16" for pictures (256, 256, 3), "B/32", "L/32", "H/32" for (512, 512, 3).
        num_classes: number of classes; the paper's networks have 1000.
        **options: other fields of `MiT`.

    Returns:
        The module, without parameters.

    Raises:
        ValueError: for an unknown size, and as `MiT`.

    Reference: Lu et al., 2026.
    """
    sizes = {f"{name}/{patch}": (patch, *fields) for name, fields in PMF_SIZES.items() for patch in (16, 32)}
    patch, width, depth, heads = look_up(sizes, size, "size")
    fields: dict[str, Any] = {
        "bottleneck": 128 if width <= 1024 else 256,
        "clean": True,
        "shape": (16 * patch, 16 * patch, 3),
    }
    return MiT(patch, width, depth, heads, num_classes, **(fields | options))
