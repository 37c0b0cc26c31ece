"""Writes the gallery's first page, docs/gallery/README.md: the eight best things on one screen, each with its command.

    python -m tools.docs.gallery_front

Each picture of the page is a part of a report's picture, and the report's record names the commit whose code drew it.
`tools.docs.gallery` writes the page of all pictures.
"""

__all__ = ["ITEMS", "Item", "commits", "draw", "page", "write"]

import pathlib
import posixpath
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from diffusion.io import files, opener
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PLACE = "gallery/README.md"
PARTS = "gallery/best"  # the folder of the page's pictures
CLEAN = re.compile("[0-9a-f]{40}")  # the hash of a commit, without a mark for uncommitted changes
COLUMNS = 2  # columns of the table in Markdown; the site shows four items beside each other


class Item(NamedTuple):
    """What the page shows of a report; all paths start from docs/.

    Attributes:
        title: a few words that name the result.
        picture: the report's picture.
        boxes: the parts of the picture to show beside each other, (left, top, right, bottom) in pixels; all have the
            same height.
        look: a sentence or two on what the reader should look at.
        command: the command that produces the result.
        report: the page with the figures.
        record: the JSON file of the report; its "git_commit" is the commit of the code that drew the picture.
    """

    title: str
    picture: str
    boxes: tuple[tuple[int, int, int, int], ...]
    look: str
    command: str
    report: str
    record: str


ITEMS = {
    "text": Item(
        "Pictures from text",
        "gallery/drawings/trained.png",
        ((390, 520, 780, 875),),
        "The shape is right in 95 % of 600 captions, and the number of objects in 98 % of those with several."
        " Among 600 pairs of objects, 94 % have the right colours. Of unseen words, 84 % are spelled right "
        "with three letters, and 3 % with four.",
        'diffusion sample --model=drawings --prompt="a large green star on the left" -n 4',
        "gallery/drawings/report.md",
        "gallery/drawings/report.json",
    ),
    "regions": Item(
        "A prompt for each region",
        "gallery/techniques/regions.png",
        ((28, 0, 415, 238),),
        "Each half has a separate prompt: 97 % have the right shape and colour, against 75 % with one prompt.",
        'diffusion sample --model=drawings --prompt="a blue heart left of a pink star" '
        '--regions="a blue heart on the left:0,0,0.5,1" --regions="a pink star on the right:0.5,0,1,1"',
        "gallery/techniques/report.md",
        "gallery/techniques/report.json",
    ),
    "erasure": Item(
        "A concept erased, in closed form",
        "gallery/techniques/uce.png",
        ((0, 0, 360, 190),),
        "Hearts become circles of the same colour: 100 % are hearts before the erasure, 3 % after it. Other "
        "shapes stay.",
        'diffusion erase --model=weights/drawings --concept="a red heart=a red circle" --keep="a red star" '
        "--out=runs/uce",
        "gallery/techniques/report.md",
        "gallery/techniques/report.json",
    ),
    "slider": Item(
        "A slider of size",
        "gallery/techniques/slider.png",
        ((0, 0, 103, 255), (173, 0, 243, 255), (383, 0, 525, 255), (593, 0, 664, 255)),
        "The weight of a LoRA controls the size, from small to large in each column; no prompt names a size.",
        "diffusion train --config=tuning/drawings_concepts:slider --workdir=runs/slider",
        "gallery/techniques/report.md",
        "gallery/techniques/report.json",
    ),
    "moving": Item(
        "Clips from captions",
        "gallery/moving/frames.png",
        tuple((444, 296 * moment, 740, 296 * moment + 148) for moment in range(4)),
        "Two clips at four moments. In all of 64 clips, positions and motions are right; the shape is right "
        "in 88 % of frames. Turning shapes lose their corners.",
        'diffusion sample --model=moving --condition="a red star bounces" -n 4',
        "gallery/moving/report.md",
        "gallery/moving/report.json",
    ),
    "reflow": Item(
        "Paths that straighten",
        "remakes/reflow_toy.png",
        ((0, 0, 300, 332), (600, 0, 900, 332)),
        "Rectified flows after one and three iterations: the third flow moves points along almost straight "
        "lines, so one step is nearly exact.",
        "diffusion remake reflow_toy --workdir=runs/reflow_toy",
        "remakes.md#transport-costs-and-straightness-of-rectified-flows-by-iteration",
        "remakes/reflow_toy.json",
    ),
    "autoguidance": Item(
        "What guidance costs",
        "remakes/autoguidance_toy.png",
        ((600, 0, 1200, 345),),
        "The data are orange, the samples black: autoguidance keeps branches that classifier-free guidance drops.",
        "diffusion remake autoguidance_toy --workdir=runs/autoguidance_toy",
        "remakes.md#outliers-and-coverage-without-guidance-with-classifier-free-guidance-and-with-autoguidance-in-the-plane",
        "remakes/autoguidance_toy.json",
    ),
    "tones": Item(
        "Notes of instruments",
        "images/sound_samples.png",
        ((520, 0, 1026, 340),),
        "A flute, a square wave and a brass; click to listen. 91 % of notes are in tune. A judge that can "
        'answer "none of these" recognizes the instrument in 93 %.',
        "diffusion train --config=sound/tones:large --workdir=runs/tones",
        "sound.md#runs",
        "gallery/sound/report.json",
    ),
}
"""{name of the picture: item}, in the order of the page."""


def draw(item: Item, docs: pathlib.Path, path: pathlib.Path) -> None:
    """Writes a PNG file with an item's parts of a report's picture beside each other.

    Args:
        item: the item.
        docs: the folder from which the item's paths start.
        path: the file to write.
    """
    with Image.open(docs / item.picture) as picture:
        parts = [picture.convert("RGB").crop(box) for box in item.boxes]
    out = Image.new("RGB", (sum(part.width for part in parts), parts[0].height), "white")
    left = 0
    for part in parts:
        out.paste(part, (left, 0))
        left += part.width
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as file:
        out.save(file, format="PNG", optimize=True)


def cell(name: str, item: Item) -> str:
    """An item as a cell of the table."""
    here = posixpath.dirname(PLACE)
    picture, report = (posixpath.relpath(target, here) for target in (f"{PARTS}/{name}.png", item.report))
    return f"[![{item.title}]({picture})]({report})<br>**[{item.title}]({report})** {item.look}<br>`{item.command}`"


def page(items: Mapping[str, Item]) -> str:
    """The page: the items in a table, and links to the rest."""
    cells = [cell(name, item) for name, item in items.items()]
    lines = [cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]
    table = ["| " * COLUMNS + "|", "| --- " * COLUMNS + "|", *("| " + " | ".join(line) + " |" for line in lines)]
    head = (
        "# Gallery\n\nThis page shows the best results, each with its command and a note on what to look at. Each "
        "title links to the report with all figures. [All pictures](all.md) also shows the weak results."
    )
    return "\n\n".join([head, '<div class="best" markdown>', "\n".join(table), "</div>"]) + "\n"


def commits(record: Any) -> set[str]:
    """All values of "git_commit" in a report's record, at any depth."""
    if isinstance(record, dict):
        here = {str(record["git_commit"])} if "git_commit" in record else set()
        return here.union(*(commits(value) for value in record.values()))
    return set().union(*(commits(value) for value in record)) if isinstance(record, list) else set()


def write(items: Mapping[str, Item], docs: pathlib.Path) -> None:
    """Writes the page and its pictures.

    Args:
        items: {name of the picture: item}.
        docs: the folder from which all paths start.

    Raises:
        ConfigError: if a report's record names no commit, or a state with uncommitted changes.
    """
    for name, item in items.items():
        hashes = commits(opener.read_table(docs / item.record))
        if not hashes or not all(CLEAN.fullmatch(commit) for commit in hashes):
            raise ConfigError(
                f"{item.record} has git_commit {sorted(hashes)}. Valid: the 40 letters of a clean commit."
            )
        draw(item, docs, docs / PARTS / f"{name}.png")
    write_text(docs / PLACE, page(items))


def main() -> None:
    """Writes the page of `ITEMS`."""
    write(ITEMS, DOCS)
    print(DOCS / PLACE)


if __name__ == "__main__":
    sys.exit(main())
