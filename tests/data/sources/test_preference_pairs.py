"""Pairs of examples: both halves of each, moved alike, and what is no preference."""

import numpy as np
import pytest

from diffusion.data import pipeline, sources
from diffusion.data.sources.preference_pairs import Rejected
from diffusion.data.sources.sequences import Records

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 4, 1), np.uint8)


def source(pictures, **more):
    return Records([{"image": picture, **more} for picture in pictures])


def test_a_batch_has_both_halves_moved_by_the_same_draws():
    pairs = sources.preferences([source(PICTURES[0]), source(PICTURES[1])])
    assert len(pairs) == 6 and pairs.spec.pairs and pairs.spec.shape == (4, 4, 1)
    shift = lambda rng, image: np.roll(image, int(rng.integers(4)), axis=1)
    batch = next(pipeline.batches(pairs, pairs.spec, seed=3, batch_size=6, augment=(shift,), shuffle=False, threads=0))
    shifts = []
    for row in range(6):
        (k,) = [k for k in range(4) if np.array_equal(np.roll(PICTURES[0][row], k, axis=1), batch["image"][row])]
        np.testing.assert_array_equal(np.roll(PICTURES[1][row], k, axis=1), batch["rejected"][row])
        shifts.append(k)
    assert len(set(shifts)) > 1
    swapped = sources.preferences([source(PICTURES[1]), source(PICTURES[0])])
    assert pairs.fingerprint() != swapped.fingerprint()
    others = sources.preferences([source(PICTURES[0]), source(255 - PICTURES[1])])
    assert pairs.fingerprint() != others.fingerprint()


@pytest.mark.parametrize(
    "of, words",
    [
        ([source(PICTURES[0])], "preferences takes two sources"),
        ([source(PICTURES[0]), source(PICTURES[1][:5])], "preferred and rejected examples must agree in their number"),
        ([source(PICTURES[0]), source(PICTURES[1][:, :2])], "preferred and rejected examples must agree .*shape"),
    ],
)
def test_sources_that_do_not_pair(of, words):
    with pytest.raises(ValueError, match=words):
        sources.preferences(of)


def test_a_pair_without_a_preference_is_named():
    same = np.concatenate([PICTURES[1][:4], PICTURES[0][4:5], PICTURES[1][5:]])
    with pytest.raises(
        sources.DamagedRecord,
        match=r"record 4 of .* shows no preference: the preferred and the rejected example are the same",
    ):
        sources.preferences([source(PICTURES[0]), source(same)])[4]
    conditions = [source(x, condition=np.float32([k])) for k, x in enumerate(PICTURES)]
    with pytest.raises(sources.DamagedRecord, match=r"record 2 of .* example of different conditions"):
        sources.preferences(conditions)[2]
    labels = [[0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 0, 1]]  # the class is a condition too
    classes = [Records([{"image": one, "label": label} for one, label in zip(x, row)], num_classes=2)
               for x, row in zip(PICTURES, labels)]  # fmt: skip
    assert sources.preferences(classes)[1]["label"] == 1
    with pytest.raises(sources.DamagedRecord, match=r"record 2 of .* example of different conditions"):
        sources.preferences(classes)[2]


def test_the_rejected_examples_are_records_of_their_own():
    pairs = sources.preferences([source(PICTURES[0], label=1), source(PICTURES[1], label=1)])
    rejected = Rejected(pairs)
    assert len(rejected) == 6 and not rejected.spec.pairs and rejected.spec.shape == (4, 4, 1)
    np.testing.assert_array_equal(rejected[3]["image"], PICTURES[1][3])
    assert rejected[3]["label"] == 1 and "rejected" not in rejected[3]
    assert rejected.fingerprint() != pairs.fingerprint()


def test_a_pair_of_two_captions_is_named():
    class Captioned(Records):
        def __init__(self, pictures, texts):
            super().__init__([{"image": picture} for picture in pictures])
            self.texts = texts

        def captions(self):
            return self.texts

    texts = list("abcdef")
    assert sources.preferences([Captioned(x, texts) for x in PICTURES]).captions() == texts
    swapped = sources.preferences([Captioned(PICTURES[0], texts), Captioned(PICTURES[1], list("abdcef"))])
    with pytest.raises(ValueError, match=r"record 2 of.*different captions, 'c' and 'd'"):
        swapped.captions()
