"""Clips at several rates: what is cut out, and the rate and the motion that the condition says."""

import types

import numpy as np
import pytest

from diffusion import videos
from diffusion.data import sources
from diffusion.data.transforms import to_model
from diffusion.recipe import data


def test_the_condition_is_a_rate_and_a_motion_beside_the_class():
    of = sources.moving_drawings("train", frames=8, side=8, number=1)
    condition = sources.paced(of, 4, (2,)).spec.condition
    assert condition["vector"].shape == (2,) and condition["vector"].dtype == "float32"


@pytest.mark.extended
def test_clips_are_cut_at_the_rate_that_they_say():
    long = {"name": "moving_drawings", "frames": 16, "side": 8, "number": 12}
    entry = {"name": "paced", "of": long, "frames": 4, "paces": (1, 2, 3)}
    paced = data._opened(entry, "train")
    of = sources.moving_drawings("train", frames=16, side=8, number=12)
    assert len(paced) == 12 and paced.spec.shape == (4, 8, 8, 3) and paced.spec.condition["vector"].shape == (2,)
    seen = set()
    for row in range(12):
        record, whole = paced[row], of[row]["image"]
        pace = round(1 / record["condition"]["vector"][0])
        starts = [s for s in range(17 - 4 * pace) if (whole[s : s + 4 * pace : pace] == record["image"]).all()]
        assert starts and record["condition"]["label"] == record["label"] and record["caption"] == of[row]["caption"]
        motion = videos.motion(to_model(record["image"])[None], 1 / pace)[0]
        np.testing.assert_allclose(record["condition"]["vector"][1], motion, rtol=1e-5)
        np.testing.assert_array_equal(record["image"], paced[row]["image"])
        seen.add(pace)
    assert seen == {1, 2, 3}
    other = sources.paced(of, 4, (1, 2, 3), seed=1)  # a config's own is its config.seed
    assert paced.fingerprint() != other.fingerprint() == sources.paced(of, 4, (1, 2, 3), seed=1).fingerprint()


def test_a_clip_may_be_all_of_its_film_and_another_seed_cuts_others():
    of = sources.moving_drawings("train", frames=8, side=8, number=6)
    for row in range(2):
        record = sources.paced(of, 4, (2,))[row]
        np.testing.assert_array_equal(record["image"], of[row]["image"][::2])
        change = np.diff(of[row]["image"][::2] / 127.5 - 1, axis=0)  # in two frames of the film
        np.testing.assert_allclose(record["condition"]["vector"], [0.5, np.sqrt((change**2).mean()) / 2], rtol=1e-5)
    first, second = (sources.paced(of, 2, (1, 2), seed=seed) for seed in (0, 1))
    assert any((first[row]["image"] != second[row]["image"]).any() for row in range(6))


def test_clips_that_do_not_fit_are_refused():
    of = sources.moving_drawings("train", frames=8, side=8, number=2)
    for how, message in (
        ({"frames": 4, "paces": (3,)}, "paces =.*from 1 to.*/ frames,"),
        ({"frames": 1}, "at least 2 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            sources.paced(of, **how)
    for spec in (
        of.spec._replace(dtype="float32"),
        of.spec._replace(shape=of.spec.shape[1:]),
        of.spec._replace(shape={"a": (8, 8, 8, 3)}),
    ):
        with pytest.raises(ValueError, match=r"has no clips uint8 \[T, H, W, C\]"):
            sources.paced(types.SimpleNamespace(spec=spec, where="memory"), 4)
    with pytest.raises(ValueError, match="without 'vector'"):
        sources.paced(sources.paced(of, frames=4), frames=2)
    with pytest.raises(ValueError, match="has no clips"):
        sources.paced(sources.drawings("train", number=2), frames=2)
