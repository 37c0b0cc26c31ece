"""Writes the sections of the gallery that show reports of the drawings' model: docs/gallery/FOLDER/report.md.

    diffusion control_report --runs=runs/outlines,runs/layers,runs/sketch --out=docs/gallery/control
    diffusion control_report --reference=runs/reference --out=docs/gallery/image_prompt
    python -m tools.docs.gallery_reports

`tools.docs.gallery` writes the rest of docs/gallery/README.md, of another run; this comes after it.
"""

import pathlib
import sys
from typing import NamedTuple

from diffusion.experiments.run_folder import workdir

PLACE = pathlib.Path(__file__).parents[2] / "docs" / "gallery"


class Report(NamedTuple):
    """What the gallery shows of a report: a title, files of pictures in its folder, a text, and the commands."""

    title: str
    pictures: tuple[str, ...]
    text: str
    commands: tuple[str, ...]


REPORTS = {
    "control": Report(
        "Where shapes stand",
        ("outlines.png", "layers.png", "sketch.png"),
        "ControlNets of the model of `make demo-text`, which has drawn shapes at nine places alone and never over each "
        "other: the control, with it, and without it from the same noise. Position errors in pixels: "
        "[its report](control/report.md), [how it is trained](../control.md#on-the-drawings-model).",
        (
            "diffusion train --config=tuning/drawings_control:outlines --workdir=runs/outlines",
            "diffusion control_report --runs=runs/outlines,runs/layers,runs/sketch --out=runs/control",
        ),
    ),
    "image_prompt": Report(
        "A drawing as a prompt",
        ("reference.png", "reference_with_prompt.png"),
        "An IP-Adapter of the same model: the reference, with it, and without it from the same noise; first a prompt "
        "that says nothing, then one that names colour and shape. What comes back of the reference: "
        "[its report](image_prompt/report.md), [how it is trained](../image_prompts.md#on-the-drawings-model).",
        (
            "diffusion train --config=tuning/drawings_image_prompt --workdir=runs/reference",
            "diffusion control_report --reference=runs/reference --out=runs/image_prompt",
        ),
    ),
    "video": Report(
        "Clips of captions",
        ("test.gif", "image_to_video.gif", "extension.gif"),
        "The model of `make demo-video`, which draws moving shapes in 8 frames: from captions, from a first picture, "
        "and four times as long as the clips that it learned from. What a judge sees in them: "
        "[its report](video/report.md), [how it is trained](../video_demo.md).",
        ("diffusion video_demo --config=video/drawings --workdir=runs/video",),
    ),
}


def section(folder: str, report: Report) -> str:
    """The section of a report."""
    pictures = "\n\n".join(
        f"![{pathlib.Path(name).stem.replace('_', ' ')}]({folder}/{name})" for name in report.pictures
    )
    commands = "\n".join(report.commands)
    return f"## {report.title}\n\n{pictures}\n\n{report.text}\n\n```sh\n{commands}\n```\n"


def page(text: str, place: pathlib.Path) -> str:
    """The page with the sections of the reports that lie in `place`, each at its end; earlier ones are replaced."""
    head, *parts = text.split("\n## ")
    titles = [report.title for report in REPORTS.values()]
    kept = [part.rstrip("\n") + "\n" for part in parts if part.split("\n")[0] not in titles]
    there = {folder: report for folder, report in REPORTS.items() if (place / folder / "report.md").is_file()}
    made = [section(folder, report).removeprefix("## ") for folder, report in there.items()]
    return "\n## ".join([head, *kept, *made])


def main() -> None:
    """Writes the page."""
    path = PLACE / "README.md"
    workdir.write_text(path, page(path.read_text(), PLACE))
    print(path)


if __name__ == "__main__":
    sys.exit(main())
