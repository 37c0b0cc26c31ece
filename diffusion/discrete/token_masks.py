"""Masks with a separate schedule for each symbol, so that some symbols are masked earlier than others.

    q(x_t = v | x_0 = v) = alpha_v(t) = 1 - t^(w_v),    q(x_t = mask | x_0 = v) = t^(w_v)

A symbol with a large w is masked late as t grows, and unmasked early as t decreases.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.discrete.keeping import Keeping
from diffusion.schedules import left_broadcast
from diffusion.schedules.noise_schedule import as_float


class TokenMasks(NamedTuple):
    """A masked process on int32 arrays `[B, ...]` of symbols, with a schedule for each symbol.

    The class has the methods of `Process` that do not need a single schedule. The samplers `ancestral`, `euler`,
    `tau_leaping` and `corrected` and the objective `masked_diffusion` accept it.

    Attributes:
        powers: exponents w of the symbols, > 0, `[K - 1]`; the mask is the symbol K - 1.
    """

    powers: np.ndarray | Array

    @property
    def size(self) -> int:
        """The number K of symbols, including the mask."""
        return len(self.powers) + 1

    @property
    def mask(self) -> int:
        """The mask symbol."""
        return len(self.powers)

    @property
    def prior(self) -> np.ndarray:
        """The probabilities at t = 1, where every symbol is the mask, `[K]`."""
        return np.eye(self.size)[-1]

    @property
    def keeping(self) -> Keeping:
        """Raises a ValueError, because there is no single schedule."""
        raise ValueError(
            "token_masks has a schedule for each symbol, and this needs one for all. Valid: ancestral, euler, "
            "tau_leaping, theta_trapezoidal, semi_autoregressive or corrected, and masked_diffusion"
        )

    def marginal(self, x0: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0): float32 `[B, ..., K]`, for symbols x0 `[B, ...]` and times t, `[]` or `[B]`."""
        here = jax.nn.one_hot(x0, self.size)
        masked = jnp.sum(here * self._masked(t, here), -1, keepdims=True)
        return self._shown(t, here) * here + masked * jnp.asarray(self.prior, here.dtype)

    def masked(self, x0: Array, t: ArrayLike) -> Array:
        """The probability t^w that a symbol is the mask at time t: float32, in the shape of x0 `[B, ...]`."""
        return left_broadcast(as_float(t), x0) ** self._powers()[x0]

    def likelihood(self, x_t: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0 = a) for each symbol a: float32 `[B, ..., K]`, for symbols x_t `[B, ...]`."""
        here = jax.nn.one_hot(x_t, self.size)
        return jnp.where((x_t == self.mask)[..., None], self._masked(t, here), self._shown(t, here) * here)

    def posterior(self, x_t: Array, x0: Array, t: ArrayLike, s: ArrayLike) -> Array:
        """The mean over x_0 of q(x_s | x_t, x_0), as in `Process.posterior`: float32 `[B, ..., K]`.

        A mask becomes v with probability p(v) (1 - (s / t)^(w_v)), and an unmasked symbol does not change.
        """
        t, s = as_float(t), as_float(s)
        still = left_broadcast(s / t, x0) ** self._powers()  # share of masks that remain
        shown = x0 * -jnp.expm1(self._powers() * left_broadcast(jnp.log1p((s - t) / t), x0))  # 1 - still would cancel
        stays = jnp.sum(x0 * still, -1, keepdims=True) * jnp.asarray(self.prior, shown.dtype)
        return jnp.where((x_t == self.mask)[..., None], shown + stays, jax.nn.one_hot(x_t, self.size))

    def reverse_rates(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """The rates at which the reversed process jumps from x_t to each symbol y: float32 `[B, ..., K]`.

        p(y) w_y / t for a mask, and 0 for an unmasked symbol
        """
        rates = x0 * self.unmasking_rates(t, x0)
        return jnp.where((x_t == self.mask)[..., None], rates.at[..., self.mask].set(0.0), 0.0)

    def rates_from(self, x_t: Array, t: ArrayLike) -> Array:
        """The forward rates from x_t to each symbol y: float32 `[B, ..., K]`.

        w t^(w - 1) / (1 - t^w) from a symbol with power w to the mask
        """
        here = jax.nn.one_hot(x_t, self.size).at[..., self.mask].set(0.0)
        shown = self._shown(t, here)
        rate = self.unmasking_rates(t, here) * self._masked(t, here) / jnp.where(shown > 0, shown, 1.0)
        leaving = jnp.sum(here * rate, -1, keepdims=True)
        return leaving * jnp.asarray(self.prior, here.dtype)

    def unmasking_rates(self, t: ArrayLike, like: Array) -> Array:
        """w_v / t, the rate at which the mask of symbol v disappears, `[B, ..., K]`, with the rank of `like`."""
        return self._powers() / left_broadcast(as_float(t), like)

    def _powers(self) -> Array:
        """The exponents of all symbols, 1 for the mask, `[K]`."""
        return jnp.append(jnp.asarray(self.powers, jnp.float32), 1.0)

    def _masked(self, t: ArrayLike, like: Array) -> Array:
        """t^w for each symbol, and 1 for the mask, which never changes."""
        masked = left_broadcast(as_float(t), like) ** self._powers()
        return jnp.broadcast_to(masked, like.shape).at[..., self.mask].set(1.0)

    def _shown(self, t: ArrayLike, like: Array) -> Array:
        """1 - t^w for each symbol, without cancellation near t = 1, and 0 for the mask."""
        shown = -jnp.expm1(self._powers() * left_broadcast(jnp.log(as_float(t)), like))
        return jnp.broadcast_to(shown, like.shape).at[..., self.mask].set(0.0)


def token_masks(powers: ArrayLike) -> TokenMasks:
    """Masks with a schedule for each symbol, alpha_v(t) = 1 - t^(w_v).

    Facts:
        prior: the mask
        paper: Shi et al. 2024, "Simplified and Generalized Masked Diffusion for Discrete Data", GenMD4; the authors
            learn the powers, as `trained_masks` does

    Args:
        powers: exponents w, > 0, one for each symbol except the mask, which is the last symbol, `[K - 1]`. Equal
            exponents give `absorbing(polynomial(w), K)`.

    Raises:
        ValueError: if powers have another shape, or are not positive and finite.
    """
    values = np.asarray(powers, np.float64)
    if values.ndim != 1 or not len(values) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(
            f"token_masks: powers {np.array2string(values, threshold=8)}. Valid: [K - 1] finite numbers above 0"
        )
    return TokenMasks(values)
