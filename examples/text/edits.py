"""Measures edits by a text-to-image model on captioned shapes: what is kept, visible seams, and what changed.

Each function in `EDITS` takes (model, judge, number of pictures, **settings of `text_to_image.generate`). It returns
{"figures": ..., "rows": [(words, uint8 [C, H, W, 3]), ..]}, where the rows are for a figure.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.arrays import chunks
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import COLOURS, NONE, SHAPES, WITHHELD, Lot, Scene
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.metrics import bootstrap
from diffusion.metrics.attribute_reader import Reader
from diffusion.metrics.prompt_following import clustered
from diffusion.text_to_image import TextToImage
from examples.text import judge

STREAM = 50  # stream of random numbers of the pictures that are edited
SHOWN = 6  # edits in a figure
HALF = drawing.SIDE // 2
ALONG = 7  # pictures from one prompt to another
CODED = 50  # pictures in one call of the autoencoder
RESAMPLINGS = 2  # resamplings of a trajectory that keeps a part of a picture


def starts(number: int, **fixed: str) -> tuple[np.ndarray, list[Scene]]:
    """Real pictures of one object, uint8 [N, 64, 64, 3], which are in no split, and their scenes.

    Args:
        number: N.
        **fixed: attributes that all pictures have, such as `position="left"`.
    """
    stated = Scene("one", "plain", NONE)._replace(**fixed)
    every = ((scenes.completed(stated, lot), lot) for lot in (Lot(1, STREAM, i) for i in itertools.count()))
    trained = ((drawing.draw(scene, lot), scene) for scene, lot in every if not scenes.withheld(scene))
    images, shown = zip(*itertools.islice(trained, number))
    return np.stack(images), list(shown)


def image_to_image(model: TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """Changes the colour of one shape, and measures how often the new colour appears and the shape stays."""
    images, shown = starts(number)
    requested = [_recoloured(scene) for scene in shown]
    figures = {}
    rows = [("before", images[:SHOWN])]
    for strength in (0.4, 0.6, 0.8, 0.95):
        edited = _edited(model, images, requested, strength=strength, **settings)
        figures[f"{strength:g}"] = _agreement(reader, edited, requested, "colour", "shape", "size", "position")
        rows.append((f"strength {strength:g}", edited[:SHOWN]))
    return {"figures": figures, "rows": rows}


def style(model: TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """Adds a style to a plain picture by SDEdit, and measures how often the style appears and the content stays."""
    images, shown = starts(number, size="large")
    figures = {}
    rows = [("before", images[:SHOWN])]
    for word in ("outlined", "neon"):
        requested = [scene._replace(style=word) for scene in shown]
        edited = _edited(model, images, requested, strength=0.9, **settings)
        figures[word] = _agreement(reader, edited, requested, "style", "colour", "shape", "position")
        rows.append((word, edited[:SHOWN]))
    return {"figures": figures, "rows": rows}


def inpainting(model: TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """Paints a second object into the empty right half of a picture.

    The kept half is compared byte by byte. `seam` measures the seam. The judge reads the object and its relation.
    """
    images, shown = starts(number, position="left", size="medium")
    requested = []
    for scene in shown:
        # The second object has the third colour after the first's, and another shape.
        other = _recoloured(scene._replace(shape=SHAPES[(SHAPES.index(scene.shape) + 5) % 8]), 3)
        pair = Scene("pair", "plain", scene.colour, scene.shape, count=2, relation="left of")
        requested.append(pair._replace(second_colour=other.colour, second_shape=other.shape))
    mask = np.zeros((drawing.SIDE, drawing.SIDE), bool)
    mask[:, HALF:] = True
    edited = _edited(model, images, requested, mask=mask, resamplings=RESAMPLINGS, **settings)
    to_paint = np.where(mask[..., None], np.uint8(200), images)
    rows = [("before", images[:SHOWN]), ("to paint", to_paint[:SHOWN]), ("after", edited[:SHOWN])]
    return {"figures": _half_kept(model, reader, images, edited, requested), "rows": rows}


def outpainting(model: TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """Cuts off the right half of a picture, and paints it again.

    The figures are those of `inpainting`, with the attributes of the kept object.
    """
    images, shown = starts(number, position="left", size="medium")
    halves = images[:, :, :HALF]
    edited = _edited(model, halves, shown, margins=(0, 0, 0, HALF), resamplings=RESAMPLINGS, **settings)
    before = np.pad(halves, ((0, 0), (0, 0), (0, HALF), (0, 0)), constant_values=200)
    rows = [("before", before[:SHOWN]), ("after", edited[:SHOWN])]
    return {"figures": _half_kept(model, reader, images, edited, shown), "rows": rows}


def _edited(model: TextToImage, images: Iterable[np.ndarray], requested: Sequence[Scene], **settings) -> np.ndarray:
    """The edits of pictures towards the requested scenes, each with its own seed."""
    change = functools.partial(text_to_image.generate, model, **settings)
    pairs = enumerate(zip(images, requested))
    return np.stack([change(scenes.phrase(scene), image=image, seeds=seed)[0] for seed, (image, scene) in pairs])


def _agreement(reader: Reader, edited: np.ndarray, requested: Sequence[Scene], *names: str) -> dict[str, Any]:
    """How often the judge reads the requested value of each attribute in `names`."""
    pairs = list(zip(requested, judge.read_scenes(reader, edited)))
    return {name: bootstrap.share([getattr(a, name) == getattr(b, name) for a, b in pairs]) for name in names}


def _half_kept(model: TextToImage, reader: Reader, images: np.ndarray, edited: np.ndarray, requested: Sequence[Scene]):
    """The figures of edits that keep the left half of a picture."""
    verdicts = [judge.verdict(scene, shown) for scene, shown in zip(requested, judge.read_scenes(reader, edited))]
    unchanged = [np.array_equal(a, b) for a, b in zip(images[:, :, :HALF], edited[:, :, :HALF])]
    return {
        "kept_to_the_bit": bootstrap.share(unchanged),
        "seam": seam(edited, through_autoencoder(model, images), images),
        "requested": judge.score(verdicts, [scenes.phrase(scene) for scene in requested]),
    }


def _recoloured(scene: Scene, turns: int = 1) -> Scene:
    """The object in another colour: the first one, from `turns` colours on, that this shape has in training."""
    later = [COLOURS[(COLOURS.index(scene.colour) + i) % 8] for i in range(turns, 8)]
    return scene._replace(colour=next(one for one in later if (one, scene.shape) not in WITHHELD))


def seam(edited: np.ndarray, coded: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The difference of the pixels on both sides of the middle seam, for edits that keep the left half of `real`.

    If the left halves of `coded` are put back as in an edit, the pictures have the seam of a model that paints exactly
    the latents of the real pictures.

    Args:
        edited: the edits, uint8 [N, H, W, 3].
        coded: the real pictures after encoding and decoding, uint8 [N, H, W, 3].
        real: the real pictures, uint8 [N, H, W, 3].

    Returns:
        {"mean", "worst"} for the edits, and the same with "coded_" and "real_" in front for the other two. They are
        absolute differences on the scale of 255: the mean over all pixels of the seam, and the largest one, each
        averaged over pictures.
    """
    pasted = np.concatenate([real[:, :, :HALF], coded[:, :, HALF:]], axis=2)
    differences = {}
    for name, images in (("", edited), ("coded_", pasted), ("real_", real)):
        steps = np.abs(images[:, :, HALF].astype(float) - images[:, :, HALF - 1]).mean(-1)
        differences |= {f"{name}mean": float(steps.mean()), f"{name}worst": float(steps.max(1).mean())}
    return differences


def through_autoencoder(model: TextToImage, images: np.ndarray) -> np.ndarray:
    """The autoencoder's reconstructions of pictures, uint8 [N, H, W, 3]."""
    autoencoder = autoencoder_folders.Autoencoder("", model.modules["vae"], model.params["vae"], {})
    return chunks.applied(autoencoder_folders.reconstruction(autoencoder), images, min(CODED, len(images)))


def interpolation(model: TextToImage, reader: Reader, number: int, **settings: Any) -> dict[str, Any]:
    """Interpolates between two prompts at one seed, and between two seeds with one prompt.

    Between prompts, a picture should show one prompt or the other. Between seeds, every picture should show the prompt.
    The settings are guidance and steps.
    """
    _, shown = starts(number, size="large", position="middle")
    ends = [(scene, _recoloured(scene, 4)) for scene in shown]
    weights = np.linspace(0, 1, ALONG)
    prompts = [
        text_to_image.between(model, [scenes.phrase(a), scenes.phrase(b)], (seed, seed), weights, **settings)
        for seed, (a, b) in enumerate(ends)
    ]
    seeds = [
        text_to_image.between(model, [scenes.phrase(a)] * 2, (seed, seed + number), weights, **settings)
        for seed, (a, _) in enumerate(ends)
    ]
    right = lambda scene, images: [
        all(judge.verdict(scene, scene_shown).values()) for scene_shown in judge.read_scenes(reader, images)
    ]
    first = np.array([right(a, images) for (a, _), images in zip(ends, prompts)])
    last = np.array([right(b, images) for (_, b), images in zip(ends, prompts)])
    shows_first = [right(a, images) for (a, _), images in zip(ends, seeds)]
    way = np.repeat(np.arange(len(ends)), ALONG)  # the pictures of one interpolation are not independent
    figures = {
        "first_prompt_at_the_start": bootstrap.share(first[:, 0]),
        "second_prompt_at_the_end": bootstrap.share(last[:, -1]),
        "either_prompt_on_the_way": clustered.share((first | last).ravel(), way),
        "prompt_between_seeds": clustered.share(np.ravel(shows_first), way),
    }
    rows = [("prompt to prompt", images) for images in prompts[:3]] + [("seed to seed", images) for images in seeds[:3]]
    return {"figures": figures, "rows": rows}


EDITS = {
    "image to image": image_to_image,
    "style": style,
    "inpainting": inpainting,
    "outpainting": outpainting,
    "interpolation": interpolation,
}
