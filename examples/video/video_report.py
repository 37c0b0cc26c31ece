"""Measures a video model of clips of one moving shape with a judge, and compares real clips with the same captions.

    python -m examples.video.video_report --model=runs/video/denoiser --out=runs/video/report --number=1000
    python -m examples.video.video_report --model=runs/self_forcing --out=runs/self_forcing/report

The model is a run of video/drawings or video/latents, or a student of one, such as students/self_forcing.

The command writes report.json, report.md, and for each kind of clip KIND.gif with the first clips and KIND.txt with
their captions. The first call trains the judge, and keeps it in the cache of the library.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "run folder of video/drawings or video/latents, or of a student")
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer("number", 1000, "number of clips of each kind", lower_bound=4)
    flags.DEFINE_integer("steps", 0, "number of sampling steps; 0 uses the default of the model", lower_bound=0)
    flags.mark_flags_as_required(["model", "out"])
    command_line.begin()

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.experiments.evaluation import report
from diffusion.experiments.sampling import autoencoder_folders, trained_run
from diffusion.training.checkpointing import checkpoints
from examples.video import clip_judge, clip_maker, clip_sheets, clip_templates, motion_figures

RATE = 4.0  # frames per second of the animations
OTHERS = 1000  # real clips in the reference of the Frechet distance
PARTS = {
    "test": "clips of captions",
    "withheld": "clips of withheld combinations",
    "image_to_video": "from a first picture",
    "extension": "four times the length",
}
SHARES = {
    "seen": "something, in frames that should show it in full",
    "count": "one object in them",
    "identity": "the same colour and shape in all of them",
}
TEMPLATES = {
    "shape": "templates: frames in which the asked shape is the best of the eight",
    "whole": f"templates: frames in which its overlap is above {clip_templates.WHOLE:g}",
    "colour": "templates: frames in the asked colour",
    "identity": "templates: clips of one shape and colour in all frames",
}
NUMBERS = {
    "size_drift": "drift of the size, of the size",
    "colour_drift": "drift of the colour, of 255",
    "flicker": "change where nothing moves, of 255",
}
MOTION = {
    "line_error": "off the straight line, in pixels of 32",
    "speed_error": "outside of the requested speed, of the speed",
    "bounce_unevenness": "unevenness of the steps of what bounces",
}
HOW_TO_READ = (
    "- **Asked**: the attributes that the caption of a clip states: colour, shape, motion, direction, speed. Intervals "
    "are Wilson's 95 % intervals, for the effective number of independent draws, since attributes or frames of one "
    "clip are correlated.\n"
    "- **Frames that should show it in full** are the frames in which the shape of the real clip with the same caption "
    "is completely visible. Drifts, distances and unevenness are medians over clips. A clip without the shape in such "
    "a frame counts as infinitely far off. For the change where nothing moves, so does a clip without a still pixel.\n"
    "- **Judge**: two networks that were trained separately from the model, on clips of another seed. Their results on "
    "real clips with the same captions are an upper bound for the model, and are listed next to each figure, like "
    "measurements of pixels. They reject 1 % of the frames of real clips as none of the eight shapes.\n"
    "- **Templates**: a measure without a network. The mask of each frame is compared with the masks of all eight "
    "drawn shapes, at any size, position and rotation, by intersection over union.\n"
    "- **Permanence**: the share of the shapes passing behind a bar that are hidden when they should be, and reappear "
    "with their colour where the motion of the real clip takes them, within one pixel.\n"
    "- **Frechet distance**: in the features of the judge of clips, which differ from those of FVD.\n"
    "- **From a first picture**: the picture already shows colour and shape, so even a still clip has them right. "
    "Motion, direction and speed come from the model.\n"
    "- **Autoencoder**: for a model on latents, the results for real clips after encoding and decoding, an upper bound "
    "for the model.\n"
    "- **Four times the length**: 32 frames by windows that see the last half of the window before, 4 frames of 8 (on "
    "latents 5 of 9); the judge reads the last 8 frames. Only shapes that bounce or turn are requested."
)


def measure(
    model: str | pathlib.Path, out: pathlib.Path, number: int, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Makes the clips of a report, measures and writes them; returns the content of report.json.

    Args:
        model: the run folder, an argument of `trained_run.load`.
        out: the folder of the report, made if missing.
        number: the number of clips of each kind; of the clips of four times the length a quarter, at least 4.
        changes: fields of the config and their values, an argument of `trained_run.load`.
    """
    out.mkdir(parents=True, exist_ok=True)
    networks = clip_judge.judge()
    run = trained_run.load(model, changes, any_kind=True)
    config: Any = run.config
    make, known = clip_maker.maker(run), clip_maker.context(run)
    began = time.process_time()
    figures: dict[str, Any] = {}
    clips_by_split = {}
    for split in ("test", "withheld"):
        figures[split], clips_by_split[split], truth = motion_figures.text_to_video(networks, make, split, number)
        clip_sheets.write(clips_by_split[split], out / split, [clip.caption for clip in truth], RATE)
    figures["image_to_video"], clips, truth = motion_figures.image_to_video(networks, make, number)
    clip_sheets.write(clips, out / "image_to_video", [clip.caption for clip in truth], RATE)
    figures["extension"], clips, truth = motion_figures.extension(networks, make, max(4, number // 4), known)
    clip_sheets.write(clips, out / "extension", [clip.caption for clip in truth], RATE)
    if run.recipe.on_latents:
        code = autoencoder_folders.reconstruction(autoencoder_folders.load(config.data.latents.autoencoder))
        figures["autoencoder"] = motion_figures.decoded(networks, code, int(config.data.source.frames), number)
    real, _ = clip_judge.real("test", range(10_000, 10_000 + OTHERS))
    others, _ = clip_judge.real("test", range(20_000, 20_000 + number))
    figures["distance"] = motion_figures.distances(networks, clips_by_split["test"], real, others)
    learned = np.stack([clip_judge.example("train", row)[0] for row in range(int(config.data.source.number))])
    figures["copies"] = motion_figures.copies(clips_by_split["test"], learned)
    protocol = {
        "run": str(model),
        "sampler": config.sample.sampler.name,
        "steps": config.sample.steps,
        "guidance": config.sample.guidance.scale,
        "training steps": checkpoints.latest(pathlib.Path(model)),
        "clips": number,
        "seeds": motion_figures.SEEDS,
        "judge": {"frames": networks.frames.digest, "clips": networks.clips.digest},
        "seconds of CPU": round(time.process_time() - began),
        **report.software(),
    }
    return report.write(out, {"figures": figures, "protocol": protocol}, lambda content: markdown(content, out))


def rows(parts: Mapping[str, Any]) -> list[report.Row]:
    """The figures as text, in the order in which they are measured."""
    lines: list[report.Row] = []
    for part, title in PARTS.items():
        if part not in parts:
            continue
        figures, real = parts[part]["made"], parts[part]["real"]
        for name, share in figures["asked"].items():
            beside = f"judge on real clips {real['asked'][name]['share']:.1%}"
            what = {"attributes": "what is requested", "clips": "clips with all of it"}.get(name, name)
            lines.append((f"{title}: {what}", report.percent(share), beside))
        for name, what in SHARES.items():
            lines.append((f"{title}: {what}", report.percent(figures[name]), f"real {real[name]['share']:.1%}"))
        for name, what in TEMPLATES.items():
            beside = f"real {real['templates'][name]['share']:.1%}"
            lines.append((f"{title}: {what}", report.percent(figures["templates"][name]), beside))
        if "permanence" in figures:
            share = figures["permanence"]
            lines.append((f"{title}: permanence", report.percent(share), f"real {real['permanence']['share']:.1%}"))
        pairs = [(what, figures[name], real[name]) for name, what in NUMBERS.items()]
        pairs += [(what, figures["motion"][name], real["motion"][name]) for name, what in MOTION.items()
                  if name in figures["motion"]]  # fmt: skip
        lines += [(f"{title}: {what}", f"{value:.3g}", f"real {floor:.3g}") for what, value, floor in pairs]
        if "speed_kept" in figures:
            lines.append(
                (f"{title}: speed of what bounces, off the real one", f"{figures['speed_kept']:.1%}", "median")
            )
    if "autoencoder" in parts:
        coded = parts["autoencoder"]
        clips = f"{coded['clips']} real clips, decoded of their latents"
        lines.append(("autoencoder: PSNR, dB", f"{coded['psnr']:.1f}", clips))
        lines.append(("autoencoder: what is requested", report.percent(coded["asked"]["attributes"]), clips))
    if "distance" in parts:
        distance = parts["distance"]
        beside = f"floor {distance['floor']:.3g}; noise {distance['noise']:.3g}; {distance['clips']} clips"
        lines.append(("Frechet distance of clips (in the judge's space)", f"{distance['distance']:.3g}", beside))
    if "copies" in parts:
        lines.append(report.copies_row("test clips", parts["copies"], "clips"))
    return lines


def markdown(content: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The report as Markdown, with relative links to the animations that are in the folder."""
    protocol = content["protocol"]
    parts = [
        f"# Video: {protocol['run']}",
        f"Guidance {protocol['guidance']:g}, {protocol['steps']} steps; {protocol['training steps']} of training.",
        report.beside_table(rows(content["figures"])),
        *clip_sheets.embedded(folder, PARTS),
        "## How to read the figures",
        HOW_TO_READ,
        report.protocol(protocol),
    ]
    return report.page(parts)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    changes = {"sample.steps": values.steps} if values.steps else {}
    content = measure(values.model, pathlib.Path(values.out), values.number, changes)
    for row in rows(content["figures"]):
        print(f"{row[0]:56} {row[1]:28} {row[2]}")


if __name__ == "__main__":
    command_line.run(main, autoencoder_folders.FAILURES, compiles=True)
