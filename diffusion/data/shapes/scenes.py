"""Scenes of a few coloured shapes: what a scene is, its caption, and how one is drawn at random.

    "a small red circle in the top left corner"      "three blue stars, neon"
    "a green heart left of a pink cross"             'the word "cat" in purple'

A caption may leave an attribute out ("a circle", "a red shape"); the picture then has any. Eight of the 64 pairs of a
colour and a shape are withheld from training: one for each colour and one for each shape, so that every single word is
trained with.
"""

from typing import NamedTuple

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
"""Colours that a caption may name."""
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "moon")
"""Shapes that a caption may name."""
SIZES = ("small", "medium", "large")
"""Sizes of one object."""
POSITIONS = {
    "top left": "in the top left corner",
    "top": "at the top",
    "top right": "in the top right corner",
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "bottom left": "in the bottom left corner",
    "bottom": "at the bottom",
    "bottom right": "in the bottom right corner",
}
"""Places of one object, and the words of a caption for each."""
NUMBERS = ("a", "two", "three", "four", "five")
RELATIONS = ("left of", "right of", "above", "below")
"""Relations of the first object to the second."""
STYLES = ("plain", "outlined", "neon")  # a caption never names "plain"
WORDS = ("cat", "dog", "sun", "sky", "sea", "ice", "tea", "map", "key", "box", "car", "bus", "hat", "cup", "pen", "egg",
         "bee", "fox", "owl", "cow", "ant", "jam", "oak", "zoo", "tree", "fish", "bird", "lamp", "rain", "snow", "wind",
         "fire", "gold", "king", "love", "milk", "rose", "ship", "wolf", "yarn")  # fmt: skip
"""Words that a picture may show."""

WITHHELD = frozenset(zip(COLOURS, (SHAPES[3:] + SHAPES[:3])))  # ("red", "diamond"), ("orange", "star"), ..
"""Pairs of a colour and a shape that no training picture has."""
WITHHELD_WORDS = frozenset({"bus", "owl", "snow", "lamp", "hat", "key", "rain", "tea"})
"""Words that no training picture shows."""

KINDS = ("one", "several", "pair", "word")
STATED = {
    "colour": 0.92,
    "shape": 0.92,
    "size": 0.6,
    "position": 0.7,
    "relation": 0.75,
}  # how often a caption states it
NONE = "none"
"""Value of an attribute that a kind of scene does not have."""


class Scene(NamedTuple):
    """The attributes of a picture; `NONE` for one that its kind lacks.

    Attributes:
        kind: the kind, one of `KINDS`.
        style: the style, one of `STYLES`.
        colour, shape: the colour and shape of the object, of all objects alike, or of the first of two.
        size, position: the size and position of one object.
        count: the number of objects, 1..5; 0 for a word.
        relation: the relation of the first object to the second.
        second_colour, second_shape: the colour and shape of the second object.
        word: the word that is written.
    """

    kind: str
    style: str
    colour: str
    shape: str = NONE
    size: str = NONE
    position: str = NONE
    count: int = 1
    relation: str = NONE
    second_colour: str = NONE
    second_shape: str = NONE
    word: str = NONE


class Shares(NamedTuple):
    """How often each of `KINDS` and each of `STYLES` is drawn; each sums to 1."""

    kinds: tuple[float, float, float, float] = (0.5, 0.18, 0.26, 0.06)
    styles: tuple[float, float, float] = (0.8, 0.1, 0.1)


SHARES = Shares()
ATTRIBUTES = {
    "kind": KINDS, "style": STYLES, "colour": COLOURS, "shape": (*SHAPES, NONE), "size": (*SIZES, NONE),
    "position": (*POSITIONS, NONE), "count": (0, 1, 2, 3, 4, 5), "relation": (*RELATIONS, NONE),
    "second_colour": (*COLOURS, NONE), "second_shape": (*SHAPES, NONE), "word": (*WORDS, NONE),
}  # fmt: skip
"""Values of each attribute of a scene, by its name."""


class Lot:
    """Draws of one picture: the words of a Philox generator are the same in every version of NumPy."""

    def __init__(self, seed: int, stream: int, number: int):
        """The draws of one picture; each (seed, stream, number), all in 0..2^63, has its own."""
        counter = np.array([0, number, 0, 0], np.uint64)
        self._words = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter)

    def between(self, low: float, high: float) -> float:
        """A number drawn uniformly from [low, high)."""
        return low + (high - low) * (int(self._words.random_raw()) >> 11) * 2.0**-53

    def pick(self, options, shares=None):
        """One of the options: each alike, or with these shares, which sum to 1."""
        point = self.between(0, 1)
        if shares is None:
            return options[int(point * len(options))]
        return options[min(int(np.searchsorted(np.cumsum(shares), point, side="right")), len(options) - 1)]


def withheld(scene: Scene) -> bool:
    """Whether a scene has an object, or a word, that no training picture has."""
    pairs = {(scene.colour, scene.shape), (scene.second_colour, scene.second_shape)}
    return bool(pairs & WITHHELD) or scene.word in WITHHELD_WORDS


def draw(lot: Lot, of_withheld: bool = False, shares: Shares = SHARES) -> Scene:
    """Draws a scene; all colours are equally frequent, and so are all shapes, sizes and positions.

    Args:
        lot: the draws.
        of_withheld: whether to draw a withheld scene; otherwise the scene is one of training.
        shares: the shares of kinds and styles.
    """
    while True:
        scene = _drawn(lot, shares)
        if withheld(scene) == of_withheld:
            return scene


def _drawn(lot: Lot, shares: Shares) -> Scene:
    """A scene by lot, withheld or not."""
    kind = lot.pick(KINDS, shares.kinds)
    style = lot.pick(STYLES, shares.styles)
    colour = lot.pick(COLOURS)
    shape = lot.pick(SHAPES)
    if kind == "one":
        return Scene(kind, style, colour, shape, lot.pick(SIZES), lot.pick(tuple(POSITIONS)))
    if kind == "several":
        return Scene(kind, style, colour, shape, count=lot.pick((2, 3, 4, 5)))
    if kind == "word":
        return Scene(kind, "plain", colour, count=0, word=lot.pick(WORDS))
    others = [one for one in COLOURS if one != colour], [one for one in SHAPES if one != shape]
    return Scene(
        kind,
        style,
        colour,
        shape,
        count=2,
        relation=lot.pick(RELATIONS),
        second_colour=lot.pick(others[0]),
        second_shape=lot.pick(others[1]),
    )


def caption(scene: Scene, lot: Lot) -> str:
    """The caption of a scene. It leaves some attributes out at random, but never both colour and shape."""
    keeps = {name: lot.between(0, 1) < share for name, share in STATED.items()}
    if scene.kind == "word":
        return f'the word "{scene.word}"' + (f" in {scene.colour}" if keeps["colour"] else "")
    partial = scene._replace(
        colour=scene.colour if keeps["colour"] or scene.kind == "pair" else NONE,
        shape=scene.shape if keeps["shape"] or not keeps["colour"] or scene.kind == "pair" else NONE,
        size=scene.size if keeps["size"] else NONE,
        position=scene.position if keeps["position"] else NONE,
        relation=scene.relation if keeps["relation"] else NONE,
    )
    return phrase(partial)


def phrase(scene: Scene) -> str:
    """The caption that states exactly these attributes, without `NONE` ones: the inverse of `parsed`.

    Args:
        scene: the scene, with `colour` or `shape` or both; its style "plain" is not stated.
    """
    if scene.kind == "word":
        return f'the word "{scene.word}"' + (f" in {scene.colour}" if scene.colour != NONE else "")
    joined = lambda *words: " ".join(word for word in words if word != NONE)
    first = joined(
        NUMBERS[scene.count - 1] if scene.kind == "several" else "a",
        scene.size,
        scene.colour,
        ("shape" if scene.shape == NONE else scene.shape) + "s" * (scene.kind == "several"),
    )
    if scene.kind == "pair":
        between = "and" if scene.relation == NONE else scene.relation
        first = f"{first} {between} {joined('a', scene.second_colour, scene.second_shape)}"
    elif scene.position != NONE:
        first = f"{first} {POSITIONS[scene.position]}"
    first = first.replace("a orange", "an orange").replace("crosss", "crosses")
    return first if scene.style == "plain" else f"{first}, {scene.style}"


def completed(scene: Scene, lot: Lot) -> Scene:
    """A scene with the attributes of a caption; the attributes that `parsed` leaves open are drawn at random."""
    open_to = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "position": tuple(POSITIONS)}
    if scene.kind == "several":
        open_to = {"colour": COLOURS, "shape": SHAPES}
    elif scene.kind == "word":
        open_to = {"colour": COLOURS}
    elif scene.kind == "pair":
        open_to = {"relation": RELATIONS}
        for first, second, values in (("colour", "second_colour", COLOURS), ("shape", "second_shape", SHAPES)):
            for name, other in ((first, second), (second, first)):  # two objects differ in both
                if getattr(scene, name) == NONE:
                    options = [value for value in values if value != getattr(scene, other)]
                    scene = scene._replace(**{name: lot.pick(options)})
    return scene._replace(
        **{name: lot.pick(values) for name, values in open_to.items() if getattr(scene, name) == NONE}
    )


def parsed(text: str) -> Scene:
    """The scene that a caption of this form describes, with `NONE` for all that it leaves open.

    A pair without relation is of kind "pair" with relation `NONE`: either object may be anywhere. A caption that names
    no style means "plain".

    Raises:
        ValueError: for another text; names the word that is not known, or the attribute that an object has twice.
    """
    content, comma, style = text.strip().partition(", ")
    style = style if comma else "plain"
    if content.startswith("the word "):
        _known(text, style, STYLES[:1])
        word, _, colour = content.removeprefix("the word ").partition(" in ")
        return Scene("word", style, _known(text, colour or NONE, (*COLOURS, NONE)), count=0, word=word.strip('"'))
    _known(text, style, STYLES)
    relation = next((one for one in (*RELATIONS, "and") if f" {one} a" in content), "")
    if relation:
        one, other = (_object(text, part.split(), False) for part in content.split(f" {relation} ", 1))
        return Scene(
            "pair",
            style,
            one["colour"],
            one["shape"],
            count=2,
            second_colour=other["colour"],
            second_shape=other["shape"],
            relation=NONE if relation == "and" else relation,
        )
    position = next((name for name, words in POSITIONS.items() if content.endswith(f" {words}")), NONE)
    rest = content.removesuffix(f" {POSITIONS[position]}") if position != NONE else content
    number = _known(text, rest.split()[0].replace("an", "a") if rest.split() else "", NUMBERS)
    count = NUMBERS.index(number) + 1
    kind = "one" if count == 1 else "several"
    return Scene(kind, style, **_object(text, rest.split(), count > 1), position=position, count=count)


def _object(text: str, words: list[str], plural: bool) -> dict[str, str]:
    """Colour, shape and size of an object that a caption names as a number, a size, a colour and a shape."""
    attributes = {"colour": NONE, "shape": NONE, "size": NONE}
    shape = words[-1].replace("crosses", "cross" + "s" * plural) if words else ""
    shape = shape.removesuffix("s") if plural else shape
    attributes["shape"] = NONE if shape == "shape" else _known(text, shape, SHAPES)
    for word in words[1:-1]:
        name = "size" if word in SIZES else "colour"
        if attributes[name] != NONE:
            raise ValueError(f"{text!r} is not a caption of `shapes`: an object has two {name}s.")
        attributes[name] = _known(text, word, (*SIZES, *COLOURS))
    return attributes


def _known(text: str, word: str, valid: tuple[str, ...]) -> str:
    if word not in valid:
        raise ValueError(f"{text!r} is not a caption of `shapes`: {word!r} is not one of {', '.join(valid)}.")
    return word
