"""Sound as arrays: lapped transforms with an exact inverse, spectrograms, instruments, and how a clip is an example.

A clip is a waveform `[L]` in [-1, 1] at a sample rate in Hz. Functions take waveforms `[..., L]`, as arrays of NumPy on
the host or of JAX.
"""

from typing import TYPE_CHECKING

from diffusion import public
from diffusion.sound.forms import Form, Sound, lapped_spectrum, samples
from diffusion.sound.mdct import imdct, kaiser_bessel_derived, mdct, sine_window
from diffusion.sound.shaping import envelope, flattened, shaped
from diffusion.sound.spectrograms import between_bands, griffin_lim, istft, log_mel, mel_corners, mel_filters, stft

if TYPE_CHECKING:
    from diffusion.sound import instruments

__all__ = [
    "Form",
    "Sound",
    "between_bands",
    "envelope",
    "flattened",
    "griffin_lim",
    "imdct",
    "instruments",
    "istft",
    "kaiser_bessel_derived",
    "lapped_spectrum",
    "log_mel",
    "mdct",
    "mel_corners",
    "mel_filters",
    "samples",
    "shaped",
    "sine_window",
    "stft",
]

public.declare(__name__)
