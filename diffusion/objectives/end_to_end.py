"""End-to-end training of an autoencoder with a diffusion model on its latents (REPA-E).

    objective = end_to_end(added(flow_matching(density), alignment(layer=8)), autoencoder)

The batch's "x" are pictures. The autoencoder is a head of the objective, so that its parameters stand beside the
model's, with the running statistics by which its latents are normalised: networks["autoencoder"](x, keys) -> `Tuned`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.objectives import autoencoding
from diffusion.objectives.autoencoder_terms import PIXELS, Coded, choice, example_means, picture_error
from diffusion.objectives.conditioning import drop_condition
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player, with_fixed_parameters
from diffusion.objectives.inputs import conditioned, split
from diffusion.objectives.objective import Objective, Second
from diffusion.objectives.objective_facts import Head

NAME = "autoencoder"  # name of the head, and of its statistics among the metrics
SHARES = ("pictures of an autoencoder that trains with a model",)  # what the objective shares with its critic


class Latents(NamedTuple):
    """An autoencoder as pure functions.

    Attributes:
        init: key -> parameters.
        apply: (parameters, pictures `[B, H, W, C]`, keys `[B]`) -> `Coded`, with its latents drawn by the keys.
        mean: `[D]` that the running mean of the latents begins with.
        variance: `[D]` likewise.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array, Array], Coded]
    mean: Array
    variance: Array


class Tuned(NamedTuple):
    """The result of the head "autoencoder".

    Attributes:
        coded: code of the pictures.
        mean: `[D]` running mean of the latents.
        variance: `[D]` running variance.
    """

    coded: Coded
    mean: Array
    variance: Array


def normalised(z: Array, mean: Array, variance: Array, epsilon: float = 1e-4) -> Array:
    """Latents as the model has them: (z - mean) / sqrt(variance + epsilon), for each channel."""
    return (z - mean) * jax.lax.rsqrt(variance + epsilon)


def restored(x: Array, mean: Array, variance: Array) -> Array:
    """Latents as the autoencoder has them: mean + sqrt(variance) x; without epsilon, as in the authors' code."""
    return mean + jnp.sqrt(variance) * x


def followed(mean: Array, variance: Array, z: Array, momentum: float = 0.1) -> tuple[Array, Array]:
    """Running statistics one step later: (1 - momentum) old + momentum batch's.

    Args:
        mean: `[D]` running mean.
        variance: `[D]` running variance.
        z: latents `[B, ..., D]` of the whole batch, whose unbiased variance is taken.
        momentum: share of the batch's statistics, in (0, 1].
    """
    return _followed(mean, variance, _statistics(z, mean), momentum)


def end_to_end(
    objective: Objective,
    autoencoder: Latents,
    alignment: float = 1.5,
    pixels: str = "l1",
    perceptual: float = 1.0,
    kl: float = 1e-6,
    adversarial: float = 0.1,
    start: int = 0,
    momentum: float = 0.1,
    epsilon: float = 1e-4,
    condition_dropout: float = 0.0,
    null: Any = None,
) -> Objective:
    """An objective on latents with terms of alignment, and the training of the autoencoder that makes the latents.

        z ~ q(z | x),    y = D(z)
        model:         objective(batch norm(stop z)), which has its own terms
        autoencoder:   mean |x - y| + perceptual P(x, y) + kl KL(q || N(0, 1)) + adversarial mean -C(y)
                       + alignment terms(running norm(z)), through the model and its projectors as they are

    Only terms that read the encoder count here; others, such as `early_prediction`, reach the model alone.

    The diffusion loss does not reach the autoencoder, and the terms' gradient for it reaches nothing else. Both parts
    have the same z, times and noise. Batch norm has no scale parameter; it takes the statistics of the batch,
    or of the part of a batch that one device (`pmap`) or micro-batch has; the running ones follow the whole batch.

    Facts:
        loss: the objective's on normalised latents, plus |x - y| + P + KL + adversarial -C(y) + alignment terms
        networks: model and encoder, as the terms read them; autoencoder (a head); features and critic (optional)
        optimum: the objective's, on the latents of an autoencoder that the terms have changed
        paper: Leng et al. 2025, "REPA-E: Unlocking VAE for End-to-End Tuning with Latent Diffusion Transformers"; the
            values are taken from the authors' code

    Args:
        objective: the model's objective, with at least one term that reads the encoder (`added`). The values of these
            terms, without their own weights, align the autoencoder.
        autoencoder: the autoencoder's functions and initial running statistics.
        alignment: weight of the terms for the autoencoder, > 0; the model's is the term's own, 0.5 in the paper.
        pixels: "l1" (the authors' code), or "l2".
        perceptual: weight of the distance of features, used where there is a network "features".
        kl: weight of the KL, a sum over a latent.
        adversarial: weight of the adversarial term, used where there is a network "critic"; it does not adapt.
        start: step from which the adversarial term counts.
        momentum: momentum of the running statistics, in (0, 1].
        epsilon: constant added to the variance in both norms.
        condition_dropout: share of the examples that the model is trained on with the null condition; the autoencoder
            is aligned with all conditions, as in the authors' code.
        null: the null condition, see `objectives.with_condition_dropout`.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: the objective's, and "autoencoder_term",
        "reconstruction", "perceptual", "kl" and "adversarial", each `[B]`.

    Raises:
        ValueError: for an objective without a term that reads the encoder, with other players, or that moves its
            examples, and for a value out of range.
    """
    _check(objective, momentum, condition_dropout)
    weights = {"perceptual": perceptual, "kl": kl, "adversarial": adversarial, "start": start, "epsilon": epsilon}
    _check_weights(alignment, weights)
    distance = choice(PIXELS, pixels, "pixels")

    @entry(entries=None)
    def loss(networks, schedule, keys, batch, step):
        x = batch["x"]
        draw_keys, drop_keys, keys = split(keys, 3)
        coded, mean, variance = player(networks, NAME)(x, draw_keys)
        if coded.latents is None:
            raise ValueError("end_to_end: the autoencoder returns no latents. Valid: a Coded with the field `latents`")
        z = coded.latents
        encoded_batch = dict(batch)
        if objective.beside.encoder and "features" not in batch:
            encoded_batch["features"] = jax.lax.stop_gradient(player(networks, "encoder")(x, None, None))
        on = lambda x, batch=encoded_batch: objective.loss(networks, schedule, keys, {**batch, "x": x}, step)

        def aligned(x):
            metrics = on(x)[1]
            return functools.reduce(operator.add, (metrics[name] for name in objective.blocks.aligned))

        term = with_fixed_parameters(aligned, normalised(z, mean, variance, epsilon))
        autoencoder_losses, metrics = _own(networks, x, coded, batch.get("condition"), step)

        still = jax.lax.stop_gradient(z)
        axes = tuple(range(z.ndim - 1))
        whitened = normalised(still, jnp.mean(still, axes), jnp.var(still, axes), epsilon)
        received = encoded_batch
        if condition_dropout:
            received = conditioned(
                encoded_batch, drop_condition(drop_keys, batch["condition"], null, condition_dropout)
            )
        losses, model_metrics = on(whitened, received)
        statistics = {NAME: _statistics(still, mean)}
        metrics |= {"autoencoder_term": term, **model_metrics, **statistics}
        return losses + autoencoder_losses + alignment * term, metrics

    def _own(networks, x, coded, condition, step) -> tuple[Array, dict[str, Any]]:
        """The autoencoder's losses of its reconstructions."""
        losses, metrics = picture_error(networks, distance, perceptual, None, x, coded.x)
        metrics["kl"] = coded.penalties["kl"]
        losses = losses + kl * metrics["kl"]
        if "critic" in networks:
            logits = player(networks, "critic")(coded.x, jnp.zeros(x.shape[0]), condition)
            metrics["adversarial"] = -example_means(logits)
            losses = losses + jnp.where(step >= start, adversarial, 0.0) * metrics["adversarial"]
        return losses, metrics

    conditioned_share = (1 - objective.condition.dropout) * (1 - condition_dropout)
    return dataclasses.replace(
        objective,
        loss=loss,
        heads={**objective.heads, NAME: _head(autoencoder, momentum)},
        condition=objective.condition._replace(dropout=1 - conditioned_share),
        beside=objective.beside._replace(autoencoder=True, perceptual=True),
        examples=objective.examples._replace(block=None),
        second=Second("critic", by=end_to_end_critic, optional=True, separate=True),
        shares=SHARES,
    )


def end_to_end_critic(loss: str = "hinge", start: int = 0) -> Objective:
    """The discriminator's loss beside `end_to_end`: `patch_critic`'s, on the head's reconstructions.

    Facts:
        loss: as `patch_critic`
        networks: critic, autoencoder (a head of the model)
        optimum: as `patch_critic`
        paper: Leng et al. 2025, "REPA-E: Unlocking VAE for End-to-End Tuning with Latent Diffusion Transformers"

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns.

    Returns:
        An objective, as `patch_critic`.

    Raises:
        ValueError: for an unknown loss.
    """
    code = lambda networks, x, keys, condition: player(networks, NAME)(x, keys).coded
    return autoencoding.critic_of(loss, start, code, None, SHARES)


def _head(autoencoder: Latents, momentum: float) -> Head:
    def init(key: Array, *sizes: int) -> Any:
        statistics = {"mean": autoencoder.mean, "var": autoencoder.variance}  # constants to an optimizer
        return {"network": autoencoder.init(key), **statistics}

    def apply(params: Any, x: Array, keys: Array) -> Tuned:
        mean, variance = jax.lax.stop_gradient((params["mean"], params["var"]))
        return Tuned(autoencoder.apply(params["network"], x, keys), mean, variance)

    def follow(params: Any, statistics: Any) -> Any:
        mean, variance = _followed(params["mean"], params["var"], statistics, momentum)
        return {**params, "mean": mean, "var": variance}

    return Head(None, init, apply, follow=follow)


def _statistics(z: Array, mean: Array) -> dict[str, Array]:
    """Each example's mean `[B, D]`, mean square about the running mean `[B, D]` and number of positions `[B]`."""
    axes = tuple(range(1, z.ndim - 1))
    positions = z[0, ..., 0].size
    return {
        "mean": jnp.mean(z, axes),
        "square": jnp.mean(jnp.square(z - mean), axes),
        "positions": jnp.full(z.shape[0], positions, jnp.float32),
    }


def _followed(mean: Array, variance: Array, statistics: dict[str, Array], momentum: float) -> tuple[Array, Array]:
    number = jnp.sum(statistics["positions"])
    batch_mean = jnp.mean(statistics["mean"], 0)
    biased = jnp.mean(statistics["square"], 0) - jnp.square(batch_mean - mean)
    unbiased = jnp.maximum(biased, 0.0) * number / jnp.maximum(number - 1, 1)
    step = lambda old, new: (1 - momentum) * old + momentum * new
    return step(mean, batch_mean), step(variance, unbiased)


def _check(objective: Objective, momentum: float, condition_dropout: float) -> None:
    if not objective.blocks.aligned:
        raise ValueError(
            "end_to_end: the autoencoder is aligned only by a term on features that reads the encoder, and this "
            "objective has none. Valid: added(objective, alignment(...)), or in a config {'name': 'alignment'} before "
            "this wrapper"
        )
    if objective.teacher is not None or objective.second is not None or objective.condition.augmentations:
        raise ValueError(
            "end_to_end: the objective already has a teacher, a second player or an augmentation. Valid: an objective "
            "without them, e.g. flow_matching"
        )
    if not 0 < momentum <= 1:
        raise ValueError(f"end_to_end: momentum = {momentum} must be in (0, 1]; 0.1 in the paper")
    if not 0 <= condition_dropout < 1:
        raise ValueError(f"end_to_end: condition_dropout = {condition_dropout} must be in [0, 1); 0.1 is usual")


def _check_weights(alignment: float, weights: dict[str, float]) -> None:
    if not alignment > 0:
        raise ValueError(f"end_to_end: alignment = {alignment} must be positive; 1.5 in the paper")
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"end_to_end: {name} = {value} must not be negative")
