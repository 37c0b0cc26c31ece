"""Techniques that need minutes of training: a slider, ESD, Custom Diffusion, and controls with weights and intervals.

Each function of `ROWS` takes (model, the folder of its run, the number of pictures, at least 8) and returns its `Row`.
The runs come from the recipes `tuning/drawings_concepts` and `tuning/drawings_control`.
"""

import pathlib

import numpy as np

from diffusion import text_to_image
from diffusion.adapters import control
from diffusion.data.shapes import arrangements
from diffusion.data.shapes.arrangements import Arrangement, Thing
from diffusion.data.shapes.scenes import COLOURS, SHAPES, Lot, Scene, phrase, withheld
from diffusion.experiments.sampling import tuned_run
from diffusion.metrics import bootstrap
from diffusion.text_to_image import TextToImage
from examples.control import shape_finder
from examples.glyph import glyph
from examples.techniques.row import Row, every_second, shares
from examples.techniques.steered import BATCH, erasure_row
from examples.text import drawn_objects

SEED = 9_012  # seed of the scenes
LORA = "tuning/pytorch_lora_weights.safetensors"
WEIGHTS = (-1, 0, 1)
CLOSE = 4.0  # largest distance between a planned position and the nearest part of the picture, in pixels
FIRST, SECOND = (16.0, 16.0), (48.0, 48.0)  # positions of the shapes of the two controls
CONTROLS = {
    "no control": None,
    "the first alone": (0.0, (0.0, 1.0)),
    "both": (1.0, (0.0, 1.0)),
    "second at weight 0.3": (0.3, (0.0, 1.0)),
    "second in t 0.8-1": (1.0, (0.8, 1.0)),
    "second in t 0-0.5": (1.0, (0.0, 0.5)),
}
"""The weight and the interval of the second control; the first one has weight 1 at all times."""


def slider(model: TextToImage, run: pathlib.Path, number: int) -> Row:
    """A slider of size at three weights, with prompts that name no size."""
    asked = [_one(i) for i in range(number)]
    prompts = [phrase(scene) for scene in asked]
    pictures = {
        f"weight {weight}": text_to_image.generate(
            text_to_image.with_loras(model, {run / LORA: weight}) if weight else model,
            prompts,
            seeds=range(number),
            batch_size=BATCH,
        )
        for weight in WEIGHTS
    }
    return Row(
        title="Slider of size",
        page="../../tuning.md#sliders-and-erasure",
        commands=(
            "diffusion train --config=tuning/drawings_concepts:slider --workdir=runs/concepts/slider",
            f'diffusion sample --model=drawings --lora=runs/concepts/slider/{LORA}:-1 --prompt="a red circle"',
        ),
        look="In each column, the shape grows from small to large; the prompt names no size. At both ends, some "
        "shapes are doubled or darker.",
        captions=prompts,
        pictures=pictures,
        figures={
            f"nearest size is {size}": shares(pictures, [scene._replace(size=size) for scene in asked], "size")
            for size in ("small", "large")
        }
        | {"shape and colour as requested": shares(pictures, asked, "shape", "colour")},
    )


def _one(number: int) -> Scene:
    """A scene with one shape of a trained combination; scenes of consecutive numbers have all colours and shapes."""
    shapes = (SHAPES[(3 * number + number // 8 + i) % 8] for i in range(2))  # each colour has one withheld shape
    looks = (Scene("one", "plain", COLOURS[number % 8], shape) for shape in shapes)
    return next(scene for scene in looks if not withheld(scene))


def erase(model: TextToImage, run: pathlib.Path, number: int) -> Row:
    """ESD on hearts."""
    return erasure_row(
        model,
        text_to_image.load(run / "tuning"),
        number,
        "Erasure by ESD",
        (
            "diffusion train --config=tuning/drawings_concepts:erase --workdir=runs/concepts/erase",
            'diffusion sample --model=runs/concepts/erase/tuning --prompt="a red heart"',
        ),
        "No heart is left, but the other shapes, in between, have changed too: some are smaller, and some "
        "appear twice.",
    )


def custom_diffusion(model: TextToImage, run: pathlib.Path, number: int) -> Row:
    """Custom diffusion: a ghost from five pictures, by a new word and the keys and values of cross-attention."""
    tuned, *_ = tuned_run.load(run)
    ghosts = [Scene("one", "plain", COLOURS[i % 8], glyph.NAME) for i in range(number)]
    others = [_one(i) for i in range(number)]
    asked = [scene for pair in zip(ghosts, others) for scene in pair]
    words = {"before": "ghost", "after": f"<{glyph.NAME}>"}
    pictures = {
        name: text_to_image.generate(
            one, [glyph.word(scene, words[name]) for scene in asked], seeds=range(len(asked)), batch_size=BATCH
        )
        for name, one in (("before", model), ("after", tuned))
    }

    def best(scenes: list[Scene], first: int) -> dict:
        verdicts = {
            name: drawn_objects.verdicts(scenes, images, (glyph.ghost,))
            for name, images in every_second(pictures, first).items()
        }
        return {name: bootstrap.share([right["shape"] for right in rights]) for name, rights in verdicts.items()}

    return Row(
        title="Custom diffusion",
        page="../../tuning.md#what-is-trained",
        commands=(
            "diffusion train --config=tuning/drawings_concepts:custom_diffusion "
            "--workdir=runs/concepts/custom_diffusion",
            'diffusion sample --workdir=runs/concepts/custom_diffusion --prompt="a red <ghost>"',
        ),
        look="The technique partly fails on this model. It draws ghosts, which the training data of the model do "
        "not contain, but some are torn, and their eyes also appear in the other shapes.",
        captions=[glyph.word(scene, words["after"]) for scene in asked],
        pictures=pictures,
        figures={
            "the ghost fits best of nine templates": best(ghosts, 0),
            "the requested shape in the others": best(others, 1),
        },
    )


def controls(model: TextToImage, run: pathlib.Path, number: int) -> Row:
    """Two outlines at once, the second at several weights and in several intervals of t."""
    del model  # the run loads its own base
    tuned, *_ = tuned_run.load(run)
    plans = [_plan(Lot(SEED, 0, i)) for i in range(number)]
    prompts = [
        phrase(Scene("pair", "plain", a.colour, a.shape, count=2, second_colour=b.colour, second_shape=b.shape))
        for a, b in plans
    ]
    pictures: dict[str, np.ndarray] = {}
    for name, second in CONTROLS.items():
        images = []
        for seed, (prompt, plan) in enumerate(zip(prompts, plans)):
            drawn = [arrangements.outlines(Arrangement("plain", (thing,))) for thing in plan]
            sent = [] if second is None else [(control.NAME, drawn[0])]
            sent += [(control.NAME, drawn[1], *second)] if second and second[0] else []
            images.append(text_to_image.generate(tuned, prompt, seeds=seed, controls=sent)[0])
        pictures[name] = np.stack(images)

    def there(images: np.ndarray, place: tuple[float, float]) -> dict:
        near = [
            any(np.hypot(part.x - place[0], part.y - place[1]) < CLOSE for part in shape_finder.find_shapes(picture))
            for picture in images
        ]
        return bootstrap.share(near)

    return Row(
        title="Several controls, their weights and intervals",
        page="../../control.md",
        commands=(
            "diffusion train --config=tuning/drawings_control:outlines --workdir=runs/outlines "
            "--config.base.path=weights/drawings --config.train.steps=900",
            'diffusion sample --workdir=runs/outlines --prompt="a red circle and a blue star" '
            "--controls=control:first.png --controls=control:second.png:1:0.8-1",
        ),
        look="Two outlines add up: the first at the upper left and the second at the lower right. The second has "
        "no effect at weight 0.3 or only in t 0.8-1, and a weak effect in t 0-0.5. The shapes often swap "
        "colours.",
        captions=prompts,
        pictures=pictures,
        figures={
            f"a shape at the {name} outline's place": {line: there(images, place) for line, images in pictures.items()}
            for name, place in (("first", FIRST), ("second", SECOND))
        },
    )


def _plan(lot: Lot) -> tuple[Thing, Thing]:
    """Two shapes of trained combinations, at the two places."""
    while True:
        looks = [(lot.pick(COLOURS), lot.pick(SHAPES)) for _ in range(2)]
        scene = Scene("pair", "plain", *looks[0], count=2, second_colour=looks[1][0], second_shape=looks[1][1])
        if not withheld(scene) and all(a != b for a, b in zip(*looks)):
            return Thing(*looks[0], *FIRST, 9.2), Thing(*looks[1], *SECOND, 9.2)


ROWS = {"slider": slider, "erase": erase, "custom_diffusion": custom_diffusion, "controls": controls}
