"""The reader of attributes on pictures whose attributes are their colours."""

import numpy as np
import pytest

from diffusion.metrics import attribute_reader

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures():
    """Squares of red or green above, and of three greys below."""
    rng = np.random.default_rng(0)
    labels = {"hue": rng.integers(0, 2, 64), "grey": rng.integers(0, 3, 64)}
    images = np.zeros((64, 16, 16, 3), np.uint8)
    images[np.arange(64), :8, :, labels["hue"]] = 200
    images[:, 8:] = np.array([30, 120, 220])[labels["grey"]][:, None, None, None]
    return images, labels


@pytest.fixture(scope="module")
def reader(pictures):
    return attribute_reader.train(*pictures, steps=30, batch_size=16)


def test_it_reads_what_it_was_taught(pictures, reader):
    images, labels = pictures
    assert reader.classes == {"hue": 2, "grey": 3}
    found = attribute_reader.read(reader, images)
    assert all(np.array_equal(found[name], labels[name]) for name in labels)
    assert attribute_reader.features(reader, images).shape == (64, attribute_reader.DIM)


def test_a_picture_is_read_alone_as_among_others(pictures, reader):
    images, _ = pictures
    np.testing.assert_allclose(attribute_reader.features(reader, images[5:6]),
                               attribute_reader.features(reader, images)[5:6], atol=1e-5)  # fmt: skip
    assert attribute_reader.features(reader, images[:0]).shape == (0, attribute_reader.DIM)


def test_it_is_trained_once_and_kept(reader, tmp_path):
    made = []
    for _ in range(2):
        found = attribute_reader.cached("a", lambda: made.append(1) or reader, tmp_path)
        assert found.digest == reader.digest and found.classes == reader.classes
    assert made == [1]
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    assert attribute_reader.cached("a", lambda: reader, tmp_path).digest == reader.digest


def test_other_pictures_are_refused(pictures, reader):
    images, labels = pictures
    with pytest.raises(TypeError, match="uint8 pictures, got float32"):
        attribute_reader.read(reader, images.astype(np.float32))
    with pytest.raises(ValueError, match="not of the size that the reader was trained on"):
        attribute_reader.read(reader, np.zeros((1, 24, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="sides that 8 divides"):
        attribute_reader.read(reader, np.zeros((1, 20, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="a label for each of the 64 pictures"):
        attribute_reader.train(images, {"hue": labels["hue"][:3]})
