"""Objectives for training autoencoders: reconstruction, KL or codebook, perceptual distance, and a patch discriminator.

Two players, for `training.alternating`:

    players = {"autoencoder": Player(kl_autoencoder(), "model", adam), "critic": Player(patch_critic(), "critic", adam)}

networks["model"](x, keys, condition) returns `Coded`; the keys, one for each example, draw from the posterior; they
take the place of a denoiser's clock (`diffusion.training.coding` builds such networks). networks["critic"](x, clock,
condition) returns logits `[B, h, w, 1]`, one for each patch. networks["features"], which is optional, returns a
sequence of features `[B, h, w, C]` of a frozen network, or `Perceived`. Pictures are in [-1, 1].
"""

__all__ = ["critic_of", "kl_autoencoder", "patch_critic", "reconstruction_objective", "vq_autoencoder"]

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.objectives import vision_foundation
from diffusion.objectives.autoencoder_terms import (
    CRITICS,
    PIXELS,
    Coded,
    adaptive_weight,
    choice,
    example_means,
    picture_error,
)
from diffusion.objectives.equivariance import Equivariance
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective, Second
from diffusion.objectives.objective_facts import Beside, Examples, Trained
from diffusion.objectives.vision_foundation import VisionFoundation
from diffusion.package import public


def kl_autoencoder(
    pixels: str = "l1",
    kl: float = 1e-6,
    perceptual: float = 1.0,
    adversarial: float = 0.5,
    start: int = 50_001,
    channel_weights: Sequence[Array] | None = None,
    aligned: VisionFoundation | None = None,
    equivariance: Equivariance | None = None,
) -> Objective:
    """The loss of latent diffusion's KL autoencoder: a likelihood with learned variance, KL and adversarial terms.

        error = sum over pixels of (|x - y| + perceptual P(x, y)),   N numbers a picture
        loss = error / exp(s) + N s + kl KL(q(z | x) || N(0, 1)) + adversarial lambda mean -D(y)

    where y is the reconstruction from a draw of q, s the learned log-variance, and lambda the `adaptive_weight`. Errors
    and KL are summed over pixels and components, as in the authors' code. The batch (with gradient accumulation, the
    micro-batch) has a single lambda.

    Facts:
        loss: error / exp(s) + N s + kl KL + adversarial lambda mean -D(y); the last term from step `start` on
        networks: model (the autoencoder), features and critic (optional); encoder, with `aligned`
        optimum: none by itself: a game with `patch_critic`
        paper: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1 and
            appendix G

    Args:
        pixels: "l1" (|x - y|) or "l2" ((x - y)^2).
        kl: weight of the KL, >= 0.
        perceptual: weight of the perceptual distance, used if there is a network "features".
        adversarial: factor of the adversarial term besides lambda, used if there is a network "critic".
        start: step from which the adversarial term counts.
        channel_weights: weights for `perceptual_distance`; if None, the weights that the network "features" returns, if
            any.
        aligned: alignment of the latents with a frozen encoder's features (VA-VAE), or None.
        equivariance: transformations of pictures and latents (EQ-VAE), or None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros: there is no time), "reconstruction" (the
        mean pixel error), "perceptual", "kl", "adversarial" and "adaptive_weight", each `[B]`; with `aligned`
        "foundation" and "foundation_weight".

    Raises:
        ValueError: if `pixels` is unknown, `equivariance` is out of range, or `equivariance` and `aligned` are both
            given; when called, if the frozen encoder's features and the latents differ in their number of positions.
    """
    distance = choice(PIXELS, pixels, "pixels")

    def losses_of(networks, x, coded, reconstruction):
        numbers = math.prod(x.shape[1:])
        error, parts = picture_error(networks, distance, perceptual, channel_weights, x, reconstruction)
        return numbers * (error * jnp.exp(-coded.log_variance) + coded.log_variance), parts

    if equivariance is not None:
        equivariance.check()
        if aligned is not None:
            raise ValueError(
                "kl_autoencoder: the alignment compares latents of whole pictures, so it cannot be combined with "
                "equivariance. Valid: no equivariance"
            )
    objective = reconstruction_objective(losses_of, {"kl": kl}, adversarial, start, aligned, equivariance)
    if aligned is None:
        return objective
    return dataclasses.replace(objective, heads=vision_foundation.HEADS, beside=objective.beside._replace(encoder=True))


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
        loss: mean |x - y| + P + |stop z - e|^2 + |z - stop e|^2 + adversarial lambda
            mean -D(y); the last term from step `start` on
        networks: model (the autoencoder), features and critic (optional)
        optimum: none by itself: a game with `patch_critic`
        paper: Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equations 4 to
            7

    Args:
        pixels: "l1" or "l2".
        codebook: weight of the codebook loss; 0 if the codebook is a moving average, or is not learned.
        commitment: weight of the commitment loss.
        perceptual, adversarial, start, channel_weights: weights and first step, as in `kl_autoencoder`.

    Returns:
        An objective, as by `kl_autoencoder`, with "codebook" and "commitment" among the metrics.

    Raises:
        ValueError: if `pixels` is unknown.
    """
    distance = choice(PIXELS, pixels, "pixels")

    def losses_of(networks, x, coded, reconstruction):
        return picture_error(networks, distance, perceptual, channel_weights, x, reconstruction)

    return reconstruction_objective(losses_of, {"codebook": codebook, "commitment": commitment}, adversarial, start)


def _encoding(networks, x, keys, condition, transform=None) -> Coded:
    """An autoencoder's code and reconstructions of pictures."""
    if transform is None:
        return player(networks, "model")(x, keys, condition)
    return player(networks, "model")(x, keys, condition, transform=transform)


def reconstruction_objective(
    losses_of: Callable[..., tuple[Array, dict[str, Array]]],
    weights: Mapping[str, float],
    adversarial: float,
    start: int,
    aligned: VisionFoundation | None = None,
    equivariance: Equivariance | None = None,
    code: Callable[..., Coded] = _encoding,
) -> Objective:
    """The objective of an autoencoder: a loss of its reconstructions, its penalties, and an adversarial term.

        loss = losses_of(x, y) + sum_i weight_i penalty_i + adversarial lambda mean -D(y)

    Args:
        losses_of: (networks, x, coded, reconstructions) -> (losses `[B]`, metrics).
        weights: {name: weight} of the penalties in `Coded.penalties` that enter the loss.
        adversarial: factor of the adversarial term besides lambda, used if there is a network "critic".
        start: step from which the adversarial term counts.
        aligned: the alignment of the latents, as in `kl_autoencoder`.
        equivariance: transformations, as in `kl_autoencoder`.
        code: (networks, x, keys, condition) -> `Coded`; with `equivariance` it takes a transformation too.

    Returns:
        An objective; see `diffusion.objectives.inputs`.
    """

    def compared(networks, x, coded, condition, step):
        """The losses of the reconstructions with respect to the pictures x."""
        losses, metrics = losses_of(networks, x, coded, coded.x)
        for name, weight in weights.items():
            if name in coded.penalties:
                losses = losses + weight * coded.penalties[name]
                metrics[name] = coded.penalties[name]
        if aligned is not None:
            error = lambda pictures: losses_of(networks, x, coded, pictures)[0]
            term, measured = vision_foundation.latent_alignment(networks, aligned, error, x, coded)
            losses += term
            metrics |= measured
        if "critic" in networks:
            fooled = lambda pictures: -example_means(networks["critic"](pictures, jnp.zeros(x.shape[0]), condition))
            # Only the last kernel varies; the forward pass above has evaluated the layers before it.
            mine = jax.grad(lambda kernel: jnp.mean(losses_of(networks, x, coded, coded.redo(kernel))[0]))(coded.last)
            theirs = jax.grad(lambda kernel: jnp.mean(fooled(coded.redo(kernel))))(coded.last)
            weight = adaptive_weight(mine, theirs)
            metrics["adversarial"] = fooled(coded.x)
            metrics["adaptive_weight"] = jnp.full(x.shape[0], weight)
            losses += adversarial * jnp.where(step >= start, weight, 0.0) * metrics["adversarial"]
        return losses, {"t": jnp.zeros(x.shape[0]), **metrics}

    def loss(networks, schedule, keys, batch, step):
        condition = batch.get("condition")
        if equivariance is None:
            coded = code(networks, batch["x"], keys, condition)
            return compared(networks, batch["x"], coded, condition, step)
        step_key, keys = _step_and_examples(keys)
        transformed_loss = lambda x, out, change: compared(
            networks, out, code(networks, x, keys, condition, change), condition, step
        )
        return equivariance.switched(step_key, batch["x"], transformed_loss)

    second = Second("critic", by=patch_critic, optional=True, separate=True)
    shares = ("pictures", equivariance)
    return Objective(
        loss,
        reads=None,
        network=Trained(kind="autoencoder"),
        second=second,
        shares=shares,
        beside=Beside(perceptual=True),
        examples=Examples(block=None),
    )


def _step_and_examples(keys: Array) -> tuple[Array, Array]:
    """(a key for the draws of the whole step, derived from the first example's key; other keys for the examples)."""
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[0, 0], pairs[:, 1]


def patch_critic(loss: str = "hinge", start: int = 0, equivariance: Equivariance | None = None) -> Objective:
    """The discriminator's loss: it distinguishes patches of pictures from patches of reconstructions.

        loss = 1/2 mean max(0, 1 - D(x)) + 1/2 mean max(0, 1 + D(stop y))          "hinge"
        loss = 1/2 mean softplus(-D(x)) + 1/2 mean softplus(D(stop y))            "vanilla"

    Facts:
        loss: hinge or softplus of D(x) and of -D(stop y); 0 before step `start`
        networks: critic, model (the autoencoder)
        optimum: D = 1 where p(x) > p(y), -1 where it is smaller ("hinge"); D = log p(x) - log p(y) ("vanilla")
        paper: Esser, Rombach and Ommer 2021, equation 5 ("vanilla"), and the authors' code ("hinge")

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns; the same as in the autoencoder's objective.
        equivariance: transformations, as in the autoencoder's objective, with separate draws for the critic.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros), "real" and "fake" (mean logits) `[B]`.

    Raises:
        ValueError: if loss is unknown.
    """
    if equivariance is not None:
        equivariance.check()
    return critic_of(loss, start, _encoding, equivariance, ("pictures", equivariance))


def critic_of(
    loss: str, start: int, code: Callable[..., Coded], equivariance: Equivariance | None, shares: tuple
) -> Objective:
    """The objective of a critic that distinguishes real pictures from an autoencoder's reconstructions.

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns.
        code: (networks, x, keys, condition) -> `Coded`; with `equivariance` it takes a transformation too.
        equivariance: transformations of the pictures, or None.
        shares: settings that must equal those of the autoencoder's objective, see `Objective.shares`.
    """
    compare = choice(CRITICS, loss, "loss")

    def critic(networks, schedule, keys, batch, step):
        condition = batch.get("condition")

        def judged(keys, x, out, *change):
            y = jax.lax.stop_gradient(code(networks, x, keys, condition, *change).x)
            judge = lambda pictures: player(networks, "critic")(pictures, jnp.zeros(x.shape[0]), condition)
            real = judge(out)
            fake = judge(y)
            losses = jnp.where(step >= start, compare(real, fake), 0.0)
            return losses, {"t": jnp.zeros(x.shape[0]), "real": example_means(real), "fake": example_means(fake)}

        if equivariance is None:
            return judged(keys, batch["x"], batch["x"])
        step_key, keys = _step_and_examples(keys)
        return equivariance.switched(step_key, batch["x"], functools.partial(judged, keys))

    return Objective(critic, reads=None, network=Trained("critic"), shares=shares)


TERMS = "diffusion.objectives.autoencoder_terms"
MOVED = {
    name: TERMS for name in ("Perceived", "gaussian_kl", "hinge", "perceptual_distance", "vanilla")
} | dict.fromkeys(("rae_critic", "rae_decoder"), "diffusion.objectives.representation_autoencoder")
public.declare(__name__, elsewhere=MOVED)
