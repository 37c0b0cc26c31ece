"""Generates clips with a trained video model from known frames: from a picture, between frames, or after them.

    diffusion film --workdir=runs/clips --first=1 --out=films               # from a picture
    diffusion film --workdir=runs/clips --first=1 --last=1 --out=films      # from the first to the last frame
    diffusion film --workdir=runs/clips --every=4 --out=films               # the frames between every fourth frame
    diffusion film --workdir=runs/clips --first=4 --frames=64 --out=films   # sixty frames after the first four

The command reads the known frames and their classes or conditions from config.sample.number clips of a split, and the
EMA weights of the run's latest checkpoint. config.sample sets the sampler, the steps and the guidance. If a film has
more frames than the run's clips, it is generated window by window, each from the last --first frames. The command
writes film.npz (images uint8 [N, F, H, W, C], given Bool [F], originals, labels), samples.gif and samples.png.

A student trained by self-forcing continues chunk by chunk, if --first and one chunk together are as long as its clips.
It takes the sampler of its chunks, here consistency:

    diffusion film --workdir=runs/self_forcing --first=4 --frames=64 --out=films

For a run on latents, these numbers count frames of the latent, and config.data.latents.autoencoder encodes and decodes
them. The network must take a separate time for each frame (video_dit), and must have been trained with known frames
(config.objective.density: given_frames or per_frame).
"""

from absl import flags

from diffusion.experiments import command_line, config_flag

if __name__ == "__main__":  # before the imports that take seconds
    config_flag.saved_flag(unread=config_flag.TRAINING_FIELDS)
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/clips")
    flags.DEFINE_string("out", None, "folder for the results, created if missing")
    flags.DEFINE_string("clips", "test", "split of the run's dataset that provides the known frames")
    flags.DEFINE_integer("first", 0, "number of known frames at the beginning", lower_bound=0)
    flags.DEFINE_integer("last", 0, "number of known frames at the end", lower_bound=0)
    flags.DEFINE_integer(
        "every", 0, "distance between known frames, counted from the first frame; 0 for no such frames", lower_bound=0
    )
    flags.DEFINE_integer("frames", 0, "number of frames per film; 0 for the length of the run's clips", lower_bound=0)
    flags.mark_flags_as_required(["out"])
    command_line.begin()

from typing import Any

import jax
import numpy as np

from diffusion import samplers
from diffusion.arrays import chunks
from diffusion.data import pipeline
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.evaluation import clip_pictures
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders, clip_coding, generate, run_denoiser, trained_run
from diffusion.io import files
from diffusion.models import facts
from diffusion.recipe import ConfigError, as_config_errors, data
from diffusion.sampling import engine, videos
from diffusion.training.checkpointing import checkpoints
from diffusion.training.step import conditioned


def given_of(frames: int, first: int = 0, last: int = 0, every: int = 0) -> np.ndarray:
    """The known frames of a clip.

    Args:
        frames: the number of frames of a clip.
        first: the number of known frames at the beginning, >= 0.
        last: the number of known frames at the end, >= 0.
        every: the distance between further known frames, counted from frame 0; 0 for no such frames.

    Returns:
        Bool `[frames]`, True for known frames.

    Raises:
        ConfigError: if no frame is known, or all are.
    """
    at = np.arange(frames)
    given = (at < first) | (at >= frames - last) | ((at % every == 0) if every else False)
    if not given.any() or given.all():
        raise ConfigError(
            f"--first={first} --last={last} --every={every} gives {given.sum()} of the {frames} frames of a clip. "
            f"Valid: 1 to {frames - 1} given frames."
        )
    return given


def film(
    run: trained_run.Trained, split: str = "test", first: int = 0, last: int = 0, every: int = 0, frames: int = 0
) -> dict[str, Any]:
    """Makes films from the first config.sample.number clips of a split.

    Args:
        run: the trained run.
        split: the split of its data.
        first, last, every: the known frames, see `given_of`; for a run on latents, frames of the latent.
        frames: the number of frames of a film, of its latent for a run on latents; 0 for the length of the run's clips.

    Returns:
        {"images": the films, uint8 `[N, F, H, W, C]`, "given": the known frames of pixels, Bool `[F]`, "originals": the
        clips, "labels": int `[N]`}.

    Raises:
        ConfigError: for a run that makes no clips of pixels, frames that do not fit, or films of which none is finite.
    """
    _check(run)
    run = run.continuing()
    recipe, config = run.recipe, run.config
    window = run.shape[0]
    given = given_of(window, first, last, every)
    frames = frames or window
    longer = frames > window
    if frames < window or (longer and (last or every)):
        raise ConfigError(f"--frames={frames}. Valid: {window}, or more if only --first is set.")
    number = config.sample.number
    source = data.source(config, split)
    records = pipeline.fetch(source, np.arange(min(number, len(source))))
    clips = np.stack([record["image"] for record in records])
    classes = np.array([record.get("label", 0) for record in records], np.int32)
    labels: Any = classes
    if recipe.examples.by_record:
        labels = conditioned(pipeline.stacked_conditions(records)["condition"])
    run_denoiser.check_given_frames(recipe, jax.tree.map(lambda leaf: leaf[:1], labels))
    made_frames = -(-(frames - first) // (window - first)) * (window - first) if longer else int((~given).sum())
    plan = recipe.sampling.plan
    coder, encode, decode, step = clip_coding.build_coding(run.recipe)
    pixels = lambda count: 1 + step * (count - 1)  # from a number of frames of the latent to frames of pixels

    bytes_of = lambda x: (to_uint8(x), engine.finite(x))

    @jax.jit
    def make(params, coder, clips, labels, seeds):
        starts, keys = generate.keys(seeds)
        denoise = run_denoiser.build_for_sampler(recipe)(params, labels)
        x = samplers.prior(run.schedule, starts, (made_frames, *run.shape[1:]))
        if longer:
            coding = (lambda clips: encode(coder, clips), lambda x: decode(coder, x))
            way = (run.sampler, denoise, run.schedule, x, plan, keys, to_model(clips[:, : pixels(first)]), window)
            return bytes_of(videos.rollout(*way, coding=coding)[:, : pixels(frames)])
        known = encode(coder, to_model(clips))
        others = videos.completing(denoise, run.schedule, known, given)
        samples = samplers.sample(run.sampler, others, run.schedule, x, plan, keys)
        return bytes_of(decode(coder, known.at[:, np.flatnonzero(~given)].set(samples)))

    seeds = generate.seeds(config, len(clips))
    size = min(config.sample.batch_size, len(clips))
    images, finite = chunks.applied(lambda rows: make(run.params, coder, *rows), (clips, labels, seeds), size)
    with as_config_errors():
        generate.check_finite(config, len(images), int((~finite).sum()))
    known_frames = np.arange(frames) < first if longer else given
    known_frames = np.repeat(known_frames, [1] + [step] * (frames - 1))
    return {"images": images, "given": known_frames, "originals": clips, "labels": classes}


def _check(run: trained_run.Trained) -> None:
    """Refuses a run that makes no clips of bytes, or whose network takes one time for all frames."""
    recipe, config = run.recipe, run.config
    if len(run.shape) != 4 or not facts.takes_frames(recipe.network) or not recipe.makes_bytes:
        raise ConfigError(
            f"config.model.name = {config.model.name!r} on examples of {run.shape} makes no clips of pictures with a "
            "time for each frame. Valid: video_dit on clips."
        )


def main(argv: list[str]) -> None:
    """Makes the films, and writes the files."""
    values = flags.FLAGS
    out = workdir.output_folder(values.out)
    run = trained_run.from_config(values.config, checkpoints.load_ema(values.workdir)[0], any_kind=True)
    content = film(run, values.clips, values.first, values.last, values.every, values.frames)
    out.mkdir(parents=True, exist_ok=True)
    with files.atomic(out / "film.npz") as file:
        np.savez(file, **content)
    rate = getattr(data.source(values.config, values.clips), "rate", clip_pictures.RATE)
    shown = clip_pictures.draw(content["images"], content["labels"], out, rate)
    count, frames = content["images"].shape[:2]
    print(f"{count} films of {frames} frames, {content['given'].sum()} given: {', '.join(map(str, shown))}")


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, *autoencoder_folders.FAILURES), compiles=True)
