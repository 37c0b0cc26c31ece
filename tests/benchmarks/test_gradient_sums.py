"""Sums in bfloat16: what rounds to nothing, what is exact, and the error of noise by theory."""

import numpy as np
import pytest

from benchmarks import gradient_sums


def test_what_is_too_small_for_a_partial_sum_is_lost_and_sums_of_few_bits_are_exact():
    small = np.full((63, 1), 2.0**-9, np.float32)  # a quarter of the step between numbers after 1
    parts = np.concatenate([np.ones((1, 1), np.float32), small])
    assert gradient_sums.ring(parts) == 1.0
    assert gradient_sums.once(parts) == 1 + 63 * 2.0**-9
    whole = np.arange(64, dtype=np.float32)[:, None] % 4  # all partial sums are at most 96, which 7 bits hold
    assert gradient_sums.ring(whole) == gradient_sums.torus(whole) == whole.sum()
    with pytest.raises(ValueError, match="Valid: a cube"):
        gradient_sums.torus(whole[:60])


def test_the_error_of_noise_is_that_of_the_theory():
    noise = np.random.default_rng(1).standard_normal((64, 20_000), np.float32)
    found, along = gradient_sums.error(gradient_sums.ring(noise), noise)
    assert found == pytest.approx(gradient_sums.ROUNDING * (67 / 2) ** 0.5, rel=0.05)
    assert abs(along) < 5e-4
    # Three sides of 4: 3 sums of up to 4, 8 ... 16 parts; squares of their errors, each of the part it belongs to.
    sides = sum(k / 64 for side in (1, 4, 16) for k in (2 * side, 3 * side, 4 * side) for _ in range(16 // side))
    found, _ = gradient_sums.error(gradient_sums.torus(noise), noise)
    assert found == pytest.approx(gradient_sums.ROUNDING * (1 + sides) ** 0.5, rel=0.15)
