"""The architectures whose files are read and written, by the name that their library gives them. One line each."""

import flax.linen as nn

from diffusion.models.interchange.family import Family
from diffusion.models.names import look_up

FAMILIES: dict[str, Family] = {family.name: family for family in ()}


def find(name: str) -> Family:
    """The family of that name.

    Raises:
      ValueError: for an unknown name; lists the valid ones and the nearest.
    """
    return look_up(FAMILIES, name, "architecture")


def of(module: nn.Module) -> Family:
    """The family that describes a module.

    Raises:
      ValueError: if none does.
    """
    for family in FAMILIES.values():
        if type(module) is family.module:
            return family
    known = ", ".join(sorted({family.module.__name__ for family in FAMILIES.values()}))
    raise ValueError(f"no family describes a {type(module).__name__}; those that can be written are {known}")
