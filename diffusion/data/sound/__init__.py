"""Sound as arrays: lapped transforms with an exact inverse, spectrograms, instruments, and how a clip is an example.

A clip is a waveform `[L]` in [-1, 1] at a sample rate in Hz. Functions take waveforms `[..., L]`, as arrays of NumPy on
the host or of JAX.
"""

from typing import TYPE_CHECKING

from diffusion.data.sound.forms import (
    Form as Form,
    Sound as Sound,
    harmonics_and_rest as harmonics_and_rest,
    lapped_spectrum as lapped_spectrum,
    samples as samples,
)
from diffusion.data.sound.harmonics import (
    harmonic_amplitudes as harmonic_amplitudes,
    harmonic_sum as harmonic_sum,
    harmonics_apart as harmonics_apart,
)
from diffusion.data.sound.mdct import (
    imdct as imdct,
    kaiser_bessel_derived as kaiser_bessel_derived,
    mdct as mdct,
    sine_window as sine_window,
)
from diffusion.data.sound.pitch import cents as cents, harmonic_share as harmonic_share, yin as yin
from diffusion.data.sound.shaping import envelope as envelope, flattened as flattened, shaped as shaped
from diffusion.data.sound.spectrograms import (
    between_bands as between_bands,
    griffin_lim as griffin_lim,
    istft as istft,
    log_mel as log_mel,
    mel_corners as mel_corners,
    mel_filters as mel_filters,
    stft as stft,
)
from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.data.sound import instruments as instruments

public.declare(__name__)
