"""IP-Adapter: the features of a picture become tokens, and the tokens keys and values for the layers of a denoiser.

    features -- projection --> tokens [B, K, E] -- one dense layer each --> keys, values [B, K, D]  of every layer

| projection          | reads of the image encoder             | K            | published as                          |
|---------------------|----------------------------------------|--------------|---------------------------------------|
| `GlobalProjection`  | the pooled vector [B, P]               | 4, Flux's 16 | ip-adapter, ip-adapter-light, Flux's  |
| `FullProjection`    | all tokens [B, N, F]                   | N            | ip-adapter-full-face                  |
| `Resampler`         | all tokens, of the layer before last   | 16           | ip-adapter-plus, ip-adapter-plus-face |

Reference: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023; their
code for the projections other than the first.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import network_checks
from diffusion.models.layers.attention import attention
from diffusion.models.layers.blocks import Modulation
from diffusion.models.layers.cross_attention import xavier

EPSILON = 1e-5


def norm(name: str) -> nn.LayerNorm:
    """The norm of every projection."""
    return nn.LayerNorm(EPSILON, use_fast_variance=False, name=name)


def check_features(projection: Any, features: jax.Array) -> None:
    """Refuses features of another image encoder than a projection's.

    Raises:
        ValueError: with both widths.
    """
    if features.ndim != 2 + projection.reads_tokens or features.shape[-1] != projection.features:
        raise ValueError(
            f"this IP-Adapter reads features [B, {'N, ' * projection.reads_tokens}{projection.features}] of an image "
            f"encoder; got shape {features.shape}, which belongs to another encoder"
        )


class GlobalProjection(nn.Module):
    """norm(dense(pooled)) as K tokens: [B, P] -> [B, K, E].

    Attributes:
        features: number P of features of the image encoder's pooled vector.
        width: number E of features of a token, as of the prompt's tokens.
        tokens: number K of tokens.
    """

    features: int
    width: int
    tokens: int = 4
    reads_tokens = False

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        h = nn.Dense(self.tokens * self.width, kernel_init=xavier, name="dense")(pooled)
        return norm("norm")(h.reshape(-1, self.tokens, self.width))


class FullProjection(nn.Module):
    """norm(out(gelu(hidden(x)))) of each token by itself: [B, N, F] -> [B, N, E].

    Attributes:
        features: number F of features of the image encoder's tokens.
        width: number E of features of a token.
    """

    features: int
    width: int
    reads_tokens = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.gelu(nn.Dense(self.features, kernel_init=xavier, name="hidden")(x), approximate=False)
        return norm("norm")(nn.Dense(self.width, kernel_init=xavier, name="out")(h))


class ResamplerLayer(nn.Module):
    """y <- y + attention(norm(y), [norm(x), norm(y)]); y <- y + mlp(norm(y)); no layer has a bias.

    With the time, a vector c [B, D] after SiLU, both norms of y are shifted and scaled by vectors of its own.

    Reference: Alayrac et al., "Flamingo", 2022, appendix A.1.1.
    """

    heads: int
    head_size: int
    ratio: int

    @nn.compact
    def __call__(self, y: jax.Array, x: jax.Array, c: jax.Array | None = None) -> jax.Array:
        vectors = None if c is None else Modulation(4, "float32", name="modulation")(c)
        latents = norm("norm_own")(y)
        latents = latents if vectors is None else latents * (1 + vectors[1]) + vectors[0]
        both = jnp.concatenate([norm("norm_seen")(x), latents], axis=1)
        dense = lambda name: nn.DenseGeneral(
            (self.heads, self.head_size), use_bias=False, kernel_init=xavier, name=name
        )
        out = attention(dense("query")(latents), dense("key")(both), dense("value")(both), "xla")
        width = y.shape[-1]
        y = y + nn.DenseGeneral(width, axis=(-2, -1), use_bias=False, kernel_init=xavier, name="out")(out)
        h = norm("norm_mlp")(y)
        h = h if vectors is None else h * (1 + vectors[3]) + vectors[2]
        h = nn.Dense(self.ratio * width, use_bias=False, kernel_init=xavier, name="mlp_hidden")(h)
        return y + nn.Dense(width, use_bias=False, kernel_init=xavier, name="mlp_out")(nn.gelu(h, approximate=False))


class Resampler(nn.Module):
    """K learned queries that attend to the tokens of a picture: [B, N, F] -> [B, K, E].

    Attributes:
        features: number F of features of the image encoder's tokens.
        width: number E of features of a token.
        tokens: number K of tokens.
        inner: width of the layers.
        depth: number of layers.
        heads, head_size: number of heads of their attention, and features of a head.
        ratio: features inside their MLPs over `inner`.
    """

    features: int
    width: int
    tokens: int = 16
    inner: int = 768
    depth: int = 4
    heads: int = 12
    head_size: int = 64
    ratio: int = 4
    reads_tokens = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        queries = self.param("queries", nn.initializers.normal(self.inner**-0.5), (self.tokens, self.inner))
        y = jnp.broadcast_to(queries, (x.shape[0], *queries.shape))
        x = nn.Dense(self.inner, kernel_init=xavier, name="in")(x)
        for i in range(self.depth):
            y = ResamplerLayer(self.heads, self.head_size, self.ratio, name=f"layer_{i}")(y, x)
        return norm("norm")(nn.Dense(self.width, kernel_init=xavier, name="out")(y))


class IPAdapter(nn.Module):
    """Keys and values of a picture for each layer of a denoiser that attends to it.

        prompt = adapter.apply(variables, features)
        output = network.apply(network_variables, x, t, {**condition, "extra": (prompt,)})

    A new adapter has values of zero, so that at first it changes nothing.

    Attributes:
        projection: a module with `features`, `width` and `reads_tokens`: whether it reads the tokens [B, N, F] of an
            image encoder, or its pooled vector [B, F].
        widths: D of each layer, as the denoiser's `extra_layers` has them.
        bias: whether the layers of keys and values have one (Flux).
    """

    projection: Any
    widths: tuple[int, ...]
    bias: bool = False

    def __post_init__(self):
        if not self.widths:
            raise ValueError(
                "an IP-Adapter needs a denoiser with layers that attend to image prompts; this one has none (widths=())"
            )
        network_checks.positive(self.projection, ("features", "width"))
        super().__post_init__()

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
        """Args:
            features: [B, F] or [B, N, F], see `projection`, float32.

        Returns:
            (keys, values) [B, K, D] of each layer, float32.

        Raises:
            ValueError: for features of another encoder, with both widths.
        """
        check_features(self.projection, features)
        tokens = self.projection(features)
        dense = lambda width, name, start: nn.Dense(width, self.bias, kernel_init=start, name=name)(tokens)
        zeros = nn.initializers.zeros_init()
        return tuple(
            (dense(width, f"key_{i}", xavier), dense(width, f"value_{i}", zeros)) for i, width in enumerate(self.widths)
        )
