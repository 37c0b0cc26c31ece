"""Stable Diffusion 3's IP-Adapter: tokens of a picture that change with the time, and what its joint layers take.

    features, t -- timed resampler --> tokens [B, K, D], c [B, I]
    tokens, c -- norm (1 + scale(c)) + shift(c), one dense layer each --> keys, values [B, K, D]  of every layer

The picture's own tokens attend to them beside themselves (`layers.extra_attention`, "extra_joint"), so that no initial
value makes an adapter of this kind change nothing: it can be read and used, but not trained here.

Reference: the code of SD3.5-Large-IP-Adapter (InstantX, 2024).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_projections import ResamplerLayer, check_features, norm
from diffusion.models.layers import network_checks
from diffusion.models.layers.blocks import Modulation
from diffusion.models.layers.cross_attention import xavier
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.norms import layer_norm, rms_norm


class TimedResampler(nn.Module):
    """K learned queries that attend to the tokens of a picture, at a time: [B, N, F], [B] -> [B, K, D], [B, I].

    Attributes:
        features: number F of features of the image encoder's tokens before its last layer.
        width: number D of features of the denoiser's tokens.
        tokens: number K of tokens.
        inner: width I of the layers.
        depth: number of layers.
        heads, head_size: number of heads of their attention, and features of a head.
        ratio: features inside their MLPs over `inner`.
        time_features: sinusoidal features of the time, an even number.
    """

    features: int
    width: int
    tokens: int = 64
    inner: int = 1280
    depth: int = 4
    heads: int = 20
    head_size: int = 64
    ratio: int = 4
    time_features: int = 320
    reads_tokens = True

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        dense = lambda width, name: nn.Dense(width, kernel_init=xavier, name=name)
        c = dense(self.inner, "time_hidden")(sinusoid(t, self.time_features))
        c = dense(self.inner, "time_out")(nn.silu(c))
        queries = self.param("queries", nn.initializers.normal(self.inner**-0.5), (self.tokens, self.inner))
        y = jnp.broadcast_to(queries, (x.shape[0], *queries.shape))
        x = dense(self.inner, "in")(x) + c[:, None]
        for i in range(self.depth):
            y = ResamplerLayer(self.heads, self.head_size, self.ratio, name=f"layer_{i}")(y, x, nn.silu(c))
        return norm("norm")(dense(self.width, "out")(y)), c


class JointIPAdapter(nn.Module):
    """Keys and values of a picture at a time, and norms of queries and keys, for each joint layer of a denoiser.

        layers = adapter.apply(variables, features, clock)     # without a weight, see `adapters.ip_adapter`

    Attributes:
        projection: module from features and the time to tokens.
        widths: D of each layer, as the denoiser's `extra_layers` has them.
        heads: number of heads of the denoiser.
    """

    projection: TimedResampler
    widths: tuple[int, ...]
    heads: int

    def __post_init__(self):
        network_checks.positive(self.projection, ("features", "width"))
        if odd := [width for width in self.widths if width != self.projection.width or width % self.heads]:
            raise ValueError(
                "the tokens of an IP-Adapter for joint layers must be as wide as the layers, a multiple of "
                f"heads={self.heads}; got layers of width {odd[0]} and tokens of {self.projection.width}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, features: jax.Array, t: jax.Array) -> tuple[tuple[jax.Array, ...], ...]:
        """Args:
            features: [B, N, F] of the image encoder, before its last layer, float32.
            t: the denoiser's clock, [B].

        Returns:
            (keys, values, query_scale, key_scale) of each layer: [B, K, D] twice and [B, D / heads] twice, float32.

        Raises:
            ValueError: for features of another encoder, with both widths.
        """
        check_features(self.projection, features)
        tokens, c = self.projection(features, t)
        return tuple(self._layer(i, width, tokens, nn.silu(c)) for i, width in enumerate(self.widths))

    def _layer(self, i: int, width: int, tokens: jax.Array, c: jax.Array) -> tuple[jax.Array, ...]:
        shift, scale = Modulation(2, "float32", width, name=f"modulation_{i}")(c)
        modulated = layer_norm(tokens) * (1 + scale) + shift
        keys, values = (
            nn.Dense(width, use_bias=False, kernel_init=xavier, name=f"{name}_{i}")(modulated)
            for name in ("key", "value")
        )
        ones = lambda name: self.param(f"{name}_scale_{i}", nn.initializers.ones, (width // self.heads,))
        split = keys.reshape(*keys.shape[:2], self.heads, -1)
        keys = (rms_norm(split) * ones("image_key")).reshape(keys.shape)
        rows = lambda scale: jnp.broadcast_to(scale, (len(keys), *scale.shape))
        return keys, values, rows(ones("query")), rows(ones("key"))
