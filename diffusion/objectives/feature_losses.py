"""Added terms on a network's features, from the same forward pass as the objective that they are added to.

A term is a function (features, networks, batch) -> `[B]`. The network "model" returns (output, features); the objective
reads the output, and the term the features.
"""

__all__ = ["Term", "added", "alignment", "dispersive"]

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arguments import require_shape
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import in_blocks
from diffusion.objectives.objective import Batch, Objective
from diffusion.parameterizations import Network

Term = Callable[[Any, Mapping[str, Network], Batch], Array]
"""(features, networks, batch) -> losses `[B]`."""


def added(objective: Objective, term: Term, weight: float) -> Objective:
    """An objective plus weight times a term on the features of the network "model".

        loss = objective + weight term(features),    (output, features) = model(x_t, clock, condition)

    Facts:
        loss: that of the objective plus weight times the term
        networks: those of both; model returns (output, features)
        optimum: the objective's where the term does not bind the output
        paper: Yu et al. 2025, for `alignment`; Wang and He 2025, for `dispersive`

    Args:
        objective: one that evaluates the network once, outside of any derivative: `denoising`, `flow_matching` ...
        term: (features, networks, batch) -> `[B]`.
        weight: of the term.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: the objective's, and "term" `[B]`.

    Raises:
        ValueError: when called, if the network does not return (output, features), or is called more than once.
    """

    @entry(entries=None)
    def total(networks, schedule, keys, batch, step):
        seen = []

        def model(*inputs):
            returned = player(networks, "model")(*inputs)
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise ValueError(
                    'added: the network "model" must return (output, features) for a term on its '
                    f"features; it returned {type(returned).__name__}"
                )
            seen.append(returned[1])
            return returned[0]

        losses, metrics = objective({**networks, "model": model}, schedule, keys, batch, step)
        if len(seen) != 1:
            raise ValueError(
                f'added: the objective called the network "model" {len(seen)} times; a term on features needs an '
                "objective that calls it once"
            )
        extra = term(seen[0], networks, batch)
        require_shape(extra, losses.shape, "added: the losses of the term, one an example,")
        return losses + weight * extra, {**metrics, "term": extra}

    return dataclasses.replace(objective, loss=total)


def alignment() -> Term:
    """Representation alignment (REPA): minus the cosine between projected features and those of a frozen encoder.

        term = -mean over tokens of cos(features, y),    y = features network(x_0) of the clean data

    Facts:
        loss: -cos(features, y), averaged over tokens
        networks: model, which returns (output, projected features); features, the encoder
        optimum: features along E[y / |y| | x_t, condition]
        paper: Yu et al. 2025, "Representation Alignment for Generation: Training Diffusion Transformers Is Easier Than
            You Think" (weight 0.5)

    Returns:
        (features `[B, ..., D]`, networks, batch) -> `[B]`. The encoder networks["features"] is called with the clean
        data, clock 0 and the condition, and returns `[B, ..., D]`; no gradient goes to it.

    Raises:
        ValueError: when called, if there is no encoder, or its features have another shape.
    """

    def term(features, networks, batch):
        if "features" not in networks:
            raise ValueError(f'alignment needs a network "features", the encoder; there are {sorted(networks)}')
        x_0 = batch["x"]
        y = jax.lax.stop_gradient(networks["features"](x_0, jnp.zeros(x_0.shape[0]), batch.get("condition")))
        if y.shape != features.shape:
            raise ValueError(
                f"alignment: the encoder's features have shape {y.shape}, the network's {features.shape}; "
                "project the network's, and take tokens of the same grid"
            )
        cosine = jnp.sum(_unit(features) * _unit(y), axis=-1)
        return -jnp.mean(cosine, axis=tuple(range(1, cosine.ndim)))

    return term


def dispersive(block: int, temperature: float = 1.0) -> Term:
    """The dispersive loss (InfoNCE with squared distances): features repel each other within a block of the batch.

        term = log mean_{i, j} exp(-|h_i - h_j|^2 / (D temperature)),    i, j in the block, with i = j

    D is the number of entries of h, by which the authors' code divides.

    Facts:
        loss: log mean exp(-|h_i - h_j|^2 / (D temperature))
        networks: model, which returns (output, features)
        optimum: features as far apart as the other losses let them be
        paper: Wang and He 2025, "Diffuse and Disperse: Image Generation with Representation Regularization",
            InfoNCE with L2 distances, as in the authors' code, whose temperature is 1

    Args:
        block: number of consecutive examples that repel each other, >= 2; it divides the batch.
        temperature: > 0.

    Returns:
        (features `[B, ...]`, networks, batch) -> `[B]`: each example has the value of its block.

    Raises:
        ValueError: if block or temperature is out of range; when called, if block does not divide the batch.
    """
    if block < 2:
        raise ValueError(f"dispersive: block = {block} must be at least 2 examples that repel each other")
    if not temperature > 0:
        raise ValueError(f"dispersive: temperature = {temperature} must be positive")

    def term(features, networks, batch):
        h = in_blocks(_wide(features).reshape(features.shape[0], -1), block)
        distance = jnp.mean(jnp.square(h[:, :, None] - h[:, None]), axis=-1)
        value = jax.nn.logsumexp(-distance / temperature, axis=(1, 2)) - 2 * jnp.log(block)
        return jnp.repeat(value, block)

    return term


def _wide(features: Array) -> Array:
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def _unit(features: Array) -> Array:
    # Added to the norm's square, so that features of zero have a gradient.
    features = _wide(features)
    return features * jax.lax.rsqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True) + 1e-12)
