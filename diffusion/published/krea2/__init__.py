"""Krea 2: network, names of weights, pipeline."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.krea2 import network as network, pipeline as pipeline, table as table
    from diffusion.published.krea2.network import Krea2 as Krea2

public.declare(__name__)
