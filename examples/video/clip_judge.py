"""A judge of clips of one moving shape; its networks are trained separately from every video model.

Positions, areas and speeds are measured without a network (`moving_objects`). One network reads colour and shape from
the part of a frame around the position (`metrics.attribute_reader`). Another network reads motion, direction and speed
from these parts of all frames and from the positions (`clip_reader`). Both learn from clips of a separate seed,
including the withheld combinations. The reader of frames can reject shapes: a quarter of its training clips have a
shape that is none of the eight (`spoilt_clips`). Its threshold is chosen such that it rejects 1 % of the frames in
clips of another seed.
"""

import functools
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.data.shapes import motions, scenes
from diffusion.data.shapes.motions import Clip, Mover, Setting
from diffusion.metrics import attribute_reader, bootstrap
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following import clustered
from diffusion.training.runtime import progress
from examples.video import clip_reader, moving_objects, spoilt_clips
from examples.video.moving_objects import Tracks

SEED = 7_002  # seed of the judge's clips, which differs from that of the data
CLIPS = 3_000  # real training clips; every eighth one has a withheld combination
SPOILT = 1 / 3  # further clips, as a share of CLIPS, whose shape is none of the eight
REFUSED = 0.01  # share of the frames of real clips that the judge refuses
CALIBRATION_SEED, CALIBRATION = 7_004, 500  # seed and number of the clips that set the threshold for this share
FRAME_STEPS, CLIP_STEPS = 1_000, 800
FRAMES, SIDE = 8, 32
PART = 16  # pixels of the part of a frame that is read
SETTING = Setting(two=0.0, radii=(7.6, 8.2), tilted=True)
OF_FRAMES = {"colour": scenes.COLOURS, "shape": (*scenes.SHAPES, scenes.NONE)}
NONE_OF_THESE = {"shape": len(scenes.SHAPES)}
OF_CLIPS = {
    "motion": tuple(motions.MOTIONS),
    "direction": ("", *motions.DIRECTIONS, "clockwise", "counterclockwise"),
    "speed": ("", *motions.SPEEDS),
}
ATTRIBUTES = (*OF_FRAMES, *OF_CLIPS)


class Judge(NamedTuple):
    """The two networks."""

    frames: Reader
    clips: Reader


def example(split: str, number: int, seed: int = motions.SEED, frames: int = FRAMES) -> tuple[np.ndarray, Clip]:
    """A real clip in the recipe's size, uint8 [F, 32, 32, 3], and its truth; longer clips keep their speed."""
    clip = motions.example(split, number, frames, seed, SETTING._replace(span=FRAMES))
    return motions.shrunk(clip.frames, SIDE), clip


def real(split: str, numbers: Sequence[int], seed: int = motions.SEED) -> tuple[np.ndarray, list[Clip]]:
    """Real clips, uint8 [N, 8, 32, 32, 3], and their truth."""
    examples = [example(split, number, seed) for number in numbers]
    return np.stack([frames for frames, _ in examples]), [clip for _, clip in examples]


def name_of(clips: int, steps: tuple[int, int]) -> str:
    """A digest of a judge's settings, its networks' code and their inputs for some clips, 32 hexadecimal digits."""
    code = [pathlib.Path(str(module.__file__)).read_bytes() for module in (attribute_reader, clip_reader)]
    some = np.stack([example(split, i, SEED)[0] for split in motions.STREAMS for i in range(8)])
    inputs = [part.tobytes() for part in (some, spoilt(8)[0], *looked_at(some, moving_objects.tracks(some)))]
    refusal = (SPOILT, REFUSED, CALIBRATION_SEED, CALIBRATION)
    settings = repr((SEED, clips, steps, moving_objects.WHOLE, OF_FRAMES, OF_CLIPS, refusal))
    return hashlib.sha256(b"".join(code + inputs) + settings.encode()).hexdigest()[:32]


def judge(folder: pathlib.Path | None = None, clips: int = CLIPS, steps: tuple[int, int] = (FRAME_STEPS, CLIP_STEPS)):
    """The judge, from a folder (by default the library's cache), or trained now (minutes): a `Judge`."""
    name = name_of(clips, steps)

    @functools.cache
    def lessons() -> tuple[np.ndarray, list[Clip]]:
        some = [example("train" if i % 8 else "withheld", i, SEED) for i in range(clips)]
        return np.stack([frames for frames, _ in some]), [clip for _, clip in some]

    def train_on_frames() -> Reader:
        images, truth = lessons()
        in_full = fully_visible(truth)
        labels = {name: np.repeat(row[:, None], FRAMES, 1)[in_full] for name, row in _labels(truth, OF_FRAMES).items()}
        parts = looked_at(images, moving_objects.tracks(images))[0][in_full]
        none, movers = spoilt(round(SPOILT * clips))
        parts = np.concatenate([parts, looked_at(none, moving_objects.tracks(none))[0].reshape(-1, *parts.shape[1:])])
        colour = np.array([scenes.COLOURS.index(mover.colour) for mover in movers])
        spoilt_labels = {"colour": colour, "shape": np.full(len(none), NONE_OF_THESE["shape"])}
        labels = {name: np.concatenate([row, spoilt_labels[name].repeat(FRAMES)]) for name, row in labels.items()}
        with progress.bar("training the judge of frames", steps[0], "steps") as advance:
            reader = attribute_reader.train(parts, labels, steps=steps[0], progress=lambda step, _: advance(step))
        return calibrated(reader, *real("test", range(min(clips, CALIBRATION)), CALIBRATION_SEED))

    def train_on_clips() -> Reader:
        images, truth = lessons()
        with progress.bar("training the judge of clips", steps[1], "steps") as advance:
            parts = looked_at(images, moving_objects.tracks(images))
            return clip_reader.train(
                *parts, _labels(truth, OF_CLIPS), steps=steps[1], progress=lambda step, _: advance(step)
            )

    return Judge(
        attribute_reader.cached(f"video-frames-{name}", train_on_frames, folder),
        attribute_reader.cached(f"video-clips-{name}", train_on_clips, folder),
    )


def _labels(truth: Sequence[Clip], values: Mapping[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """The classes of each attribute of N clips, int [N]: the indices of the moving shape's values in `values`."""
    return {
        name: np.array([options.index(getattr(clip.movers[0], name)) for clip in truth])
        for name, options in values.items()
    }


def spoilt(number: int) -> tuple[np.ndarray, list[Mover]]:
    """Clips whose shape is none of the eight, uint8 [N, 8, 32, 32, 3], and their moving shapes."""
    setting = SETTING._replace(span=FRAMES)
    examples = [spoilt_clips.example(i, SEED, FRAMES, setting) for i in range(number)]
    return np.stack([motions.shrunk(frames, SIDE) for frames, _ in examples]), [mover for _, mover in examples]


def calibrated(reader: Reader, clips: np.ndarray, truth: Sequence[Clip], share: float = REFUSED) -> Reader:
    """The reader of frames with a threshold at which it refuses a share of the frames that show a complete shape."""
    parts = looked_at(clips, moving_objects.tracks(clips))[0][fully_visible(truth)]
    margins = attribute_reader.margins(reader, attribute_reader.features(reader, parts), NONE_OF_THESE)["shape"]
    return attribute_reader.shifted(reader, NONE_OF_THESE, -float(np.quantile(margins, 1 - share)))


def looked_at(clips: np.ndarray, tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of the networks: the parts of frames around the shape, and its position and area.

    Args:
        clips: uint8 [N, F, 32, 32, 3].
        tracks: the `moving_objects.tracks` of the clips.

    Returns:
        (parts uint8 [N, F, 16, 16, 3], numbers float32 [N, 3 F]: for each frame (x, y) from the middle and the area,
        of about unit variance, or zeros without a shape).
    """
    places = np.nan_to_num((tracks.centre - SIDE / 2) / (SIDE / 4))
    numbers = np.concatenate([places, tracks.area[..., None] / PART**1.5], axis=-1)
    parts = moving_objects.around(clips, tracks.centre, PART)
    return parts, numbers.reshape(len(clips), -1).astype(np.float32)


def fully_visible(truth: Sequence[Clip]) -> np.ndarray:
    """The frames that should show the complete shape, Bool [N, F]."""
    return np.stack([clip.visible[:, 0] for clip in truth]) >= moving_objects.WHOLE


def frames_read(networks: Judge, clips: np.ndarray, tracks: Tracks) -> dict[str, np.ndarray]:
    """Colour and shape of each frame as indices in `OF_FRAMES`, int64 [N, F] each; -1 in a frame without a shape."""
    number, frames = clips.shape[:2]
    parts, _ = looked_at(clips, tracks)
    there = tracks.area >= moving_objects.LEAST
    read = attribute_reader.read(networks.frames, parts.reshape(-1, *parts.shape[2:]))
    return {name: np.where(there, classes.reshape(number, frames), -1) for name, classes in read.items()}


def read_clips(
    networks: Judge, clips: np.ndarray, tracks: Tracks, by_frame: Mapping[str, np.ndarray], complete: np.ndarray
) -> list[dict[str, str]]:
    """The attributes that clips show; colour and shape are those of most frames that should show the complete shape.

    An attribute is "" if most of these frames show no shape, or if there are no such frames.

    Args:
        networks: the judge.
        clips: uint8 [N, F, 32, 32, 3]; only the last 8 frames of longer clips are read.
        tracks: the `moving_objects.tracks` of the clips.
        by_frame: the `frames_read` of the clips.
        complete: Bool [N, F], the frames in which colour and shape count.
    """
    last = slice(-FRAMES, None)
    parts = looked_at(clips[:, last], Tracks(*(values[:, last] for values in tracks)))
    classes_of_clips = clip_reader.read(networks.clips, *parts)
    shown = [{name: values[classes_of_clips[name][i]] for name, values in OF_CLIPS.items()} for i in range(len(clips))]
    for i, attributes in enumerate(shown):
        for name, values in OF_FRAMES.items():
            classes = by_frame[name][i, last][complete[i, last]]
            attributes[name] = ("", *values)[np.bincount(classes + 1).argmax()] if len(classes) else ""
    return shown


def verdicts(captions: Sequence[str], shown: Sequence[dict[str, str]]) -> list[dict[str, bool]]:
    """Says for each attribute that a caption states whether it is shown."""
    stated = [motions.said(caption) for caption in captions]
    return [
        {name: value == attributes[name] for name, value in wanted.items()} for wanted, attributes in zip(stated, shown)
    ]


def score(verdicts: Sequence[dict[str, bool]]) -> dict[str, dict]:
    """Shares of right attributes, of completely right clips, and of each right attribute, with 95 % intervals.

    The attributes of a clip are not independent draws: see `clustered.share`.
    """
    clip = [i for i, verdict in enumerate(verdicts) for _ in verdict]
    shares = {
        "attributes": clustered.share([right for verdict in verdicts for right in verdict.values()], clip),
        "clips": bootstrap.share([all(verdict.values()) for verdict in verdicts]),
    }
    for name in ATTRIBUTES:
        if attribute_rights := [verdict[name] for verdict in verdicts if name in verdict]:
            shares[name] = bootstrap.share(attribute_rights)
    return shares
