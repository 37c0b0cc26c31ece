"""The MDCT: the published sum inside a clip, an orthogonal matrix for every length, and windows by their definition."""

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion import sound

WINDOWS = {"sine": sound.sine_window, "kaiser_bessel": sound.kaiser_bessel_derived}


@given(
    st.sampled_from((2, 4, 8, 10, 64)),
    st.integers(1, 9),
    st.sampled_from(sorted(WINDOWS)),
    st.integers(0, 2**31),
    st.sampled_from((np.float32, np.float64)),
)
def test_the_inverse_is_exact_and_lengths_are_kept(bins, blocks, window, seed, dtype):
    x = np.random.default_rng(seed).normal(size=(2, blocks * bins)).astype(dtype)
    shape = WINDOWS[window](bins)
    spectrum = sound.mdct(x, shape)
    assert spectrum.shape == (2, blocks, bins) and spectrum.dtype == dtype
    rounding = 64 * np.finfo(dtype).eps
    np.testing.assert_allclose(sound.imdct(spectrum, shape), x, atol=rounding * np.abs(x).max())
    np.testing.assert_allclose((spectrum**2).sum((-2, -1)), (x**2).sum(-1), rtol=rounding)


@pytest.mark.parametrize("name", WINDOWS)
def test_inside_a_clip_it_is_the_published_sum(name):
    """sqrt(2 / N) sum_n w_n x_n cos(pi / N (n + 1/2 + N/2) (k + 1/2)), by its definition, without folding."""
    bins = 8
    window = WINDOWS[name](bins)
    x = np.random.default_rng(0).normal(size=5 * bins)
    n, k = np.arange(2 * bins), np.arange(bins)[:, None]
    cosines = np.sqrt(2 / bins) * np.cos(np.pi / bins * (n + 0.5 + bins / 2) * (k + 0.5))
    spectrum = sound.mdct(x, window)
    for block in (1, 2, 3):
        frame = x[block * bins - bins // 2 :][: 2 * bins]
        np.testing.assert_allclose(spectrum[block], cosines @ (window * frame), atol=1e-12)


def test_jax_and_its_derivative():
    """Of an orthogonal transform the gradient of |X|^2 / 2 is x."""
    x = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    window = sound.sine_window(8)
    of = lambda x: sound.mdct(x, window)
    np.testing.assert_allclose(jax.jit(of)(x), of(x), atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: (of(x) ** 2).sum() / 2))(x), x, atol=1e-5)


@pytest.mark.parametrize("alpha", [4.0, 1.5])
def test_the_kaiser_bessel_window_is_that_of_the_running_sums(alpha):
    kaiser = np.kaiser(9, alpha * np.pi)
    half = np.sqrt([kaiser[: n + 1].sum() / kaiser.sum() for n in range(8)])
    np.testing.assert_allclose(sound.kaiser_bessel_derived(8, alpha), [*half, *half[::-1]], atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sound.mdct(np.zeros(20), sound.sine_window(8)), "20 samples are not a multiple of 8"),
        (lambda: sound.mdct(np.zeros(0), sound.sine_window(8)), "0 samples"),
        (lambda: sound.imdct(np.zeros((2, 4)), sound.sine_window(8)), r"shape \(2, 4\)"),
        (lambda: sound.mdct(np.zeros(16), np.ones(16)), "the window must"),
        (lambda: sound.mdct(np.zeros(16), sound.sine_window(8) / 2), "the window must"),
        (lambda: sound.mdct(np.zeros(6), np.ones(6)), "N even"),
        (lambda: sound.mdct(np.zeros(8), np.ones(9)), "N even"),
    ],
)
def test_sizes_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_window_with_one_sample_that_has_no_mirror_is_refused():
    """Its squares sum to one at every sample, and all others are symmetric."""
    angles = np.pi / 8 * (np.arange(4) + 0.5)
    angles[0] += 0.1
    window = np.concatenate([np.sin(angles), np.cos(angles)])
    with pytest.raises(ValueError, match="the window must"):
        sound.mdct(np.zeros(8, np.float32), window)
