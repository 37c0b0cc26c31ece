"""DiffWave: its dilated convolution beside XLA's, its sinusoids by the paper, how far it hears, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.diffwave import DiffWave, DilatedConvolution, ResidualLayer
from tests.drawn_parameters import drawn
from tests.models import backbones


@pytest.mark.parametrize("dilation", (1, 3, 20))
def test_a_dilated_convolution_is_xlas(dilation):
    x = backbones.drawn(2, 12, 3)
    module = DilatedConvolution(5, dilation)
    kernel, bias = backbones.drawn(9, 5), backbones.drawn(5)
    found = module.apply({"params": {"taps": {"kernel": kernel, "bias": bias}}}, x)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel.reshape(3, 3, 5),
        (1,),
        [(dilation, dilation)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    np.testing.assert_allclose(found, expected + bias, atol=1e-5)


def test_a_layer_is_its_equation():
    """sigmoid of the first half of the channels, tanh of the second, in NumPy sample by sample."""
    module = ResidualLayer(2)
    h, time, levels = backbones.drawn(1, 5, 2), backbones.drawn(1, 512), backbones.drawn(1, 5, 3)
    params = drawn(module.init, h, time, levels)["params"]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]
    padded = np.pad(h[0] + dense("time", time[0]), ((2, 2), (0, 0)))
    taps = p["conv"]["taps"]
    out, skip = module.apply({"params": params}, h, time, levels)
    for i in range(5):
        y = padded[i : i + 5 : 2].ravel() @ taps["kernel"] + taps["bias"] + dense("spectrogram", levels[0, i])
        both = dense("out", np.tanh(y[2:]) / (1 + np.exp(-y[:2])))
        np.testing.assert_allclose(out[0, i], (h[0, i] + both[:2]) / np.sqrt(2), atol=1e-5)
        np.testing.assert_allclose(skip[0, i], both[2:], atol=1e-5)


def test_the_sinusoids_of_both_clocks():
    """DiffWave: sin(10^(4 i / 63) t), cos(...), i = 0 .. 63; WaveGrad: of 5000 times the level."""
    i = np.arange(64)
    angle = 7 * 10 ** (4 * i / 63)
    found = DiffWave(8, 1, 1)._sinusoids(jnp.array([7.0]))[0]
    rounding = np.tile(1e-5 + 2e-6 * angle, 2)  # of angles in float32
    assert (np.abs(found - np.array([*np.sin(angle), *np.cos(angle)])) < rounding).all()
    angle = 5000 * 0.3 * 10 ** (-4 * i / 63)
    found = DiffWave(8, 1, 1, clock="level")._sinusoids(jnp.array([0.3]))[0]
    np.testing.assert_allclose(found, [*np.sin(angle), *np.cos(angle)], atol=1e-3)


@pytest.mark.extended
def test_how_far_it_hears():
    """An output depends on the samples within the sum of the dilations, and on the frames above these."""
    net = DiffWave(8, 3, 3, mels=4, hop=4, shape=(32, 1))
    backbone = backbones.Backbone(net, (32, 1), lambda batch: {"spectrogram": backbones.drawn(batch, 8, 4)})
    params = backbones.parameters(backbone)
    x, t, condition = backbones.inputs(backbone, 1)
    out = lambda x, levels: net.apply({"params": params}, x, t, {"spectrogram": levels})[0, 16, 0]
    by_x, by_levels = jax.jit(jax.grad(out, argnums=(0, 1)))(x, condition["spectrogram"])
    assert np.flatnonzero(np.asarray(by_x)[0, :, 0]).tolist() == list(range(16 - 7, 16 + 8))
    frames = np.flatnonzero(np.abs(np.asarray(by_levels)[0]).sum(-1))
    assert 4 in frames and 0 not in frames and 7 not in frames


def test_levels_begin_as_an_interpolation():
    """Each convolution is numpy's linear interpolation between the centres of steps; levels 0 to 1 become -2 to 2."""
    levels = np.random.default_rng(0).uniform(size=(1, 8, 3)).astype(np.float32)

    class Upsampled(DiffWave):
        @nn.compact
        def __call__(self, spectrogram):
            return self._upsampled(spectrogram)

    expected = levels[0]
    for _ in range(2):  # of hop 4 = 2 * 2
        at = (np.arange(2 * len(expected)) + 0.5) / 2
        expected = np.stack([np.interp(at, np.arange(len(expected)) + 0.5, band) for band in expected.T], axis=-1)
    for hop, of in ((1, levels[0]), (4, expected)):
        found = Upsampled(8, 1, 1, mels=3, hop=hop).init_with_output(jax.random.key(0), levels)[0][0]
        inner = slice(hop, -hop) if hop > 1 else slice(None)  # beyond the clip there are zeros
        np.testing.assert_allclose(found[inner], 4 * of[inner] - 2, atol=1e-5)


@pytest.mark.extended
def test_the_network_is_the_published_formula():
    """Every line by loops in float64: time, upsampled levels, gated layers, the sum of their skips, the last two."""
    width, layers, cycle, mels, hop, length = 2, 3, 2, 2, 4, 8
    net = DiffWave(width, layers, cycle, mels, hop, clock="level")
    rng = np.random.default_rng(4)
    x, levels = rng.normal(size=(1, length, 1)), rng.normal(size=(1, length // hop, mels))
    inputs = (np.float32(x), np.float32([0.3]), {"spectrogram": np.float32(levels)})
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    drawn = lambda leaf: np.float32(rng.normal(size=leaf.shape) / np.sqrt(max(1, leaf.size // leaf.shape[-1])))
    params = jax.tree.map(drawn, shapes)
    found = jax.jit(net.apply)(params, *inputs)
    p = jax.tree.map(np.float64, params["params"])
    dense = lambda value, of: value @ of["kernel"] + of["bias"]
    sigmoid = lambda value: 1 / (1 + np.exp(-value))

    angles = np.float64(np.float32(0.3) * np.float32(5000 * 10 ** (-4 * np.arange(64) / 63)))
    time = np.array([*np.sin(angles), *np.cos(angles)])
    for name in ("time_0", "time_1"):
        time = dense(time, p[name])
        time = time * sigmoid(time)

    seen = levels[0]
    for name in ("spectrogram_0", "spectrogram_1"):  # strides of 2; kernel [4, 3]; zeros outside
        kernel, apart = p[name]["kernel"][:, :, 0, 0], np.zeros((2 * len(seen) + 4, mels + 2))
        apart[2 : 2 + 2 * len(seen) : 2, 1:-1] = seen
        wide = np.zeros((2 * len(seen), mels))
        for i in range(len(wide)):
            for band in range(mels):
                wide[i, band] = np.sum(apart[i : i + 4, band : band + 3] * kernel) + p[name]["bias"][0]
        seen = np.where(wide > 0, wide, 0.4 * wide)
    seen = 4 * seen - 2

    h, skips = np.maximum(0, dense(x[0], p["in"])), np.zeros((length, width))
    for layer, distance in enumerate((1, 2, 1)):  # cycles of two
        of = p[f"layer_{layer}"]
        inside = h + dense(time, of["time"])
        after = np.zeros_like(h)
        for i in range(length):
            at = lambda j, inside=inside: inside[j] if 0 <= j < length else np.zeros(width)
            taps = np.concatenate([at(i - distance), at(i), at(i + distance)])
            y = dense(taps, of["conv"]["taps"]) + dense(seen[i], of["spectrogram"])
            out = dense(sigmoid(y[:width]) * np.tanh(y[width:]), of["out"])
            after[i] = (h[i] + out[:width]) / np.sqrt(2)
            skips[i] += out[width:]
        h = after
    expected = dense(np.maximum(0, dense(skips / np.sqrt(layers), p["skips"])), p["out"])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hop": 10, "mels": 4}, "hop=10 must be 1, or a product of two even numbers"),
        ({"clock": "stpes"}, "clock"),
        ({"mels": -1}, "mels=-1"),
        ({"width": 0}, "width=0"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        DiffWave(**fields)


def test_lengths_that_are_no_hops():
    net = DiffWave(8, 1, 1, mels=4, hop=4)
    call = lambda length: jax.eval_shape(
        net.init, jax.random.key(0), jnp.zeros((1, length, 1)), jnp.zeros(1), {"spectrogram": jnp.zeros((1, 3, 4))}
    )
    call(12)
    for length in (11, 16):
        with pytest.raises(ValueError, match=f"waveforms of {length} samples"):
            call(length)
