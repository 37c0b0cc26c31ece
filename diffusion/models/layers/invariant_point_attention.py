"""Attention among frames that does not depend on where and how the whole of them lies in space."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST  # positions lose digits otherwise on some devices


class InvariantPointAttention(nn.Module):
    """Invariant point attention over residues i with features s_i, pairs with z_ij, and frames T_i = (R_i, x_i).

        a_ij = softmax_j(w_L (q_i . k_j / sqrt(c) + b_ij - gamma w_C / 2 sum_p |T_i p_i - T_j k_j|^2))
        w_C = sqrt(2 / (9 P)),    w_L = sqrt(1 / 3),    gamma = softplus of a learned number of each head

    Each residue receives the sums by a of z_ij, of values v_j, and of points T_j v_j, which it sees from its own frame,
    T_i^-1; and the points' lengths. A rigid motion of all frames changes nothing of it.

    Reference: Jumper et al. 2021, "Highly accurate protein structure prediction with AlphaFold", supplementary
    algorithm 22.

    Attributes:
        width: number of features of the output.
        heads: number of heads.
        channels: c, of a head's queries, keys and values.
        query_points: number P of points of a head's queries and keys.
        value_points: points of a head's values.
    """

    width: int
    heads: int = 4
    channels: int = 16
    query_points: int = 4
    value_points: int = 8

    @nn.compact
    def __call__(self, s: jax.Array, z: jax.Array, rotations: jax.Array, positions: jax.Array) -> jax.Array:
        """The residues' update.

        Args:
            s: features of residues `[B, N, D]`.
            z: features of pairs `[B, N, N, E]`.
            rotations: R `[B, N, 3, 3]`.
            positions: x `[B, N, 3]`, of the size of one.

        Returns:
            `[B, N, width]`; zeros before training.
        """
        linear = lambda name, *shape: nn.DenseGeneral(shape, use_bias=False, name=name)
        q = linear("query", self.heads, self.channels)(s)
        k = linear("key", self.heads, self.channels)(s)
        v = linear("value", self.heads, self.channels)(s)
        b = linear("pair_bias", self.heads)(z)

        def points(name, number):
            """`[B, N, H, P, 3]` in the common space."""
            local = linear(name, self.heads, number, 3)(s)
            turned = jnp.einsum("bnij,bnhpj->bnhpi", rotations, local, precision=EXACT)
            return turned + positions[:, :, None, None]

        q_points = points("query_points", self.query_points)
        k_points = points("key_points", self.query_points)
        v_points = points("value_points", self.value_points)

        length = lambda p: jnp.sum(p**2, (-2, -1))  # `[B, N, H]`
        across = jnp.einsum("bnhpi,bmhpi->bhnm", q_points, k_points, precision=EXACT)
        squared = (
            length(q_points).transpose(0, 2, 1)[:, :, :, None]
            + length(k_points).transpose(0, 2, 1)[:, :, None]
            - 2 * across
        )
        one = math.log(math.e - 1)  # softplus(one) = 1
        gamma = nn.softplus(self.param("gamma", nn.initializers.constant(one), (self.heads,)))
        w_c = math.sqrt(2 / (9 * self.query_points))
        scores = jnp.einsum("bnhc,bmhc->bhnm", q, k) / math.sqrt(self.channels) + b.transpose(0, 3, 1, 2)
        scores = math.sqrt(1 / 3) * (scores - gamma[:, None, None] * w_c / 2 * squared)
        a = jax.nn.softmax(scores, -1)

        from_pairs = jnp.einsum("bhnm,bnme->bnhe", a, z)
        from_values = jnp.einsum("bhnm,bmhc->bnhc", a, v)
        from_points = jnp.einsum("bhnm,bmhpi->bnhpi", a, v_points, precision=EXACT) - positions[:, :, None, None]
        from_points = jnp.einsum("bnji,bnhpj->bnhpi", rotations, from_points, precision=EXACT)
        lengths = jnp.sqrt(jnp.sum(from_points**2, -1) + 1e-8)  # has a derivative at zero too
        parts = [from_pairs, from_values, from_points, lengths]
        flat = jnp.concatenate([part.reshape(*s.shape[:2], -1) for part in parts], -1)
        return nn.Dense(self.width, kernel_init=nn.initializers.zeros, name="out")(flat)
