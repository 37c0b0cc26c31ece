"""The demo of videos: real clips have the figures that they should have, and mistakes are named."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.data.shapes import drawing, motions, scenes
from diffusion.data.transforms import to_uint8
from diffusion.experiments.run import examples
from diffusion.experiments.sampling import generate, trained_run
from diffusion.metrics import bootstrap
from diffusion.parameterizations import Prediction
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.recipes import load
from diffusion.schedules import rectified_flow
from examples.video import clip_judge, clip_maker, demo as video_demo, motion_figures, pairs_report, video_report

FRAMES = {
    "sample.sampler": {"name": "per_frame", "sampler": {"name": "ddim"}},
    "sample.plan": {"name": "staggered", "frames": 8, "delay": 1},
    "parameterization.name": "velocity",
}


@pytest.fixture(scope="module")
def real():
    return clip_judge.real("test", range(24))


@pytest.fixture
def judge(monkeypatch):
    """One that reads the nearest colour of the palette, and the first class of all else."""
    palette = np.array([drawing.PALETTE[name] for name in scenes.COLOURS])

    def of_frames(_, parts):
        colour = motion_figures.moving_objects.tracks(parts[:, None]).colour[:, 0]
        nearest = np.linalg.norm(np.nan_to_num(colour)[:, None] - palette, axis=-1).argmin(1)
        return {"colour": nearest, "shape": np.zeros(len(parts), int)}

    of_clips = lambda _, clips, beside: {name: np.zeros(len(clips), int) for name in clip_judge.OF_CLIPS}
    monkeypatch.setattr(clip_judge.attribute_reader, "read", of_frames)
    monkeypatch.setattr(clip_judge.clip_reader, "read", of_clips)
    # Those of real clips alone, in a third of the time.
    monkeypatch.setattr(motion_figures.clip_templates, "RADII", (7.4, 8.4))
    return clip_judge.Judge(None, None)


@pytest.mark.extended
def test_real_clips_are_as_asked(real, judge):
    clips, truth = real
    figures = motion_figures.measured(judge, clips, truth)
    assert figures["seen"]["share"] == figures["count"]["share"] == figures["permanence"]["share"] == 1
    assert figures["asked"]["colour"]["share"] > 0.95 and figures["identity"]["share"] > 0.9
    assert figures["size_drift"] < 0.05 and figures["colour_drift"] < 5 and figures["flicker"] < 0.01
    assert {name: figures["templates"][name]["share"] for name in ("shape", "colour", "identity")} == {
        "shape": 1, "colour": 1, "identity": 1
    }  # fmt: skip
    assert figures["templates"]["whole"]["share"] > 0.97
    motion = figures["motion"]
    assert motion["line_error"] < 0.3 and motion["speed_error"] < 0.02 and motion["bounce_unevenness"] < 0.3
    frames = int(clip_judge.fully_visible(truth).sum())
    assert figures["count"]["count"] == figures["seen"]["count"] == frames
    assert frames > 5 * len(clips)  # which are no independent draws
    np.testing.assert_allclose(figures["count"]["interval"], bootstrap.wilson_interval(len(clips), len(clips)))


@pytest.mark.extended
def test_clips_without_what_is_asked_are_worse_in_every_figure(real, judge):
    clips, truth = (part[:14] for part in real)
    paper = clips[:, :1, :1, :1]
    gone = clips.copy()
    gone[:, 3:] = paper
    kind = np.array([clip.movers[0].motion for clip in truth])
    for known, of_frames in [(0, lambda whole: whole), (1, lambda whole: whole[:, 1:])]:
        figures = motion_figures.measured(judge, gone, truth, known)
        asked = of_frames(clip_judge.fully_visible(truth))
        assert figures["seen"]["share"] == figures["count"]["share"] == asked[:, : 3 - known].sum() / asked.sum()
        assert (
            figures["asked"]["colour"]["share"] == figures["identity"]["share"] == figures["permanence"]["share"] == 0
        )
        templates = figures["templates"]
        assert templates["shape"]["share"] == templates["colour"]["share"] == figures["seen"]["share"]
        assert templates["identity"]["share"] == 0
        assert figures["size_drift"] == figures["colour_drift"] == np.inf
        motion = figures["motion"]
        assert motion["line_error"] == motion["bounce_unevenness"] == np.inf and motion["speed_error"] >= 1
    growing = np.broadcast_to(paper, clips.shape).copy()
    for frame, side in enumerate((3, 4, 6, 8, 10, 12, 14, 16)):
        growing[:, frame, 8 : 8 + side, 8 : 8 + side] = (214, 40, 40)
    areas = np.square([3.0, 4, 6, 8, 10, 12, 14, 16])
    bouncing = np.flatnonzero(kind == "bounces")
    figures = motion_figures.measured(judge, growing[bouncing], [truth[i] for i in bouncing])
    np.testing.assert_allclose(figures["size_drift"], areas.std() / areas.mean())
    noise = np.random.default_rng(0).integers(0, 256, clips.shape, np.uint8)
    assert motion_figures.measured(judge, noise, truth)["flicker"] == np.inf


def test_distances_are_of_as_many_clips_as_there_are_others(monkeypatch):
    """Of one feature: (m - n)^2 + (s - r)^2, for the first three of five clips, and for three others."""
    monkeypatch.setattr(clip_judge, "looked_at", lambda clips, tracks: (clips, clips))
    mean = lambda networks, clips, beside: clips.mean((1, 2, 3, 4), dtype=np.float64)[:, None]
    monkeypatch.setattr(motion_figures.clip_reader, "features", mean)
    monkeypatch.setattr(motion_figures.moving_objects, "tracks", lambda clips: clips)
    filled = lambda *levels: np.stack([np.full((2, 4, 4, 3), level, np.uint8) for level in levels])
    moments = lambda *levels: (np.mean(levels), np.std(levels, ddof=1))
    apart = lambda a, b: (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
    real, networks = (10, 30, 50, 70), types.SimpleNamespace(clips=None)
    clips, others = filled(1, 2, 6, 200, 200), filled(40, 90, 20)
    found = motion_figures.distances(networks, clips, filled(*real), others)
    assert found["clips"] == 3 and found["distance"] == pytest.approx(apart(moments(1, 2, 6), moments(*real)))
    assert found["floor"] == pytest.approx(apart(moments(40, 90, 20), moments(*real)))
    more = motion_figures.distances(networks, clips[:2], filled(*real), others)
    assert more["clips"] == 2 and more["floor"] == pytest.approx(apart(moments(40, 90), moments(*real)))


def test_a_speed_that_is_far_off_stays_so_where_a_frame_lacks_its_shape():
    """A lacking clip is off by the whole middle of its range at least; 12 to 18 of 64 in seven steps are slow."""
    centre = np.arange(8.0)[:, None] * np.array([5, 1, 1])[:, None, None] * np.array([1.0, 0])
    centre[:2, 6] = np.nan  # of the first two clips
    tracks = motion_figures.moving_objects.Tracks(np.ones((3, 8)), centre, np.zeros((3, 8, 3)), np.ones((3, 8), int))
    captions = ["a red star moves right slowly"] * 3
    figures = motion_figures._motion(tracks, np.ones((3, 8), bool), np.array(["moves"] * 3), captions)
    off = (5 - 18 / 14) / (15 / 14)
    assert figures["speed_error"] == pytest.approx((off + 1 + 0) / 3)


def test_a_clip_has_the_shape_and_colour_of_most_of_its_last_frames_that_show_it_in_full(monkeypatch):
    monkeypatch.setattr(clip_judge, "looked_at", lambda clips, tracks: (clips, clips))
    read = lambda reader, clips, beside: {name: np.ones(len(clips), int) for name in clip_judge.OF_CLIPS}
    monkeypatch.setattr(clip_judge.clip_reader, "read", read)
    frames = np.zeros((2, 10, 2))
    complete = np.array([[1, 1, 1, 0, 0, 0, 0, 1, 1, 1], [0] * 10], bool)
    by_frame = {
        "colour": np.array([[5, 5, 5, 4, 4, 4, 4, 3, 3, 1]] * 2),
        "shape": np.array([[6, 6, 6, 2, 2, 2, 2, -1, -1, 7]] * 2),
    }
    tracks = motion_figures.moving_objects.Tracks(*[frames] * 4)
    first, second = clip_judge.read_clips(clip_judge.Judge(None, None), frames, tracks, by_frame, complete)
    assert first["colour"] == clip_judge.OF_FRAMES["colour"][3] and first["shape"] == second["colour"] == ""
    assert first["motion"] == clip_judge.OF_CLIPS["motion"][1]


def test_a_shape_that_is_none_of_the_eight_is_not_the_same_in_all_frames():
    read = {"shape": np.array([[3, 3], [8, 8], [2, 3], [-1, -1]]), "colour": np.array([[7, 7]] * 4)}
    assert motion_figures._constant(read, np.ones((4, 2), bool)) == [True, False, False, False]


@pytest.mark.extended
def test_what_stands_still_is_outside_of_the_speed_that_is_asked(real, judge):
    clips, truth = (part[:14] for part in real)
    still = np.repeat(clips[:, :1], 8, axis=1)
    frozen = motion_figures.measured(judge, still, truth)["motion"]["speed_error"]
    scales = {"slowly": 12 / 15, "quickly": 30 / 35}  # the least speed over the middle of its range
    speeds = [clip.movers[0].speed for clip in truth if clip.movers[0].motion == "moves"]
    np.testing.assert_allclose(frozen, np.mean([scales[speed] for speed in speeds]), rtol=1e-6)


@pytest.mark.extended
def test_a_judge_is_named_by_what_its_networks_see(monkeypatch):
    monkeypatch.setattr(clip_judge, "example", functools.cache(clip_judge.example))  # drawn once
    name = clip_judge.name_of(10, (1, 1))
    assert name == clip_judge.name_of(10, (1, 1)) != clip_judge.name_of(11, (1, 1))
    for module, constant in [
        (motion_figures.moving_objects, "PALE"),
        (motion_figures.moving_objects, "RANGE"),
        (motion_figures.moving_objects, "WHOLE"),
        (clip_judge, "PART"),
    ]:
        with monkeypatch.context() as change:
            change.setattr(module, constant, getattr(module, constant) * 2)
            assert clip_judge.name_of(10, (1, 1)) != name, constant


def test_clips_are_made_by_the_denoiser_of_the_run(monkeypatch):
    """Whose guidance, guides and null condition are those of every other command."""
    shade = lambda labels: labels["vector"][:, :1, None, None, None]
    predict = lambda x, labels: Prediction(jnp.broadcast_to(shade(labels), x.shape), jnp.zeros_like(x))
    denoiser = lambda params, labels: lambda x, t: predict(x, labels)
    monkeypatch.setattr(clip_maker.run_denoiser, "build_for_sampler", lambda recipe: denoiser)
    of_pixels = clip_maker.clip_coding.Coding((), lambda params, x: x, lambda params, x: x)
    monkeypatch.setattr(clip_maker.clip_coding, "build_coding", lambda recipe: of_pixels)
    schedule = rectified_flow()
    grid = np.array([1.0, 0.5, schedule.t_min])
    sampling = types.SimpleNamespace(plan=timesteps.plan(grid))
    recipe = types.SimpleNamespace(config=load("digits:tiny"), sampling=sampling)
    run = trained_run.Trained(recipe, None, schedule, samplers.ddim(), grid, (8, 2, 2, 3))
    clips = clip_maker.maker(run)(["a red star bounces", "a blue star bounces"], [0, 1])
    assert clips.shape == (2, 8, 2, 2, 3)
    expected = to_uint8(np.float32(motions.words("a red star bounces")[0])), to_uint8(np.float32(0))
    for clip, value in zip(clips, expected):
        np.testing.assert_allclose(clip, value, atol=1)


@pytest.mark.extended
def test_a_student_of_chunks_makes_the_clips_of_diffusion_sample_and_continues_given_frames():
    """It samples along its staggered plan; given frames stand for the first chunk."""
    config = load("video/drawings:tiny")
    config.model.update({"patch": 16, "width": 16})
    config.sample.update({"steps": 2, "plan": FRAMES["sample.plan"] | {"delay": 2, "chunk": 4}, "batch_size": 2})
    config.sample.sampler = {"name": "per_frame", "sampler": {"name": "consistency"}}
    config.sample.guidance.scale = 1.0
    pairs = {"name": "shrinking", "stage": 100}
    density = {"name": "uniform_density"}
    config.objective = {"name": "consistency_training", "density": density, "pairs": pairs, "target": "model"}
    recipe = checks.on_its_data(checks.validate(config))
    captions = ["a red star bounces", "a blue circle moves left slowly"]
    vectors = {"vector": np.stack([motions.words(caption) for caption in captions])}
    init = lambda: recipe.network.init(jax.random.key(0), jnp.zeros((2, *recipe.examples.shape)), jnp.zeros(2), vectors)
    rng = np.random.default_rng(0)
    random = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)
    run = trained_run.from_config(config, jax.tree.map(random, jax.eval_shape(init)), any_kind=True)
    make = clip_maker.maker(run)
    clips = make(captions, [3, 4])
    sampled = generate.generator(run.recipe).images(run.params, vectors, np.array([3, 4], np.uint32))
    np.testing.assert_allclose(clips.astype(int), sampled, atol=1)  # two programs round differently
    given = sampled[::-1, :4]
    longer = make(captions, [3, 4], given, 12)
    assert longer.shape == (2, 12, 32, 32, 3)
    np.testing.assert_array_equal(longer[:, :4], given)
    others = make(captions, [3, 4], sampled[:, :4], 12)
    assert (longer[:, 4:] != others[:, 4:]).any((1, 2, 3, 4)).all()  # what follows depends on the given frames


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
    parts, numbers = clip_judge.looked_at(clips, motion_figures.moving_objects.tracks(clips))
    assert parts.shape == (24, 8, 16, 16, 3) and numbers.shape == (24, 24)
    seen = np.stack([clip.visible[:, 0] for clip in truth]) > 0.99
    whole = motion_figures.moving_objects.weights(clips).sum((2, 3))
    in_part = motion_figures.moving_objects.weights(parts).sum((2, 3))
    assert (in_part[seen] > 0.97 * whole[seen]).all()


@pytest.mark.extended
def test_mistakes_are_named(tmp_path):
    config = load("video/drawings:tiny")
    video_demo.check(config)
    for changes, message in [
        ({"data.source.side": 16}, r"config\.data\.source\.side = 16, but the judge reads clips of 32"),
        ({"data.source.name": "drawings"}, "'drawings', but the judge reads only clips of 'moving_drawings'"),
        ({"sample.guidance.name": "adaptive_projected"}, "'adaptive_projected', .*this needs a plain denoiser"),
    ]:
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict(changes)
        with pytest.raises(ConfigError, match=message):
            video_demo.check(wrong)
    with pytest.raises(ConfigError, match=r"--prompt: .* the word 'dog' is not known"):
        video_demo.sample("moving", tmp_path, ["a red dog"], 1)


def test_a_demo_on_latents_is_checked_before_anything_is_trained(tmp_path):
    config = load("video/latents:tiny")
    video_demo.check(config)
    for changes, message in [
        ({"data.source.frames": 10}, "every 2 frames after the first one into .*Valid: 1 plus a multiple of 2"),
        ({"denoiser.objective.density.patterns": ("........",)}, "the latent of a clip of 9 frames has 5 frames"),
        ({"data.source.span": 9}, r"config\.data\.source\.span = 9, but the judge reads clips of 8"),
        ({"denoiser.sample.guidance.name": "adaptive_projected"}, "this needs a plain denoiser"),
    ]:
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict(changes)
        with pytest.raises(ConfigError, match=message):
            video_demo.check(wrong)
    with pytest.raises(ConfigError, match="--until=autoencoder: this config trains no autoencoder"):
        video_demo.run(load("video/drawings:tiny"), tmp_path, until="autoencoder")


@pytest.mark.slow
def test_the_command_trains_on_latents_and_reports(tmp_path, monkeypatch):
    """Two trainings and the latents between them, whose captions they keep; what is given stays as it is."""
    monkeypatch.setattr(video_report, "OTHERS", 24)
    made = clip_judge.judge(tmp_path / "judge", 24, (4, 4))
    monkeypatch.setattr(clip_judge, "judge", lambda: made)
    config, folder = load("video/latents:tiny"), tmp_path / "run"
    assert video_demo.run(config, folder, until="autoencoder") == 0 and not (folder / "latents").exists()
    assert video_demo.run(config, folder, number=4) == 0
    report = (folder / "report" / "report.md").read_text()
    assert "autoencoder: PSNR, dB" in report and "four times the length: what is requested" in report
    run = trained_run.load(folder / "denoiser")
    assert run.shape == (5, 8, 8, 8) and clip_maker.context(run) == 5
    real, truth = clip_judge.real("test", range(2))
    clips = clip_maker.maker(run)([clip.caption for clip in truth], [0, 1], real[:, :5], 17)
    assert clips.shape == (2, 17, 32, 32, 3) and (clips[:, :5] == real[:, :5]).all()
    recipe = run.recipe
    batch = next(examples.open_examples(recipe).batches(recipe.config, 0, [0, 1], 0))
    words = {
        tuple(motions.words(motions.example("train", row, setting=clip_judge.SETTING).caption)) for row in range(16)
    }
    assert {tuple(vector) for vector in batch["condition"]["vector"]} <= words


@pytest.mark.slow
def test_the_command_trains_reports_and_goes_on(tmp_path, monkeypatch):
    """A tiny model with a judge of a few steps; the second call trains nothing."""
    monkeypatch.setattr(video_report, "OTHERS", 24)
    made = clip_judge.judge(tmp_path / "judge", 24, (4, 4))
    monkeypatch.setattr(clip_judge, "judge", lambda: made)
    config = load("video/drawings:tiny")
    assert video_demo.run(config, tmp_path / "run", number=4) == 0
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    for title in video_report.PARTS.values():
        assert f"{title}: what is requested" in report
    for part in video_report.PARTS:
        assert (tmp_path / "run" / "report" / f"{part}.gif").is_file()
    before = (tmp_path / "run" / "denoiser" / "metrics.jsonl").read_bytes()
    assert video_demo.run(config, tmp_path / "run", number=4) == 0
    assert (tmp_path / "run" / "denoiser" / "metrics.jsonl").read_bytes() == before
    paths = video_demo.sample(tmp_path / "run" / "denoiser", tmp_path / "run", ["a red star turns clockwise slowly"], 2)
    assert [path.name for path in paths] == ["a_red_star_turns_clockwise_slowly.gif"] and paths[0].is_file()


def test_clips_of_one_or_two_shapes_are_checked_before_anything_is_trained():
    config = load("video/pairs:tiny")
    video_demo.check(config)
    for field, value, message in (
        ("data.source.frames", 24, "frames = 24, but the report is of clips of 16"),
        ("data.source.side", 32, "side = 32, but the report is of clips of 48"),
    ):
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict({field: value})
        with pytest.raises(ConfigError, match=message):
            video_demo.check(wrong)


@pytest.mark.slow
def test_the_command_trains_on_pairs_and_reports(tmp_path):
    """A tiny model without a judge, and a clip of two shapes by their caption."""
    config, folder = load("video/pairs:tiny"), tmp_path / "run"
    config.data.processes = 1
    assert video_demo.run(config, folder, number=4) == 0
    report = (folder / "report" / "report.md").read_text()
    for kind, title in pairs_report.KINDS.items():
        assert f"{title}: frames in which the asked shape" in report
        assert (folder / "report" / f"{kind}.gif").is_file()
    run = trained_run.load(folder / "denoiser")
    assert run.shape == (16, 48, 48, 3) and clip_maker.context(run) == 8
    caption = "a red star bounces and a blue circle moves left slowly"
    paths = video_demo.sample(folder / "denoiser", folder, [caption], 2)
    assert paths[0].is_file()
    with pytest.raises(ConfigError, match="has 3 shapes"):
        video_demo.sample(folder / "denoiser", folder, ["a red star and a red star and a red star"], 1)
