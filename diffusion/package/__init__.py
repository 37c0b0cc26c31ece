"""The package itself: the public names of its modules, its commands, and another package of its name."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.package import commands as commands, namesake as namesake, public as public

public.declare(__name__)
