"""Examples along frequency: what a tone is there, and what it is a bin higher."""

import numpy as np
import pytest

from diffusion import sound

BINS, BLOCKS = 64, 6


def of_tone(form, kappa):
    """The covariance of the coefficients about a tone of kappa bins and random phase, without the clip's ends."""
    turns = np.pi * kappa / BINS * np.arange(BINS * BLOCKS)
    x = np.stack([form.example(np.cos(turns + phase)) for phase in (0, np.pi / 2)])
    about = x[:, int(kappa) - 5 : int(kappa) + 7, 1:-1].reshape(2, -1)
    return about.T @ about / 2


@pytest.mark.parametrize("kappa", [20.3, 31.0, 40.75])
def test_pitch_is_a_shift_where_signs_alternate(kappa):
    form = sound.lapped_spectrum(BINS, power=1.0, along="frequency", alternating=True)
    here, higher = of_tone(form, kappa), of_tone(form, kappa + 1)
    np.testing.assert_allclose(higher, here, atol=2e-3 * np.abs(here).max())
    plain = sound.lapped_spectrum(BINS, power=1.0, along="frequency")
    here, higher = of_tone(plain, kappa), of_tone(plain, kappa + 1)
    assert np.linalg.norm(higher - here) > np.linalg.norm(here)  # half of the products have the other sign


def test_the_shortest_clip_is_one_sample_at_one_hertz():
    of = sound.Sound(1, 1, sound.samples())
    of.check()
    for wrong in ({"length": 0}, {"sample_rate": 0}, {"mels": -1}):
        with pytest.raises(ValueError, match="must be at least 1"):
            of._replace(**wrong).check()
