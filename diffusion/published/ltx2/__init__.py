"""LTX-2: networks of clips with their sound, names of weights, pipeline."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.ltx2 import (
        autoencoder_table as autoencoder_table,
        connectors as connectors,
        connectors_table as connectors_table,
        guidance as guidance,
        network as network,
        pipeline as pipeline,
        sound_autoencoder as sound_autoencoder,
        sound_autoencoder_table as sound_autoencoder_table,
        table as table,
        vocoder as vocoder,
        vocoder_table as vocoder_table,
    )
    from diffusion.published.ltx2.connectors import LTX2Connectors as LTX2Connectors
    from diffusion.published.ltx2.network import LTX2 as LTX2
    from diffusion.published.ltx2.sound_autoencoder import LTX2SoundAutoencoder as LTX2SoundAutoencoder
    from diffusion.published.ltx2.vocoder import LTX2Vocoder as LTX2Vocoder, LTX2WideVocoder as LTX2WideVocoder

public.declare(__name__)
