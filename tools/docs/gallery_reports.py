"""Writes the sections of the gallery that show what lies in a folder of its own: docs/gallery/FOLDER/report.md.

    python -m examples.control.report --runs=runs/outlines,runs/layers,runs/sketch --out=docs/gallery/control
    python -m examples.control.report --reference=runs/reference --out=docs/gallery/image_prompt
    python -m tools.docs.gallery_reports
    python -m tools.docs.gallery_reports video=runs/video/report     # those of examples.video, with their clips as WebP
    python -m tools.docs.gallery_reports moving=runs/moving/report

`tools.docs.gallery` draws the rest of docs/gallery/all.md from another run, and writes these sections too.
"""

import pathlib
import sys
from typing import NamedTuple

from PIL import Image, ImageSequence

from diffusion.experiments.run_folder import workdir

PLACE = pathlib.Path(__file__).parents[2] / "docs" / "gallery"
PAGE = "all.md"  # of all pictures; `tools.docs.gallery_front` writes the page before it


class Report(NamedTuple):
    """What the gallery shows of a report: a title, files of pictures in its folder, a text, and the commands."""

    title: str
    pictures: tuple[str, ...]
    text: str
    commands: tuple[str, ...]


REPORTS = {
    "techniques": Report(
        "Techniques, a row of pictures each",
        ("regions.png", "uce.png", "slider.png", "boxes.png", "controls.png"),
        "What steers or changes the model of drawings that comes along: in each picture the same noise without a "
        "technique and with it. [The table](techniques/report.md) has figures, and the techniques that fail here too: "
        "attention words, reference-only, ESD and custom diffusion.",
        ("python -m examples.techniques.report --out=runs/techniques",),
    ),
    "control": Report(
        "Where shapes stand",
        ("outlines.png", "layers.png", "sketch.png"),
        "ControlNets of the model of `make demo-text`, which has drawn shapes at nine places alone and never over each "
        "other: the control, with it, and without it from the same noise. The shapes stand where they should, but "
        "often exchange their colours, and melt where they overlap. Position errors in pixels: "
        "[its report](control/report.md), [how it is trained](../control.md#on-the-drawings-model).",
        (
            "diffusion train --config=tuning/drawings_control:outlines --workdir=runs/outlines",
            "python -m examples.control.report --runs=runs/outlines,runs/layers,runs/sketch --out=runs/control",
        ),
    ),
    "image_prompt": Report(
        "A drawing as a prompt",
        ("reference.png",),
        "An IP-Adapter of the same model: the reference, with it, and without it from the same noise. Colour and shape "
        "come back in two or three cases of four, and blurred. Beside a prompt that names colour and shape it fails: "
        "each is right in half of the pictures. What comes back of the reference: "
        "[its report](image_prompt/report.md), [how it is trained](../image_prompts.md#on-the-drawings-model).",
        (
            "diffusion train --config=tuning/drawings_image_prompt --workdir=runs/reference",
            "python -m examples.control.report --reference=runs/reference --out=runs/image_prompt",
        ),
    ),
    "moving": Report(
        "Clips of one or two shapes",
        ("test.webp", "withheld.webp", "image_to_video.webp", "extension.webp"),
        "The model `moving`, which comes along, draws clips of 16 frames: from captions, from captions of combinations "
        "that no clip of training had, from a first picture, and four times as long as the clips that it learned from. "
        "Shapes that turn often lose their corners. What templates see in them: [its report](moving/report.md), "
        "[how it is trained](../video_demo.md#one-or-two-shapes).",
        (
            'diffusion sample --model=moving --condition="a red star bounces" -n 4',
            "python -m examples.video.pairs_report --model=moving --out=runs/moving/report --number=64",
            "python -m tools.docs.gallery_reports moving=runs/moving/report",
        ),
    ),
    "video": Report(
        "Clips of captions",
        ("test.webp", "withheld.webp", "image_to_video.webp", "extension.webp"),
        "The model of `make demo-video`, which draws moving shapes in 8 frames: from captions, from captions of "
        "combinations that no clip of training had, from a first picture, and four times as long as the clips that it "
        "learned from. Some shapes have specks of another colour, and a few are torn. What a judge sees in them: "
        "[its report](video/report.md), "
        "[how it is trained](../video_demo.md).",
        (
            "python -m examples.video.demo --config=video/drawings --workdir=runs/video --number=48",
            "python -m tools.docs.gallery_reports video=runs/video/report",
        ),
    ),
    "sound": Report(
        "Notes of eight instruments",
        ("../../images/sound_samples.png",),
        "Samples of `sound/tones:large`, by instrument and pitch: waveforms, and spectrograms up to 8 kHz. "
        "[The WAV files](sound/report.md), and [how they are made and judged](../sound.md#figures).",
        (
            "diffusion train --config=sound/tones:large --workdir=runs/tones",
            "python -m examples.sound.tones --workdir=runs/tones --out=runs/tones/report",
        ),
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


def with_clips(report: pathlib.Path, place: pathlib.Path) -> None:
    """Copies a report of clips, report.md and report.json, with its GIF animations as WebP of a tenth of their bytes.

    All frames stay, at their times. The frames of test.gif at the beginning, at a third, at two thirds and at the end
    stand below each other in frames.png.
    """
    place.mkdir(parents=True, exist_ok=True)
    text = (report / "report.md").read_text()
    for path in sorted(report.glob("*.gif")):
        with Image.open(path) as film:
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
            duration = film.info["duration"]
        if path.stem == "test":
            _below(frames).save(place / "frames.png", optimize=True)
        out = place / f"{path.stem}.webp"
        frames[0].save(out, save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=90, method=6)
        text = text.replace(f"({path.name})", f"({out.name})")
    workdir.write_text(place / "report.md", text)
    workdir.write_text(place / "report.json", (report / "report.json").read_text())


def _below(frames: list[Image.Image]) -> Image.Image:
    """Four frames, the first and the last among them, below each other."""
    shown = [frames[len(frames[:-1]) * number // 3] for number in range(4)]
    out = Image.new("RGB", (shown[0].width, 4 * shown[0].height))
    for number, frame in enumerate(shown):
        out.paste(frame, (0, number * frame.height))
    return out


def main(argv: list[str]) -> None:
    """Writes the page, and before it the copy of a report of clips."""
    for word in argv:
        folder, _, report = word.partition("=")
        with_clips(pathlib.Path(report), PLACE / folder)
    path = PLACE / PAGE
    workdir.write_text(path, page(path.read_text(), PLACE))
    print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
