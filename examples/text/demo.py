"""Trains a text-to-image model on captioned pictures: a text encoder, an autoencoder and a denoiser in one folder.

    python -m examples.text.demo --config=text/shapes --workdir=runs/text
    python -m examples.text.demo --config=text/shapes:tiny --workdir=runs/text_tiny
    diffusion sample --model=runs/text/model --prompt="a red circle above a blue square"

    WORKDIR/tokenizer                         byte-pair encoding, learned from the captions
    WORKDIR/encoder, autoencoder, denoiser    runs of diffusion train, with their checkpoints, metrics and curves
    WORKDIR/text_encoder, image_encoder, vae  the first two, in the format of other programs
    WORKDIR/captions, latents                 the encoded captions and pictures, on which the denoiser trains
    WORKDIR/model                             the complete model, with model_index.json

The same command continues after an interruption, or after --until=autoencoder. Each stage can also run alone, by the
command that it prints first. Flags such as --config.denoiser.train.steps=12000 change a field in the config of a stage.

Exit status: as that of diffusion train.
"""

from absl import flags

from diffusion.experiments import command_line, config_flag

if __name__ == "__main__":  # before the imports that take seconds
    config_flag.flag()
    flags.DEFINE_string("workdir", None, "folder for all results, e.g. runs/text")
    flags.DEFINE_enum(
        "until",
        "denoiser",
        ["encoder", "autoencoder", "denoiser"],
        "last stage to train; the same command without this flag continues from there",
    )
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.begin()

import pathlib
import shlex
import shutil
import sys
import tempfile
import time
from typing import Any

import numpy as np

from diffusion.data import captions, latent_cache, sources
from diffusion.experiments import encode, encode_text, train
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.experiments.text import model
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError, check_stages, checks, data, extensions, fields
from diffusion.recipe.parts import Resolver
from diffusion.text import byte_pairs
from diffusion.training.checkpointing import checkpoints

STAGES = ("encoder", "autoencoder", "denoiser")
FIELDS = (*STAGES, "data", "denoiser_data", "vocabulary", "measured")


def run(config: Any, folder: str | pathlib.Path, command: str = "the same command", until: str = STAGES[-1]) -> int:
    """Runs all stages that are not finished; returns the exit status of the first training that fails or stops, or 0.

    Args:
        config: the config of the recipe `text/shapes` or a similar one.
        folder: the folder of all results.
        command: the command that continues the run, for messages.
        until: the last training, in `STAGES`.

    Raises:
        ConfigError: for a mistake in the config, or if an encoder or autoencoder has been trained further since the
            denoiser learned from its results.
        Others: as `train.run`, `encode.run` and `encode_text.run`.
    """
    check(config)
    folder = pathlib.Path(folder)
    stage = settled(config, folder)
    checks.validate(stage["autoencoder"])
    source = data.source(stage["encoder"], config.data.split)
    here = shlex.quote(str(folder))
    began = time.monotonic()

    def say(number: int, what: str) -> None:
        print(f"== {number} of 5, after {(time.monotonic() - began) / 60:.1f} min: {what}", flush=True)

    say(1, f"a vocabulary of the captions of {source.spec.name} ({source.spec.split}) -> {here}/tokenizer")
    tokenizer = folder / "tokenizer"
    if not tokenizer.is_dir():
        encode_text.vocabulary(source, tokenizer, config.vocabulary.size, config.vocabulary.length)
    trained = lambda name: train.unless_finished(stage[name], folder / name, command)
    say(2, f"the text encoder, diffusion train -> {here}/encoder")
    if (status := trained("encoder")) or until == "encoder":
        return status
    say(3, f"the autoencoder, diffusion train -> {here}/autoencoder")
    if (status := trained("autoencoder")) or until == "autoencoder":
        return status
    say(4, f"captions and pictures, encoded once -> {here}/captions, {here}/latents")
    pictures = stage["encoder"].copy_and_resolve_references()
    pictures.data.update(config.denoiser_data.to_dict())
    _encode(config, folder, data.source(pictures, config.data.split))
    if not (folder / "image_encoder").is_dir():
        model.image_encoder(folder / "encoder", folder / "image_encoder")
    say(5, f"the denoiser, diffusion train -> {here}/denoiser")
    if status := trained("denoiser"):
        return status
    parts = {name: folder / name for name in ("text_encoder", "tokenizer", "vae")}
    model.pipeline(folder / "denoiser", folder / "model", parts)
    print(
        f"== done after {(time.monotonic() - began) / 60:.1f} min: {folder / 'model'}. Next: "
        f'{extensions.printed("sample", f"--model={folder}/model")} --prompt="..."',
        flush=True,
    )
    return 0


def settled(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """The config of each training, with the folders of its data."""
    stage = {name: config[name].copy_and_resolve_references() for name in STAGES}
    for training in stage.values():
        training.data.update(config.data.to_dict())
    stage["denoiser"].data.update(config.denoiser_data.to_dict())
    stage["encoder"].data.text.tokenizer = str(folder / "tokenizer")
    stage["denoiser"].data.text.dir = str(folder / "captions")
    stage["denoiser"].data.latents.update({"dir": str(folder / "latents"), "autoencoder": str(folder / "vae")})
    return stage


def check(config: Any) -> None:
    """Refuses fields that the command does not know, and numbers out of range.

    Raises:
        ConfigError: naming the first such field.
    """
    check_stages(config, FIELDS, "text/shapes")
    if config["measured"] < 1:
        raise ConfigError(f"config.measured = {config['measured']}. Valid: at least 1 picture.")
    with tempfile.TemporaryDirectory() as folder:  # a misspelt name is refused before an hour of training
        stage = _with_stand_ins(config, pathlib.Path(folder))
        for name in STAGES:
            fields.check(config[name])
            resolver = Resolver(stage[name])
            _ = resolver.model(), resolver.optimizer, resolver.schedule
    written = config["encoder"]["model"]["text"]["width"]
    read = config["denoiser"]["model"]["text_width"]
    if written != read:
        raise ConfigError(
            f"config.denoiser.model.text_width = {read}, but config.encoder.model.text.width = {written}. The denoiser "
            "receives the features of the text encoder. Valid: the same number for both."
        )


def _with_stand_ins(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """The configs of `settled`, with a vocabulary and captions of one word in place of those that are not yet made."""
    width = config["encoder"]["model"]["text"]["width"]
    length = config["vocabulary"]["length"]
    entries = lambda texts: {
        "text": np.zeros((len(texts), length, width), np.float32),
        "text_mask": np.ones((len(texts), length), bool),
    }
    byte_pairs.write(folder / "tokenizer", byte_pairs.learn(["a"], 600), length)
    captions.write(folder / "captions", captions.table(["a"], entries), {"format": 1, "dataset": {}, "encoder": ""})
    return settled(config, folder)


def _encode(config: Any, folder: pathlib.Path, source: sources.Source) -> None:
    """Exports the encoders of text and pictures, and encodes all records, unless that is done already."""
    trained = {name: checkpoints.latest(folder / name) for name in STAGES}
    for name, out, outputs in (("encoder", "text_encoder", "captions"), ("autoencoder", "vae", "latents")):
        note = folder / f"{out}.step"
        if note.is_file() and note.read_text() == str(trained[name]):
            continue
        if trained["denoiser"] is not None:
            raise ConfigError(
                f"{folder / name} has been trained further, to step {trained[name]}, but {folder / 'denoiser'} learned "
                f"from its earlier results. Choose another --workdir, or remove {folder / 'denoiser'} to train the "
                "denoiser again."
            )
        shutil.rmtree(folder / outputs, ignore_errors=True)
        if name == "encoder":
            model.text_encoder(folder / name, folder / out)
        else:
            scaling = model.autoencoder(folder / name, folder / out, config.measured)._asdict()
            numbers = "; ".join(f"{title} {', '.join(f'{x:.3g}' for x in row)}" for title, row in scaling.items())
            print(f"latents by channel, before they are standardised: {numbers}", flush=True)
        write_text(note, str(trained[name]))
    if not (folder / "captions" / captions.INDEX).is_file():
        encode_text.run(folder / "text_encoder", folder / "tokenizer", source, folder / "captions")
    if not (folder / "latents" / latent_cache.INDEX).is_file():
        encode.run(autoencoder_folders.load(folder / "vae"), source, str(folder / "latents"))


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    sys.exit(run(values.config, values.workdir, workdir.command("python -m examples.text.demo"), values.until))


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, *autoencoder_folders.FAILURES, latent_cache.CacheError), compiles=True)
