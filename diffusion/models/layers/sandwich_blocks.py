"""The transformer layers of Lumina-Image 2 and Z-Image, with norms before and after each part, and their stacks."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout
from diffusion.models.layers.block_reuse import Blocks
from diffusion.models.layers.blocks import Modulation, SwiGlu, xavier
from diffusion.models.layers.joint_blocks import Projections, attend, to_tokens
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import single_stack

OF_HEADS = 1e-5  # epsilon of the norms of queries and keys


class GroupedProjections(nn.Module):
    """`joint_blocks.Projections` without biases, and with keys and values that each serve several heads.

        enter: [B, N, D] -> q, k, v, each [B, N, H, D / H], keys and values repeated
        leave: [B, N, H, D / H] -> [B, N, D]

    Reference: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2023.
    """

    width: int
    heads: int
    key_heads: int
    epsilon: float
    dtype: str

    def setup(self):
        options: Any = {"use_bias": False, "dtype": self.dtype, "kernel_init": xavier}
        size = self.width // self.heads
        self.query = nn.DenseGeneral((self.heads, size), **options)
        self.key_value = nn.DenseGeneral((2, self.key_heads, size), **options)
        self.out = nn.DenseGeneral(self.width, (-2, -1), **options)
        self.query_norm = nn.RMSNorm(self.epsilon, dtype=self.dtype)
        self.key_norm = nn.RMSNorm(self.epsilon, dtype=self.dtype)

    def enter(self, x: jax.Array) -> list[jax.Array]:
        both = self.key_value(x)
        k, v = self.key_norm(both[:, :, 0]), both[:, :, 1]
        repeated = [jnp.repeat(heads, self.heads // self.key_heads, axis=2) for heads in (k, v)]
        return [layout.attended(heads) for heads in (self.query_norm(self.query(x)), *repeated)]

    def leave(self, x: jax.Array) -> jax.Array:
        return layout.split(self.out(x), "batch", "tokens", None)


class SandwichBlock(nn.Module):
    """A layer of tokens whose parts are normalised before and after.

        x <- x + tanh(gate) * norm(f((1 + scale) * norm(x))),     f = attention, mlp

    Attributes:
        heads: number H of attention heads.
        epsilon: epsilon of the norms, > 0.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
        hidden: number of features inside the MLP; 0: 8 / 3 D.
        key_heads: number of heads of keys and values; 0: `heads`.
        picture: number of the picture's tokens, which are the last ones.

    Reference: Qin et al., "Lumina-Image 2.0", 2025; Z-Image Team, "Z-Image", 2025.
    """

    heads: int
    epsilon: float
    attention: str
    dtype: str
    hidden: int = 0
    key_heads: int = 0
    picture: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, c: jax.Array | None, angles: jax.Array, seen: jax.Array | None, entering: bool = False
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, N, D].
            c: condition [B, P]; None for a layer without scales and gates.
            angles: rotary angles [N, D / (2 H)] or [B, N, D / (2 H)].
            seen: Bool [B, N], True for tokens that others attend to; None for all.
            entering: whether to return only the attention's input at the picture's tokens.

        Returns:
            (x, None), as a scan expects; with `entering`, (the input [B, picture, D], None).
        """
        norm = lambda name: nn.RMSNorm(self.epsilon, dtype=self.dtype, name=name)
        width = x.shape[-1]
        scales, gates = (1, 1), (1, 1)
        if c is not None:
            vectors = Modulation(4, self.dtype, width, name="modulation")(c)
            scales = [1 + scale for scale in vectors[::2]]
            gates = [jnp.tanh(gate) for gate in vectors[1::2]]
        read = norm("attention_norm")(x) * scales[0]
        if entering:
            return read[:, -self.picture :], None
        if self.key_heads:
            heads: Any = GroupedProjections(width, self.heads, self.key_heads, OF_HEADS, self.dtype, name="attention")
        else:
            heads = Projections(width, self.heads, True, self.dtype, bias=False, epsilon=OF_HEADS, name="attention")
        q, k, v = heads.enter(read)
        mixed = heads.leave(to_tokens(attend(q, k, v, angles, self.attention, seen)))
        x = x + gates[0] * norm("after_attention")(mixed)
        mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=self.hidden, name="mlp")
        x = x + gates[1] * norm("after_mlp")(mlp(norm("mlp_norm")(x) * scales[1]))
        return layout.split(x, "batch", "tokens", None), None


def refined_then_joined(
    network: Any,
    text: jax.Array,
    picture: jax.Array,
    arguments: tuple[jax.Array, jax.Array, jax.Array],
    number: int,
    output: Callable[[jax.Array], jax.Array],
    features: Sequence[int] | None,
    through: Callable[[Blocks], tuple[jax.Array, Any]] | None = None,
) -> Any:
    """Runs `refiners` layers for the text and for the picture separately, then `depth` layers for both in a row.

    Args:
        network: module with `refiners`, `depth`, `remat` and `block_fields`, the fields of a `SandwichBlock` before
            `picture`; this runs in its compact call.
        text: its tokens [B, M, D], refined without the condition.
        picture: its tokens [B, N, D], with padding in front.
        arguments: the condition c [B, P], the angles of all tokens [B, M + N, D / (2 H)], and which tokens of the text
            are attended to, Bool [B, M].
        number: number of the picture's last tokens, from which the output is computed.
        output: function from these [B, number, D] to the network's output; may make parameters.
        features: indices of layers of both whose picture's tokens the call returns too, see `stacks.several_stacks`.
        through: evaluates these layers in the network's place, see `stacks.several_stacks`.

    Returns:
        As `stacks.several_stacks`.
    """
    c, angles, shown = arguments
    axes = (nn.broadcast,) * 3

    def refined(name: str, tokens: jax.Array, *arguments: Any) -> jax.Array:
        layers = scanned(SandwichBlock, network.refiners, network.remat, network.is_initializing(), axes)
        return layers(*network.block_fields, name=name)(tokens, *arguments)[0]

    text_angles, picture_angles = jnp.split(angles, [text.shape[1]], axis=1)
    text = refined("text_refiners", text, None, text_angles, shown)
    picture = refined("picture_refiners", picture, c, picture_angles, None)
    tokens = layout.split(jnp.concatenate([text, picture], axis=1), "batch", "tokens", None)
    shown = jnp.concatenate([shown, jnp.ones(picture.shape[:2], bool)], axis=1)
    fields = (*network.block_fields, number)
    put_out = lambda tokens: tokens[:, -number:]
    return single_stack(
        network, SandwichBlock, fields, tokens, (c, angles, shown), axes, output, features, through, put_out
    )


def angles_behind_text(
    first: np.ndarray, behind: jax.Array, rows: int, columns: int, axes: Sequence[int], theta: float = 10_000.0
) -> jax.Array:
    """Rotary angles of texts, and of pictures at the places where the texts end.

    Args:
        first: first coordinates of the M tokens before the picture's, int [M]; their row and column are 0.
        behind: first coordinate of all patches of each picture, int [B], at most 1 + the largest of `first`.
        rows, columns: the picture's patches.
        axes, theta: features of a head for each of the three coordinates, and base, see `rotary.axis_angles`.

    Returns:
        [B, M + rows columns, D / 2] in radians.
    """
    grid = axis_angles(np.pad(grid_positions(rows, columns), [(len(first), 0), (0, 0)]), axes[1:], theta)
    # Computed in float64 for every place that a text can end at, and looked up.
    table = jnp.asarray(axis_angles(grid_positions(first.max(initial=0) + 2), axes[:1], theta))
    batch = len(behind)
    before = jnp.broadcast_to(first, (batch, len(first)))
    places = jnp.concatenate([before, jnp.broadcast_to(behind[:, None], (batch, rows * columns))], axis=1)
    return jnp.concatenate([table[places], jnp.broadcast_to(grid, (batch, *grid.shape))], axis=-1)


def scaled_output(network: Any, tokens: jax.Array, c: jax.Array, patch: int, shape: tuple[int, ...]) -> jax.Array:
    """The output of both networks: minus `patches.picture_output` with a scale and without a shift.

    Args:
        network: the module, in whose compact call this runs.
        tokens: the picture's tokens [B, N, D].
        c: the condition [B, P] after SiLU.
        patch: side of a patch in pixels of the latents.
        shape: shape of the latents, [B, H, W, C].
    """
    (scale,) = Modulation(1, network.dtype, network.width, name="final_modulation")(c)
    vectors = jnp.zeros_like(scale), scale
    return -picture_output(tokens, c, layer_norm, patch, shape, network.dtype, vectors=vectors)
