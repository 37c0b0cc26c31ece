"""The reader of clips: it tells an order of frames, uses the numbers beside them, and refuses other sizes."""

import numpy as np
import pytest

from examples.video import clip_reader

RNG = np.random.default_rng(0)


def lessons(number):
    """Clips of two frames, of which the brighter one comes first or last, and numbers whose sign is a class."""
    order = RNG.integers(0, 2, number)
    frames = RNG.integers(90, 110, (number, 2, 8, 8, 3))
    frames[np.arange(number), order] += 60
    sign = RNG.integers(0, 2, number)
    return frames.astype(np.uint8), np.float32(sign[:, None] * 2 - 1), {"order": order, "sign": sign}


@pytest.mark.extended
def test_it_learns_order_and_numbers_and_refuses_other_sizes():
    clips, beside, labels = lessons(96)
    reader = clip_reader.train(clips, beside, labels, steps=40, batch_size=16)
    others, numbers, truth = lessons(60)
    read = clip_reader.read(reader, others, numbers)
    for name, classes in truth.items():
        assert (read[name] == classes).mean() > 0.95, name
    flipped = clip_reader.read(reader, others[:, ::-1], -numbers)
    assert (flipped["order"] != truth["order"]).mean() > 0.95 and (flipped["sign"] != truth["sign"]).mean() > 0.95
    one = clip_reader.features(reader, others[:1], numbers[:1])
    np.testing.assert_allclose(one, clip_reader.features(reader, others, numbers)[:1], rtol=1e-4, atol=1e-5)
    assert len(reader.digest) == 64
    for arrays, message in [
        ((others[:, :1], numbers), "do not have the size"),
        ((others, np.zeros((60, 2), np.float32)), "do not have the size"),
        ((others[0], numbers), "clips must be"),
        ((others, numbers[:3]), "the further numbers of 60 clips must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            clip_reader.read(reader, *arrays)
    with pytest.raises(TypeError, match="uint8"):
        clip_reader.read(reader, others.astype(np.float32), numbers)
    with pytest.raises(ValueError, match="each attribute needs one label for each of the 96 clips"):
        clip_reader.train(clips, beside, {"order": labels["order"][:3]})
