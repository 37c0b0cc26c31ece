"""What the forms of sound are where nothing is said: weights of every version read their clips by the same numbers."""

import inspect
import math

import numpy as np
import pytest

from diffusion import sound
from diffusion.data.sound import forms, harmonics, instruments, pitch, shaping, spectrograms
from diffusion.data.sound.mdct import kaiser_bessel_derived

SPECTRUM = {"bins": 64, "window": "sine", "power": 0.5, "gain": 2.0, "along": "time", "alternating": False}
DEFAULTS = [
    (sound.samples, {"fold": 1, "gain": 2.0}),
    (sound.lapped_spectrum, SPECTRUM),
    (sound.harmonics_and_rest, {"harmonics": 72, "hop": 512, "gains": (2.0, 5.0), "power": 0.5}),
    (sound.Sound, {"mels": 0, "window": 256, "hop": 64, "shaped": False}),
    (sound.Form, {"by_frequency": False, "pitched": False, "rows": 0}),
    (kaiser_bessel_derived, {"alpha": 4.0}),  # of AAC's long blocks, ISO/IEC 13818-7
    (pitch.yin, {"lowest": 70.0, "highest": 1200.0}),
    (pitch.harmonic_share, {"within": 20.0}),
    (spectrograms.griffin_lim, {"steps": 60, "seed": 0}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_numbers_that_made_sounds_and_their_levels_rely_on():
    assert pitch.THRESHOLD == 0.1  # de Cheveigne and Kawahara 2002, step 4
    assert (pitch.SILENT, forms.CONCERT_PITCH, forms.LONGEST) == (40.0, 440.0, 2**26)
    assert (instruments.LOWEST, instruments.OCTAVES, harmonics.HIGHEST) == (110.0, 3.0, 0.48)
    assert (shaping.LEAST, shaping.NARROW, spectrograms.LEAST) == (1e-4, 2.0, 1e-5)


def test_the_condition_of_a_pitch_is_in_octaves_above_concert_pitch():
    of = sound.Sound(8000, 512, sound.harmonics_and_rest())
    condition = of.pitch_condition(np.array([110.0, 440.0, 440 * math.sqrt(2)]))
    np.testing.assert_allclose(condition["vector"], [[-2], [0], [0.5]], atol=1e-6)
    assert condition["vector"].dtype == np.float32
