"""FLUX.1 Redux by the names of its repository, which diffusers' ReduxImageEncoder has too."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import Family, Fields
from diffusion.models.interchange.rows import Row, linear
from diffusion.published.flux.redux import Redux

NAME = "ReduxImageEncoder"


def table(module: Redux) -> list[Row]:
    """All rows of a network."""
    return linear("redux_up", "up") + linear("redux_down", "down")


def build(config: Mapping[str, Any]) -> Redux:
    """Our module for a config.json of ReduxImageEncoder."""
    fields = Fields(NAME, config)
    module = Redux(fields.take("redux_dim", 1152), fields.take("txt_in_features", 4096))
    fields.end()
    return module


def describe(module: Redux) -> dict[str, Any]:
    """Their config.json for our module."""
    return {"redux_dim": module.features, "txt_in_features": module.text_width}


def example(module: Redux) -> tuple:
    """Arguments of a small call."""
    return (jax.ShapeDtypeStruct((1, 2, module.features), jnp.float32),)


FAMILY = Family(
    NAME, Redux, build, describe, example, {"diffusers": table}, published={"FLUX.1-Redux-dev": describe(Redux())}
)
FAMILIES = {FAMILY.name: FAMILY}
