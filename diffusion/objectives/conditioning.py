"""Wrappers that read the condition: they drop it for some examples, or take the mask of padding from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays import pytrees
from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import conditioned, split
from diffusion.objectives.objective import Objective, check_objective
from diffusion.schedules import left_broadcast


def drop_condition(keys: Array, condition: Any, null: Any, rate: float, alone: Sequence[str] = ()) -> Any:
    """Replaces each example's condition by the null condition with probability `rate`.

    One random number decides for each example. With `alone`, the examples fall into disjoint groups: a share `rate`
    loses the whole condition, and for each entry in `alone` another share `rate` loses only that entry.

    Args:
        keys: `[B]` random keys, which must not be used elsewhere.
        condition: pytree of arrays `[B, ...]`.
        null: the null condition of one example, see `whole_null`.
        rate: probability that a condition is dropped, in [0, 1].
        alone: names of entries of the condition, which is then a mapping.

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
    """The null condition for every example, with the structure, shapes and dtypes of `condition`; see `whole_null`.

    The entry "real", the mask of padding, is kept, because it describes x and is not a wish for x.
    """
    nulls = whole_null(null, jax.tree.map(jnp.zeros_like, condition))
    if isinstance(condition, Mapping) and "real" in condition:
        nulls = {**nulls, "real": condition["real"]}
    return jax.tree.map(lambda c, n: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), condition, nulls)


def whole_null(null: Any, zeros: Any) -> Any:
    """The null condition, completed with zeros for the entries that it does not name.

    Args:
        null: a pytree with the structure of `zeros`; None for zeros; or, for a condition that is a mapping, some of its
            entries. A single class stands for the entry "label": for a condition {"label", "vector"}, the integer
            num_classes means {"label": num_classes, "vector": zeros}.
        zeros: zeros with the structure and shapes of the condition.

    Raises:
        ValueError: if `null` has an entry that the condition lacks.
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


def null_like(null: Any, zeros: Any) -> Any:
    """The completed null condition as NumPy arrays of the dtypes of `zeros`; arguments as in `whole_null`.

    Raises:
        ValueError: under the conditions of `whole_null`; if an entry has another structure or shape than the condition.
    """
    null = whole_null(null, zeros)
    shapes, valid = (jax.tree.map(np.shape, values) for values in (null, zeros))
    if shapes != valid:
        raise ValueError(f"the null condition has the shapes {shapes}. Valid: those of the data's condition, {valid}")
    return jax.tree.map(lambda leaf, zero: np.asarray(leaf, zero.dtype), null, zeros)


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
        null: the null condition of one example: for class labels, the integer num_classes; None for zeros; for a
            condition that is a mapping, some of its entries, the others being zeros.
        rate: share of examples, in [0, 1); 0.1 is usual.
        alone: entries of the condition that are each dropped alone in a further share `rate` of the examples; rate is
            then at most 1 / (1 + number of entries).

    Raises:
        ValueError: if rate is not in [0, 1), or too large for the number of entries in `alone`.
    """
    check_objective(objective)
    if not traced(rate) and not 0 <= rate < 1:
        raise ValueError(f"condition dropout: rate = {rate} must be in [0, 1); 0.1 is usual")
    if not traced(rate) and rate * (1 + len(alone)) > 1:
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
        objective, loss=dropped, condition=objective.condition._replace(dropout=1 - conditioned_share, null=null)
    )


def with_padding(objective: Objective, shape: Any) -> Objective:
    """The objective without the padding of x; the mask is the condition's entry "real", which also reaches the network.

    Facts:
        loss: the wrapped objective's, a mean over the real values
        networks: the wrapped objective's
        optimum: the wrapped objective's
        paper: none

    Args:
        objective: objective that supports a mask of padding, such as `denoising` or `flow_matching`.
        shape: shape of an example, or the pytree of its leaves' shapes, see `pytrees.mask`.

    Raises:
        ValueError: if the objective does not support a mask; when called, if the condition has no entry "real".
    """
    check_objective(objective)
    objective.check_real()

    @entry(entries=None, real=True)
    def loss(networks, schedule, keys, batch, step):
        real = pytrees.real_of(batch.get("condition"), shape)
        if real is None:
            raise ValueError('with_padding needs the entry "real" of the condition, a mask that is False on padding')
        return objective.loss(networks, schedule, keys, {**batch, "real": real}, step)

    return dataclasses.replace(objective, loss=loss)
