"""A transformer of rigid frames, such as the residues of a protein, by invariant point attention.

     class   t        place in the chain     frames x_t [B, N, 3, 4]
       |     |               |                    |          |
       +-----+------- sum ---+       pairs: distance, direction, turn, offset
                       |                          |
                   s [B, N, D]              z [B, N, N, E]
                       |                          |
         [ s = norm(s + invariant point attention(s, z, F))        ]
         [ s = norm(s + MLP(s, the frames before and after in F))  ]  x depth
         [ F = F exp(max(t, 0.1) dense(s))                         ]
                       |
            velocity: -log(x_t, F) / t

F are the guessed clean frames, x_t at first. Every update is a motion in the frames' own axes, as in AlphaFold's
structure module, so that a rigid motion of x_t moves the output along. Near the data F is a map onto the folds, which
is smooth; the velocity there changes as fast as 1 / t, and a network that outputs it directly cannot follow.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.manifolds.rotations import from_rotation_vector, hat, to_rotation_vector
from diffusion.models.layers import network_checks
from diffusion.models.layers.condition_embedding import ConditionEmbedding
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.invariant_point_attention import EXACT, InvariantPointAttention

BINS = 16  # number of bins of distances
FARTHEST = 3.0  # centre of the last, in the unit of positions
OFFSETS = 32  # along the chain that are told apart in either direction
SMALLEST = 0.1  # share of noise below which updates become no smaller
EARLIEST = 0.01  # share of noise below which the velocity is that to the guess, over this share
ONE_BOND = 0.38  # nanometres between CA of neighbours
STEPS = 1000.0  # factor of t in its embedding


class FrameTransformer(nn.Module):
    """The transformer of frames: `apply(variables, x, t, condition)` is a `Network` that predicts a velocity.

    It is equivariant under rigid motions: its output turns with its input, and does not see a common translation.
    Their positions in the chain distinguish the residues. Its clock is t itself, `parameterizations.time()`.

    Attributes:
        width: number of features of a residue, even.
        depth: number of blocks.
        heads: number of attention heads.
        pair_width: features of a pair.
        query_points: points of a head's queries and keys.
        value_points: points of a head's values.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        longest: number of residues of the longest chain that it takes.
        shape: shape (N, 3, 4) of the chains that it is made for; it takes other N too. None: the shape of the first
            input.

    Raises:
        ValueError: at construction, for a field out of range.

    Reference: Yim et al. 2023, "SE(3) diffusion model with application to protein backbone generation"; Jumper et al.
    2021, "Highly accurate protein structure prediction with AlphaFold", supplementary algorithms 20 to 23.
    """

    width: int = 64
    depth: int = 4
    heads: int = 4
    pair_width: int = 32
    query_points: int = 4
    value_points: int = 8
    num_classes: int = 0
    longest: int = 512
    shape: tuple[int, ...] | None = None
    ranks = (3,)

    def __post_init__(self):
        counts = ("width", "depth", "heads", "pair_width", "query_points", "value_points", "longest")
        network_checks.positive(self, counts)
        if self.width % 2 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be even, and heads={self.heads} divide it")
        if self.num_classes < 0:
            raise ValueError(f"num_classes={self.num_classes} must be 0 (unconditional) or positive")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: jax.Array | dict | None = None) -> jax.Array:
        """One evaluation of the network.

        Args:
            x: frames [B, N, 3, 4], see `manifolds.frames`; positions of the size of one.
            t: the share of noise in [0, 1], [B] or [].
            condition: class labels int [B], or None.

        Returns:
            The velocity, tangents [B, N, 3, 4].

        Raises:
            ValueError: for shapes that do not fit, a chain that is too long, and a superfluous or a missing condition.
        """
        network_checks.example(self, x, "frames [B, N, 3, 4]", rank=4)
        batch, number = x.shape[:2]
        if x.shape[2:] != (3, 4):
            raise ValueError(f"FrameTransformer takes frames [B, N, 3, 4]; got an array of shape {x.shape}")
        if number > self.longest:
            raise ValueError(
                f"a chain of {number} residues is longer than longest={self.longest}. Memory grows with its square: "
                "cut the chain, or raise longest"
            )
        rotations = x[..., :3]
        positions = x[..., 3] - x[..., 3].mean(1, keepdims=True)
        c = ConditionEmbedding(self.width, self.num_classes, 0, 1, "float32", name="condition")(
            x, STEPS * jnp.asarray(t, jnp.float32), condition
        )
        places = sinusoid(jnp.arange(number, dtype=jnp.float32), self.width)
        local = jnp.einsum("bnji,bnj->bni", rotations, positions, precision=EXACT)
        s = nn.Dense(self.width, name="place")(places) + nn.Dense(self.width, name="position")(local) + c[:, None]
        z = self._pairs(rotations, positions) + nn.Dense(self.pair_width, name="pair_condition")(c)[:, None, None]
        z = nn.LayerNorm(name="pair_norm")(z)

        share = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (batch,))[:, None, None]
        size = jnp.maximum(share, SMALLEST)
        turned, moved = rotations, positions
        for i in range(self.depth):
            attend = InvariantPointAttention(
                self.width,
                self.heads,
                self.width // self.heads,
                self.query_points,
                self.value_points,
                name=f"attention_{i}",
            )
            s = nn.LayerNorm(name=f"attention_norm_{i}")(s + attend(s, z, turned, moved))
            h = s + nn.Dense(self.width, name=f"time_{i}")(c)[:, None]
            h += nn.Dense(self.width, name=f"neighbours_{i}")(neighbours(turned, moved))
            h = nn.relu(nn.Dense(2 * self.width, name=f"hidden_{i}")(h))
            s = nn.LayerNorm(name=f"transition_norm_{i}")(s + nn.Dense(self.width, name=f"transition_{i}")(h))
            step = size * nn.Dense(6, kernel_init=nn.initializers.zeros, name=f"update_{i}")(s)
            moved = moved + jnp.einsum("bnij,bnj->bni", turned, step[..., 3:], precision=EXACT)
            turned = jnp.einsum("bnij,bnjk->bnik", turned, from_rotation_vector(step[..., :3]), precision=EXACT)
        inverse = jnp.swapaxes(rotations, -1, -2)
        w = to_rotation_vector(jnp.matmul(inverse, turned, precision=EXACT))
        v = jnp.einsum("bnij,bnj->bni", inverse, moved - positions, precision=EXACT)
        return tangents(rotations, -jnp.concatenate([w, v], -1) / jnp.maximum(share, EARLIEST))

    def _pairs(self, rotations: jax.Array, positions: jax.Array) -> jax.Array:
        """`[B, N, N, E]` of what residue i sees of j from its frame: offset, distance, direction and turn."""
        number = positions.shape[1]
        apart = positions[:, None] - positions[:, :, None]
        local = jnp.einsum("bnji,bnmj->bnmi", rotations, apart, precision=EXACT)
        distance = jnp.sqrt(jnp.sum(local**2, -1, keepdims=True) + 1e-8)
        centres = jnp.linspace(0.0, FARTHEST, BINS)
        near = jnp.exp(-(((distance - centres) * BINS / FARTHEST) ** 2))
        turn = jnp.einsum("bnji,bmjk->bnmik", rotations, rotations, precision=EXACT)
        parts = jnp.concatenate([local, near, turn.reshape(*turn.shape[:3], 9)], -1)
        places = jnp.arange(number)
        offset = jnp.clip(places - places[:, None], -OFFSETS, OFFSETS) + OFFSETS
        table = self.param("offsets", nn.initializers.normal(0.02), (2 * OFFSETS + 1, self.pair_width))
        h = nn.Dense(self.pair_width, name="pair")(parts) + table[offset]
        return nn.Dense(self.pair_width, name="pair_out")(nn.relu(h))


def neighbours(rotations: jax.Array, positions: jax.Array) -> jax.Array:
    """`[B, N, 24]` the frames before and after each in the chain, from its own: they decide the bonds.

    Args:
        rotations: `[B, N, 3, 3]`.
        positions: `[B, N, 3]`.

    Returns:
        A turn and a step for each of both, zeros at the ends.
    """
    parts = []
    for step in (1, -1):
        other, place = jnp.roll(rotations, step, 1), jnp.roll(positions, step, 1)
        turn = jnp.einsum("bnji,bnjk->bnik", rotations, other, precision=EXACT)
        local = jnp.einsum("bnji,bnj->bni", rotations, place - positions, precision=EXACT)
        features = jnp.concatenate([turn.reshape(*turn.shape[:2], 9), local / ONE_BOND], -1)
        ends = jnp.arange(positions.shape[1]) == (0 if step == 1 else positions.shape[1] - 1)
        parts.append(jnp.where(ends[:, None], 0.0, features))
    return jnp.concatenate(parts, -1)


def tangents(rotations: jax.Array, u: jax.Array) -> jax.Array:
    """Tangents `[..., 3, 4]` of velocities (w, v) `[..., 6]` in the frames themselves: R hat(w), and beside it R v."""
    generators = jnp.concatenate([hat(u[..., :3]), u[..., 3:, None]], -1)
    return jnp.einsum("...ij,...jk->...ik", rotations, generators, precision=EXACT)
