"""Trains a video model of moving drawings, and measures clips from captions, clips from pictures, and longer clips.

    python -m examples.video.demo --config=video/drawings --workdir=runs/video
    python -m examples.video.demo --config=video/drawings:tiny --workdir=runs/video_tiny --number=4
    python -m examples.video.demo --config=video/drawings --workdir=runs/video --prompt="a red star bounces"
    python -m examples.video.demo --config=video/latents --workdir=runs/video_latents    # an autoencoder first
    python -m examples.video.demo --config=video/pairs --workdir=runs/pairs --config.data.processes=14    # a GPU

    WORKDIR/denoiser    a run of diffusion train
    WORKDIR/report      report.json, report.md, and the clips as GIF (and MP4, if PyAV is installed)
    WORKDIR/clips       the clips for --prompt

The same command continues after an interruption, or after --until=denoiser. The trained judge is kept in the cache of
the library.

Exit status: as that of diffusion train.
"""

from absl import flags

from diffusion.experiments import command_line, config_flag

if __name__ == "__main__":  # before the imports that take seconds
    config_flag.flag()
    flags.DEFINE_string("workdir", None, "folder for all results, e.g. runs/video")
    flags.DEFINE_enum("until", "report", ["autoencoder", "denoiser", "report"], "last stage to run")
    flags.DEFINE_integer("number", 1000, "number of clips of each kind in the report", lower_bound=4)
    flags.DEFINE_multi_string("prompt", [], "caption for which to generate clips, without a report; may be repeated")
    flags.DEFINE_integer("n", 4, "number of clips per --prompt", lower_bound=1)
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.begin()

import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from diffusion.data import latent_cache
from diffusion.data.shapes import motions
from diffusion.experiments import train
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders, trained_run
from diffusion.io import films
from diffusion.recipe import ConfigError, checks, fields
from examples.video import clip_judge, clip_maker, clip_sheets, demo_stages, pairs_report, video_report


def run(
    config: Any, folder: str | pathlib.Path, command: str = "the same command", until: str = "report",
    number: int = 1000,
) -> int:  # fmt: skip
    """Trains the networks and writes the report, as far as that is not done yet; returns the exit status.

    Args:
        config: the config of the recipe `video/drawings`, `video/latents` or `video/pairs`.
        folder: the folder of all results.
        command: the command that continues the run, for messages.
        until: "autoencoder", "denoiser" or "report".
        number: the number of clips of each kind in the report.

    Raises:
        ConfigError: for a mistake in the config, or if the data have another size than the judge reads.
        Others: as `train.run`.
    """
    check(config)
    folder = pathlib.Path(folder)
    on_latents = demo_stages.autoencoder_of(config) is not None
    if until == "autoencoder" and not on_latents:
        raise ConfigError(
            "--until=autoencoder: this config trains no autoencoder, as its denoiser works on pixels. Valid: denoiser "
            "or report."
        )
    pairs = is_of_pairs(config)
    here = shlex.quote(str(folder))
    began = time.monotonic()
    say = lambda number, what: print(
        f"== {number} of {4 if on_latents else 2}, after {(time.monotonic() - began) / 60:.1f} min: {what}", flush=True
    )
    if on_latents:
        say(1, f"the autoencoder, diffusion train -> {here}/autoencoder")
        if (status := demo_stages.autoencoder_trained(config, folder, command)) or until == "autoencoder":
            return status
        say(2, f"the latents of the training clips -> {here}/vae, {here}/latents")
        demo_stages.encoded(config, folder)
    say(3 if on_latents else 1, f"the denoiser, diffusion train -> {here}/denoiser")
    if status := train.unless_finished(demo_stages.denoiser_of(config, folder), folder / "denoiser", command):
        return status
    if until == "denoiser":
        return 0
    say(4 if on_latents else 2, f"what {'templates see' if pairs else 'a judge sees'} in its clips -> {here}/report")
    if not films.has_library():
        print(f"PyAV is not installed, so clips are written only as GIF: {films.INSTALL}", flush=True)
    report = pairs_report if pairs else video_report
    content = report.measure(folder / "denoiser", folder / "report", number)
    for row in report.rows(content["figures"]):
        print(f"{row[0]:56} {row[1]:28} {row[2]}")
    print(f"== done after {(time.monotonic() - began) / 60:.1f} min: {folder / 'report' / 'report.md'}", flush=True)
    return 0


def is_of_pairs(config: Any) -> bool:
    """Whether clips have one or two shapes, and are measured without a judge."""
    return config.data.source.to_dict().get("name") == "moving_pairs"


def check(config: Any) -> None:
    """Refuses a config if the judge cannot read its clips, or if its sampling cannot continue given frames.

    Raises:
        ConfigError: naming the field.
    """
    on_latents = demo_stages.autoencoder_of(config)
    for stage in filter(None, (on_latents, demo_stages.denoiser_of(config))):
        fields.check(stage)
    source = config.data.source.to_dict()
    pairs = is_of_pairs(config)
    if pairs:
        _check_source(source, {"frames": pairs_report.FRAMES, "side": pairs_report.SIDE}, "the report is of")
    elif source.get("name") != "moving_drawings":
        raise ConfigError(
            f"config.data.source.name = {source.get('name')!r}, but the judge reads only clips of 'moving_drawings'. "
            "Train on other clips by: diffusion train"
        )
    else:
        span = "frames" if on_latents is None else "span"  # on latents, only the first frames of a clip are judged
        wanted = {span: clip_judge.FRAMES, "side": clip_judge.SIDE, "alone": True, "radii": clip_judge.SETTING.radii}
        _check_source(source, wanted, "the judge reads")
    if on_latents is not None:
        checks.validate(on_latents)
        demo_stages.check_autoencoder(config)
    recipe = checks.on_its_data(checks.validate(demo_stages.denoiser_of(config)))
    clip_maker.check(recipe, motions.words_of_both if pairs else motions.words)


def _check_source(source: dict[str, Any], wanted: dict[str, Any], reads: str) -> None:
    """Refuses a source of clips without the `wanted` settings; `reads` begins the reason, such as "the judge reads"."""
    for name, value in wanted.items():
        setting = source.get(name)
        setting = tuple(setting) if isinstance(setting, list) else setting
        if setting != value:
            raise ConfigError(
                f"config.data.source.{name} = {setting!r}, but {reads} clips of {value!r}. Valid: {value!r}."
            )


def sample(model: str | pathlib.Path, folder: pathlib.Path, prompts: Sequence[str], number: int) -> list[pathlib.Path]:
    """Makes clips of prompts, and writes a file for each prompt into FOLDER/clips; returns the paths.

    Args:
        model: the run of the denoiser, or the name of a model that ships with the package.
        folder: the folder of all results.
        prompts: the captions.
        number: the number of clips of each.

    Raises:
        ConfigError: for a word that the model does not know, or if the folder has no trained run.
    """
    run = trained_run.load(model, any_kind=True)
    pairs = is_of_pairs(run.config)
    words = motions.words_of_both if pairs else motions.words
    try:
        for prompt in prompts:
            (words if pairs else motions.said)(prompt)
    except ValueError as error:
        raise ConfigError(f"--prompt: {error}") from error
    frames = pairs_report.FRAMES if pairs else clip_judge.FRAMES
    rate = pairs_report.RATE if pairs else video_report.RATE
    make = clip_maker.maker(run, number, words)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    paths = []
    for prompt in prompts:
        path = folder / "clips" / prompt.replace(" ", "_")
        clip_sheets.write(make([prompt] * number, range(number), None, frames), path, [prompt] * number, rate)
        paths.append(path.with_suffix(".gif"))
    return paths


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    folder = pathlib.Path(values.workdir)
    if values.prompt:
        for path in sample(folder / "denoiser", folder, values.prompt, values.n):
            print(path)
        return
    command = workdir.command("python -m examples.video.demo")
    sys.exit(run(values.config, folder, command, values.until, values.number))


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, *autoencoder_folders.FAILURES, latent_cache.CacheError), compiles=True)
