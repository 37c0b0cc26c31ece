"""The condition of a diffusion transformer and its relatives: times, a class and a vector, as one embedding."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import conditions, network_checks
from diffusion.models.layers.embeddings import LabelEmbedding, TimestepEmbedding


class ConditionEmbedding(nn.Module):
    """silu of the sum of the embeddings of each time, the class and the vector: [B, width].

    Attributes:
        width: number of features.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for a network without classes.
        vector_width: number P of values in the condition's "vector"; 0 for a network that receives none.
        times: number of times that the network receives as its clock.
        dtype: compute type.
    """

    width: int
    num_classes: int
    vector_width: int
    times: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, t: Any, condition: Any) -> jax.Array:
        """Checks the network's inputs and embeds them.

        Args:
            x: the network's examples [B, ...].
            t: its clock, [B] or []; a tuple of `times` such if `times` is more than 1.
            condition: None, labels int [B], vectors float [B, P], or a dict of both, "label" and "vector".

        Raises:
            ValueError: naming the value that does not fit, and what is valid.
        """
        batch = x.shape[0]
        clocks = t if isinstance(t, tuple) else (t,)
        network_checks.own_times(self, x, *clocks)
        inputs = conditions.entries(conditions.named(condition), (), ("label", "vector"))
        conditions.check_label(inputs["label"], batch, self.num_classes)
        conditions.check_vector(inputs["vector"], batch, self.vector_width)

        time, label = time_and_class(self, t, inputs["label"], batch)
        vector = None
        if self.vector_width:
            vector = nn.Dense(self.width, dtype=self.dtype, name="vector_embedding")(inputs["vector"])
        return condition_vector(time, label, vector)


def time_and_class(
    network: Any,
    t: Any,
    label: jax.Array | None,
    batch: int,
    times: Callable[..., Any] = TimestepEmbedding,
    classes: Callable[..., Any] = LabelEmbedding,
) -> tuple[jax.Array, jax.Array | None]:
    """The sum of the embeddings of a network's times, and the embedding of its class, each [B, width].

    Called inside the network's `__call__`, whose layers "timestep_embedding", "timestep_embedding_2", ... and
    "label_embedding" they are.

    Args:
        network: the network, with the fields `width`, `dtype`, and, if it receives classes, `num_classes`.
        t: its clock, [B] or []; or a tuple of several, or of none, for which the first result is zeros.
        label: the class labels int [B]; None without.
        batch: number B of examples.
        times: class of the modules that embed a time, as `TimestepEmbedding`.
        classes: class of the module that embeds the label, as `LabelEmbedding`.
    """
    vectors = []
    for number, clock in enumerate(t if isinstance(t, tuple) else (t,), start=1):
        name = "timestep_embedding" if number == 1 else f"timestep_embedding_{number}"
        vectors.append(times(network.width, network.dtype, name=name)(jnp.broadcast_to(clock, (batch,))))
    time = functools.reduce(operator.add, vectors) if vectors else jnp.zeros((batch, network.width), network.dtype)
    if label is None:
        return time, None
    return time, classes(network.num_classes, network.width, network.dtype, name="label_embedding")(label)


def condition_vector(*vectors: jax.Array | None) -> jax.Array:
    """silu of the sum of vectors [B, width], without those that are None."""
    return nn.silu(functools.reduce(operator.add, [vector for vector in vectors if vector is not None]))


def check_fields(network: Any, positive: tuple[str, ...]) -> None:
    """Refuses fields of such a network that are out of range.

    Args:
        network: module with the fields `num_classes` and `vector_width`.
        positive: the names of the fields that have to be positive.

    Raises:
        ValueError: naming the field.
    """
    network_checks.positive(network, positive)
    for field, what in (("num_classes", "unconditional"), ("vector_width", "no vector")):
        if getattr(network, field) < 0:
            raise ValueError(f"{field}={getattr(network, field)} must be 0 ({what}) or positive")
