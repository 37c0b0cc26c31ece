"""BERT that attends to a picture: the image-grounded text encoder of BLIP.

ids [B, N] -> norm(tokens + positions) -> depth x layer -> [B, N, D]

layer:  x = norm(x + attention(x));  x = norm(x + attention(x, picture));  x = norm(x + out(gelu(hidden(x))))
"""

__all__ = ["Attended", "Layer", "MEDText"]

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.clip_layers import Mlp, layer_norm
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.vision_layers import normal


class Attended(nn.Module):
    """norm(x + attention(x, context)); x [B, N, D], context [B, M, E] or None for x."""

    heads: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None, bias: jax.Array | None) -> jax.Array:
        size = x.shape[-1] // self.heads
        mixed = CrossAttention(
            self.heads, size, bias=True, attention=self.attention, dtype=self.dtype, name="attention"
        )
        return layer_norm(self.epsilon, self.dtype, "norm")(x + mixed(x, context, bias))


class Layer(nn.Module):
    """One layer; returns (x, None), as a scan expects."""

    heads: int
    hidden: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, picture: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
        attended = lambda name: Attended(self.heads, self.epsilon, self.attention, self.dtype, name=name)
        x = attended("self")(x, None, bias)
        x = attended("cross")(x, picture, None)
        mlp = Mlp(self.hidden, "gelu", self.dtype, name="mlp")
        x = layer_norm(self.epsilon, self.dtype, "norm")(x + mlp(x))
        return layout.split(x, "batch", "tokens", None), None


class MEDText(CheckedNetwork):
    """BLIP's text encoder, in which every layer attends to a picture's tokens.

    Attributes:
        vocabulary: number of token ids.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        positions: the longest text in tokens.
        epsilon: epsilon of the norms, > 0.

    References:
        Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022, section 3.1; salesforce/BLIP, models/med.py.
        Devlin et al., "BERT", 2019.
    """

    vocabulary: int = 30524
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    epsilon: float = 1e-12

    def check_fields(self) -> None:
        network_checks.tower(self)

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array, picture: jax.Array) -> jax.Array:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1, N at most `positions`.
            mask: Bool [B, N], True where other tokens may attend to a token.
            picture: its tokens [B, M, E], to all of which the text attends.

        Returns:
            [B, N, width] float32.

        Raises:
            ValueError: for shapes that do not fit.
        """
        if ids.ndim != 2 or ids.shape[1] > self.positions or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(
                f"the text must be integer ids [B, N] with N <= {self.positions}; got shape {ids.shape}, dtype "
                f"{ids.dtype}"
            )
        if mask.shape != ids.shape:
            raise ValueError(f"the mask has shape {mask.shape}, but the ids have {ids.shape}")
        positions = self.param("positions", normal, (self.positions, self.width))
        x = nn.Embed(self.vocabulary, self.width, embedding_init=normal, name="tokens")(ids)
        x = layer_norm(self.epsilon, self.dtype, "norm")(x + positions[: ids.shape[1]])
        layers = scanned(Layer, self.depth, "none", self.is_initializing(), (nn.broadcast, nn.broadcast))(
            self.heads, self.hidden, self.epsilon, self.attention, self.dtype, name="layers"
        )
        x, _ = layers(x, picture.astype(self.dtype), mask_bias(mask))
        return x.astype(jnp.float32)
