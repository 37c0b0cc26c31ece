"""Techniques that need no training: regions, attention words, layout boxes, reference-only, and erasure by UCE.

Each function of `ROWS` takes (model, the number of pictures, at least 8) and returns its `Row`.
"""

import numpy as np

from diffusion import text_to_image
from diffusion.adapters import erasure
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import COLOURS, SHAPES, Lot, Scene
from diffusion.text_to_image import TextToImage
from examples.techniques.row import Row, close, every_second, inside, share_of_colour, shares

SEED = 9_011  # seed of the scenes
BATCH = 16  # pictures at once
SIDES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))  # the left and the right half
BOXES = {
    "a blue star": (0.5, 0.0, 1.0, 0.5),
    "a red circle": (0.0, 0.5, 0.5, 1.0),
    "a green heart": (0.0, 0.0, 0.5, 0.5),
    "a yellow square": (0.5, 0.5, 1.0, 1.0),
}
LAYOUTS = {"without": 0.0, "attention=0.2": 0.2, "attention=1": 1.0}
BOTH = ("a red circle and a blue star", "a green heart and a yellow square")
ERASED, INSTEAD = "heart", "circle"


def regions(model: TextToImage, number: int) -> Row:
    """Regions: two objects by one prompt, and by one prompt for each half of the picture."""
    asked = [_pair(Lot(SEED, 0, i)) for i in range(number)]
    prompts = [scenes.phrase(scene) for scene in asked]

    def with_regions(seed: int, scene: Scene) -> np.ndarray:
        looks = ((scene.colour, scene.shape, "left"), (scene.second_colour, scene.second_shape, "right"))
        parts = [
            (scenes.phrase(Scene("one", "plain", colour, shape, position=position)), box)
            for (colour, shape, position), box in zip(looks, SIDES)
        ]
        return text_to_image.generate(model, prompts[seed], seeds=seed, regions=parts)[0]

    pictures = {
        "one prompt": text_to_image.generate(model, prompts, seeds=range(number), batch_size=BATCH),
        "a prompt for each half": np.stack([with_regions(seed, scene) for seed, scene in enumerate(asked)]),
    }
    return Row(
        title="Regions",
        page="../../image_prompts.md#regions",
        commands=(
            'diffusion sample --model=drawings --prompt="a blue heart left of a pink star" '
            '--regions="a blue heart on the left:0,0,0.5,1" --regions="a pink star on the right:0.5,0,1,1"',
        ),
        look="With a prompt for each half, nearly all halves have the right shape and colour. With a single "
        "prompt, some shapes or colours are swapped.",
        captions=prompts,
        pictures=pictures,
        figures={
            "both shapes, both colours and the order as requested": shares(
                pictures, asked, "shape", "colour", "relation"
            )
        },
    )


def _pair(lot: Lot) -> Scene:
    """Two objects of trained combinations, the first left of the second."""
    while True:
        scene = scenes.draw(lot)._replace(relation="left of", style="plain")
        if scene.kind == "pair":
            return scene


def words(model: TextToImage, number: int) -> Row:
    """Attend-and-Excite on the two shapes of a prompt, at the published strength and at five times this strength."""
    prompts = [prompt for prompt in BOTH for _ in range(number // len(BOTH))]
    lines = {"without": 0.0, "attention=1": 1.0, "attention=5": 5.0}
    pictures = {}
    for name, attention in lines.items():
        images = []
        for first, prompt in enumerate(BOTH):
            named = [prompt.split()[2], prompt.split()[-1]] if attention else []
            seeds = range(first * 1_000, first * 1_000 + number // len(BOTH))
            how = {"sampler": "ddim", "attention": attention or 1.0, "batch_size": BATCH}
            images.append(text_to_image.generate(model, prompt, seeds=seeds, words=named, **how))
        pictures[name] = np.concatenate(images)
    asked = [scenes.parsed(prompt) for prompt in prompts]
    order = _mixed(len(prompts), len(BOTH))
    return Row(
        title="Attention words (Attend-and-Excite)",
        page="../../image_prompts.md#words",
        commands=(
            f'diffusion sample --model=drawings --prompt="{BOTH[0]}" --words=circle --words=star --sampler=ddim '
            "--attention=5",
        ),
        look="The technique has no effect on this model, even at five times the published strength. The model "
        "hardly attends to the words themselves, and most of its pictures are right without it.",
        captions=[prompts[i] for i in order],
        pictures={name: images[order] for name, images in pictures.items()},
        figures={"both shapes": shares(pictures, asked, "shape"), "both colours": shares(pictures, asked, "colour")},
    )


def boxes(model: TextToImage, number: int) -> Row:
    """Layout guidance: a prompt that names no position, and a box for its object."""
    per_box = number // len(BOXES)
    pictures = {name: [] for name in LAYOUTS}
    for first, (prompt, box) in enumerate(BOXES.items()):
        how = {"seeds": range(first * 1_000, first * 1_000 + per_box), "batch_size": BATCH, "sampler": "ddim"}
        for name, images in pictures.items():
            guided = {"words": [(prompt.removeprefix("a "), box)], "attention": LAYOUTS[name]} if LAYOUTS[name] else {}
            images.append(text_to_image.generate(model, prompt, **how, **guided))
    prompts = [prompt for prompt in BOXES for _ in range(per_box)]
    asked = [scenes.parsed(prompt) for prompt in prompts]
    order = _mixed(len(prompts), len(BOXES))
    stacked = {name: np.concatenate(images) for name, images in pictures.items()}
    return Row(
        title="Layout boxes",
        page="../../image_prompts.md#words",
        commands=(
            'diffusion sample --model=drawings --prompt="a blue star" --words="blue star:0.5,0,1,0.5" --attention=0.2',
        ),
        look="The technique works partly on this model. The prompt names no position. At the published strength, "
        "more objects than by chance lie in the box, a quarter of the picture, but a third of the pictures "
        "are broken. At a fifth of this strength, few pictures are broken, but few objects move.",
        captions=[f"{prompts[i]} {_place(BOXES[prompts[i]])}" for i in order],
        pictures={name: images[order] for name, images in stacked.items()},
        figures={
            "the object's centre in its box": inside(stacked, asked, [BOXES[prompt] for prompt in prompts]),
            "shape and colour as requested": shares(stacked, asked, "shape", "colour"),
        },
    )


def _place(box: tuple[float, float, float, float]) -> str:
    return f"(box {'top' if box[1] == 0 else 'bottom'} {'left' if box[0] == 0 else 'right'})"


def reference(model: TextToImage, number: int) -> Row:
    """Attention to a drawing whose colour and paper the prompt does not name."""
    shown = Scene("one", "plain", "purple", "star", "large", "middle")
    drawn = drawing.draw(shown, Lot(SEED, 1, 0))
    prompt = "a circle"
    how = {"seeds": range(number), "batch_size": BATCH}
    pictures = {
        "no reference": text_to_image.generate(model, prompt, **how),
        "with the reference": text_to_image.generate(model, prompt, reference=drawn, **how),
    }
    asked = [scenes.parsed(prompt)] * number
    return Row(
        title="Reference-only",
        page="../../image_prompts.md#a-reference-without-training",
        commands=('diffusion sample --model=drawings --prompt="a circle" --reference=star.png',),
        look="The technique mostly fails on this model. Pictures take over the paper of the reference, but its "
        "colour in only a quarter of the pictures, and the shape of the reference breaks half of the circles "
        "in the prompt.",
        captions=[prompt] * number,
        pictures={"the reference": np.stack([drawn] * number), **pictures},
        figures={
            "the reference's colour": share_of_colour(pictures, asked, shown.colour),
            "the reference's paper": close(pictures, drawn[0, 0].astype(float)),
            "the prompt's shape": shares(pictures, asked, "shape"),
        },
    )


def erased(model: TextToImage, number: int) -> Row:
    """UCE: the model draws circles in place of hearts, and keeps the other shapes."""
    others = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES if shape != ERASED]
    pairs = [(f"a {look}{ERASED}", f"a {look}{INSTEAD}") for look in ("", *(f"{colour} " for colour in COLOURS))]
    without = erasure.edited(model, pairs, others)
    return erasure_row(
        model,
        without,
        number,
        "Erasure by UCE, in closed form",
        (
            f'diffusion erase --model=weights/drawings --concept="a red {ERASED}=a red {INSTEAD}" '
            '--keep="a red star" --out=runs/concepts/uce  # the row erases all colours, and keeps all other shapes',
            f'diffusion sample --model=runs/concepts/uce --prompt="a red {ERASED}"',
        ),
        "Hardly any heart is left. Hearts have become circles of the same colour, mostly at the same "
        "position. The other shapes, in between, stay.",
    )


def erasure_row(
    model: TextToImage, without: TextToImage, number: int, title: str, commands: tuple[str, ...], look: str
) -> Row:
    """The row of a model that has forgotten hearts: hearts, and the other shapes, before and after.

    Args:
        model: the model before the erasure.
        without: the model after the erasure.
        number: the number of pictures of hearts, and of other shapes.
        title, commands, look: the entries of the row.
    """
    hearts = [Scene("one", "plain", COLOURS[i % 8], ERASED) for i in range(number)]
    left = [shape for shape in SHAPES if shape != ERASED]
    others = [Scene("one", "plain", COLOURS[(3 * i) % 8], left[i % 7]) for i in range(number)]
    asked = [scene for pair in zip(hearts, others) for scene in pair]
    prompts = [scenes.phrase(scene) for scene in asked]
    pictures = {
        name: text_to_image.generate(one, prompts, seeds=range(len(prompts)), batch_size=BATCH)
        for name, one in (("before", model), ("after", without))
    }
    return Row(
        title=title,
        page="../../tuning.md#sliders-and-erasure",
        commands=commands,
        look=look,
        captions=prompts,
        pictures=pictures,
        figures={
            "hearts in pictures of a heart": shares(every_second(pictures, 0), hearts, "shape"),
            "the requested shape in the others": shares(every_second(pictures, 1), others, "shape"),
        },
    )


def _mixed(number: int, parts: int) -> np.ndarray:
    """The numbers 0..number - 1 in an order that takes one number from each of equal parts in turn."""
    return np.arange(number).reshape(parts, -1).T.ravel()


ROWS = {"regions": regions, "words": words, "boxes": boxes, "reference": reference, "uce": erased}
