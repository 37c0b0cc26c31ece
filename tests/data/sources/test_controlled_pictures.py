"""Pictures with a control or a mask in their condition: the entries, their shares, and what is refused."""

import numpy as np
import pytest

from diffusion.data.sources import controlled_pictures
from diffusion.data.sources.sequences import Records
from diffusion.data.sources.spec import DamagedRecord, Leaf

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 12, 8, 3), np.uint8)


def source(pictures=PICTURES, **more):
    return Records([{"image": picture, **more} for picture in pictures])


def test_the_control_is_computed_from_the_picture_beside_what_is_there():
    made = controlled_pictures.controlled(source(condition={"a": np.float32([1, 2])}), lambda picture: 255 - picture)
    assert len(made) == 6 and made.spec.condition["control"] == Leaf((12, 8, 3), "uint8")
    for row in range(6):
        record = made[row]
        np.testing.assert_array_equal(record["condition"]["control"], 255 - PICTURES[row])
        np.testing.assert_array_equal(record["image"], PICTURES[row])
        np.testing.assert_array_equal(record["condition"]["a"], [1, 2])
    assert set(made.spec.condition) == {"a", "control"}
    assert made.fingerprint() == source(condition={"a": np.float32([1, 2])}).fingerprint()


@pytest.mark.parametrize("control", [lambda x: x[:-1], lambda x: x.astype(np.float32), lambda x: x[..., :1]])
def test_a_control_of_another_form_names_the_record(control):
    made = controlled_pictures.controlled(source(), control)
    with pytest.raises(DamagedRecord, match=r"the control of record 3 of .* is .*Valid: uint8 \[12, 8, 3\]"):
        made[3]


@pytest.mark.parametrize("least, most", [(0.1, 0.1), (0.1, 0.6), (0.5, 0.9), (1.0, 1.0)])
def test_masks_have_their_share_and_are_the_same_in_every_epoch(least, most):
    made = controlled_pictures.painted(source(np.repeat(PICTURES, 30, 0)), least, most, seed=4)
    assert made.spec.condition == {"picture": Leaf((12, 8, 3), "uint8"), "mask": Leaf((12, 8, 1), "uint8")}
    masks = np.stack([made[row]["condition"]["mask"] for row in range(len(made))])
    assert masks.shape == (180, 12, 8, 1) and set(np.unique(masks)) <= {0, 255}
    shares = (masks > 0).mean((1, 2, 3))
    assert shares.min() >= least
    largest = (6 / 12) * (4 / 8)  # of a box, by which the last one may exceed the share
    assert shares.max() <= min(1.0, most + largest)
    if least < 1:
        assert len(np.unique(masks, axis=0)) > 100
        assert masks.mean(0).min() > 0 and np.ptp(shares) > 0.02  # every place is masked in some record
    again = controlled_pictures.painted(source(np.repeat(PICTURES, 30, 0)), least, most, seed=4)
    np.testing.assert_array_equal(again[7]["condition"]["mask"], masks[7])
    other = controlled_pictures.painted(source(np.repeat(PICTURES, 30, 0)), least, most, seed=5)
    assert least == 1 or not np.array_equal(other[7]["condition"]["mask"], masks[7])
    np.testing.assert_array_equal(made[7]["condition"]["picture"], made[7]["image"])


@pytest.mark.parametrize("least, most", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.01), (-0.1, 0.5)])
def test_shares_out_of_range_are_refused(least, most):
    with pytest.raises(ValueError, match=r"Valid: 0 < least <= most <= 1"):
        controlled_pictures.painted(source(), least, most)


def test_other_sources_are_refused():
    for other in (source(PICTURES[..., :1]), Records([{"x": np.zeros((4, 4, 3), np.float32)}])):
        with pytest.raises(ValueError, match="has no coloured pictures with random access"):
            controlled_pictures.controlled(other, lambda picture: picture)
    for condition in ({"control": np.float32([1])}, np.float32([1])):
        with pytest.raises(ValueError, match="Valid: named entries, without the name 'control'"):
            controlled_pictures.controlled(source(condition=condition), lambda picture: picture)
    masked = source(condition={"mask": np.float32([1])})
    with pytest.raises(ValueError, match="Valid: named entries, without the name 'picture' or 'mask'"):
        controlled_pictures.painted(masked)


def test_a_tenth_to_six_tenths_are_painted_where_nothing_is_said():
    own, said = controlled_pictures.painted(source()), controlled_pictures.painted(source(), 0.1, 0.6, 0)
    other = controlled_pictures.painted(source(), 0.1, 0.6, 1)
    masks = lambda source: np.stack([source[row]["condition"]["mask"] for row in range(len(source))])
    np.testing.assert_array_equal(masks(own), masks(said))
    assert (masks(own) != masks(other)).any()
