"""PSNR and SSIM against closed forms and a definition written out window by window."""

import jax
import numpy as np
import pytest

from diffusion.metrics.reconstruction_error import psnr, ssim

SSIM = jax.jit(ssim)
PSNR = jax.jit(psnr)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written_out(x, y, window=11):
    """Wang et al. 2004, equations 13 to 16, one window at a time, in float64."""
    place = np.arange(window) - window // 2
    weights = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1 = (0.01 * 255) ** 2
    c2 = (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - window + 1):
        for j in range(x.shape[1] - window + 1):
            for c in range(x.shape[2]):
                a, b = (z[i : i + window, j : j + window, c].astype(np.float64) for z in (x, y))
                ma = (weights * a).sum()
                mb = (weights * b).sum()
                va = (weights * (a - ma) ** 2).sum()
                vb = (weights * (b - mb) ** 2).sum()
                cov = (weights * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


def test_psnr_is_its_definition():
    x = drawn(3, 5, 4, 3)
    y = drawn(3, 5, 4, 3, seed=1)
    error = np.square(x.astype(float) - y).mean((1, 2, 3))
    np.testing.assert_allclose(PSNR(x, y), 10 * np.log10(255**2 / error), rtol=1e-6)
    off = np.full_like(x, 7)
    np.testing.assert_allclose(PSNR(off, off + 5), 20 * np.log10(255 / 5), rtol=1e-6)
    assert np.isinf(PSNR(x, x)).all()


def test_ssim_is_its_definition():
    """The third picture is dark: beside its means the constant counts that is there for them."""
    x = drawn(3, 14, 13, 3)
    x[2] //= 64
    noise = np.random.default_rng(1).normal(scale=[[[[20]]], [[[90]]], [[[2]]]], size=x.shape)
    y = np.clip(x + noise, 0, 255).astype(np.uint8)
    found = SSIM(x, y)
    np.testing.assert_allclose(found, [written_out(a, b) for a, b in zip(x, y)], rtol=2e-5)
    assert 0.2 < found[1] < found[0] < 0.98
    np.testing.assert_allclose(SSIM(y, x), found, rtol=1e-6)
    np.testing.assert_allclose(SSIM(x, x), 1, rtol=1e-6)


def test_a_smaller_window_fits_smaller_pictures():
    x, y = drawn(2, 8, 8, 1), drawn(2, 8, 8, 1, seed=1)
    np.testing.assert_allclose(ssim(x, y, 7), [written_out(a, b, 7) for a, b in zip(x, y)], rtol=2e-4)
    with pytest.raises(ValueError, match="window = 6 must be odd"):
        ssim(x, y, 6)


@pytest.mark.slow
def test_ssim_of_constants_and_of_opposites():
    a, b = (np.full((1, 12, 12, 1), value, np.uint8) for value in (50, 200))
    c1 = (0.01 * 255) ** 2
    assert float(SSIM(a, b)[0]) == pytest.approx((2 * 50 * 200 + c1) / (50**2 + 200**2 + c1), rel=1e-5)
    # Structure turned into its opposite about the same mean: correlation -1.
    sign = np.where(np.indices((31, 31)).sum(0) % 2, 1, -1)
    x, y = (np.uint8(128 + s * 40 * sign)[None, :, :, None] for s in (1, -1))
    assert float(SSIM(x, y)[0]) == pytest.approx(written_out(x[0], y[0]), rel=1e-4)
    assert float(SSIM(x, y)[0]) < -0.9


def test_what_cannot_be_compared_is_refused():
    x = drawn(2, 12, 12, 3)
    with pytest.raises(ValueError, match="must have one shape"):
        psnr(x, x[:1])
    with pytest.raises(ValueError, match=r"bytes\. Valid: uint8 in 0"):
        ssim(x, x.astype(np.float32))
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 10 x 12"):
        ssim(x[:, :10], x[:, :10])
