"""The networks from a prompt's states in Gemma 3 to LTX-2's two texts, one for the clip and one for its sound.

states [B, M, K E], after each layer -- normalised -- dense (of both, or of each) -- tokens, valid ones first, then
registers -- [ attention to itself, MLP ] x depth -- norm --> [B, M, D], of the clip and of the sound
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers.blocks import Gelu, xavier
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.norms import rms_norm
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.wide_attention import WideAttention
from diffusion.published.ltx_video.network import span_angles

SPAN = 4096  # tokens after which a position is 1
SCALE = 8.0


def ranged(states: jax.Array, mask: jax.Array) -> jax.Array:
    """The states of each layer, centred and divided by their range, times 8; 0 at padding.

        out = 8 (x - mean(x)) / (max(x) - min(x) + 1e-6),   over valid tokens and features

    Args:
        states: [B, M, K, E].
        mask: Bool [B, M], valid tokens.
    """
    valid, over = mask[:, :, None, None], (1, 3)
    number = valid.sum(over, keepdims=True) * states.shape[-1]
    mean = jnp.where(valid, states, 0).sum(over, keepdims=True) / (number + 1e-6)
    least = jnp.where(valid, states, jnp.inf).min(over, keepdims=True)
    largest = jnp.where(valid, states, -jnp.inf).max(over, keepdims=True)
    return jnp.where(valid, SCALE * (states - mean) / (largest - least + 1e-6), 0)


class LTX2ConnectorBlock(nn.Module):
    """x <- x + attention(norm(x)), x <- x + mlp(norm(x)); returns (x, None), as a scan expects."""

    heads: int
    gated: bool
    halves: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array) -> tuple[jax.Array, None]:
        attend = WideAttention(
            self.heads, 1e-6, self.attention, self.dtype, gated=self.gated, halves=self.halves, name="attention"
        )
        x = x + attend(rms_norm(x), angles=angles)
        return x + Gelu(4.0, self.dtype, name="mlp")(rms_norm(x)), None


class LTX2Connector(nn.Module):
    """A transformer over the valid tokens of a text, with learned registers in the place of padding.

        y_n = the n-th valid token, or register n mod R where there is none;   out = norm(blocks(y))

    It takes tokens x [B, M, D], where the number R of registers divides M, and a mask Bool [B, M] of the valid tokens;
    it returns [B, M, D]. The fields are described in `LTX2Connectors`.
    """

    heads: int
    depth: int
    registers: int
    gated: bool
    halves: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        length, width = x.shape[1:]
        uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-1.0)
        registers = self.param("registers", uniform, (self.registers, width)).astype(x.dtype)
        order = jnp.argsort(~mask, axis=1, stable=True)
        first = jnp.take_along_axis(x, order[:, :, None], axis=1)
        there = jnp.arange(length) < mask.sum(1, keepdims=True)
        x = jnp.where(there[:, :, None], first, jnp.tile(registers, (length // self.registers, 1)))
        positions = jnp.asarray(np.arange(length, dtype=np.float32)[None, :, None] / SPAN)
        angles = span_angles(positions, width, np.float64)
        blocks = scanned(LTX2ConnectorBlock, self.depth, "none", self.is_initializing(), (nn.broadcast,))
        fields = (self.heads, self.gated, self.halves, self.attention, self.dtype)
        return rms_norm(blocks(*fields, name="blocks")(x, angles)[0])


class LTX2Connectors(CheckedNetwork):
    """The networks between Gemma 3's states and LTX-2: `apply(variables, states, mask)` is (text, sound's text).

    Attributes:
        text_width: number E of features of a state.
        states: number K of states of a token: the embedding, and the state after each layer.
        width: number of features of the clip's text, a multiple of `heads`.
        sound_width: number of features of the sound's text, likewise.
        heads: number of attention heads.
        depth: number of layers of each connector.
        registers: number R of learned registers, a divisor of the number of tokens.
        separate: whether the clip and the sound have separate dense layers (2.3), after another norm; otherwise they
            share one, and both texts have `text_width` features.
        biased: whether these layers have biases.
        gated: whether the heads of attention have gates (2.3).
        halves: whether positions turn pairs of features half a head apart, see `LTX2`.

    Reference: HaCohen et al., "LTX-2: Efficient Joint Audio-Visual Foundation Model", 2026; its code in diffusers.
    """

    text_width: int = 3840
    states: int = 49
    width: int = 3840
    sound_width: int = 3840
    heads: int = 30
    depth: int = 2
    registers: int = 128
    separate: bool = False
    biased: bool = False
    gated: bool = False
    halves: bool = False
    positive = ("text_width", "states", "width", "sound_width", "heads", "depth", "registers")

    def check_fields(self) -> None:
        for field in ("width", "sound_width"):
            value = getattr(self, field)
            if value % (2 * self.heads):
                raise ValueError(f"{field}={value} must be a multiple of 2 heads = {2 * self.heads}")
            if not self.separate and value != self.text_width:
                raise ValueError(
                    f"{field}={value} must be text_width={self.text_width}, unless separate=True brings it to others"
                )

    @nn.compact
    def __call__(self, states: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The texts of a prompt.

        Args:
            states: Gemma's states, side by side, [B, M, states * text_width]; R divides M.
            mask: Bool [B, M], the tokens that are no padding.

        Returns:
            (text [B, M, width], sound's text [B, M, sound_width]), all of whose tokens are valid.
        """
        batch, length = states.shape[:2]
        if states.ndim != 3 or states.shape[2] != self.states * self.text_width or length % self.registers:
            raise ValueError(
                f"these connectors take states [B, M, {self.states * self.text_width}], where registers="
                f"{self.registers} divides M; got {states.shape}"
            )
        if mask.shape != (batch, length) or mask.dtype != bool:
            raise ValueError(f"the mask must be Bool [B, M] = {(batch, length)}; got {mask.dtype} {mask.shape}")
        states = states.reshape(batch, length, self.states, self.text_width)

        def dense(states: jax.Array, width: int, name: str) -> jax.Array:
            layer = nn.DenseGeneral(
                width, axis=(-2, -1), use_bias=self.biased, dtype=self.dtype, kernel_init=xavier, name=name
            )
            return layer(states)

        if self.separate:
            normal = jnp.where(mask[:, :, None, None], rms_norm(states), 0)
            scaled = lambda width: normal * (width / self.text_width) ** 0.5
            text = dense(scaled(self.width), self.width, "projection")
            sound = dense(scaled(self.sound_width), self.sound_width, "sound_projection")
        else:
            text = sound = dense(ranged(states, mask), self.text_width, "projection")
        fields = (self.heads, self.depth, self.registers, self.gated, self.halves, self.attention, self.dtype)
        return LTX2Connector(*fields, name="connector")(text, mask), LTX2Connector(*fields, name="sound_connector")(
            sound, mask
        )
