"""The demo of videos: real clips have the figures that they should have, and mistakes are named."""

import numpy as np
import pytest

from diffusion.experiments import video_demo
from diffusion.experiments.config import ConfigError
from diffusion.experiments.config.recipes import load
from diffusion.experiments.video import clip_judge, motion_figures, video_report


@pytest.fixture(scope="module")
def real():
    return clip_judge.real("test", range(40))


def test_real_clips_move_as_asked(real):
    clips, truth = real
    found = motion_figures.moving_objects.tracks(clips)
    complete = clip_judge.whole(found)
    captions = [clip.caption for clip in truth]
    kind = np.array([clip.movers[0].motion for clip in truth])
    motion = motion_figures._motion(found, complete, kind, captions)
    assert motion["line_error"] < 0.3 and motion["speed_error"] < 0.02
    still = np.repeat(clips[:, :1], 8, axis=1)  # what does not move is wholly outside of the speed that is asked
    tracks = motion_figures.moving_objects.tracks(still)
    frozen = motion_figures._motion(tracks, clip_judge.whole(tracks), kind, captions)["speed_error"]
    scales = {"slowly": 12 / 15, "quickly": 30 / 35}  # the least speed over the middle of its range
    speeds = [clip.movers[0].speed for clip in truth if clip.movers[0].motion == "moves"]
    np.testing.assert_allclose(frozen, np.mean([scales[speed] for speed in speeds]), rtol=1e-6)
    assert motion_figures.moving_objects.returns(found)[kind == "hides"].mean() > 0.8
    assert not motion_figures.moving_objects.returns(found)[kind != "hides"].any()


def test_verdicts_and_shares(real):
    _, truth = real
    captions = [clip.caption for clip in truth]
    mover = lambda clip: {name: getattr(clip.movers[0], name) for name in clip_judge.ATTRIBUTES}
    right = clip_judge.verdicts(captions, [mover(clip) for clip in truth])
    assert clip_judge.score(right)["attributes"]["share"] == 1
    wrong = clip_judge.verdicts(captions, [{**mover(clip), "colour": "grey"} for clip in truth])
    scores = clip_judge.score(wrong)
    assert scores["colour"]["share"] == 0 == scores["clips"]["share"] and scores["shape"]["share"] == 1


def test_the_parts_that_the_judge_sees_show_the_shape(real):
    clips, truth = real
    parts, numbers = clip_judge.looked_at(clips)
    assert parts.shape == (40, 8, 16, 16, 3) and numbers.shape == (40, 24)
    seen = np.stack([clip.seen[:, 0] for clip in truth]) > 0.99
    whole = motion_figures.moving_objects.weights(clips).sum((2, 3))
    in_part = motion_figures.moving_objects.weights(parts).sum((2, 3))
    assert (in_part[seen] > 0.97 * whole[seen]).all()


def test_mistakes_are_named(tmp_path):
    config = load("video/drawings:tiny")
    video_demo.check(config)
    for changes, message in [
        ({"data.source.side": 16}, r"config\.data\.source\.side = 16, and the judge reads clips of 32"),
        ({"data.source.name": "drawings"}, "'drawings', and the judge reads moving_drawings"),
    ]:
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict(changes)
        with pytest.raises(ConfigError, match=message):
            video_demo.check(wrong)
    with pytest.raises(ConfigError, match=r"--prompt: .* the word 'dog' is not known"):
        video_demo.sample(config, tmp_path, ["a red dog"], 1)


@pytest.mark.slow
def test_the_command_trains_reports_and_goes_on(tmp_path, monkeypatch):
    """A tiny model with a judge of a few steps; the second call trains nothing."""
    monkeypatch.setattr(video_demo, "OTHERS", 24)
    made = clip_judge.judge(tmp_path / "judge", 24, (4, 4))
    monkeypatch.setattr(clip_judge, "judge", lambda: made)
    config = load("video/drawings:tiny")
    assert video_demo.run(config, tmp_path / "run", number=4) == 0
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    for title in video_report.PARTS.values():
        assert f"{title}: what is asked" in report
    for part in video_report.PARTS:
        assert (tmp_path / "run" / "report" / f"{part}.gif").is_file()
    before = (tmp_path / "run" / "denoiser" / "metrics.jsonl").read_bytes()
    assert video_demo.run(config, tmp_path / "run", number=4) == 0
    assert (tmp_path / "run" / "denoiser" / "metrics.jsonl").read_bytes() == before
    paths = video_demo.sample(config, tmp_path / "run", ["a red star turns clockwise slowly"], 2)
    assert [path.name for path in paths] == ["a_red_star_turns_clockwise_slowly.gif"] and paths[0].is_file()
