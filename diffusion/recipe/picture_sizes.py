"""The sizes of a run's pictures, as set by its config, and whether a network supports them."""

import math
from collections.abc import Mapping
from typing import Any

from diffusion.arrays import pytrees
from diffusion.data import buckets
from diffusion.models import facts
from diffusion.recipe import names
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.values import plain

MOST_MULTIPLES = 128  # largest side of a bucket, in multiples


def sizes(config: Mapping) -> tuple[buckets.Size, ...]:
    """The heights and widths of `config.data.buckets`, from the highest to the widest; none where it is off.

    Raises:
        ConfigError: if no size fits.
    """
    settings = plain(config["data"]["buckets"])
    area = settings["area"]
    multiple = settings["multiple"]
    if not area:
        return ()
    if area * settings["widest"] > (MOST_MULTIPLES * multiple) ** 2:
        raise ConfigError(
            f"config.data.buckets = {settings!r} has too many sizes, and each needs a compiled step. Valid: a larger "
            f"multiple, so that no side is more than {MOST_MULTIPLES} times the multiple."
        )
    least, most = (math.sqrt(area * ratio) for ratio in (1 / settings["widest"], settings["widest"]))
    try:
        return buckets.within(area, multiple, math.ceil(least), math.floor(most))
    except ValueError as error:
        raise ConfigError(
            f"config.data.buckets = {settings!r}: {error}. Valid: e.g. an area of {(4 * multiple) ** 2}."
        ) from error


def varied(settings: Mapping) -> tuple[int, int] | tuple[()]:
    """(H, W) of the samples where the pictures of `config.data` have several sizes; () where all have one."""
    if not settings["buckets"]["area"]:
        return ()
    height, width = settings["shape"][:2]
    return height, width


def check_shape(config: Mapping, shape: Any) -> None:
    """Refuses a patch that does not divide the sides of the data, and a U-Net that halves them too often.

    Raises:
        ConfigError: naming the field and the shape of the data.
    """
    if not pytrees.is_shape(tuple(shape)):
        return
    network = names.MODELS.get(config["model"]["name"])
    patch = config["model"].get("patch", 1)
    sides = shape[1:-1] if facts.takes_frames(network) else shape[:-1]
    if isinstance(patch, int) and any(side % patch for side in sides):
        valid = [p for p in range(1, min(sides) + 1) if all(side % p == 0 for side in sides)]
        raise ConfigError(
            f"config.model.patch = {patch} does not divide the sides of data of shape {shape}. Valid: "
            f"{', '.join(map(str, valid))}."
        )
    widths = config["model"].get(facts.halved_by(network))
    halvings = len(widths) - 1 if isinstance(widths, (list, tuple)) else 0  # the call refuses widths of another type
    if any(side % 2**halvings for side in sides):
        raise ConfigError(
            f"config.model.widths has {halvings + 1} levels, but data of shape {shape} cannot be halved {halvings} "
            "times. Valid: fewer levels."
        )
