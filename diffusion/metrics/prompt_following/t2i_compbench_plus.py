"""The categories that T2I-CompBench++ adds: positions in depth, by a detector and a map of depths, and numbers.

| category   | figure of a picture                                                                            |
|------------|------------------------------------------------------------------------------------------------|
| 3d_spatial | half the mean of both objects' scores, and half their order in depth; if only one object is    |
|            | detected, a quarter of its score                                                               |
| numeracy   | the mean over the prompt's objects of 1/2 for an object that is detected, 1/2 for its number   |

The rules are those of Karine-Huang/T2I-CompBench: UniDet_eval/3D_spatial_eval.py and UniDet_eval/numeracy_eval.py. The
authors' depths have their axes as (x, y) and ours as (row, column).

Paper: Huang et al. 2025, "T2I-CompBench++: An Enhanced and Comprehensive Benchmark for Compositional Text-to-image
    Generation".
"""

import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from diffusion.io import limits, opener
from diffusion.metrics.prompt_following.readers import Detection, PromptsError, overlap
from diffusion.metrics.prompt_following.t2i_compbench import PEOPLE

CATEGORIES = ("3d_spatial", "numeracy")
DEPTH_WORDS = ("in front of", "behind", "hidden")  # the authors look for them in this order
DEPTH_OVERLAP = 0.5  # overlap of boxes from which the order counts in full
SAME = 0.9  # overlap above which two boxes of one class are one object
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
SINGLE = ("a", "an", "one")
# {word of the prompts: the detector's class}.
KNOWN = dict.fromkeys(PEOPLE, "person") | {
    "ship": "boat",
    "telivision": "tv",
    "goldfish": "fish",
    "painting": "picture",
}


def read_objects(path: pathlib.Path) -> dict[str, str]:
    """Reads the plural of each object from new_objects.txt of the authors' repository, with lines "apple - apples".

    Raises:
        PromptsError: for a line of another form, which the message names.
        OSError: if the file cannot be read.
    """
    try:
        lines = [line.strip() for line in opener.read_lines(path) if line.strip()]
    except limits.Refused as error:
        raise PromptsError(str(error)) from error
    plurals = {}
    for number, line in enumerate(lines, 1):
        singular, dash, plural = line.lower().partition(" - ")
        if not dash or not plural.strip():
            raise PromptsError(f"{path}, line {number}: {line!r}. Valid: an object and its plural, 'apple - apples'.")
        plurals[singular.strip()] = plural.strip()
    return plurals


def objects_and_numbers(prompt: str, plurals: Mapping[str, str]) -> list[tuple[str, int]]:
    """The objects that a prompt counts, each with its number: "two apples and a dog" -> (apple, 2), (dog, 1).

    Args:
        prompt: the prompt in lower case, as the authors' prompts are.
        plurals: the plural of each object, from `read_objects`.
    """
    words = re.findall(r"[\w-]+|[^\w\s]", prompt)
    singulars = {plural: singular for singular, plural in plurals.items()}
    counted = []
    for i, word in enumerate(words):
        if word not in NUMBERS:
            continue
        single = word in SINGLE
        pair = " ".join(words[i + 1 : i + 3]) if i < len(words) - 2 else ""
        if pair in plurals or pair in singulars:
            counted.append((singulars[pair], NUMBERS[word]) if pair in singulars and not single else (pair, 1))
            continue
        name = words[i + 1] if i + 1 < len(words) else ""
        if name in plurals and single:
            counted.append((name, 1))
        elif name in plurals or name in singulars:
            counted.append((singulars.get(name, name), NUMBERS[word]))
    return counted


def count_objects(detections: Sequence[Detection]) -> list[str]:
    """The classes of a picture's objects; boxes of one class that nearly coincide count as one object."""
    distinct: list[Detection] = []
    for detection in detections:
        if not any(detection.label == other.label and _same(detection.box, other.box) for other in distinct):
            distinct.append(detection)
    return [detection.label for detection in distinct]


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes share more than `SAME` of their union, or of one of them; pixels at both ends count."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area = lambda box: (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    shared = width * height
    return max(shared / (area(a) + area(b) - shared), shared / area(a), shared / area(b)) > SAME


def numeracy(objects: Sequence[tuple[str, int]], detections: Sequence[Detection]) -> float:
    """The mean over the objects of 1/2 for one that is in the picture, and 1/2 for its number.

    Args:
        objects: the objects of the prompt with their numbers, from `objects_and_numbers`.
        detections: the objects detected in the picture, the surest first.
    """
    labels = count_objects(detections)
    score = 0.0
    for name, number in objects:
        known = KNOWN.get(name, name)
        if known not in labels:
            labels = [known if known in label else label for label in labels]
        if known in labels:
            score += 0.5 + 0.5 * (labels.count(known) == number)
    return score / len(objects) if objects else 0.0


def spatial_3d(
    prompt: str, objects: tuple[str, str] | None, detections: Sequence[Detection], nearness: np.ndarray
) -> float:
    """A quarter of each object's own score, and half of their order in depth.

    Args:
        prompt: the prompt, with a word of depth.
        objects: the classes of the two objects, from `t2i_compbench.objects_of`: a detection belongs to a class if its
            label contains it.
        detections: the objects detected in the picture, the surest first.
        nearness: the nearness of each pixel, `[H, W]`, larger for nearer pixels, as networks predict inverse depth.
    """
    chosen: list[Detection | None] = [None, None]
    labels = " ".join(detection.label for detection in detections)
    wanted = objects or ("", "")
    if not objects or not any(name in labels for name in wanted):
        return 0.0
    both = all(name in labels for name in wanted)
    # As in the authors' loop, later detections replace an object until the other one is detected too.
    for detection in detections:
        for which, name in enumerate(wanted):
            if name in detection.label and (both or chosen[which] is None):
                chosen[which] = detection
        if both and None not in chosen:
            break
    first, second = chosen
    if first is None or second is None:
        alone = first or second
        return 0.25 * alone.score if alone else 0.0
    word = next((word for word in DEPTH_WORDS if word in prompt), "")
    return 0.25 * (first.score + second.score) + depth_order(word, first.box, second.box, nearness) / 2


def depth_order(word: str, first: Sequence[float], second: Sequence[float], nearness: np.ndarray) -> float:
    """The score in [0, 1] of the order in depth of two boxes that a word states.

    In the order of the word, the score is their overlap divided by `DEPTH_OVERLAP`, at most 1; in the other order it is
    0.

    Args:
        word: the word of depth, one of DEPTH_WORDS; another word gives 0.
        first: the box of the first object.
        second: the box of the second object.
        nearness: the nearness of each pixel, `[H, W]`.
    """
    share = overlap(first, second)
    mean = lambda box: nearness[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
    if share == 0 or not mean(first).size or not mean(second).size:
        return 0.0
    nearer = float(mean(first).mean() - mean(second).mean())
    right = nearer > 0 if word == "in front of" else nearer < 0 if word in DEPTH_WORDS else False
    return min(1.0, share / DEPTH_OVERLAP) if right else 0.0
