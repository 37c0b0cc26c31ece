"""The figures of a text-to-image report as lines of text, each beside its reference."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.text import judge

PICTURES = {
    "guidance.png": "Guidance: from varied and loose to literal and fried",
    "guidance_rows.png": "The same captions and seeds at each guidance",
    "variety.png": "The same captions by seed, at the guidance that was chosen",
    "test.png": "Captions of the test split and their first pictures; orange: the judge misses something",
    "withheld.png": "Combinations that no training picture has; orange: the judge misses something",
    "image_to_image.png": "Image to image: the same shape in the next colour",
    "style.png": "A style word by SDEdit",
    "inpainting.png": "Inpainting: a second object on the right",
    "outpainting.png": "Outpainting: the right half anew",
    "interpolation.png": "Between two prompts, and between two seeds",
}
HEADINGS = {
    "attributes": "asked attributes that are right",
    "pictures": "pictures with all of them right",
    "count": "counting: as many as asked",
    "relation": "relations: as asked",
    "word": "words that can be read",
}

Line = tuple[str, str, str]  # what, its figure, the reference beside it


def summary(figures: Mapping[str, Any]) -> list[Line]:
    """The figures of a report, from the first to the last that was measured."""
    lines: list[Line] = []
    if prompts := figures.get("prompts"):
        for split, words in (("test", "trained combinations"), ("withheld", "withheld combinations")):
            for name in (*HEADINGS, *judge.EASY):
                if name in prompts[split]:
                    real = figures["judge"][split].get(name)
                    told = HEADINGS.get(name, f"… {name}")
                    lines.append(
                        (
                            f"{told}, {words}",
                            percent(prompts[split][name]),
                            f"judge on real pictures {percent(real)}" if real else "",
                        )
                    )
    for name, found in figures.get("negative", {}).items():
        lines.append(
            (
                f"shows the {name} that the negative prompt names",
                percent(found["after"]),
                f"before {percent(found['before'])}",
            )
        )
    if frechet := figures.get("frechet"):
        floor = frechet["floor"]
        lines.append(
            (
                "Frechet distance (judge's features)",
                f"{frechet['distance']:.4g}",
                f"floor {floor['mean']:.4g} ± {floor['std']:.2g}, {frechet['ratio']:.2f} times; "
                f"noise {frechet['noise']:.4g}",
            )
        )
    if copies := figures.get("copies"):
        near = copies["share_below_held_out_percentile"]
        lines.append(
            (
                "nearer to training pictures than 1 % / 5 % of real ones",
                f"{near['1']:.1%} / {near['5']:.1%}",
                f"exact copies {copies['samples']['exact_duplicates']}, of held-out pictures "
                f"{copies['held_out']['exact_duplicates']}",
            )
        )
    for edit, found in figures.get("edits", {}).items():
        lines += [
            (f"{edit}: {' '.join(path).replace('_', ' ')}", value, beside) for path, value, beside in _leaves(found)
        ]
    return lines


def _leaves(found: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str, str]]:
    """Shares and seams anywhere in nested figures: (where, figure, reference)."""
    if "share" in found:
        return [(path, percent(found), f"of {found['count']}")]
    if "real_mean" in found:
        return [
            (
                path,
                f"{found['mean']:.2g}, at worst {found['worst']:.2g}",
                f"of 255; the autoencoder's {found['coded_mean']:.2g}, at worst {found['coded_worst']:.2g}; of real "
                f"pictures {found['real_mean']:.2g}",
            )
        ]
    return [leaf for name, each in found.items() for leaf in _leaves(each, (*path, name))]


def percent(found: Mapping[str, Any]) -> str:
    """A share with its interval."""
    low, high = found["interval"]
    return f"{found['share']:.1%} ({low:.1%} to {high:.1%})"


def markdown(content: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The report as Markdown; pictures that are in the folder are embedded by relative links."""
    figures = content["figures"]
    protocol = content["protocol"]
    parts = [f"# Text to image: {protocol['model']}", ""]
    parts += [f"Guidance {figures['guidance']:g}, {protocol['steps']} steps.", ""]
    parts += ["| | model | beside |", "|---|---|---|"]
    parts += [f"| {what} | **{value}** | {beside} |" for what, value, beside in summary(figures)]
    if sweep := figures.get("sweep"):
        parts += [
            "",
            "| guidance | attributes right | pictures right | variety | values at 0 or 255 |",
            "|---|---|---|---|---|",
        ]
        parts += [
            f"| {row['guidance']:g} | {percent(row['scores']['attributes'])} | "
            f"{row['scores']['pictures']['share']:.1%} | {row['variety']:.2f} | {row['saturation']:.1%} |"
            for row in sweep
        ]
    parts.append("")
    for picture, words in PICTURES.items():
        if (folder / picture).is_file():
            parts += [f"![{words}]({picture})", f"*{words}.*", ""]
    parts += [
        "## How to read the figures",
        "",
        "- **Attributes**: of each picture, those that its caption asks for, among " + ", ".join(judge.EASY) + "; "
        "counting, relations and words are told apart. Intervals are Wilson's, of 95 %.",
        "- **Judge**: a network trained apart from the model, on pictures of its own seed; what it reads in real "
        "pictures of the same captions bounds what a model can reach.",
        "- **Variety**: mean distance between pictures of one caption in the judge's features, as a share of that "
        "between real pictures that the caption leaves open.",
        "- **Seam**: mean absolute difference of the pixels on both sides. The autoencoder's: real pictures, encoded "
        "and decoded, with the other half put back.",
        "",
        "## Protocol",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in protocol.items()),
        "",
        "Every number in full: [report.json](report.json).",
        "",
    ]
    return "\n".join(parts)
