"""LTX-2: networks of clips with their sound, names of weights."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.ltx2 import (
        connectors as connectors,
        connectors_table as connectors_table,
        network as network,
        table as table,
    )
    from diffusion.published.ltx2.connectors import LTX2Connectors as LTX2Connectors
    from diffusion.published.ltx2.network import LTX2 as LTX2

public.declare(__name__)
