"""The report of a text-to-image model on captioned shapes: its rows with their references, and its Markdown page."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.experiments.evaluation import report
from examples.text import drawn_objects, drawn_words, judge

PICTURES = {
    "guidance.png": "Guidance: from varied and loose to literal and oversaturated",
    "guidance_rows.png": "The same captions and seeds at each guidance",
    "variety.png": "The same captions by seed, at the guidance that was chosen",
    "test.png": "Captions of the test split and their first pictures; orange: the judge misses something",
    "withheld.png": "Combinations withheld from training; orange: the judge finds something missing",
    "image_to_image.png": "Image to image: the same shape in another colour",
    "style.png": "A style from the prompt, by SDEdit",
    "inpainting.png": "Inpainting: a second object on the right",
    "outpainting.png": "Outpainting: the right half is painted again",
    "interpolation.png": "Interpolations between two prompts, and between two seeds",
}
HEADINGS = {
    "attributes": "requested attributes that are right",
    "pictures": "pictures with all of them right",
    "count": "counting: as many as requested",
    "relation": "relations: as requested",
    "word": "words that can be read",
}
TEMPLATES = {
    "all": "all of these conditions",
    "shape": "the requested shape is the best of the eight",
    "whole": f"its overlap is above {drawn_objects.WHOLE:g}",
    "one_piece": "each object in one piece",
    "sharp": f"edges within {drawn_objects.SHARP:g} pixels",
    "colour": f"{drawn_objects.COLOURED:.0%} of the pixels in the requested colour",
    "size": "size as requested",
    "position": "place as requested",
    "count": "as many objects as requested",
    "relation": "relation as requested",
    "word": "words that read letter by letter as requested",
    "word_colour": f"{drawn_words.COLOURED:.0%} of a word's pixels in the requested colour",
}
GENEVAL = {
    "single_object": "one object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour of each of two",
    "overall": "mean over the tasks",
}
HOW_TO_READ = (
    "- **Attributes**: the attributes of each picture that its caption requests, among " + ", ".join(judge.EASY) + ". "
    "Counting, relations and words are listed separately. Intervals are Wilson's 95 % intervals, "
    "for as many independent draws as have the same error, since the attributes of one picture are correlated.\n"
    "- **Judge**: a network that was trained separately from the model, on pictures of another seed. Its results on "
    "real pictures of the same captions are an upper bound for the model. Its threshold rejects 1 % of real drawings "
    "as none of the eight shapes.\n"
    "- **Templates**: a measure without a network. The mask of each object (the pixels that are at least half way from "
    "the paper to its colour) is compared with the masks of drawings of all eight shapes, over size and position, by "
    "intersection over union. A row counts the pictures in which every requested object fulfils the condition. The "
    "same figure of real pictures is listed next to it.\n"
    "- **GenEval**: the six forms of its prompts, with shapes as objects and one picture per prompt, judged by its "
    "rules from the objects that the judge detects. The errors of the judge are measured on real pictures that show "
    "the request, and on real pictures that differ from it in one attribute. The second figure is corrected for these "
    "errors (Rogan and Gladen), and its interval includes their uncertainty (Lang and Reiczigel). The errors of a "
    "model may be easier or harder to detect than those in real pictures.\n"
    "- **Variety**: the mean distance between pictures of one caption in the features of the judge, as a share of the "
    "same distance between real pictures that the caption allows.\n"
    "- **Seam**: the mean absolute difference of the pixels on both sides of the seam. For comparison, the seam of the "
    "autoencoder: real pictures, encoded and decoded, whose other half is then restored."
)


def rows(figures: Mapping[str, Any]) -> list[report.Row]:
    """The figures of a report as text, in the order in which they are measured."""
    lines: list[report.Row] = []
    prompts = figures.get("prompts", {})
    for split, words in (("test", "trained combinations"), ("withheld", "withheld combinations")):
        for name in (*HEADINGS, *judge.EASY):
            if share := prompts.get(split, {}).get(name):
                real = figures["judge"][split].get(name)
                beside = f"judge on real pictures {report.percent(real)}" if real else ""
                lines.append((f"{HEADINGS.get(name, f'… {name}')}, {words}", report.percent(share), beside))
        for name, share in figures.get("templates", {}).get(split, {}).items():
            beside = f"real pictures {report.percent(figures['drawings'][split][name])}"
            lines.append((f"templates: {TEMPLATES[name]}, {words}", report.percent(share), beside))
    for kind, share in figures.get("refused", {}).items():
        lines.append((f"the judge says none of the eight, of {kind} drawings", report.percent(share), ""))
    lines += geneval_rows(figures.get("geneval", {}))
    for name, share in figures.get("negative", {}).items():
        what = f"shows the {name} that the negative prompt names"
        lines.append((what, report.percent(share["after"]), f"before {report.percent(share['before'])}"))
    if frechet := figures.get("frechet"):
        lines.append(report.frechet_row("judge's features", frechet, ".4g"))
    if copies := figures.get("copies"):
        what, value, exact = report.copies_row("real ones", copies)
        lines.append((what, value, f"{exact}, of held-out pictures {report.exact_copies(copies['held_out'])}"))
    for edit, metrics in figures.get("edits", {}).items():
        lines += [(f"{edit}: {what}", value, beside) for what, value, beside in _leaves(metrics)]
    return lines


def geneval_rows(figures: Mapping[str, Any]) -> list[report.Row]:
    """The figures of `shape_questions.measured`, as the judge sees them and corrected."""
    lines = []
    for name, part in figures.items():
        truth = part["corrected"]
        beside = f"corrected {report.percent(truth)}" if truth else "the judge does not tell right from wrong"
        if known := part.get("known"):
            share = {kind: f"{known[kind]['share']:.1%}" for kind in ("right", "wrong")}
            beside += f"; the judge accepts {share['right']} of right pictures and {share['wrong']} of wrong ones"
        lines.append((f"GenEval: {GENEVAL[name]}", report.percent(part["seen"]), beside))
    return lines


def _leaves(metrics: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[report.Row]:
    """Shares and seams anywhere in nested metrics: (where, figure, reference)."""
    where = " ".join(path).replace("_", " ")
    if "share" in metrics:
        yield where, report.percent(metrics), f"of {metrics['count']}"
    elif "real_mean" in metrics:
        beside = (
            f"of 255; the autoencoder's {metrics['coded_mean']:.2g}, at worst {metrics['coded_worst']:.2g}; of real "
            f"pictures {metrics['real_mean']:.2g}"
        )
        yield where, f"{metrics['mean']:.2g}, at worst {metrics['worst']:.2g}", beside
    else:
        for name, part in metrics.items():
            yield from _leaves(part, (*path, name))


def markdown(content: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The report as Markdown, with relative links to the pictures that are in the folder."""
    figures = content["figures"]
    protocol = content["protocol"]
    by_guidance = [
        (
            f"{row['guidance']:g}",
            report.percent(row["scores"]["attributes"]),
            f"{row['scores']['pictures']['share']:.1%}",
            f"{row['variety']:.2f}",
            f"{row['saturation']:.1%}",
        )
        for row in figures.get("sweep", ())
    ]
    header = ("guidance", "attributes right", "pictures right", "variety", "values at 0 or 255")
    parts = [
        f"# Text to image: {protocol['model']}",
        f"Guidance {figures['guidance']:g}, {protocol['steps']} steps.",
        report.beside_table(rows(figures)),
        *([report.table(header, by_guidance)] if by_guidance else ()),
        *report.pictures(folder, PICTURES),
        "## How to read the figures",
        HOW_TO_READ,
        report.protocol(protocol),
    ]
    return report.page(parts)
