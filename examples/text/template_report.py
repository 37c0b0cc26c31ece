"""Measures a text-to-image model of `shapes` with masks of drawings, without a judge.

    python -m examples.text.template_report --model=drawings --out=runs/drawings/templates

No network reads the pictures (`drawn_objects`, `drawn_words`), so the command needs no trained judge and takes minutes.
Kinds of captions:

    trained     captions of the test split with one object, several equal objects, or two objects
    withheld    captions of the split "withheld", with pairs of a colour and a shape that are not in the training data
    pairs       captions of the test split with two objects
    seen        words of the training pictures, each in several colours
    unseen      words that no training picture has

The command writes report.json, report.md, and NAME.png with the first pictures of each kind. The report lists the same
measures for real pictures. The command examples.text.report measures more, with a trained judge.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "model", None, "folder of the model, with model_index.json, or the name of a model that ships with the package"
    )
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer("number", 1000, "number of captions of each kind", lower_bound=8)
    flags.DEFINE_integer("steps", 0, "number of sampling steps; 0 uses the default of the model", lower_bound=0)
    flags.DEFINE_float("guidance", 0.0, "guidance scale; 0 uses the default of the model", lower_bound=0)
    flags.DEFINE_integer("batch_size", 50, "number of pictures at once", lower_bound=1)
    flags.mark_flags_as_required(["model", "out"])
    command_line.begin()

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.data import shapes
from diffusion.data.shapes import drawing, scenes
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text import model as model_folder
from diffusion.text_to_image import model_index
from examples.text import prompt_metrics, shapes_report

SEED = 7_010  # seed of the real pictures of words, which differs from that of the dataset
FIRST_SEEDS = {"trained": 0, "withheld": 20_000, "pairs": 40_000, "seen": 60_000, "unseen": 80_000}  # by kind
SHOWN = 48  # pictures of each kind that are shown


def captions(kind: str, number: int) -> tuple[list[str], np.ndarray]:
    """N captions of a kind, and real pictures of them, uint8 [N, 64, 64, 3].

    Args:
        kind: a key of `FIRST_SEEDS`.
        number: N.
    """
    if kind in ("seen", "unseen"):
        examples = _words(kind == "unseen", number)
    else:
        examples = list(_objects("withheld" if kind == "withheld" else "test", number, kind == "pairs"))
    texts, pictures = zip(*examples)
    return list(texts), np.stack(pictures)


def _objects(split: str, number: int, pairs: bool) -> Iterator[tuple[str, np.ndarray]]:
    """The first examples of a split with objects, or with two objects; further ones are drawn if the split is short."""
    row = yielded = 0
    while yielded < number:
        picture, caption, scene = shapes.example(split, row)
        row += 1
        if scene.kind == "pair" or (not pairs and scene.kind != "word"):
            yielded += 1
            yield caption, picture


def _words(withheld: bool, number: int) -> list[tuple[str, np.ndarray]]:
    """Captions and pictures of all words in turn, in one colour after the other."""
    words = [word for word in scenes.WORDS if (word in scenes.WITHHELD_WORDS) == withheld]
    examples = []
    for row in range(number):
        colour = scenes.COLOURS[(row // len(words)) % len(scenes.COLOURS)]
        scene = scenes.Scene("word", "plain", colour, count=0, word=words[row % len(words)])
        examples.append((scenes.phrase(scene), drawing.draw(scene, scenes.Lot(SEED, 0, row))))
    return examples


def run(
    model: text_to_image.TextToImage, out: pathlib.Path, number: int, description: Mapping[str, Any], **how: Any
) -> dict[str, Any]:
    """Measures a model and writes the report; returns its content.

    Args:
        model: the model.
        out: the folder of the report, made if missing.
        number: the number of captions of each kind.
        description: entries of the protocol that describe the model.
        **how: arguments of `text_to_image.generate`, such as steps and guidance; the model's own by default.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"templates": {}, "drawings": {}}
    for kind, first in FIRST_SEEDS.items():
        texts, real = captions(kind, number)
        pictures = text_to_image.generate(model, texts, seeds=range(first, first + number), **how)
        figures["templates"][kind] = prompt_metrics.by_templates(texts, pictures)
        figures["drawings"][kind] = prompt_metrics.by_templates(texts, real)
        plots.captioned(pictures[:SHOWN], texts[:SHOWN], [True] * min(SHOWN, number), out / f"{kind}.png")
        print(kind, {name: f"{share['share']:.1%}" for name, share in figures["templates"][kind].items()}, flush=True)
    protocol = {**description, "number": number, "seeds": FIRST_SEEDS, **how, **report.software()}
    return report.write(out, {"figures": figures, "protocol": protocol}, lambda content: markdown(content, out))


def markdown(content: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The report as Markdown, with the pictures that are in the folder."""
    figures, protocol = content["figures"], content["protocol"]
    parts = [
        f"# Drawings by templates: {protocol['model']}",
        report.beside_table(rows(figures)),
        *report.pictures(folder, {f"{kind}.png": f"Captions of the kind {kind!r}" for kind in FIRST_SEEDS}),
        report.protocol(protocol),
    ]
    return report.page(parts)


def rows(figures: Mapping[str, Any]) -> list[report.Row]:
    """The figures as text, each with the figure of real pictures."""
    return [
        (
            f"{kind}: {shapes_report.TEMPLATES[name]}",
            report.percent(share),
            f"real pictures {report.percent(figures['drawings'][kind][name])}",
        )
        for kind, shares in figures["templates"].items()
        for name, share in shares.items()
    ]


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    folder = model_folder.folder_of(values.model)
    description = {"model": str(values.model), "checkpoint": model_index.fingerprint(folder)}
    description["dataset"] = f"shapes {shapes.Shapes.VERSION}"
    how = {"steps": values.steps, "guidance": values.guidance, "batch_size": values.batch_size}
    how = {name: value for name, value in how.items() if value}
    content = run(model_folder.load(folder), pathlib.Path(values.out), values.number, description, **how)
    for what, value, beside in rows(content["figures"]):
        print(f"{what:64} {value:24} {beside}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
