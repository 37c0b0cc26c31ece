"""The latents of LTX-2's sound: how many a clip has, and their waveform by an autoencoder and a vocoder.

The modules and parameters are those of a model by the names of their folders, see `pipeline_kinds.Sound`.
"""

from collections.abc import Mapping
from typing import Any

from jax import Array

from diffusion.published.ltx2.network import SOUND_CELL, SPECTRA


def shape(modules: Mapping[str, Any], frames: int, rate: float) -> tuple[int, int]:
    """The shape (L, C) of the latents of a clip: one for each 40 ms, at least one.

    Args:
        modules: the modules.
        frames: number of frames of the clip.
        rate: frames a second.
    """
    return max(round(frames / rate * SPECTRA / SOUND_CELL), 1), modules["transformer"].sound_channels


def waveforms(modules: Mapping[str, Any], params: Mapping[str, Any], z: Array) -> Array:
    """The waveforms [B, L', 2] in [-1, 1] of the denoiser's latents [B, L, C]."""
    apply = lambda part, x, **how: modules[part].apply({"params": params[part]}, x, **how)
    return apply("vocoder", apply("audio_vae", modules["audio_vae"].latents(z), method="decode"))


def sample_rate(modules: Mapping[str, Any]) -> int:
    """Samples of a waveform in a second."""
    return modules["vocoder"].sample_rate
