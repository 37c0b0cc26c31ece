"""Builds the recipe of a config: its entries become the arguments of `Recipe`, which Python users call as well."""

from collections.abc import Mapping

from diffusion.recipe import deprecated_fields
from diffusion.recipe.parts import Resolver
from diffusion.recipe.recipe import Recipe


def recipe(config: Mapping, shape: tuple[int, ...] | None = None) -> Recipe:
    """The recipe that a config describes, for examples of a shape if it is known; `checks.validate` checks it too.

    Raises:
        ConfigError: for a mistake in an entry, with its path.
    """
    config = deprecated_fields.warned(config)
    return Recipe(config=config, **Resolver(config).arguments(shape))
