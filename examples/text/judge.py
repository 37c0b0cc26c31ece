"""A judge that decides whether a picture shows what its caption requests; it is independent of every text encoder.

The judge is a small network (`diffusion.metrics.attribute_reader`) that reads the attributes of pictures of `shapes`.
It is trained on other pictures than the model (another seed, including the withheld combinations), so it does not
depend on the model that it judges. Every report lists its errors on real pictures.

The judge can reject pictures: a quarter of its training pictures are corrupted drawings (`shapes.spoilt`), whose shape
is "none of these". The threshold is chosen such that it rejects 1 % of the drawings of another seed.
"""

import hashlib
import pathlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from diffusion.data.shapes import drawing, scenes, spoilt
from diffusion.data.shapes.scenes import NONE, Scene
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following import clustered
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress

SEED = 7_001  # seed of the judge's pictures, which differs from that of the dataset
PICTURES = {"one": 20_000, "several": 20_000, "pair": 20_000, "word": 16_000}  # training pictures of each kind
WITHHELD_SHARE = 1 / 8  # makes each pair of a colour and a shape as frequent as any other
MORE = 6  # the answer for six objects or more: no caption requests so many, but a model may paint them
CROWDED_SHARE = 1 / 5  # share of MORE among several objects, so that it is as frequent as each of two to five
ATTRIBUTES = scenes.ATTRIBUTES | {"count": (*scenes.ATTRIBUTES["count"], MORE)}
STEPS = 4_000
SPOILT_SHARE = 1 / 4  # share of spoilt drawings among the pictures of shapes
MOVED_SHARE = 1 / 2  # share of pictures with softened edges, so that the soft edges of a model do not count as spoilt
MOST_MOVED = 0.75  # pixels
REFUSED = 0.01  # share of real drawings that the judge refuses
CALIBRATION_SEED = 7_003  # seed of the drawings that set the threshold for this share
CALIBRATION = {"one": 4_000, "several": 2_000, "pair": 4_000, "word": 0}
NONE_OF_THESE = {name: ATTRIBUTES[name].index(NONE) for name in ("shape", "second_shape")}
EASY = ("kind", "style", "colour", "shape", "size", "position")  # attributes that a model should always get right
HARD = ("count", "relation", "word")  # attributes that text-to-image models often get wrong


def facing(scene: Scene) -> Scene:
    """The same picture described from its left or upper object, so that each picture has one description."""
    if scene.relation not in ("right of", "below"):
        return scene
    opposite = {"right of": "left of", "below": "above"}[scene.relation]
    return scene._replace(
        colour=scene.second_colour,
        shape=scene.second_shape,
        second_colour=scene.colour,
        second_shape=scene.shape,
        relation=opposite,
    )


def pictures(
    seed: int = SEED, number: dict[str, int] | None = None, spoilt_share: float = SPOILT_SHARE
) -> tuple[np.ndarray, list[Scene]]:
    """The pictures that the judge learns from, uint8 [N, 64, 64, 3], and the scenes that it should read.

    Args:
        seed: the seed of all pictures.
        number: the number of pictures of each kind of scene; `PICTURES` by default.
        spoilt_share: the share of spoilt drawings among the drawings of shapes; their shape is `NONE`.
    """
    left = dict(number or PICTURES)
    examples: list[tuple[np.ndarray, Scene]] = []
    index = 0
    while sum(left.values()):
        lot = scenes.Lot(seed, 0, index)
        scene = scenes.draw(lot, of_withheld=lot.between(0, 1) < WITHHELD_SHARE)
        if scene.kind == "several" and lot.between(0, 1) < CROWDED_SHARE:
            scene = scene._replace(count=lot.pick(range(MORE, len(scenes.POSITIONS) + 1)))
        if left[scene.kind]:
            left[scene.kind] -= 1
            if scene.kind != "word" and lot.between(0, 1) < spoilt_share:
                image, scene = spoilt.draw(scene, lot, lot.pick(spoilt.KINDS))
            else:
                image = drawing.draw(scene, lot)
            if lot.between(0, 1) < MOVED_SHARE:
                image = moved(image, lot)
            examples.append((image, facing(scene)._replace(count=min(scene.count, MORE))))
        index += 1
    images, shown = zip(*examples)
    return np.stack(images), list(shown)


def moved(image: np.ndarray, lot: scenes.Lot) -> np.ndarray:
    """A picture uint8 [H, W, 3], shifted by a fraction of a pixel along each side, which softens its edges.

    Values between pixels are interpolated linearly.
    """
    way = lot.between(-MOST_MOVED, MOST_MOVED), lot.between(-MOST_MOVED, MOST_MOVED), 0.0
    return np.round(ndimage.shift(image.astype(np.float32), way, order=1, mode="nearest")).astype(np.uint8)


def check_side(model: str, side: int) -> None:
    """Refuses a model whose pictures have another side than those of the shapes.

    Args:
        model: the model's name in the message.
        side: the side of its pictures, in pixels.

    Raises:
        ConfigError: for another side.
    """
    if side != drawing.SIDE:
        raise ConfigError(
            f"{model} makes pictures of {side} pixels, but the judge reads only pictures of {drawing.SIDE} pixels. "
            "Train a model on shapes: python -m examples.text.demo --config=text/shapes."
        )


def name() -> str:
    """The name of the judge: a digest of its network's code, its settings, and a sample of its pictures and labels."""
    images, shown = pictures(number=dict.fromkeys(PICTURES, 20))
    digest = hashlib.sha256(pathlib.Path(attribute_reader.__file__).read_bytes() + images.tobytes())
    settings = (SEED, PICTURES, STEPS, SPOILT_SHARE, REFUSED, CALIBRATION_SEED, CALIBRATION)
    digest.update(repr((shown, sorted(ATTRIBUTES.items()), settings)).encode())
    return f"shapes-{digest.hexdigest()[:32]}"


def reader(folder: pathlib.Path | None = None) -> Reader:
    """The judge, from a folder (by default the library's cache), or trained now (minutes)."""

    def trained() -> Reader:
        images, shown = pictures()
        with progress.bar("training the judge", STEPS, "steps") as advance:
            judge = attribute_reader.train(images, labels(shown), steps=STEPS, progress=lambda step, _: advance(step))
        return calibrated(judge, *pictures(CALIBRATION_SEED, CALIBRATION, spoilt_share=0.0))

    return attribute_reader.cached(name(), trained, folder)


def calibrated(judge: Reader, images: np.ndarray, shown: Sequence[Scene], share: float = REFUSED) -> Reader:
    """The judge with a threshold at which it refuses a share of real drawings.

    Of two objects, it is enough that one is refused.

    Args:
        judge: the judge as it was trained.
        images: real drawings without words, uint8 [N, 64, 64, 3], that the judge was not trained on.
        shown: the scenes that they show.
        share: the share, in 0..1.
    """
    margins = attribute_reader.margins(judge, attribute_reader.features(judge, images), NONE_OF_THESE)
    pair = np.array([scene.kind == "pair" for scene in shown])
    either = np.where(pair, np.maximum(*margins.values()), margins["shape"])
    return attribute_reader.shifted(judge, NONE_OF_THESE, -float(np.quantile(either, 1 - share)))


def labels(shown: Sequence[Scene]) -> dict[str, np.ndarray]:
    """The scenes of pictures as classes, {attribute: int64 [N]}."""
    return {
        name: np.array([values.index(getattr(scene, name)) for scene in shown], np.int64)
        for name, values in ATTRIBUTES.items()
    }


def seen_without_refusal(judge: Reader, images: np.ndarray) -> list[Scene]:
    """The scenes that the judge reads in pictures, uint8 [N, 64, 64, 3], if it must choose one of the eight shapes."""
    return read_scenes(attribute_reader.shifted(judge, NONE_OF_THESE, -np.inf), images)


def read_scenes(judge: Reader, images: np.ndarray) -> list[Scene]:
    """The scenes that the judge reads in pictures, uint8 [N, 64, 64, 3]."""
    classes = attribute_reader.read(judge, images)
    return [
        Scene(**{name: values[classes[name][i]] for name, values in ATTRIBUTES.items()}) for i in range(len(images))
    ]


def refused(shown: Scene) -> bool:
    """Whether a shape of the scene, either one of two, is none of the eight."""
    return shown.shape == NONE or (shown.kind == "pair" and shown.second_shape == NONE)


def verdict(requested: Scene, shown: Scene) -> dict[str, bool]:
    """Says for each requested attribute whether it is shown.

    Two objects are matched such that as many as possible of their colours and shapes agree. The relation is then that
    of the matched objects. The style "plain" is never requested, as no caption names it. If the caption names no shape,
    any of the eight is right, but "none of these" is not.

    Args:
        requested: the requested scene, as `scenes.parsed` returns it.
        shown: the scene that is shown, as `read_scenes` returns it.

    Returns:
        {attribute: whether it is right}, for "kind" and the requested attributes; "colour" and "shape" of two
        objects are right if both are.
    """
    right = {"kind": requested.kind == shown.kind}
    if requested.style != "plain":
        right["style"] = requested.style == shown.style
    if requested.kind != "pair":
        for name in ("colour", "shape", "size", "position", "word"):
            if getattr(requested, name) != NONE:
                right[name] = getattr(requested, name) == getattr(shown, name)
        if requested.shape == NONE and requested.kind != "word":
            right["shape"] = shown.shape != NONE
        return right | ({"count": requested.count == shown.count} if requested.kind == "several" else {})
    turned = facing(requested)
    wanted = ((turned.colour, turned.shape), (turned.second_colour, turned.second_shape))
    objects_shown = ((shown.colour, shown.shape), (shown.second_colour, shown.second_shape))
    agreeing = lambda objects: sum(x == y for a, b in zip(wanted, objects) for x, y in zip(a, b))
    straight = agreeing(objects_shown)
    crossed = agreeing(objects_shown[::-1])
    matched = objects_shown if straight >= crossed else objects_shown[::-1]
    for i, name in enumerate(("colour", "shape")):
        right[name] = all(a[i] == b[i] for a, b in zip(wanted, matched))
    if requested.relation != NONE:
        right["relation"] = turned.relation == shown.relation and straight > crossed and straight >= 3
    return right


def score(verdicts: Sequence[dict[str, bool]], prompts: Sequence[str] | None = None) -> dict[str, Any]:
    """Shares of right attributes and pictures, by the verdicts, with 95 % intervals.

    The attributes of a picture, and the pictures of a prompt, are not independent draws: see `clustered.share`.

    Args:
        verdicts: the verdict of each picture.
        prompts: the prompt of each picture; None if each has its own.

    Returns:
        {"attributes": the share of all requested attributes of `EASY` that are right, "pictures": the share of pictures
        in which all requested attributes of `EASY` are right, and one entry for each requested attribute}, each from
        `clustered.share`.
    """
    names = list(prompts) if prompts is not None else range(len(verdicts))
    pairs = list(zip(verdicts, names, strict=True))
    easy = [[right for name, right in verdict.items() if name in EASY] for verdict in verdicts]
    shares = {
        "attributes": clustered.share(*attributes(verdicts, names)),
        "pictures": clustered.share(list(map(all, easy)), names),
    }
    for name in (*EASY, *HARD):
        if rows := [(verdict[name], prompt) for verdict, prompt in pairs if name in verdict]:
            shares[name] = clustered.share(*zip(*rows))
    return shares


def attributes(verdicts: Sequence[dict[str, bool]], prompts: Sequence[Hashable]) -> tuple[list[bool], list[Hashable]]:
    """(whether each requested attribute of `EASY` is right, the prompt of its picture)."""
    rows = [
        (right, prompt) for verdict, prompt in zip(verdicts, prompts) for name, right in verdict.items() if name in EASY
    ]
    return [right for right, _ in rows], [prompt for _, prompt in rows]
