"""Measures of a video model of moving drawings: agreement with captions, consistency over time, and motion.

The same functions measure generated clips and real clips with the same captions. The figures of real clips show the
error of the measure.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.arrays import chunks
from diffusion.data.shapes import drawing, motions, scenes
from diffusion.data.shapes.motions import Clip
from diffusion.metrics import bootstrap, frechet, neighbours, reconstruction_error
from diffusion.metrics.prompt_following import clustered
from examples.video import clip_judge, clip_reader, clip_templates, moving_objects, pair_figures
from examples.video.clip_judge import Judge
from examples.video.pair_figures import ENDLESS, TIMES

Make = Callable[..., np.ndarray]
SEEDS = {"test": 0, "withheld": 10_000, "picture": 20_000, "longer": 30_000}
KNOWN = 4  # frames from which a run on pixels extends a clip, and continues each window


def measured(networks: Judge, clips: np.ndarray, truth: Sequence[Clip], known: int = 0) -> dict[str, Any]:
    """All figures of clips of captions.

    The truth says in which frames the complete shape should be visible. If one of these frames shows no shape, the clip
    counts as infinitely far off in the medians, and its colour and shape as changing.

    Args:
        networks: the judge.
        clips: uint8 [N, F, 32, 32, 3].
        truth: real clips of the same captions, with as many frames.
        known: the number of given frames at the beginning, which do not count in shares of frames.
    """
    captions = [clip.caption for clip in truth]
    tracks = moving_objects.tracks(clips)
    complete = clip_judge.fully_visible(truth)
    counted = complete & (np.arange(clips.shape[1]) >= known)
    there = tracks.area >= moving_objects.LEAST
    lacking = (complete & ~there).any(1)
    kind = np.array([motions.said(caption)["motion"] for caption in captions])
    by_frame = clip_judge.frames_read(networks, clips, tracks)
    shown = clip_judge.read_clips(networks, clips, tracks, by_frame, counted)
    rows = np.nonzero(counted)[0]
    figures: dict[str, Any] = {
        "asked": clip_judge.score(clip_judge.verdicts(captions, shown)),
        "seen": clustered.share(there[counted], rows),
        "count": clustered.share(tracks.count[counted] == 1, rows),
        "identity": bootstrap.share(_constant(by_frame, complete)),
        "templates": _templates(clips, tracks, captions, counted, complete),
        "size_drift": _median(moving_objects.size_drift(tracks, complete), lacking),
        "colour_drift": _median(moving_objects.colour_drift(tracks, complete), lacking),
        "flicker": _median(moving_objects.flicker(clips[:, max(0, known - 1) :])),
        "motion": _motion(tracks, complete, kind, captions),
    }
    hides = kind == "hides"
    if hides.any() and clips.shape[1] == clip_judge.FRAMES:
        scale = clip_judge.SIDE / drawing.SIDE
        places = scale * np.stack([clip.movers[0].places for clip in truth])
        back = moving_objects.returns(tracks, places, np.stack([clip.visible[:, 0] for clip in truth]))
        figures["permanence"] = bootstrap.share(list(back[hides]))
    return figures


def _templates(
    clips: np.ndarray, tracks: moving_objects.Tracks, captions: Sequence[str], counted: np.ndarray, complete: np.ndarray
) -> dict[str, Any]:
    """The figures of `clip_templates.measured` in the frames that should show the complete shape.

    Returns:
        {"shape": the share of frames in which the requested shape has the largest overlap of the eight, "whole": where
        its overlap is above 0.85, "colour": in which the requested colour is the nearest, and "identity": the share of
        clips with the same shape and colour, whichever they are, in all of these frames}.
    """
    best = clip_templates.measured(clips, tracks)
    said = [motions.said(caption) for caption in captions]
    right = clip_templates.agreement(best, *([stated[name] for stated in said] for name in ("shape", "colour")))
    rows = np.nonzero(counted)[0]
    return {
        **{name: clustered.share(frames_right[counted], rows) for name, frames_right in right.items()},
        "identity": bootstrap.share(_constant({"shape": best.shape, "colour": best.colour}, complete)),
    }


def _constant(read: dict[str, np.ndarray], complete: np.ndarray) -> list[bool]:
    """Whether colour and shape are recognised and the same in all frames that should show the complete shape.

    A shape that is none of the eight is not recognised.
    """
    most = {"shape": len(scenes.SHAPES), "colour": len(scenes.COLOURS)}
    same = lambda classes, number: len(set(classes)) == 1 and 0 <= classes[0] < number
    return [
        all(same(classes[i][rows], most[name]) for name, classes in read.items()) for i, rows in enumerate(complete)
    ]


def _motion(tracks, complete: np.ndarray, kind: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
    """The evenness of motion, and its distance from the requested speed, in pixels of 32 per frame."""
    places = np.where(complete[..., None], tracks.centre, np.nan)
    lacking = (complete & np.isnan(tracks.centre[..., 0])).any(1)
    figures: dict[str, Any] = {}
    moves = kind == "moves"
    if moves.any():
        figures["line_error"] = _median(moving_objects.line_error(places)[moves], lacking[moves])
        speed = np.linalg.norm(moving_objects.velocity(places), axis=-1)[moves]
        scale = clip_judge.SIDE / drawing.SIDE / (clip_judge.FRAMES - 1)
        stated = [motions.said(caption)["speed"] for caption, is_moving in zip(captions, moves) if is_moving]
        ranges = scale * np.array([motions.SPEEDS[word] for word in stated])
        off = moving_objects.outside(speed, ranges)
        figures["speed_error"] = float(np.where(lacking[moves], np.fmax(off, 1.0), off).mean())
    bounces = kind == "bounces"
    if bounces.any():
        steps = moving_objects.speeds(places)[bounces]
        uneven = steps.std(1) / np.maximum(steps.mean(1), 1e-9)
        figures["bounce_unevenness"] = _median(uneven, lacking[bounces])
    return figures


def _median(values: np.ndarray, lacking: np.ndarray | np.bool | bool = False) -> float:
    """The median over clips; a clip that lacks the measured quantity counts as infinitely far off."""
    return float(np.median(np.where(lacking | np.isnan(values), np.inf, values)))


def distances(networks: Judge, clips: np.ndarray, real: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """The Frechet distance of clips to real ones in the judge's features, and its floor, the distance of `others`.

        FD = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)),   of the last hidden layer of the judge's network of clips

    FVD uses the features of I3D instead. The distance of a small set is biased, so as many of `others` are taken as of
    the clips.
    """

    def moments(rows: np.ndarray) -> frechet.Moments:
        parts = clip_judge.looked_at(rows, moving_objects.tracks(rows))
        return frechet.moments(clip_reader.features(networks.clips, *parts))

    reference = moments(real)
    number = min(len(clips), len(others))
    noise = np.random.default_rng(0).integers(0, 256, clips[:number].shape, np.uint8)
    return {
        "distance": float(frechet.frechet_distance(moments(clips[:number]), reference)),
        "floor": float(frechet.frechet_distance(moments(others[:number]), reference)),
        "noise": float(frechet.frechet_distance(moments(noise), reference)),
        "clips": number,
    }


def text_to_video(
    networks: Judge, make: Make, split: str, number: int
) -> tuple[dict[str, Any], np.ndarray, list[Clip]]:
    """Figures of clips made of a split's captions, with the figures of its real clips: (figures, clips, truth)."""
    real, truth = clip_judge.real(split, range(number))
    clips = make([clip.caption for clip in truth], range(SEEDS[split], SEEDS[split] + number))
    return {"made": measured(networks, clips, truth), "real": measured(networks, real, truth)}, clips, truth


def image_to_video(networks: Judge, make: Make, number: int) -> tuple[dict[str, Any], np.ndarray, list[Clip]]:
    """The figures of clips that continue the first frame of real ones, likewise."""
    rows = range(1_000, 1_000 + number)
    real, truth = clip_judge.real("test", rows)
    seeds = range(SEEDS["picture"], SEEDS["picture"] + number)
    clips = make([clip.caption for clip in truth], seeds, real[:, :1])
    return {"made": measured(networks, clips, truth, 1), "real": measured(networks, real, truth, 1)}, clips, truth


def decoded(networks: Judge, code: Callable[[np.ndarray], np.ndarray], frames: int, number: int) -> dict[str, Any]:
    """The figures of real clips after an autoencoder, an upper bound for a model of its latents.

    Args:
        networks: the judge.
        code: a function clips uint8 [N, frames, 32, 32, 3] -> the clips decoded from their latents.
        frames: the number of frames that it takes, at least 8; the first 8 are judged.
        number: the number of clips of the test split.

    Returns:
        {"psnr": the mean PSNR in dB, "asked": the scores of the judge, "clips": number}.
    """
    some = [clip_judge.example("test", row, frames=frames) for row in range(number)]
    real, truth = np.stack([clip for clip, _ in some]), [clip for _, clip in some]
    coded = chunks.applied(code, real, min(32, number))
    pictures = [jnp.asarray(clips.reshape(-1, *clips.shape[2:])) for clips in (coded, real)]
    first = coded[:, : clip_judge.FRAMES]
    tracks = moving_objects.tracks(first)
    complete = clip_judge.fully_visible(truth)[:, : clip_judge.FRAMES]
    shown = clip_judge.read_clips(networks, first, tracks, clip_judge.frames_read(networks, first, tracks), complete)
    asked = clip_judge.score(clip_judge.verdicts([clip.caption for clip in truth], shown))
    return {"psnr": float(np.mean(reconstruction_error.psnr(*pictures))), "asked": asked, "clips": number}


def extension(
    networks: Judge, make: Make, number: int, known: int = KNOWN
) -> tuple[dict[str, Any], np.ndarray, list[Clip]]:
    """The figures of clips of four times the length, which windows continue from the first `known` frames of real ones.

    Only captions of endless motions are used. "speed_kept" is the `pair_figures.speed_error` of the last 8 frames.
    """
    frames = TIMES * clip_judge.FRAMES
    chosen: list[tuple[np.ndarray, Clip]] = []
    row = 2_000
    while len(chosen) < number:
        example = clip_judge.example("test", row, frames=frames)
        if example[1].movers[0].motion in ENDLESS:
            chosen.append(example)
        row += 1
    real, truth = np.stack([clip for clip, _ in chosen]), [clip for _, clip in chosen]
    seeds = range(SEEDS["longer"], SEEDS["longer"] + number)
    clips = make([clip.caption for clip in truth], seeds, real[:, :known], frames)
    figures = {"made": measured(networks, clips, truth, known), "real": measured(networks, real, truth, known)}
    error = pair_figures.speed_error(clips, real, truth, clip_judge.FRAMES)
    if not np.isnan(error):
        figures["made"]["speed_kept"] = error
    return figures, clips, truth


def copies(clips: np.ndarray, train: np.ndarray) -> dict[str, Any]:
    """The `neighbours.copying` of training clips by generated clips, compared with that by real test clips."""
    held_out, _ = clip_judge.real("test", range(5_000, 5_000 + len(clips)))
    return neighbours.copying(clips, held_out, train)
