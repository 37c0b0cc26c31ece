"""Draws a ghost, a glyph that the pictures of `shapes` do not contain, for finetuning on five pictures.

FOLDER/0.png ... 4.png      ghosts of several sizes and colours at several positions
FOLDER/metadata.csv         file_name, caption ("a large purple ghost in the middle"), and `word`, the caption with
                            "<ghost>", the form that textual inversion uses
"""

import csv
import io
import pathlib

import numpy as np

from diffusion.data.shapes import drawing, scenes, spoilt
from diffusion.data.shapes.drawing import Distance
from diffusion.data.shapes.scenes import COLOURS, NONE, POSITIONS, RELATIONS, SHAPES, SIZES, Lot, Scene
from diffusion.io import pictures
from diffusion.io.files import write_text

NAME = "ghost"
SEED = 8_003  # seed of the glyph's pictures and of the prompts that name it
TAUGHT = (
    Scene("one", "plain", "purple", NAME, "large", "middle"),
    Scene("one", "plain", "green", NAME, "medium", "top left"),
    Scene("one", "plain", "orange", NAME, "small", "right"),
    Scene("one", "plain", "blue", NAME, "medium", "bottom"),
    Scene("one", "plain", "red", NAME, "large", "bottom left"),
)
"""The scenes of the five pictures."""


def ghost(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """The signed distance to the edge of a ghost in pixels: a round head, straight sides, three lobes, two eyes."""
    side = 0.85 * radius
    lobe = side / 3  # its radius
    hem = 0.6 * radius
    head = np.where(y < -0.1 * radius, np.hypot(x, y + 0.1 * radius), np.abs(x)) - side
    centre = 2 * lobe * np.clip(np.round(x / (2 * lobe)), -1, 1)  # of the nearest lobe
    body = np.minimum(np.maximum(head, y - hem), np.hypot(x - centre, y - hem) - lobe)
    eyes = 0.27 * radius - np.hypot(np.abs(x) - 0.4 * radius, y + 0.12 * radius)
    return np.maximum(body, eyes)


SHAPE: dict[str, Distance] = {NAME: ghost}
"""The glyph as an argument of `drawing.draw`."""


def word(scene: Scene, name: str = NAME) -> str:
    """The caption of a scene, with another name of the glyph, such as "<ghost>"."""
    return scenes.phrase(scene).replace(NAME, name)


def write(folder: str | pathlib.Path) -> pathlib.Path:
    """Writes the five pictures and their captions, the same files in each call; returns the folder.

    Args:
        folder: the folder, made if missing.
    """
    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("file_name", "caption", "word"))
    for number, scene in enumerate(TAUGHT):
        caption = scenes.phrase(scene)
        pictures.write(folder / f"{number}.png", picture(scene, 0, number), {"caption": caption})
        rows.writerow((f"{number}.png", caption, word(scene, f"<{NAME}>")))
    write_text(folder / "metadata.csv", table.getvalue())
    return folder


def picture(scene: Scene, stream: int, number: int) -> np.ndarray:
    """A real picture of a scene, uint8 [64, 64, 3]; (stream, number) seeds the attributes that the scene leaves out."""
    lot = Lot(SEED, stream, number)
    return drawing.draw(scenes.completed(scene, lot), lot, SHAPE)


def spoilt_picture(scene: Scene, stream: int, number: int) -> np.ndarray:
    """A picture of a scene with the glyph broken, blended with another shape or blurred, in turn, uint8 [64, 64, 3]."""
    lot = Lot(SEED, 100 + stream, number)
    scene = scenes.completed(scene, lot)
    kind = ("broken", "blended", "blurred")[number % 3]
    if kind == "blurred":
        return spoilt.blurred(drawing.draw(scene, lot, SHAPE), lot)
    other = drawing.DISTANCES[lot.pick(SHAPES)]
    distance = spoilt.broken(ghost, lot) if kind == "broken" else spoilt.blended(ghost, other, lot)
    return drawing.draw(scene, lot, {NAME: distance})


def requested(number: int) -> list[Scene]:
    """Random scenes with one ghost: half of them with the ghost alone, half with another shape in a relation to it."""
    return [_requested(Lot(SEED, 1, i), pair=i % 2 == 1) for i in range(number)]


def _requested(lot: Lot, pair: bool) -> Scene:
    """A random scene with a ghost, alone or with another shape."""
    colour = lot.pick(COLOURS)
    if not pair:
        size, position = lot.pick((NONE, *SIZES)), lot.pick((NONE, *POSITIONS))
        return Scene("one", "plain", colour, NAME, size, position)
    other = lot.pick([one for one in COLOURS if one != colour]), lot.pick(SHAPES)
    first, second = ((colour, NAME), other) if lot.between(0, 1) < 0.5 else (other, (colour, NAME))
    relation = lot.pick(RELATIONS)
    return Scene("pair", "plain", *first, count=2, relation=relation, second_colour=second[0], second_shape=second[1])
