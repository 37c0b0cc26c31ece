"""Gaussian Shading: an encrypted message in the signs of the initial noise, whose distribution remains N(0, 1)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # reads its parts where they are first used
from jax import Array

from diffusion.sampling.watermarks import keyed
from diffusion.sampling.watermarks.watermark import Reading, Watermark, check_finite, check_whole

PURPOSE = 0x5AADE  # folded into a picture's key to choose its nonce


def gaussian_shading(key: str, bits: int = 64, nonces: int = 64) -> Watermark:
    """The sign of each noise value carries one bit of the message, repeated over all values and encrypted by the key.

        z_p <- (2 y_p - 1) |z_p|,    y_p = m_(p mod K) xor c_(j, p)

    c_j is the stream of nonce j under the secret key; the picture's random key chooses j. Over random secret keys, y is
    uniform and independent, so z remains exactly N(0, 1), and pictures with different nonces have nothing in common.
    Reading uses the nonce that agrees best. The paper's construction has l bits per value; this is the case l = 1. The
    paper encrypts by ChaCha20; here SHAKE-256 is used.

    For any noise without the watermark, white or not, the number of agreeing values is binomial (n, 1/2) over the
    secret keys. The p-value accounts for the choice of the best nonce, 1 - (1 - p)^nonces.

    Facts:
        paper: Yang et al. 2024, "Gaussian Shading: Provable Performance-Lossless Image Watermarking for Diffusion
            Models", section 3

    Args:
        key: 64 hexadecimal digits.
        bits: number K of bits in the message, which the key determines, in 1 .. 4096.
        nonces: number of streams, in 1 .. 65536; with 1 all pictures have the same signs.

    Raises:
        ValueError: if bits or nonces is out of range; from `embed` and `read`, if the noise has fewer values than bits;
            from `read`, if the noise is not finite.
    """
    check_whole("gaussian_shading", 1, 4096, bits=bits)
    check_whole("gaussian_shading", 1, 2**16, nonces=nonces)
    message = keyed.bits(key, "message", bits)

    @functools.lru_cache(4)
    def tables(number: int) -> tuple[np.ndarray, np.ndarray]:
        """(streams, signs of the noise under each stream), both Bool `[nonces, number]`."""
        if number < bits:
            raise ValueError(f"gaussian_shading: bits = {bits} exceeds the number of noise values, {number}")
        streams = np.stack([keyed.bits(key, f"stream {j}", number) for j in range(nonces)])
        return streams, streams ^ np.resize(message, number)

    def embed(noise: Array, keys: Array) -> Array:
        _, signs = tables(math.prod(noise.shape[1:]))
        chosen = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, PURPOSE), (), 0, nonces))(keys)
        positive = jnp.asarray(signs)[chosen].reshape(noise.shape)
        return jnp.where(positive, jnp.abs(noise), -jnp.abs(noise))

    def read(noise: np.ndarray) -> Reading:
        check_finite("gaussian_shading", noise)
        positive = np.asarray(noise).reshape(len(noise), -1) > 0
        number = positive.shape[1]
        streams, signs = tables(number)
        pm = lambda table: np.where(table, 1.0, -1.0).astype(np.float32)
        agree = np.rint((np.float64(pm(positive) @ pm(signs).T) + number) / 2)  # [B, nonces]
        best = agree.argmax(1)
        most = agree.max(1)
        single = scipy.special.betainc(np.maximum(most, 1), number - most + 1, 0.5)  # P(Binomial(n, 1/2) >= most)
        votes = pm(positive ^ streams[best])
        padded = np.pad(votes, ((0, 0), (0, -number % bits)))
        sums = padded.reshape(len(padded), -1, bits).sum(1)
        return Reading(most / number, -np.expm1(nonces * np.log1p(-np.minimum(single, 1 - 1e-16))), sums > 0)

    return Watermark("noise", embed, read, message)
