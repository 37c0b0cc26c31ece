"""Objectives for training autoencoders: reconstruction, KL or codebook, perceptual distance, and a patch discriminator.

Two players, for `training.alternating`:

    players = {"autoencoder": Player(kl_autoencoder(), "model", adam), "critic": Player(patch_critic(), "critic", adam)}

Here networks["model"](x, keys, condition) -> `Coded`: the second argument is the examples' keys, for draws from the
posterior, in place of a denoiser's clock (`diffusion.training.coding` makes such networks). networks["critic"](x,
clock, condition) returns logits `[B, h, w, 1]`, one for each patch. networks["features"], which is optional, returns a
sequence of features `[B, h, w, C]` of a frozen network. Pictures are in [-1, 1].
"""

__all__ = [
    "Coded",
    "adaptive_weight",
    "gaussian_kl",
    "hinge",
    "kl_autoencoder",
    "patch_critic",
    "perceptual_distance",
    "vanilla",
    "vq_autoencoder",
]

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective


class Coded(NamedTuple):
    """The output of an autoencoder for pictures.

    Attributes:
        x: `[B, H, W, C]` the reconstructions.
        penalties: {name: `[B]`}: "kl", or "codebook" and "commitment".
        last: the kernel of the decoder's last layer, at which gradients are compared.
        redo: kernel -> x, with this kernel in place of the last one.
        log_variance: `[]` learned log-variance of the pixels; 0 where none is learned.
    """

    x: Array
    penalties: Mapping[str, Array]
    last: Array
    redo: Callable[[Array], Array]
    log_variance: ArrayLike = 0.0


# ==== Terms ====


PIXELS = {"l1": jnp.abs, "l2": jnp.square}


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """`[B]` KL(N(mean, variance) || N(0, 1)) of all components: 1/2 sum (mean^2 + variance - 1 - log variance).

    Reference: Kingma and Welling 2013, "Auto-Encoding Variational Bayes", appendix B.
    """
    each = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(each, axis=tuple(range(1, each.ndim)))


def perceptual_distance(
    features: Sequence[Array], others: Sequence[Array], weights: Sequence[Array] | None = None
) -> Array:
    """`[B]` distance of features, each normalised over its channels, as LPIPS takes it.

        sum over layers of mean over positions of sum_c w_c (f_c / |f| - g_c / |g|)^2

    Args:
        features: of pictures, `[B, h, w, C]` for each layer.
        others: of the pictures to compare with, of the same shapes.
        weights: for each layer w `[C]`, >= 0, learned from people's judgements in the paper; ones if None.

    Raises:
        ValueError: if the numbers of layers differ.

    Reference: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1.
    """
    if len(features) != len(others) or (weights is not None and len(weights) != len(features)):
        raise ValueError(
            f"perceptual_distance: {len(features)} layers of features, {len(others)} of others, and "
            f"{'no' if weights is None else len(weights)} weights"
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
        limit: lambda is at most this.
        delta: against division by zero, 1e-4 in the authors' code (1e-6 in the paper).

    Returns:
        `[]`, without gradient.

    Reference: Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equation 7; the
    limit is that of the authors' code.
    """
    norm = lambda gradient: jnp.sqrt(jnp.sum(jnp.square(gradient)))
    return jax.lax.stop_gradient(jnp.clip(norm(reconstruction) / (norm(adversarial) + delta), 0, limit))


def hinge(real: Array, fake: Array) -> Array:
    """`[B]` the critic's hinge loss of logits `[B, ...]`: 1/2 mean max(0, 1 - real) + 1/2 mean max(0, 1 + fake)."""
    return 0.5 * (_mean(jax.nn.relu(1 - real)) + _mean(jax.nn.relu(1 + fake)))


def vanilla(real: Array, fake: Array) -> Array:
    """`[B]` cross-entropy of logits `[B, ...]`: 1/2 mean softplus(-real) + 1/2 mean softplus(fake)."""
    return 0.5 * (_mean(jax.nn.softplus(-real)) + _mean(jax.nn.softplus(fake)))


CRITICS = {"hinge": hinge, "vanilla": vanilla}


def _of(table: Mapping[str, Callable], name: str, argument: str) -> Callable:
    if name not in table:
        raise ValueError(f"{argument} = {name!r} is not known; valid are {', '.join(table)}")
    return table[name]


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


# ==== Objectives ====


def kl_autoencoder(
    pixels: str = "l1",
    kl: float = 1e-6,
    perceptual: float = 1.0,
    adversarial: float = 0.5,
    start: int = 50_001,
    channel_weights: Sequence[Array] | None = None,
) -> Objective:
    """The loss of latent diffusion's KL autoencoder: a likelihood with learned variance, KL and adversarial terms.

        error = sum over pixels of (|x - y| + perceptual P(x, y)),   N numbers a picture
        loss = error / exp(s) + N s + kl KL(q(z | x) || N(0, 1)) + adversarial lambda mean -D(y)

    with y the reconstruction from a draw of q, s the learned log-variance, and lambda by `adaptive_weight`; sums over
    pixels and components, as in the authors' code. Lambda is of the whole batch (with accumulation, the micro-batch).

    Facts:
        loss: see above; the last term from step `start` on
        networks: model (the autoencoder), features and critic (optional)
        optimum: none of its own: a game with `patch_critic`
        paper: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1 and
            appendix G

    Args:
        pixels: "l1" (|x - y|) or "l2" ((x - y)^2).
        kl: weight of the KL, >= 0.
        perceptual: weight of the distance of features, used where there is a network "features".
        adversarial: weight beside lambda, used where there is a network "critic".
        start: step from which the adversarial term counts.
        channel_weights: see `perceptual_distance`.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros: there is no time), "reconstruction" (the
        mean pixel error), "perceptual", "kl", "adversarial" and "adaptive_weight", each `[B]`.

    Raises:
        ValueError: for an unknown `pixels`.
    """
    distance = _of(PIXELS, pixels, "pixels")

    def losses_of(networks, x, coded, reconstruction):
        numbers = x.size // x.shape[0]
        error, parts = _error(networks, distance, perceptual, channel_weights, x, reconstruction)
        return numbers * (error * jnp.exp(-coded.log_variance) + coded.log_variance), parts

    return _autoencoder(losses_of, {"kl": kl}, adversarial, start)


def vq_autoencoder(
    pixels: str = "l1",
    codebook: float = 1.0,
    commitment: float = 0.25,
    perceptual: float = 1.0,
    adversarial: float = 0.75,
    start: int = 250_001,
    channel_weights: Sequence[Array] | None = None,
) -> Objective:
    """The loss of VQGAN, with means over pixels.

        loss = mean |x - y| + perceptual P(x, y) + codebook |stop z - e|^2 + commitment |z - stop e|^2
               + adversarial lambda mean -D(y)

    Facts:
        loss: see above; the last term from step `start` on
        networks: model (the autoencoder), features and critic (optional)
        optimum: none of its own: a game with `patch_critic`
        paper: Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equations 4 to
            7

    Args:
        pixels: "l1" or "l2".
        codebook: weight of the codebook's loss; 0 where it is a moving average, or there is none to learn.
        commitment: weight of the commitment.
        perceptual, adversarial, start, channel_weights: as in `kl_autoencoder`.

    Returns:
        An objective, as `kl_autoencoder`, with "codebook" and "commitment" among the metrics.

    Raises:
        ValueError: for an unknown `pixels`.
    """
    distance = _of(PIXELS, pixels, "pixels")

    def losses_of(networks, x, coded, reconstruction):
        return _error(networks, distance, perceptual, channel_weights, x, reconstruction)

    return _autoencoder(losses_of, {"codebook": codebook, "commitment": commitment}, adversarial, start)


def _error(networks, distance, perceptual, channel_weights, x, reconstruction) -> tuple[Array, dict[str, Array]]:
    """`[B]` mean error of the pixels and of the features, and its parts."""
    pixels = _mean(distance(x - reconstruction))
    if "features" not in networks:
        return pixels, {"reconstruction": pixels}
    see = lambda pictures: networks["features"](pictures, jnp.zeros(x.shape[0]), None)
    seen = perceptual_distance(see(reconstruction), jax.lax.stop_gradient(see(x)), channel_weights)
    return pixels + perceptual * seen, {"reconstruction": pixels, "perceptual": seen}


def _autoencoder(losses_of, weights: Mapping[str, float], adversarial: float, start: int) -> Objective:
    def loss(networks, schedule, keys, batch, step):
        x = batch["x"]
        condition = batch.get("condition")
        coded = player(networks, "model")(x, keys, condition)
        losses, metrics = losses_of(networks, x, coded, coded.x)
        for name, weight in weights.items():
            if name in coded.penalties:
                losses = losses + weight * coded.penalties[name]
                metrics[name] = coded.penalties[name]
        if "critic" in networks:
            fooled = lambda pictures: -_mean(networks["critic"](pictures, jnp.zeros(x.shape[0]), condition))
            # Only the last kernel varies: the layers before it are those of the forward pass above.
            mine = jax.grad(lambda kernel: jnp.mean(losses_of(networks, x, coded, coded.redo(kernel))[0]))(coded.last)
            theirs = jax.grad(lambda kernel: jnp.mean(fooled(coded.redo(kernel))))(coded.last)
            weight = adaptive_weight(mine, theirs)
            metrics["adversarial"] = fooled(coded.x)
            metrics["adaptive_weight"] = jnp.full(x.shape[0], weight)
            losses += adversarial * jnp.where(step >= start, weight, 0.0) * metrics["adversarial"]
        return losses, {"t": jnp.zeros(x.shape[0]), **metrics}

    return Objective(loss, reads=None, kind="autoencoder", block=None)


def patch_critic(loss: str = "hinge", start: int = 0) -> Objective:
    """The discriminator's loss: to distinguish patches of pictures from patches of reconstructions.

        loss = 1/2 mean max(0, 1 - D(x)) + 1/2 mean max(0, 1 + D(stop y))          "hinge"
        loss = 1/2 mean softplus(-D(x)) + 1/2 mean softplus(D(stop y))            "vanilla"

    Facts:
        loss: see above; 0 before step `start`
        networks: critic, model (the autoencoder)
        optimum: D = 1 where p(x) > p(y), -1 where it is smaller ("hinge"); D = log p(x) - log p(y) ("vanilla")
        paper: Esser, Rombach and Ommer 2021, equation 5 ("vanilla"), and the authors' code ("hinge")

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns; the same as in the autoencoder's objective.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros), "real" and "fake" (mean logits) `[B]`.

    Raises:
        ValueError: for an unknown loss.
    """
    compare = _of(CRITICS, loss, "loss")

    def critic(networks, schedule, keys, batch, step):
        x = batch["x"]
        condition = batch.get("condition")
        y = jax.lax.stop_gradient(player(networks, "model")(x, keys, condition).x)
        judge = lambda pictures: player(networks, "critic")(pictures, jnp.zeros(x.shape[0]), condition)
        real = judge(x)
        fake = judge(y)
        losses = jnp.where(step >= start, compare(real, fake), 0.0)
        return losses, {"t": jnp.zeros(x.shape[0]), "real": _mean(real), "fake": _mean(fake)}

    return Objective(critic, reads=None, trains="critic")
