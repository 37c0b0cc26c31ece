"""The condition of the networks of points, series and sets: times, a class and a vector, as one embedding."""

__all__ = ["ConditionEmbedding", "check_fields"]

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import conditions, network_checks
from diffusion.models.layers.embeddings import LabelEmbedding, TimestepEmbedding


class ConditionEmbedding(nn.Module):
    """silu of the sum of what is learned of each time, of the class and of the vector: [B, width].

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

        c = jnp.zeros((batch, self.width), self.dtype)
        for i, clock in enumerate(clocks):
            name = "timestep_embedding" + (f"_{i + 1}" if i else "")
            c = c + TimestepEmbedding(self.width, self.dtype, name=name)(jnp.broadcast_to(clock, (batch,)))
        if self.num_classes:
            label = LabelEmbedding(self.num_classes, self.width, self.dtype, name="label_embedding")
            c = c + label(inputs["label"])
        if self.vector_width:
            c = c + nn.Dense(self.width, dtype=self.dtype, name="vector_embedding")(inputs["vector"])
        return nn.silu(c)


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
