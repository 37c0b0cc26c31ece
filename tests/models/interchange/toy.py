"""A network of two layers and its family, small enough for every fault of a file: what a family has to say, in full."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io import schema
from diffusion.models.interchange.family import Computed, Family, Fields, Refusal
from diffusion.models.interchange.rows import DENSE, VECTOR, Row, linear

INPUTS = 4


class Toy(nn.Module):
    """[B, 4] -> [B, 2, width]: two dense layers side by side."""

    width: int
    trained: bool = True

    @nn.compact
    def __call__(self, x):
        return jnp.stack([nn.Dense(self.width, name=name)(x) for name in ("a", "b")], axis=1)


def build(config):
    fields = Fields("ToyModel", config, without_effect=("dropout",))
    fields.only("act", "linear")
    module = Toy(fields.take("width", None, schema.integer(1)))
    fields.end()
    return module


def describe(module):
    if not module.trained:
        raise Refusal("ToyModel: trained = False cannot be written to it.")
    return {"width": module.width, "act": "linear"}


def by_layer(module):
    """The library's names; it keeps the first bias twice."""
    first, bias = linear("layers.0", "a")
    return [first, bias._replace(copies=("again.bias",)), *linear("layers.1", "b")]


def fused(module):
    """The original names: one tensor for both layers."""
    parts = {"a": (0, module.width), "b": (module.width, 2 * module.width)}
    return [
        Row(f"both.{theirs}", f"{name}/{ours}", layout, rows=rows)
        for name, rows in parts.items()
        for theirs, ours, layout in (("weight", "kernel", DENSE), ("bias", "bias", VECTOR))
    ]


FAMILY = Family(
    "ToyModel",
    Toy,
    build,
    describe,
    lambda module: (jax.ShapeDtypeStruct((1, INPUTS), jnp.float32),),
    {"diffusers": by_layer, "original": fused},
    ignored=(r"steps\..*",),
    computed=lambda module: {
        "table": Computed((module.width,), lambda: np.sin(np.arange(module.width)).astype(np.float32))
    },
    published={"the toy of three": {"width": 3}, "the toy of five": {"width": 5}},
    prefixes=("", "model.toy."),
)


def tensors(width=3, dtype="float32"):
    """What a file of the library holds; each number tells where it is from."""
    number = lambda start, *shape: (start + np.arange(np.prod(shape)).reshape(shape)).astype(dtype)
    return {
        "layers.0.weight": number(100, width, INPUTS),
        "layers.0.bias": number(1, width),
        "again.bias": number(1, width),
        "layers.1.weight": number(200, width, INPUTS),
        "layers.1.bias": number(11, width),
        "table": np.sin(np.arange(width)).astype(dtype),
    }
