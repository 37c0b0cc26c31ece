"""Protocols against what their own code does to one pixel."""

import numpy as np
import pytest

from diffusion.data.transforms import to_uint8
from diffusion.metrics import protocols, resizing
from diffusion.metrics.protocols import PROTOCOLS

BYTES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_field_names_a_function(name):
    protocol = PROTOCOLS[name]
    assert protocol.resize in resizing.RESIZES
    assert protocol.scaling in protocols.SCALINGS and protocol.rounding in protocols.ROUNDINGS
    assert "2048" in protocol.taps and protocol.split and protocol.source
    assert protocols.get(name) is protocol
    assert protocols.record(protocol)["resize"] == protocol.resize


@pytest.mark.parametrize(
    "rounding, x, byte",
    [
        # By hand: 127.5 x + 128 without its fraction; 255 (x + 1) / 2 rounded; the same without its fraction.
        ("clip(x * 127.5 + 128)", -1.0, 0), ("clip(x * 127.5 + 128)", 1.0, 255), ("clip(x * 127.5 + 128)", 0.0, 128),
        ("clip(x * 127.5 + 128)", 1.5, 255), ("clip(x * 127.5 + 128)", -7.0, 0), ("clip(x * 127.5 + 128)", 0.1, 140),
        ("round(y * 255)", -1.0, 0), ("round(y * 255)", 1.0, 255), ("round(y * 255)", 0.1, 140),
        ("round(y * 255)", -0.002, 127), ("round(y * 255)", 2.0, 255),
        ("floor(y * 255)", 1.0, 255), ("floor(y * 255)", 0.999, 254), ("floor(y * 255)", -1.0, 0),
        ("floor(y * 255)", 0.1, 140), ("floor(y * 255)", 0.0, 127), ("floor(y * 255)", -1.1, 0),
    ],
)  # fmt: skip
def test_rounding(rounding, x, byte):
    assert protocols.ROUNDINGS[rounding](np.float32(x)) == byte


def test_a_byte_survives_the_scale_of_the_model():
    """to_uint8 of the samples that a run writes is the rounding of ADM and EDM, and undoes b / 127.5 - 1."""
    x = BYTES.astype(np.float32) / 127.5 - 1
    for name in ("adm", "edm", "pytorch-fid"):
        np.testing.assert_array_equal(protocols.to_bytes(PROTOCOLS[name].rounding, x), BYTES)
    np.testing.assert_array_equal(to_uint8(x), BYTES)
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(protocols.to_bytes(PROTOCOLS["edm"].rounding, x), to_uint8(x))


@pytest.mark.extended
@pytest.mark.parametrize("name, scaled", [
    ("adm", [-1, 0, 127 / 128]), ("edm", [-1, 0, 127 / 128]), ("torch-fidelity", [-1, 0, 127 / 128]),
    ("clean-fid", [-1, 0, 127 / 128]), ("pytorch-fid", [-1, 1 / 255, 1]), ("tf-gan", [-1, 1 / 255, 1]),
])  # fmt: skip
def test_flat_images_are_scaled(name, scaled):
    for byte, value in zip((0, 128, 255), scaled):
        image = np.full((2, 32, 24, 3), byte, np.uint8)
        found = protocols.preprocess(PROTOCOLS[name], image)
        assert found.shape == (2, 299, 299, 3) and found.dtype == np.float32
        np.testing.assert_allclose(found, value, atol=1e-6)


def test_grey_is_repeated():
    grey = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    for protocol in PROTOCOLS.values():
        found = protocols.preprocess(protocol, grey)
        expected = protocols.preprocess(protocol, np.concatenate([grey] * 3, axis=3))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_overshoot_of_bicubic_is_cut_off():
    black_and_white = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)[None, :, :, None]
    found = protocols.preprocess(PROTOCOLS["clean-fid"], black_and_white)
    assert found.min() == -1 and found.max() == np.float32(127 / 128)
    assert resizing.resize(black_and_white, "bicubic_pil", 299).max() > 260


def test_refusals():
    adm = PROTOCOLS["adm"]
    with pytest.raises(TypeError, match="int32"):
        protocols.to_bytes(adm.rounding, np.zeros((1, 4, 4, 3), np.int32))
    broken = np.zeros((3, 4, 4, 3), np.float32)
    broken[2, 1, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"image 2 .* NaN"):
        protocols.to_bytes(adm.rounding, broken)
    with pytest.raises(TypeError, match=r"images are float32\. Valid: uint8"):
        protocols.preprocess(adm, broken)
    with pytest.raises(ValueError, match=r"\[1, 4, 4, 4\]"):
        protocols.preprocess(adm, np.zeros((1, 4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"unknown protocol 'fid'\. Valid: adm, "):
        protocols.get("fid")
