"""T2I-CompBench: attributes by questions, places by a detector, actions by CLIP, and all three for complex prompts.

| category               | figure of a picture                                                                     |
|------------------------|-----------------------------------------------------------------------------------------|
| color, shape, texture  | the product of P(yes) over the questions "a green bench?", one for each noun phrase     |
| spatial                | half the scores of the two objects, half their place; below 0.5 it is 0                 |
| non_spatial            | CLIP's cosine of picture and prompt                                                     |
| complex                | the mean of those three that its list of prompts names, or of all                       |

The rules are those of Karine-Huang/T2I-CompBench: BLIPvqa_eval/BLIP_vqa.py, UniDet_eval/2D_spatial_eval.py,
CLIPScore_eval/CLIP_similarity.py and 3_in_1_eval/3_in_1.py.

Paper: Huang et al. 2023, "T2I-CompBench: A Comprehensive Benchmark for Open-world Compositional Text-to-image
    Generation".
"""

import itertools
import math
import pathlib
from collections.abc import Sequence

from diffusion.io import limits, opener
from diffusion.metrics.prompt_following.readers import Detection, Parse, PromptsError, overlap

CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
PHRASES = 8  # most phrases of a prompt that become questions
# Words of place in the order in which the authors look for them. The last has no rule, so that it scores 0.
PLACES = ("on side of", "next to", "near", "on the left of", "on the right of", "on the bottom of", "on the top of",
          "on top of")  # fmt: skip
BESIDE = ("next to", "on side of", "near")
PREPOSITIONS = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
PEOPLE = ("girl", "boy", "man", "woman")  # the detector calls them "person"
OVERLAP = 0.1  # largest overlap of boxes that stand beside each other
DISTANCE = 150.0  # pixels of the detector's boxes, of objects that are near


def read(path: pathlib.Path) -> list[str]:
    """The prompts of a file in the published form, color_val.txt and its like: one a line.

    Raises:
        PromptsError: if it holds none, or is no text.
        OSError: if it cannot be read.
    """
    try:
        prompts = [line for line in opener.read_lines(path) if line.strip()]
    except limits.Refused as error:
        raise PromptsError(str(error)) from error
    if not prompts:
        raise PromptsError(f"{path} holds no prompts.")
    return prompts


def _plain(prompt: str) -> str:
    return prompt.split(".")[0].lower()


def read_complex(folder: pathlib.Path, prompts: Sequence[str]) -> list[tuple[str, ...]]:
    """The scores of each complex prompt: ("attribute", "spatial"), ("attribute", "action"), or all three.

    Args:
        folder: the folder with complex_val_spatial.txt and complex_val_action.txt.
        prompts: the prompts of the category "complex".

    Raises:
        PromptsError, OSError: as `read`.
    """
    lists = {kind: set(map(_plain, read(folder / f"complex_val_{kind}.txt"))) for kind in ("spatial", "action")}
    listed_as = lambda prompt: next((kind for kind, known in lists.items() if _plain(prompt) in known), None)
    return [
        ("attribute", kind) if (kind := listed_as(prompt)) else ("attribute", "spatial", "action") for prompt in prompts
    ]


def questions(parse: Parse) -> list[str]:
    """The questions about a picture: one for each of the first `PHRASES` noun phrases."""
    return [f"{phrase}?" for phrase in parse.phrases[:PHRASES]]


def attributes(probabilities: Sequence[float]) -> float:
    """BLIP-VQA: the product of the probabilities of yes; 1 of none."""
    return math.prod(probabilities)


def action(parse: Parse) -> str:
    """A complex prompt as CLIP reads it: without its adjectives."""
    return " ".join(word for word, kind in parse.words if kind != "ADJ")


def objects_of(parse: Parse, is_complex: bool = False) -> tuple[str, str] | None:
    """The two objects whose places a prompt states; None where the rules do not find two.

    Args:
        parse: the prompt's grammar.
        is_complex: whether it is of the category "complex", where they stand around the preposition; else they are the
            first noun and the last.
    """
    if not is_complex:
        nouns = [word for word, kind in parse.words if kind == "NOUN"]
        return (_known(nouns[0]), _known(nouns[-1])) if nouns else None
    nouns_around: list[str] = []
    words = [word for word, _ in parse.words]
    for start in range(len(words)):
        length = next((k for k in (3, 2, 1) if " ".join(words[start : start + k]) in PREPOSITIONS), 0)
        if length:
            nouns_around += _before(parse, start) + _after(parse, start + length)
    return (_known(nouns_around[0]), _known(nouns_around[1])) if len(nouns_around) == 2 else None


def _before(parse: Parse, stop: int) -> list[str]:
    nouns = [word for word, kind in parse.words[:stop] if kind in ("NOUN", "PROPN")]
    return nouns[-1:]


def _after(parse: Parse, start: int) -> list[str]:
    """The first noun; else the last word of the first name."""
    rest = parse.words[start:]
    nouns = [word for word, kind in rest if kind == "NOUN"]
    names = [word for (word, kind), (_, other) in itertools.pairwise(rest) if kind == "PROPN" and other != "PROPN"]
    return nouns[:1] or names[:1]


def _known(noun: str) -> str:
    return "person" if noun in PEOPLE else noun


def place(word: str, first: Sequence[float], second: Sequence[float]) -> float:
    """How well two boxes stand as a word of place says, in [0, 1].

    An object that is nearer than `DISTANCE` along one side is beside the other; else the score is DISTANCE / the larger
    distance. It is on one of the other's sides if it lies farther along that side than across it; otherwise the score
    is 0. If the boxes overlap by `OVERLAP` of their union or more, the score is OVERLAP / overlap.

    Args:
        word: the word of place, one of PLACES.
        first: the box of the first object.
        second: the box of the other one.
    """
    right = (second[0] + second[2] - first[0] - first[2]) / 2  # distance from the first to the second
    down = (second[1] + second[3] - first[1] - first[3]) / 2
    if word in BESIDE:
        near = min(abs(right), abs(down)) < DISTANCE
        return 1.0 if near else DISTANCE / max(abs(right), abs(down))
    along, across = {
        "on the right of": (-right, down),
        "on the left of": (right, down),
        "on the bottom of": (-down, right),
        "on the top of": (down, right),
    }.get(word, (0.0, 0.0))
    if along <= abs(across):
        return 0.0
    share = overlap(first, second)
    return 1.0 if share < OVERLAP else OVERLAP / share


def spatial(prompt: str, objects: tuple[str, str] | None, detections: Sequence[Detection]) -> float:
    """UniDet's score: a quarter of each object's own score, and half of their place's; 0 where the sum is below 0.5.

    Args:
        prompt: the prompt, with a word of place.
        objects: the classes of the two objects, from `objects_of`.
        detections: the objects detected in the picture, the surest first.
    """
    chosen = [
        next((detection for detection in detections if detection.label == label), None) for label in objects or ()
    ]
    there = [detection for detection in chosen if detection is not None]
    if len(there) < 2:
        return 0.0  # the score would be at most 0.25, below 0.5
    word = next((word for word in PLACES if word in prompt), "")
    score = (there[0].score + there[1].score) / 4 + place(word, there[0].box, there[1].box) / 2
    return 0.0 if score < 0.5 else score


def three_in_one(parts: Sequence[float]) -> float:
    """The mean of the scores by which a complex prompt is measured."""
    return sum(parts) / len(parts)
