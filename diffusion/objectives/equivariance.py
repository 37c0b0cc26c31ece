"""EQ-VAE: random transformations that train a decoder to commute with scaling and rotation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Equivariance(NamedTuple):
    """The transformations that `kl_autoencoder` and `patch_critic` apply to the pictures and latents of a step.

        with probability p:            loss(T x, decode(T z)),    T = turn by 90, 180 or 270 degrees after scaling by s
        of the rest, with share q:     loss(S x, decode(z(S x))),    S = scaling by s
        else:                          loss(x, decode(z(x)))

    where z is a draw of q(z | x) and s is one of `scales`. Scaling is bilinear, without antialiasing. All examples
    (with gradient accumulation, those of a micro-batch) share one draw, from the first example's key, since they must
    have one shape. Each scale is a separate branch of the program, and one of them runs. In the authors' code the
    scales are 8/32, 9/32 .. 31/32.

    Attributes:
        probability: probability p of transforming the latents; 0.5 in the authors' code.
        low_resolution: share q of the other steps, which train at lower resolution; 0.25 in the authors' code.
        scales: factors s in (0, 1], for which the scaled sides of the latents are integers.

    Reference: Kouzelis et al. 2025, "EQ-VAE: Equivariance Regularized Latent Space for Improved Generative Image
    Modeling", equation 6, and the authors' code.
    """

    probability: float = 0.5
    low_resolution: float = 0.25
    scales: tuple[float, ...] = (0.25, 0.5, 0.75)

    def check(self) -> None:
        """Refuses values out of range.

        Raises:
            ValueError: if a value is out of range; the message names it.
        """
        for name in ("probability", "low_resolution"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"equivariance: {name} = {getattr(self, name)} must be in [0, 1]")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"equivariance: scales = {self.scales} must be one or more numbers, each in (0, 1]")

    def switched(self, key: Array, x: Array, loss: Callable[[Array, Array, Callable | None], Any]) -> Any:
        """The loss of the drawn transformation.

        Args:
            key: random key of the draw.
            x: square pictures [B, H, W, C], H = W.
            loss: (x, target picture, transformation of the latents or None) -> a pytree of fixed shapes.

        Raises:
            ValueError: if the pictures are not square.
        """
        if x.shape[1] != x.shape[2]:
            raise ValueError(
                f"equivariance: pictures are rotated, so they must be square; got {x.shape[1]} x {x.shape[2]}"
            )
        kind_key, low_key, scale_key, turn_key = jax.random.split(key, 4)
        turns = jax.random.randint(turn_key, (), 1, 4)
        transforms = jax.random.uniform(kind_key) < self.probability
        lowers = ~transforms & (jax.random.uniform(low_key) < self.low_resolution)

        def lowered(scale):
            lower = transformed(x, scale, 0)
            return loss(lower, lower, None)

        branches: list[Callable] = [lambda: loss(x, x, None)]
        for scale in self.scales:
            change = lambda h, scale=scale: transformed(h, scale, turns)
            branches.append(lambda change=change: loss(x, change(x), change))
            branches.append(functools.partial(lowered, scale))
        number = 1 + 2 * jax.random.randint(scale_key, (), 0, len(self.scales))
        return jax.lax.switch(jnp.where(transforms, number, jnp.where(lowers, number + 1, 0)), branches)


def transformed(h: Array, scale: float, turns: int | Array) -> Array:
    """Pictures or latents [B, H, W, C], H = W, scaled and then rotated clockwise by `turns` quarter turns.

    Args:
        h: pictures or latents.
        scale: factor of the sides, in (0, 1].
        turns: number of quarter turns, int in 0 .. 3.

    Raises:
        ValueError: if the scaled side is not an integer.
    """
    side = h.shape[1] * scale
    if abs(side - round(side)) > 1e-6 or round(side) < 1:
        raise ValueError(
            f"equivariance: a scale of {scale:g} turns a side of {h.shape[1]} into {side:g}, which is not an integer"
        )
    small = jax.image.resize(h, (h.shape[0], round(side), round(side), h.shape[3]), "linear", antialias=False)
    turned = [lambda h, k=k: jnp.rot90(h, k, axes=(2, 1)) for k in range(4)]
    return jax.lax.switch(turns, turned, small)
