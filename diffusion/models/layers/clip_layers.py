"""The transformer of CLIP's two towers: pre-norm layers, scanned.

One layer is

    x = x + attention(norm(x));  x = x + out(act(hidden(norm(x))))
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.cross_attention import CrossAttention, xavier
from diffusion.models.layers.scan import scanned

ACTIVATIONS = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's networks
    "gelu": lambda x: nn.gelu(x, approximate=False),  # OpenCLIP's
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),  # SigLIP's
}


class Mlp(nn.Module):
    """A network of two layers, out(act(hidden(x)))."""

    hidden: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=xavier, name="hidden")(x)
        h = ACTIVATIONS[self.activation](layout.split(h, "batch", "tokens", "hidden"))
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=xavier, name="out")(h)


class Layer(nn.Module):
    """x = x + attention(norm(x)); x = x + mlp(norm(x)); the carry keeps the state of the layer where `here`."""

    heads: int
    hidden: int
    activation: str
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], bias: jax.Array | None, here: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, chosen = carry
        size = x.shape[-1] // self.heads
        mixed = CrossAttention(
            self.heads, size, bias=True, attention=self.attention, dtype=self.dtype, name="attention"
        )
        x = x + mixed(layer_norm(self.epsilon, self.dtype, "norm_1")(x), bias=bias)
        mlp = Mlp(self.hidden, self.activation, self.dtype, name="mlp")
        x = x + mlp(layer_norm(self.epsilon, self.dtype, "norm_2")(x))
        x = layout.split(x, "batch", "tokens", None)
        return (x, jnp.where(here, x, chosen)), None


class Layers(nn.Module):
    """A stack of scanned layers: [B, N, D] -> (output, state before the last `skip` layers), each [B, N, D]."""

    depth: int
    heads: int
    hidden: int
    activation: str
    epsilon: float
    attention: str
    remat: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, skip: int) -> tuple[jax.Array, jax.Array]:
        if not 0 <= skip < self.depth:
            raise ValueError(
                f"skip={skip} must be in 0 .. {self.depth - 1}, because the network has {self.depth} layers"
            )
        layers = scanned(Layer, self.depth, self.remat, self.is_initializing(), (nn.broadcast, 0))(
            self.heads, self.hidden, self.activation, self.epsilon, self.attention, self.dtype, name="layers"
        )
        (x, chosen), _ = layers((x, x), bias, jnp.arange(self.depth) == self.depth - 1 - skip)
        return x, chosen


def tower_layers(tower: nn.Module) -> Layers:
    """The layers of a tower with the fields of `Layers`, as its submodule "encoder"."""
    fields = ("depth", "heads", "hidden", "activation", "epsilon", "attention", "remat", "dtype")
    return Layers(*(getattr(tower, field) for field in fields), name="encoder")


def layer_norm(epsilon: float, dtype: str, name: str, affine: bool = True) -> nn.LayerNorm:
    """scale (x - mean) / sqrt(var + epsilon) + bias over the last axis, with statistics in float32.

    Without `affine` there are no parameters: scale = 1 and bias = 0.
    """
    # The variance of centred values: the mean of squares minus the square of the mean would lose digits.
    return nn.LayerNorm(epsilon, dtype=dtype, use_bias=affine, use_scale=affine, use_fast_variance=False, name=name)
