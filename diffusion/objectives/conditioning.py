"""Objectives that read the condition: they drop it for some examples, or read there what is padding of an example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays import pytrees
from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import conditioned, split
from diffusion.objectives.objective import Objective
from diffusion.schedules import left_broadcast


def drop_condition(keys: Array, condition: Any, null: Any, rate: float, alone: Sequence[str] = ()) -> Any:
    """Replaces each example's condition by the null condition with probability `rate`.

    One random number decides for each example. With `alone`, different examples lose different parts: a share `rate`
    loses the whole condition, and for each entry of `alone` another share `rate` loses that entry alone.

    Args:
        keys: `[B]` random keys, used for nothing else.
        condition: pytree of arrays `[B, ...]`.
        null: the null condition of one example, see `whole_null`.
        rate: probability that a condition is dropped, in [0, 1].
        alone: names of entries of a condition that is a mapping.

    Returns:
        A condition of the same structure, shapes and dtypes.
    """
    draws = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
    nulls = null_of(condition, null)
    replaced = lambda drop, c, n: jax.tree.map(lambda c, n: jnp.where(left_broadcast(drop, c), n, c), c, n)
    dropped = replaced(draws < rate, condition, nulls)
    for k, name in enumerate(alone, start=1):
        drops = (k * rate <= draws) & (draws < (k + 1) * rate)
        dropped = {**dropped, name: replaced(drops, dropped[name], nulls[name])}
    return dropped


def null_of(condition: Any, null: Any) -> Any:
    """The null condition of one example, see `whole_null`, for every example of `condition`, in its form.

    A mask of padding, the entry "real", stays: it says what x is, not what it is to be.
    """
    nulls = whole_null(null, jax.tree.map(jnp.zeros_like, condition))
    if isinstance(condition, Mapping) and "real" in condition:
        nulls = {**nulls, "real": condition["real"]}
    return jax.tree.map(lambda c, n: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), condition, nulls)


def whole_null(null: Any, zeros: Any) -> Any:
    """The null condition with zeros for all that it does not name.

    Args:
        null: a pytree of the structure of `zeros`; None; or, for a condition that is a mapping, some of its entries. A
            class alone is the entry "label": the integer num_classes, of {"label", "vector"}, is
            {"label": num_classes, "vector": zeros}.
        zeros: zeros in the form of the condition.

    Raises:
        ValueError: for an entry that the condition does not have.
    """
    if null is None:
        return zeros
    if not isinstance(zeros, Mapping):
        return null
    entries = null if isinstance(null, Mapping) else {"label": null}
    if unknown := sorted(set(entries) - set(zeros)):
        raise ValueError(
            f"the null condition has the entries {', '.join(unknown)}, which the condition lacks. Valid: "
            f"{sorted(zeros)}"
        )
    return {**zeros, **entries}


def with_condition_dropout(objective: Objective, null: Any, rate: float, alone: Sequence[str] = ()) -> Objective:
    """An objective that trains on the null condition for a share `rate` of the examples.

    Facts:
        loss: the wrapped objective's
        networks: the wrapped objective's
        optimum: the wrapped objective's, with the condition and without it
        paper: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", algorithm 1; for two conditions: Brooks et
            al. 2023, "InstructPix2Pix: Learning to Follow Image Editing Instructions", section 3.2.1

    Args:
        objective: the objective to wrap.
        null: the null condition of one example; for class labels the integer num_classes; None for zeros in the form of
            the condition; some entries of a condition that is a mapping, whose others are then zeros.
        rate: share of examples, in [0, 1); 0.1 is usual.
        alone: entries of the condition that further shares of this rate lack alone; 1 / (1 + their number) bounds it.

    Raises:
        ValueError: if rate is not in [0, 1), or too large for what is dropped alone.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"condition dropout: rate = {rate} must be in [0, 1); 0.1 is usual")
    if rate * (1 + len(alone)) > 1:
        raise ValueError(
            f"condition dropout: rate = {rate} applies to all conditions together and to each of {', '.join(alone)} "
            f"alone, always in different examples, so the shares add up. Valid: at most {1 / (1 + len(alone)):.3g}"
        )

    @entry(entries=None, real=True)
    def dropped(networks, schedule, keys, batch, step):
        drop_keys, keys = split(keys, 2)
        if batch.get("condition") is None:
            raise ValueError('condition dropout needs a condition, but the batch has no "condition" (labels are one)')
        condition = drop_condition(drop_keys, batch["condition"], null, rate, alone)
        return objective.loss(networks, schedule, keys, conditioned(batch, condition), step)

    conditioned_share = (1 - objective.condition.dropout) * (1 - rate)
    return dataclasses.replace(
        objective, loss=dropped, condition=objective.condition._replace(dropout=1 - conditioned_share)
    )


def with_padding(objective: Objective, shape: Any) -> Objective:
    """The objective on what is real of x, by the entry "real" of the condition, which the network receives too.

    Facts:
        loss: the wrapped objective's, a mean over the real values
        networks: the wrapped objective's
        optimum: the wrapped objective's
        paper: none

    Args:
        objective: objective whose losses heed a mask of padding, such as `denoising` or `flow_matching`.
        shape: shape of an example, or the pytree of its leaves' shapes, see `pytrees.mask`.

    Raises:
        ValueError: if the objective takes no mask; when called, if the condition has no such entry.
    """
    objective.check_real()

    @entry(entries=None, real=True)
    def loss(networks, schedule, keys, batch, step):
        real = pytrees.real_of(batch.get("condition"), shape)
        if real is None:
            raise ValueError('with_padding needs the entry "real" of the condition, the mask of what is not padding')
        return objective.loss(networks, schedule, keys, {**batch, "real": real}, step)

    return dataclasses.replace(objective, loss=loss)
