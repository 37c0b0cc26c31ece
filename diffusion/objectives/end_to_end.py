"""End-to-end training of an autoencoder with a diffusion model on its latents (REPA-E).

    objective = end_to_end(added(flow_matching(density), alignment(layer=8)), autoencoder)

The batch's "x" are pictures. The autoencoder is a head of the objective: its parameters, and the running statistics
that normalise its latents, are stored with the model's parameters. networks["autoencoder"](x, keys) returns `Tuned`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import is_number, traced
from diffusion.objectives import autoencoding
from diffusion.objectives.autoencoder_terms import PIXELS, Coded, choice, example_means, picture_error
from diffusion.objectives.conditioning import drop_condition
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player, with_fixed_parameters
from diffusion.objectives.inputs import conditioned, split
from diffusion.objectives.objective import Objective, Second, check_objective
from diffusion.objectives.objective_facts import Head

NAME = "autoencoder"  # name of the head, and of its statistics among the metrics
SHARES = ("pictures of an autoencoder that trains with a model",)  # the setting shared with the critic


class Latents(NamedTuple):
    """An autoencoder as pure functions.

    Attributes:
        init: key -> parameters.
        apply: (parameters, pictures `[B, H, W, C]`, keys `[B]`) -> `Coded`, with its latents drawn by the keys.
        mean: `[D]` initial running mean of the latents.
        variance: `[D]` initial running variance of the latents.
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
    """The model's latents, normalised for each channel: (z - mean) / sqrt(variance + epsilon)."""
    return (z - mean) * jax.lax.rsqrt(variance + epsilon)


def restored(x: Array, mean: Array, variance: Array) -> Array:
    """The autoencoder's latents: mean + sqrt(variance) x, without epsilon, as in the authors' code."""
    return mean + jnp.sqrt(variance) * x


def followed(mean: Array, variance: Array, z: Array, momentum: float = 0.1) -> tuple[Array, Array]:
    """Running statistics after a step: (1 - momentum) times the old ones plus momentum times the batch's.

    Args:
        mean: `[D]` running mean.
        variance: `[D]` running variance.
        z: latents `[B, ..., D]` of the whole batch, which contribute their mean and unbiased variance.
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
    """An objective on latents with alignment terms, plus the training of the autoencoder that encodes the latents.

        z ~ q(z | x),    y = D(z)
        model:         objective(batch norm(stop z)), which has its own terms
        autoencoder:   mean |x - y| + perceptual P(x, y) + kl KL(q || N(0, 1)) + adversarial mean -C(y)
                       + alignment terms(running norm(z)), through the model and its projectors as they are

    Only terms that read the frozen encoder train the autoencoder; others, such as `early_prediction`, train only the
    model.

    The diffusion loss has no gradient for the autoencoder, and the terms in the autoencoder's loss have a gradient for
    nothing else. Both parts use the same z, times and noise. The batch norm has no scale parameter. It uses the
    statistics of the batch, or of one device's part of it (`pmap`) or of a micro-batch; the running statistics follow
    the whole batch.

    Facts:
        loss: the objective's on normalised latents, plus |x - y| + P + KL + adversarial -C(y) + alignment terms
        networks: model and encoder, as the terms need them; autoencoder (a head); features and critic (optional)
        optimum: the objective's, on the latents of the jointly trained autoencoder
        paper: Leng et al. 2025, "REPA-E: Unlocking VAE for End-to-End Tuning with Latent Diffusion Transformers"; the
            values are taken from the authors' code

    Args:
        objective: the model's objective, with at least one term that reads the encoder (`added`). These terms, without
            their weights, also align the autoencoder.
        autoencoder: the autoencoder's functions and initial running statistics.
        alignment: weight of the terms in the autoencoder's loss, > 0. In the model's loss each term has its own weight,
            0.5 in the paper.
        pixels: "l1" (the authors' code), or "l2".
        perceptual: weight of the perceptual distance, used if there is a network "features".
        kl: weight of the KL, which is summed over a latent.
        adversarial: fixed weight of the adversarial term, used if there is a network "critic".
        start: step from which the adversarial term counts.
        momentum: momentum of the running statistics, in (0, 1].
        epsilon: constant added to the variance in both norms.
        condition_dropout: share of the examples for which the model receives the null condition; the autoencoder's
            terms always have the condition, as in the authors' code.
        null: the null condition, see `objectives.with_condition_dropout`.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: the objective's, and "autoencoder_term",
        "reconstruction", "perceptual", "kl" and "adversarial", each `[B]`.

    Raises:
        ValueError: if the objective has no term that reads the encoder, or has a teacher, a second player or an
            augmentation, or if a value is out of range.
    """
    check_objective(objective)
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
        if not is_number(condition_dropout, 0):
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
    """The discriminator's loss for `end_to_end`: `patch_critic` on the reconstructions of the head "autoencoder".

    Facts:
        loss: as `patch_critic`
        networks: critic, autoencoder (a head of the model)
        optimum: as `patch_critic`
        paper: Leng et al. 2025, "REPA-E: Unlocking VAE for End-to-End Tuning with Latent Diffusion Transformers"

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns.

    Returns:
        An objective, as by `patch_critic`.

    Raises:
        ValueError: if loss is unknown.
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
    if not traced(momentum) and not 0 < momentum <= 1:
        raise ValueError(f"end_to_end: momentum = {momentum} must be in (0, 1]; 0.1 in the paper")
    if not traced(condition_dropout) and not 0 <= condition_dropout < 1:
        raise ValueError(f"end_to_end: condition_dropout = {condition_dropout} must be in [0, 1); 0.1 is usual")


def _check_weights(alignment: float, weights: dict[str, float]) -> None:
    if not traced(alignment) and not alignment > 0:
        raise ValueError(f"end_to_end: alignment = {alignment} must be positive; 1.5 in the paper")
    for name, value in weights.items():
        if not traced(value) and not value >= 0:
            raise ValueError(f"end_to_end: {name} = {value} must not be negative")
