"""Measures pictures of `shapes` without a network: compares each object of a caption with the mask of a drawing.

The mask of an object is defined as follows. Let p be a pixel, w the paper (the median of the picture's border) and D
the full colour: the 80 % quantile of |p - w| over those pixels in the object's part of the picture for which |p - w| >
60. The mask is

    {|p - w| > D / 2},    which for a drawing is exactly {pixels whose centre lies inside the edge}.

Outlines and neon shapes are filled. For neon, whose glow reaches beyond its line, the factor 1/2 is replaced by 0.7.
The object's part of the picture is the whole picture for a single object, one half for two objects, and a connected
component for several objects. A picture of two objects is cut at the emptiest column or row near its middle. Of the
four possible assignments of halves to objects, the one with the largest sum of overlaps and colour shares counts.
Written words are not measured.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from diffusion.data.shapes import drawing, scenes, templates
from diffusion.data.shapes.drawing import Distance
from diffusion.data.shapes.scenes import COLOURS, NONE, POSITIONS, RELATIONS, SHAPES, SIZES, Scene
from diffusion.metrics.prompt_following import clustered

RADII = (5.5, 14.5)  # radii of the templates in pixels; those of the drawings are 6 to 13.6
WHOLE = 0.85  # overlap above which an object is whole; drawings reach 0.88 and more
COLOURED = 0.9  # least share of an object's pixels that have its colour
SHARP = 2.5  # largest width of an edge in pixels; drawings have 1.6 and less
STRONG = 60  # least distance of an object's pixel from the paper, of 255
SMALLEST = 4  # pixels of the smallest part that counts
NEON = 0.7  # share of the full colour that bounds a neon line; the glow is below it
NEAR = (24, 41)  # columns, or rows, between which a picture of two objects is cut
PARTS = ("shape", "whole", "one_piece", "sharp", "colour", "size", "position", "count", "relation")
"""The entries of a verdict, in the order of tables."""


class Drawn(NamedTuple):
    """One object of a picture, measured.

    Attributes:
        overlap: float64 [S], the intersection over union with the best template of each of `SHAPES`, and after them of
            a further shape.
        radius: float64 [S], the radius of each of these templates, in pixels.
        centre: float64 [S, 2], (x, y) of its centre, in pixels from the upper left corner.
        parts: the number of its connected parts of 4 pixels and more; corners connect.
        colours: float64 [8], the share of its pixels that have the nearest hue of each of `COLOURS`.
        edge: the width of its edges in pixels,

                6 sum c (1 - c) / length,    c = min(|p - w| / D, 1),

            with the length of its best template's edge: where c rises evenly over v pixels, each pixel of the length
            has a sum of v / 6. About 1 for drawings, and 3.4 times the deviation of a wide Gaussian blur. NaN for
            outlines and neon.
    """

    overlap: np.ndarray
    radius: np.ndarray
    centre: np.ndarray
    parts: int
    colours: np.ndarray
    edge: float


class Picture(NamedTuple):
    """The objects of a picture in the order of the request, and the relation of the first of two to the second.

    Several equal objects are sorted by size, the largest first. Every object that is found has an entry, even if there
    are more than requested. A word has none.
    """

    objects: list[Drawn]
    relation: str = NONE


def paper_of(picture: np.ndarray) -> np.ndarray:
    """The colour of the paper, float64 [3]: the median of the border of a picture uint8 [H, W, 3]."""
    border = np.ones(picture.shape[:2], bool)
    border[2:-2, 2:-2] = False
    return np.median(picture[border], axis=0)


def distance_to_paper(picture: np.ndarray) -> np.ndarray:
    """|p - w|, the distance of each pixel's colour from the paper's, float64 [H, W], of a picture uint8 [H, W, 3]."""
    return np.linalg.norm(picture - paper_of(picture), axis=-1)


def measured(pictures: np.ndarray, requested: Sequence[Scene], more: tuple[Distance, ...] = ()) -> list[Picture]:
    """The objects of pictures, with their fits to the drawings' masks.

    Args:
        pictures: uint8 [N, 64, 64, 3].
        requested: the scene that each picture should show, as `scenes.parsed` returns it.
        more: the signed distance of at most one further shape; every unknown name of a shape in the scenes means it.

    Raises:
        TypeError, ValueError: if the pictures have another type or shape.
    """
    if pictures.dtype != np.uint8:
        raise TypeError(f"pictures must be uint8, got {pictures.dtype}")
    if pictures.shape != (len(requested), drawing.SIDE, drawing.SIDE, 3):
        raise ValueError(f"pictures must be [{len(requested)}, 64, 64, 3], one for each scene; got {pictures.shape}")
    candidates = [_candidates(picture, scene) for picture, scene in zip(pictures, requested)]
    looks = [look for cuts in candidates for looks in cuts for look in looks]
    if not looks:
        return [Picture([]) for _ in requested]
    known = templates.drawn(*RADII, more=more)
    shapes = (*(drawing.DISTANCES[name] for name in SHAPES), *more)
    fits = iter(zip(*templates.fits(np.stack([look.mask for look in looks]), known)))
    objects = [[[_drawn(look, shapes, *next(fits)) for look in looks] for looks in cuts] for cuts in candidates]
    return [_as_requested(scene, cuts) for scene, cuts in zip(requested, objects)]


class _Look(NamedTuple):
    """An object's mask [64, 64], the colours of its pixels and the cover of all pixels, whose ends are the edges'."""

    mask: np.ndarray
    parts: int
    colours: np.ndarray
    cover: np.ndarray | None


def _candidates(picture: np.ndarray, scene: Scene) -> list[list[_Look]]:
    """The objects of a picture; for two objects, once for the vertical cut and once for the horizontal one."""
    apart = distance_to_paper(picture)
    hue = drawing.nearest_hue(picture)
    everywhere = np.ones(apart.shape, bool)
    match scene.kind:
        case "one":
            return [[_look(apart, hue, everywhere, scene.style)]]
        case "several":
            labels, number = ndimage.label(mask(apart, scene.style), np.ones((3, 3)))  # pyright: ignore
            sizes = ndimage.sum_labels(labels > 0, labels, np.arange(1, number + 1))
            order = [part + 1 for part in np.argsort(-sizes, kind="stable") if sizes[part] >= SMALLEST]
            near: Any = [ndimage.binary_dilation(labels == part, iterations=2) for part in order]
            return [[_look(apart, hue, area & ((labels == part) | (labels == 0)), scene.style)
                     for part, area in zip(order, near)]]  # fmt: skip
        case "pair":
            cuts = []
            for axis in (1, 0):
                filled = (apart > STRONG).sum(1 - axis)
                first = NEAR[0] + _middle_of_least(filled[slice(*NEAR)])
                half = np.arange(drawing.SIDE) < first
                half = np.broadcast_to(half if axis else half[:, None], apart.shape)
                cuts.append([_look(apart, hue, half, scene.style), _look(apart, hue, ~half, scene.style)])
            return cuts
        case _:
            return [[]]


def _middle_of_least(values: np.ndarray) -> int:
    """The index of the least value; of several, the one nearest to the middle."""
    least = np.flatnonzero(values == values.min())
    return int(least[np.abs(least - (len(values) - 1) / 2).argmin()])


def _strength(apart: np.ndarray) -> float:
    """D of an object, from |p - w| of the pixels of its part of the picture; infinite if there is no object."""
    strong = apart[apart > STRONG]
    return float(np.quantile(strong, 0.8)) if len(strong) else np.inf


def mask(apart: np.ndarray, style: str) -> np.ndarray:
    """The mask of an object, Bool [H, W], by |p - w| in its part of the picture and 0 elsewhere, [H, W]."""
    inside: Any = apart > _strength(apart) * (NEON if style == "neon" else 0.5)
    return inside if style == "plain" else np.asarray(ndimage.binary_fill_holes(inside))


def _look(apart: np.ndarray, hue: np.ndarray, area: np.ndarray, style: str) -> _Look:
    """The object of an area of the picture, Bool [64, 64]."""
    inside = np.where(area, apart, 0.0)
    covered = mask(inside, style)
    parts = templates.pieces(covered, SMALLEST)
    drawn = covered & (inside > _strength(inside) / 2)  # an outline's line without what it encloses
    colours = np.bincount(hue[drawn], minlength=len(COLOURS)) / max(drawn.sum(), 1)
    cover = np.where(inside > STRONG / 3, np.minimum(inside / _strength(inside), 1), 0.0)
    return _Look(covered, parts, colours, cover if style == "plain" else None)


def _drawn(
    look: _Look, shapes: Sequence[Distance], overlap: np.ndarray, radius: np.ndarray, centre: np.ndarray
) -> Drawn:
    """The measurements of an object, with the sharpness of its edge."""
    edge = np.nan
    if look.cover is not None:
        best = int(overlap.argmax())
        edge = 6 * float((look.cover * (1 - look.cover)).sum()) / (templates.edge_length(shapes[best]) * radius[best])
    return Drawn(overlap, radius, centre, look.parts, look.colours, edge)


def _as_requested(scene: Scene, cuts: list[list[Drawn]]) -> Picture:
    """The picture by the cut, and the order of its halves, that agree best with the request."""
    if scene.kind != "pair":
        return Picture(cuts[0])
    named = [  # in the order of RELATIONS: left of, right of, above, below
        Picture(objects[::order], RELATIONS[2 * cut + (order < 0)])
        for cut, objects in enumerate(cuts)
        for order in (1, -1)
    ]
    agreement = lambda picture: sum(
        _overlap(one, shape) + _share(one, colour) for one, (shape, colour) in zip(picture.objects, _asked(scene))
    )
    return max(named, key=agreement)


def _asked(scene: Scene) -> list[tuple[str, str]]:
    """The shape and the colour of each requested object; `NONE` if the caption does not name it."""
    first = (scene.shape, scene.colour)
    return [first, (scene.second_shape, scene.second_colour)] if scene.kind == "pair" else [first] * scene.count


def _overlap(one: Drawn, shape: str) -> float:
    return float(one.overlap[_template(one, shape)])


def _share(one: Drawn, colour: str) -> float:
    return float(one.colours.max() if colour == NONE else one.colours[COLOURS.index(colour)])


def verdict(scene: Scene, picture: Picture) -> dict[str, bool]:
    """Whether each requirement holds for all requested objects of a picture; a missing object fulfils none.

    Args:
        scene: the requested scene, not a word.
        picture: the picture, from `measured` with this scene.

    Returns:
        {"shape": the requested shape is the best of the eight, "whole": its overlap is above 0.85, "one_piece": the
        object is one connected part, "sharp": its edges are at most 2.5 pixels wide, "colour": at least
        0.9 of its pixels have the requested colour, "size" and "position": the nearest ones are the requested ones,
        "count": there are as many objects, "relation": the first of two has the requested relation to the second}.
        Attributes that the scene does not name have no entry. Outlines and neon have no entry "sharp".
    """
    asked = _asked(scene)
    objects = [one for one in picture.objects[: len(asked)] if one.overlap.any()]
    every = lambda holds: len(objects) == len(asked) and all(holds(one, *look) for one, look in zip(objects, asked))
    right = {
        "whole": every(lambda one, shape, colour: _overlap(one, shape) > WHOLE),
        "one_piece": every(lambda one, shape, colour: one.parts == 1),
    }
    if scene.shape != NONE:
        right["shape"] = every(lambda one, shape, colour: one.overlap.max() == _overlap(one, shape))
    if scene.colour != NONE:
        right["colour"] = every(lambda one, shape, colour: _share(one, colour) >= COLOURED)
    if scene.style == "plain":
        right["sharp"] = every(lambda one, shape, colour: one.edge <= SHARP)
    if scene.size != NONE:
        right["size"] = every(lambda one, shape, colour: _size(one, shape) == scene.size)
    if scene.position != NONE:
        right["position"] = every(lambda one, shape, colour: _position(one, shape) == scene.position)
    if scene.kind == "several":
        right["count"] = len(picture.objects) == scene.count
    if scene.relation != NONE:
        right["relation"] = len(objects) == 2 and picture.relation == scene.relation
    return {name: right[name] for name in PARTS if name in right}


def verdicts(
    requested: Sequence[Scene], pictures: np.ndarray, more: tuple[Distance, ...] = ()
) -> list[dict[str, bool]]:
    """The `verdict` of each picture; the arguments are those of `measured`."""
    return [verdict(*pair) for pair in zip(requested, measured(pictures, requested, more), strict=True)]


def _template(one: Drawn, shape: str) -> int:
    """The index of a shape: of the best one for `NONE`, and of the further one for an unknown name."""
    if shape == NONE:
        return int(one.overlap.argmax())
    return SHAPES.index(shape) if shape in SHAPES else len(SHAPES)


def _size(one: Drawn, shape: str) -> str:
    middle = {name: float(np.mean(drawing.RADII[name])) for name in SIZES}
    return min(middle, key=lambda name: abs(middle[name] - one.radius[_template(one, shape)]))


def _position(one: Drawn, shape: str) -> str:
    x, y = one.centre[_template(one, shape)]
    cells = [(column, row) for row in drawing.PLACES for column in drawing.PLACES]
    return tuple(POSITIONS)[int(np.argmin([np.hypot(x - column, y - row) for column, row in cells]))]


def score(verdicts: Sequence[dict[str, bool]], prompts: Sequence[str] | None = None) -> dict[str, Any]:
    """Shares of pictures in which each entry of the verdicts holds, and "all" of them, each from `clustered.share`.

    Args:
        verdicts: the verdict of each picture.
        prompts: the prompt of each picture; None if each has its own.
    """
    names = list(prompts) if prompts is not None else range(len(verdicts))
    shares = {"all": clustered.share([all(right.values()) for right in verdicts], names)}
    for name in PARTS:
        if rows := [(right[name], prompt) for right, prompt in zip(verdicts, names, strict=True) if name in right]:
            shares[name] = clustered.share(*zip(*rows))
    return shares


def score_of(captions: Sequence[str], pictures: np.ndarray) -> dict[str, Any]:
    """The `score` of pictures, uint8 [N, 64, 64, 3], by their captions; captions of a word are left out."""
    requested = [scenes.parsed(caption) for caption in captions]
    rows = [i for i, scene in enumerate(requested) if scene.kind != "word"]
    asked = [requested[i] for i in rows]
    return score(verdicts(asked, pictures[rows]), [captions[i] for i in rows])
