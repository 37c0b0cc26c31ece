"""Writes those sections of the gallery that show a report, which has its own folder: docs/gallery/FOLDER/report.md.

    python -m examples.control.report --runs=runs/outlines,runs/layers,runs/sketch --out=docs/gallery/control
    python -m examples.control.report --reference=runs/reference --out=docs/gallery/image_prompt
    python -m tools.docs.gallery_reports
    python -m tools.docs.gallery_reports video=runs/video/report
    python -m tools.docs.gallery_reports moving=runs/moving/report

The first two commands write reports. The third command writes the sections of all reports in docs/gallery. With
FOLDER=REPORT it first copies a report of examples.video into the gallery, and converts the report's clips to WebP.
`tools.docs.gallery` draws the other sections of docs/gallery/all.md from a run, and writes these sections too.
"""

import pathlib
import sys
from typing import NamedTuple

from PIL import Image, ImageSequence

from diffusion.io.files import write_text

PLACE = pathlib.Path(__file__).parents[2] / "docs" / "gallery"
PAGE = "all.md"  # the page of all pictures; `tools.docs.gallery_front` writes the first page


class Report(NamedTuple):
    """What the gallery shows of a report: a title, picture files (from its folder), a text, and the commands."""

    title: str
    pictures: tuple[str, ...]
    text: str
    commands: tuple[str, ...]


REPORTS = {
    "glyph": Report(
        "Finetuned on five pictures",
        ("glyph.png",),
        "The training data of `make demo-text` contain no ghost, so the model was finetuned on five pictures "
        "of one. Each row uses the same prompts and the same noise; the last prompt names another shape. "
        "Textual inversion fails: it draws rounded squares without eyes. LoRA and DreamBooth draw ghosts, but"
        " they also add eyes to the other shape, and fail for the style neon. See [the "
        "report](glyph/report.md) and [its discussion](../tuning.md#a-glyph-in-three-ways).",
        (
            "python -m examples.glyph.pictures --out=runs/glyph/pictures",
            "diffusion train --config=tuning/glyph:lora --workdir=runs/glyph/lora",
            'diffusion sample --workdir=runs/glyph/lora --prompt="a red ghost above a blue square" -n 4',
        ),
    ),
    "counting": Report(
        "Counting objects",
        ("pictures.png",),
        "An earlier model of drawings draws the right number of objects in 58 % of pictures without guidance,"
        " and in 82 % if a judge chooses the better of two pictures. Six trainings on rewards of this judge, "
        "with a few thousand samples each, do not change the share significantly, and a longer training makes"
        " it worse. Four minutes of training on an H200 on real drawings, many of which show several objects,"
        " raise it to 89 %, and also improve words and relations. See [the report](counting/report.md), which"
        " uses a judge that was not used in training, and [its "
        "discussion](../post_training.md#counting-by-rewards).",
        ("python -m examples.counting.report --out=runs/counting/report --share=0.6",),
    ),
    "restoration": Report(
        "Restoring pictures",
        ("samples.png",),
        "The rows show eleven methods for inverse problems on five tasks: inpainting, super-resolution, "
        "deblurring, compressed sensing (24 numbers for 64 pixels), and phase retrieval. See [the "
        "report](restoration/report.md), which compares the methods with exact posteriors, and [advice on the"
        " choice of a method](../steering.md#inverse-problems).",
        ("python -m examples.restoration.report --out=runs/restoration --steps=50 --number=8 --points=500",),
    ),
    "symbols": Report(
        "Discrete diffusion and other models",
        ("symbols.png",),
        "Four networks of one size model the characters of NumPy's and SciPy's documentation after 2,000 "
        "training steps each. The autoregressive model needs 1.7 bits per character, and the diffusion models"
        " 2.6 to 3.0. See [the report](symbols/report.md) and [its "
        "discussion](../discrete.md#comparison-with-other-models).",
        ("python -m examples.symbols.comparison --out=runs/symbols",),
    ),
    "techniques": Report(
        "Techniques, with one row of pictures each",
        ("regions.png", "uce.png", "slider.png", "boxes.png", "controls.png"),
        "These techniques steer or change the model of drawings in the package. Each figure shows pictures "
        "with and without a technique, from the same noise. [The report](techniques/report.md) has the "
        "scores. It also shows the techniques that fail here: attention to words, reference-only control, ESD"
        " and Custom Diffusion.",
        ("python -m examples.techniques.report --out=runs/techniques",),
    ),
    "control": Report(
        "Control of positions",
        ("outlines.png", "layers.png", "sketch.png"),
        "These are ControlNets for the model of `make demo-text`, whose training pictures show shapes only at nine "
        "positions and without overlap. The rows show the control, a picture with it, and a picture without "
        "it from the same noise. The shapes appear where they should, but they often swap colours, and "
        "overlapping shapes merge. [The report](control/report.md) has position errors in pixels; [the "
        "recipe](../control.md#on-the-drawings-model) explains the training.",
        (
            "diffusion train --config=tuning/drawings_control:outlines --workdir=runs/outlines",
            "python -m examples.control.report --runs=runs/outlines,runs/layers,runs/sketch --out=runs/control",
        ),
    ),
    "image_prompt": Report(
        "A drawing as a prompt",
        ("reference.png",),
        "This is an IP-Adapter for the same model. The rows show the reference, a picture with it, and a picture "
        "without it from the same noise. Pictures take over colour and shape in two or three of four cases, "
        "but blurred. Combined with a prompt that names colour and shape, the adapter fails: each property is"
        " right in only half of the pictures. [The report](image_prompt/report.md) has the figures; [the "
        "recipe](../image_prompts.md#on-the-drawings-model) explains the training.",
        (
            "diffusion train --config=tuning/drawings_image_prompt --workdir=runs/reference",
            "python -m examples.control.report --reference=runs/reference --out=runs/image_prompt",
        ),
    ),
    "moving": Report(
        "Clips of one or two shapes",
        ("test.webp", "withheld.webp", "image_to_video.webp", "extension.webp"),
        "The model `moving`, which ships with the package, generates clips of 16 frames: from captions, from "
        "captions with combinations withheld from training, from a first picture, and four times as long as "
        "the training clips. Turning shapes often lose their corners. [The report](moving/report.md) has "
        "measurements with drawn templates; [the demo](../video_demo.md#one-or-two-shapes) explains the "
        "training.",
        (
            'diffusion sample --model=moving --condition="a red star bounces" -n 4',
            "python -m examples.video.pairs_report --model=moving --out=runs/moving/report --number=64",
            "python -m tools.docs.gallery_reports moving=runs/moving/report",
        ),
    ),
    "video": Report(
        "Clips of captions",
        ("test.webp", "withheld.webp", "image_to_video.webp", "extension.webp"),
        "The model of `make demo-video` generates clips of 8 frames: from captions, from captions with "
        "combinations withheld from training, from a first picture, and four times as long as the training "
        "clips. Many shapes are torn or have specks of another colour. [The report](video/report.md) has "
        "measurements by a judge and by drawn templates; [the demo](../video_demo.md) explains the training.",
        (
            "python -m examples.video.demo --config=video/drawings --workdir=runs/video --number=400",
            "python -m tools.docs.gallery_reports video=runs/video/report",
        ),
    ),
    "sound": Report(
        "Notes of eight instruments",
        ("../../images/sound_samples.png",),
        "The picture shows samples of `sound/tones:large` for each instrument and several pitches: waveforms, and "
        "spectrograms up to 8 kHz. You can listen to [the WAV files](sound/report.md), and read [how they are "
        "generated and judged](../sound.md#figures).",
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
    """The page with new sections of the reports at its end; it loses its former sections of reports.

    Args:
        text: the page, in Markdown.
        place: the folder of the gallery; a report without a file there gets no section.
    """
    head, *parts = text.split("\n## ")
    titles = [report.title for report in REPORTS.values()]
    others = [part.rstrip("\n") + "\n" for part in parts if part.split("\n")[0] not in titles]
    present = {folder: report for folder, report in REPORTS.items() if (place / folder / "report.md").is_file()}
    sections = [section(folder, report).removeprefix("## ") for folder, report in present.items()]
    return "\n## ".join([head, *others, *sections])


def with_clips(report: pathlib.Path, place: pathlib.Path) -> None:
    """Copies report.md and report.json of a report of clips, and converts its GIF animations to WebP.

    A WebP file has about a tenth of the bytes, all of the frames, and their durations. frames.png shows four frames of
    test.gif below each other: the first, those at a third and at two thirds, and the last.

    Args:
        report: the folder of the report.
        place: the folder of the copy, made if missing.
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
    write_text(place / "report.md", text)
    write_text(place / "report.json", (report / "report.json").read_text())


def _below(frames: list[Image.Image]) -> Image.Image:
    """A picture of four frames below each other: the first, those at a third and at two thirds, and the last."""
    shown = [frames[len(frames[:-1]) * number // 3] for number in range(4)]
    out = Image.new("RGB", (shown[0].width, 4 * shown[0].height))
    for number, frame in enumerate(shown):
        out.paste(frame, (0, number * frame.height))
    return out


def main(argv: list[str]) -> None:
    """Copies the reports of clips that the words FOLDER=REPORT name, and writes the page."""
    for word in argv:
        folder, _, report = word.partition("=")
        with_clips(pathlib.Path(report), PLACE / folder)
    path = PLACE / PAGE
    write_text(path, page(path.read_text(), PLACE))
    print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
