"""Terms of the losses of autoencoders: KL, perceptual distance, adaptive weight, and the losses of a patch critic."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


class Coded(NamedTuple):
    """The output of an autoencoder for pictures.

    Attributes:
        x: `[B, H, W, C]` the reconstructions.
        penalties: {name: `[B]`}: "kl", or "codebook" and "commitment".
        last: the kernel of the decoder's last layer, with respect to which the adaptive weight takes gradients.
        redo: kernel -> x, the reconstructions with this kernel in the last layer.
        log_variance: `[]` learned log-variance of the pixels; 0 if it is not learned.
        latents: `[B, h, w, D]` decoded latents, before any transformation; None if they are not needed.
        first: the kernel of the encoder's last layer, for the adaptive weight of the alignment; None if there is none.
        recode: kernel -> (x, latents), with this kernel in the encoder's last layer.
    """

    x: Array
    penalties: Mapping[str, Array]
    last: Array
    redo: Callable[[Array], Array]
    log_variance: ArrayLike = 0.0
    latents: Array | None = None
    first: Array | None = None
    recode: Callable[[Array], tuple[Array, Array]] | None = None


class Perceived(NamedTuple):
    """Features of pictures with the weights by which they are compared.

    Attributes:
        layers: features `[B, h, w, C]` of each layer.
        weights: weights `[C]` of each layer, see `perceptual_distance`.
    """

    layers: Sequence[Array]
    weights: Sequence[Array]


PIXELS = {"l1": jnp.abs, "l2": jnp.square}


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """`[B]` KL(N(mean, variance) || N(0, 1)) of all components: 1/2 sum (mean^2 + variance - 1 - log variance).

    Reference: Kingma and Welling 2013, "Auto-Encoding Variational Bayes", appendix B.
    """
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def perceptual_distance(
    features: Sequence[Array], others: Sequence[Array], weights: Sequence[Array] | None = None
) -> Array:
    """`[B]` LPIPS distance of features, which are normalised over their channels.

        sum over layers of mean over positions of sum_c w_c (f_c / |f| - g_c / |g|)^2

    Args:
        features: features of pictures, `[B, h, w, C]` for each layer.
        others: features of the pictures to compare with, in the same shapes.
        weights: weights w `[C]` of each layer, >= 0, learned from people's judgements in the paper; ones if None.

    Raises:
        ValueError: if the numbers of layers differ.

    Reference: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1.
    """
    if len(features) != len(others) or (weights is not None and len(weights) != len(features)):
        raise ValueError(
            "perceptual_distance: both pictures must have the same layers of features, and each layer one weight; got "
            f"{len(features)} and {len(others)} layers, and {'no' if weights is None else len(weights)} weights"
        )
    # Added to the square, so that features of zero have a gradient.
    unit = lambda f: f * jax.lax.rsqrt(jnp.sum(jnp.square(f), axis=-1, keepdims=True) + 1e-20)
    total = jnp.asarray(0.0)
    for layer, (f, g) in enumerate(zip(features, others)):
        square = jnp.square(unit(f) - unit(g)) * (1.0 if weights is None else weights[layer])
        total += jnp.mean(jnp.sum(square, axis=-1), axis=tuple(range(1, f.ndim - 1)))
    return total


def adaptive_weight(reconstruction: Array, adversarial: Array, limit: float = 1e4, delta: float = 1e-4) -> Array:
    """lambda = |grad reconstruction loss| / (|grad adversarial loss| + delta), at the decoder's last layer.

    Args:
        reconstruction: the gradient of the reconstruction loss, of any shape.
        adversarial: the gradient of the adversarial loss.
        limit: largest lambda.
        delta: constant against division by zero; 1e-4 in the authors' code, 1e-6 in the paper.

    Returns:
        `[]`, without gradient.

    Reference: Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equation 7; the
    limit is taken from the authors' code.
    """
    norm = lambda gradient: jnp.sqrt(jnp.sum(jnp.square(gradient)))
    return jax.lax.stop_gradient(jnp.clip(norm(reconstruction) / (norm(adversarial) + delta), 0, limit))


def hinge(real: Array, fake: Array) -> Array:
    """`[B]` the critic's hinge loss of logits `[B, ...]`: 1/2 mean max(0, 1 - real) + 1/2 mean max(0, 1 + fake)."""
    return 0.5 * (example_means(jax.nn.relu(1 - real)) + example_means(jax.nn.relu(1 + fake)))


def vanilla(real: Array, fake: Array) -> Array:
    """`[B]` cross-entropy of logits `[B, ...]`: 1/2 mean softplus(-real) + 1/2 mean softplus(fake)."""
    return 0.5 * (example_means(jax.nn.softplus(-real)) + example_means(jax.nn.softplus(fake)))


CRITICS = {"hinge": hinge, "vanilla": vanilla}


def choice(table: Mapping[str, Callable], name: str, argument: str) -> Callable:
    """The function of this name; a ValueError that names the argument and the valid names if there is none."""
    if name not in table:
        raise ValueError(f"{argument} = {name!r} is not known. Valid: {', '.join(table)}")
    return table[name]


def picture_error(
    networks: Mapping[str, Callable],
    distance: Callable[[Array], Array],
    perceptual: float,
    channel_weights: Sequence[Array] | None,
    x: Array,
    reconstruction: Array,
) -> tuple[Array, dict[str, Array]]:
    """The error of reconstructions: a mean over pixels, plus a perceptual distance if there is a network "features".

        error = mean distance(x - y) + perceptual P(x, y)

    Args:
        networks: the players; the second term needs "features".
        distance: one of `PIXELS`.
        perceptual: weight of the perceptual distance P.
        channel_weights: weights for `perceptual_distance`; if None, the weights that the network "features" returns, if
            any.
        x: `[B, H, W, C]` the pictures.
        reconstruction: `[B, H, W, C]` the reconstructions y.

    Returns:
        (`[B]` errors, {"reconstruction": `[B]`, "perceptual": `[B]`}).
    """
    pixels = example_means(distance(x - reconstruction))
    if "features" not in networks:
        return pixels, {"reconstruction": pixels}
    see = lambda pictures: networks["features"](pictures, jnp.zeros(x.shape[0]), None)
    ours, theirs = see(reconstruction), jax.lax.stop_gradient(see(x))
    if isinstance(ours, Perceived):
        channel_weights = jax.lax.stop_gradient(ours.weights) if channel_weights is None else channel_weights
        ours, theirs = ours.layers, theirs.layers
    perceived = perceptual_distance(ours, theirs, channel_weights)
    return pixels + perceptual * perceived, {"reconstruction": pixels, "perceptual": perceived}


def example_means(x: Array) -> Array:
    """`[B]` the mean of each example of x `[B, ...]`."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
