"""What the examples of a run are called, where a line counts them."""

__all__ = ["unit"]

from diffusion.objectives import Restores
from diffusion.recipe.recipe import Recipe


def unit(recipe: Recipe, of_samples: bool = False) -> str:
    """The plural noun for a run's examples: "images", "sequences" of symbols, ..., or "examples" for all else.

    Args:
        recipe: the recipe, for a shape of examples.
        of_samples: whether its samples are meant, which an autoencoder decodes where the run is on latents.
    """
    if recipe.on_latents and recipe.companions.autoencoder is None and not of_samples:
        return "latents"
    if isinstance(recipe.objective.reads, Restores):
        return "sequences"
    if recipe.examples.structure is not None or recipe.examples.shape is None:
        return "examples"
    if recipe.makes_pictures:
        return "images"
    if len(recipe.examples.shape) == 1:
        return "vectors"
    return "clips" if len(recipe.examples.shape) == 4 and recipe.makes_bytes else "examples"
