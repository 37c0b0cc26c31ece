"""Llava: Llama with CLIP's image tower, which sees pictures in a text, and the names of its weights."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.llava import network as network, table as table
    from diffusion.published.llava.network import Llava as Llava

public.declare(__name__)
