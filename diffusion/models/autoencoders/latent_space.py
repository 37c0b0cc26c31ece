"""From an autoencoder to a diffusion model: draws from the posterior, and the scale and shift of latents.

From an image to latents and back:

    moments = vae.apply({"params": params}, x, method="encode")
    z = to_diffusion(draw(moments, keys), vae.scale, vae.shift)      # the data of a diffusion model
    x = vae.apply({"params": params}, from_diffusion(z, vae.scale, vae.shift), method="decode")
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Factor = float | tuple[float, ...]
"""One number, or a number for each channel."""

LOG_VARIANCE = (-30.0, 20.0)  # the range to which the published networks clip the log variance


class Moments(NamedTuple):
    """The Gaussian posterior q(z | x) of an autoencoder, with independent components.

    Attributes:
        mean: the means, float32 [B, h, w, D].
        log_variance: the logarithms of the variances, float32 [B, h, w, D].
    """

    mean: jax.Array
    log_variance: jax.Array


def draw(moments: Moments, keys: jax.Array) -> jax.Array:
    """A latent from each posterior.

        z = mean + exp(log_variance / 2) eps,    eps ~ N(0, 1)

    Args:
        moments: the posteriors, [B, h, w, D].
        keys: typed keys [B], one per example, so that a latent does not depend on the rest of the batch.

    Returns:
        The latents, [B, h, w, D].

    Raises:
        ValueError: if there is another number of keys.

    Reference: Kingma & Welling, "Auto-Encoding Variational Bayes", 2013, section 2.4.
    """
    mean, log_variance = moments
    if keys.shape != mean.shape[:1]:
        raise ValueError(f"draw takes one key for each example, [B] = {mean.shape[:1]}; got keys of shape {keys.shape}")
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(0.5 * log_variance) * noise


def mean(encoded: Moments | jax.Array) -> jax.Array:
    """The mean of an autoencoder's posterior, [B, h, w, D]; without a posterior, the latent itself."""
    return encoded.mean if isinstance(encoded, Moments) else encoded


def to_diffusion(z: jax.Array, scale: Factor, shift: Factor) -> jax.Array:
    """Latents for a diffusion model, with about zero mean and unit variance.

        out = scale (z - shift)

    Args:
        z: latents of the autoencoder, [..., D].
        scale: one number, or D numbers.
        shift: one number, or D numbers.

    Reference: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, appendix G (scale);
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024 (shift).
    """
    return (z - jnp.asarray(shift, z.dtype)) * jnp.asarray(scale, z.dtype)


def from_diffusion(z: jax.Array, scale: Factor, shift: Factor) -> jax.Array:
    """Latents for the autoencoder, z / scale + shift: the inverse of `to_diffusion`."""
    return z / jnp.asarray(scale, z.dtype) + jnp.asarray(shift, z.dtype)


class Scaling(NamedTuple):
    """The scale and shift of `to_diffusion`: one number each, or one for each channel."""

    scale: Factor
    shift: Factor


def stream_moments(batches: Iterable[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """(the number, the mean, the sum of squared deviations) of a stream's rows, in float64.

    The batches are centred before their moments are merged, and are not stored.

    Args:
        batches: batches of rows, [N, ...], with any N.

    Reference: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979,
    equations 2.1.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        rows = np.asarray(batch, np.float64)
        size = len(rows)
        if not size:
            continue
        average = rows.mean(axis=0)
        difference = average - mean
        squares = squares + ((rows - average) ** 2).sum(axis=0) + difference**2 * count * size / (count + size)
        count += size
        mean = mean + difference * size / count
    return count, mean, squares


def estimate(latents: Iterable[np.ndarray], per_channel: bool = False) -> Scaling:
    """The scale and shift after which a stream of latents has mean 0 and variance 1.

        shift = mean(z),    scale = 1 / sqrt(mean((z - shift)^2))

    For images, call `estimate(encode(x) for x in batches)`, and then `vae.clone(scale=..., shift=...)`. The latents are
    not stored.

    Args:
        latents: batches of latents, [B, h, w, D], with any B.
        per_channel: whether each of the D channels has its own scale and shift (Karras et al., "Analyzing and Improving
            the Training Dynamics of Diffusion Models", 2024, appendix B); otherwise all channels share one scale and
            one shift.

    Raises:
        ValueError: if the stream is empty, or the latents are not finite or do not vary.
    """
    count, mean, squares = stream_moments(
        np.reshape(batch, (-1, np.shape(batch)[-1] if per_channel else 1)) for batch in latents
    )
    if not count:
        raise ValueError("the scale of latents is estimated from a stream of them, but the stream was empty")
    if not (np.isfinite(squares).all() and (squares > 0).all()):
        raise ValueError(
            f"{count} latents with squared deviations {np.asarray(squares).tolist()} determine no scale: the "
            "deviations must be finite and positive"
        )
    scale = (squares / count) ** -0.5
    if per_channel:
        return Scaling(tuple(map(float, scale)), tuple(map(float, mean)))
    return Scaling(float(scale[0]), float(mean[0]))


def to_range(x: jax.Array, ends: tuple[float, float]) -> jax.Array:
    """Pictures in [-1, 1], mapped to the range (low, high)."""
    low, high = ends
    return x if (low, high) == (-1, 1) else (x + 1) * ((high - low) / 2) + low


def from_range(x: jax.Array, ends: tuple[float, float]) -> jax.Array:
    """Pictures in the range (low, high), mapped to [-1, 1]: the inverse of `to_range`."""
    low, high = ends
    return x if (low, high) == (-1, 1) else (x - low) * (2 / (high - low)) - 1
