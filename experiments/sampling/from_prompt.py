"""Pictures or clips from prompts with a published model, for diffusion sample: `--model`, and `--again`.

    diffusion sample --model=FOLDER --prompt="a cat" --negative=blurry --steps=30 --guidance=7.5 -n 4
    diffusion sample --model=VIDEO_FOLDER --prompt="a cat runs" --frames=33 --height=480 --width=832
    diffusion sample --model=FOLDER --prompt="a dog" --image=cat.png --strength=0.6 --mask=head.png
    diffusion sample --model=FOLDER --prompt="a house" --attach=edges=CONTROLNET --controls=edges:house.png:0.8
    diffusion sample --workdir=runs/text --prompt="a red circle"
    diffusion sample --workdir=runs/lora --prompt="a photo of sks dog"
    diffusion sample --again=pictures/42.png

--workdir is a run with a text-to-image model in WORKDIR/model (`diffusion text_model` makes it), or a run that tunes a
model (docs/tuning.md). The command writes OUT/<seed>.png. For a clip this file shows some of the frames, and
OUT/<seed>.mp4 is the clip, with its sound if it has one; without PyAV these are OUT/<seed>.gif and OUT/<seed>.wav. The
files of a batch are written as soon as the batch is made.

Each PNG file carries its origin: settings, checksums of the model and of the edited files, versions, and the kind of
the device. `--again` makes the picture again from this: the same bytes on the same kind of device with the same
versions. Elsewhere it uses the same random draws, and pixels differ by rounding.
"""

import importlib.metadata
import itertools
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import diffusion
from diffusion import text_to_image
from diffusion.experiments import flag_errors
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import model_flags, prompt_flags, shipped_models, tuned_run
from diffusion.experiments.sampling.model_flags import DROP_TEXT, DTYPE, MODEL, QUANTISED
from diffusion.experiments.sampling.prompt_flags import AGAIN, NUMBER, PROMPT, SEED, SETTINGS
from diffusion.io import clips, opener, pictures
from diffusion.io.content_credentials import Signer
from diffusion.models.quantised import KINDS
from diffusion.recipe import ConfigError, as_config_errors
from diffusion.text_to_image import jobs, model_index, png
from diffusion.text_to_image.png import STORED
from diffusion.text_to_image.requests import Request
from diffusion.training.runtime import progress

TOLERANCE = 8  # the largest difference of a byte that rounding explains on another kind of device


def main(
    out: str | None, work: str | None = None, signer: Signer | None = None, requested_step: int | None = None
) -> None:
    """Makes the pictures that the flags describe, and writes them with their settings to OUT/<seed>.png.

    Args:
        out: the folder to write to; None for "pictures", or for the folder of the picture that is made again.
        work: the folder of a run with a text-to-image model, or of a run that tunes one; None for --model.
        signer: the signer of content credentials for the pictures; None for none.
        requested_step: the step of the checkpoint of a run that tunes a model; None for the latest.

    Raises:
        ConfigError: for a mistake in the flags.
    """
    if work is not None and (MODEL.value is not None or AGAIN.value is not None):
        raise ConfigError("--workdir names a run, and --model or --again a published model. Name only one of them.")
    if requested_step is not None and (work is None or not tuned_run.base_of(work)):
        raise ConfigError(
            f"--step={requested_step}: only a run that tunes a model is sampled at a step. Valid: no --step, or "
            "--workdir=RUN with such a run."
        )
    with warnings.catch_warnings(), as_config_errors():
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", flush=True)
        warnings.simplefilter("always", UserWarning)
        if AGAIN.value is not None:
            _check_flags_of_again()
            return again(pathlib.Path(AGAIN.value), out, MODEL.value, signer, DROP_TEXT.value)
        model, request, origin = _chosen_model(MODEL.value, work, requested_step)
        if QUANTISED.value in KINDS:
            model, stored = text_to_image.with_quantised(model, QUANTISED.value)
            print(f"{QUANTISED.value}: {stored}")
        target = pathlib.Path(out or "pictures")
        target.mkdir(parents=True, exist_ok=True)
        request = request.resolved(model)
        records = png.records(request, origin)  # first, since a file that cannot be read would lose the pictures
        remaining = iter(enumerate(records, start=1))
        console = progress.Output()
        shows = console.is_terminal and request.number > request.batch_size  # a log shows the paths instead
        with progress.bar("sampling", request.number, "pictures", console, shows) as advance:

            def write(batch: jobs.Results) -> None:
                for i, (done, settings) in enumerate(itertools.islice(remaining, len(batch.pictures))):
                    with pictures.reserved(target, str(settings["seed"])) as path:
                        _write(path, batch, i, settings)
                    if signer is not None:
                        signer.sign(path, settings, diffusion.__version__)
                    print(path, flush=True)
                    advance(done)

            results = jobs.results(model, request, write)
        if results.skipped is not None:
            print(f"{100 * results.skipped:.1f} % of the denoiser's blocks skipped")


def _chosen_model(
    published: str | None, run: str | None, requested_step: int | None
) -> tuple[text_to_image.TextToImage, Request, dict[str, Any]]:
    """The model that --model or --workdir names; errors as in `main`.

    Returns:
        (the model, the request of the flags with the settings that the model was trained for, the origin of its
        pictures for their files).
    """
    base = "" if run is None else tuned_run.base_of(run)
    lora: dict[str, float] = {}
    settings: dict[str, Any] = {}
    made_by: dict[str, Any] = {}
    if run is not None:
        folder = base or str(workdir.text_model(run))
    elif published is not None:
        place, lora, settings = shipped_models.with_lora(published)
        folder = str(place)
        if PROMPT.value is None:
            model_index.read_index(place)  # a folder of another kind needs no prompt
    else:
        raise ConfigError(
            "--prompt needs a text-to-image model: name its folder by --model, or a run with such a model by --workdir."
        )
    request = prompt_flags.request()
    source = {"dtype": DTYPE.value, "loras": lora | model_flags.loras()}
    source |= {"embeddings": model_flags.embeddings(), "attachments": model_flags.attachments()}
    _check_attached(request, source["attachments"])
    if run is not None and base:
        if QUANTISED.value == STORED:
            raise ConfigError(f"--quantised={STORED} is only for --model=FOLDER. Valid for a run: {', '.join(KINDS)}.")
        if DROP_TEXT.value:
            raise ConfigError("--drop_text is only for --model=FOLDER. Valid for a run: no --drop_text.")
        model, step, weights = tuned_run.load(run, requested_step, **source)
        settings, made_by = tuned_run.settings_of(run), {"workdir": str(run), "step": step, "weights": weights}
    else:
        model = text_to_image.load(folder, **source, quantised=QUANTISED.value == STORED, drop_text=DROP_TEXT.value)
    if source["embeddings"]:
        _check_words(request, dict(zip(reversed(source["embeddings"]), reversed(model.words))))
    origin = png.model(folder, **source, quantised=QUANTISED.value) | made_by
    return model, request.completed(settings), origin


def _check_attached(request: Request, attachments: Mapping[str, str]) -> None:
    """Refuses an attachment that no control of the request names."""
    used = {control.attachment for control in request.controls}
    for name, path in attachments.items():
        if name not in used:
            raise ConfigError(
                f"--attach={name}={path} has no effect: no control names {name!r}. Valid: --controls={name}:PICTURE, "
                "or no such --attach."
            )


def _check_words(request: Request, words: Mapping[str, str]) -> None:
    """Refuses a file of a word that no prompt of the request has.

    Args:
        request: the request.
        words: {file: its word in prompts}.
    """
    prompts = [*request.prompts, request.negative or "", *(region.prompt for region in request.regions)]
    for path, word in words.items():
        if not any(word.lower() in prompt.lower() for prompt in prompts):
            given = model_flags.embeddings()[path]
            raise ConfigError(
                f"--embedding={path}{f':{given}' if given else ''} has no effect: no prompt has {word!r}. Valid: the "
                "word in --prompt, --negative or --regions, or no such --embedding."
            )


def _check_flags_of_again() -> None:
    """Refuses flags of a request and of its model beside --again, since the picture contains these settings."""
    model_choices = (model_flags.LORA, model_flags.EMBEDDING, model_flags.ATTACH, DTYPE, QUANTISED)
    flag_errors.refuse(
        (flag.name for flag in (PROMPT, SEED, NUMBER, *SETTINGS.values(), *model_choices)),
        "has no effect with --again, which takes it from the picture. Valid with --again: --model, --out, "
        "--credentials, --drop_text.",
    )


def _write(path: pathlib.Path, results: jobs.Results, i: int, settings: Mapping[str, Any]) -> None:
    """Writes the PNG file of picture i, and the files of its clip or layers; the PNG of a clip shows some frames."""
    pixels = results.pictures[i]
    if pixels.ndim == 3:
        return pictures.write(path, pixels, settings)
    if not results.rate:
        return print(*pictures.write_layers(path, pixels, settings), sep="\n", flush=True)
    for film in clips.write_with_row(path, pixels, results.rate, settings, results.sound(i)):
        print(film, flush=True)
    return None


def again(
    path: pathlib.Path,
    out: str | None,
    folder: str | None = None,
    signer: Signer | None = None,
    drop_text: bool = False,
) -> None:
    """Makes a picture again from the settings in its file, and prints whether it is the same.

    Args:
        path: the PNG file.
        out: the folder to write to; None for the folder of the file.
        folder: the folder of the model, or its name in the package; None for the folder in the settings.
        signer: the signer of content credentials for the new file; None for none.
        drop_text: whether to free the text encoders before sampling, as in `text_to_image.load`.

    Raises:
        ValueError: if the file carries no settings, or the model or another file that it was made from has changed.
        FileNotFoundError: if the model or such a file is missing.
    """
    settings = png.read(path)
    if not png.is_complete(settings):
        raise ValueError(
            f"{path}: its settings are in another format than this version writes ({png.FORMAT}). Use the version that "
            "wrote it"
        )
    if settings["at"] >= len(settings["seeds"]):
        raise ValueError(
            f"{path}: its settings name picture {settings['at']} of a batch, but only {len(settings['seeds'])} seeds. "
            f"Valid: 0 .. {len(settings['seeds']) - 1}"
        )
    request = png.request(settings, Request())
    where: str = settings["model"] if folder is None else str(shipped_models.with_lora(folder)[0])
    results = make(request, settings, where, path, drop_text)
    written_to = pathlib.Path(out) if out else path.parent
    written_to.mkdir(parents=True, exist_ok=True)
    with pictures.reserved(written_to, f"{path.stem}_again") as target:
        _write(target, results, settings["at"], settings)
    print(target, verdict(path, target, settings, jax.devices()[0].device_kind), sep=": ")
    if signer is not None:
        signer.sign(target, settings, diffusion.__version__)


def make(
    request: Request, settings: Mapping[str, Any], folder: str, path: pathlib.Path, drop_text: bool = False
) -> jobs.Results:
    """Makes the pictures of a request again with the model and the files of a picture.

    Args:
        request: the request.
        settings: the settings of the picture.
        folder: the folder of the model.
        path: the picture, for messages.
        drop_text: whether to free the text encoders before sampling, as in `text_to_image.load`.

    Raises:
        ValueError: if the model or a file has another checksum than the settings state.
        FileNotFoundError: if the model or a file is missing.
    """
    if not os.path.isfile(os.path.join(os.path.expanduser(folder), "model_index.json")):
        raise FileNotFoundError(
            f"{folder}, the model that made {path}, is no folder with model_index.json. Name its folder by --model"
        )
    checkpoint = model_index.fingerprint(folder)
    if checkpoint != settings["checkpoint"]:
        raise ValueError(
            f"{folder} is not the model that made {path}: its checksum is {checkpoint[:12]}.., not "
            f"{settings['checkpoint'][:12]}... Name the right folder by --model"
        )
    # Files of earlier versions do not list the image encoders.
    encoders = [name for name in png.image_encoders(request, settings) if name in settings["files"]]
    for name in [*png.named_files(request, settings), *encoders]:
        if png.checksum(name) != settings["files"].get(name):
            raise ValueError(
                f"{name} is not the file with which {path} was made: its checksum differs. Restore that file first"
            )
    used = {control.attachment for control in request.controls}
    attachments = {name: file for name, file in settings.get("attachments", {}).items() if name in used}
    how = {"dtype": settings["dtype"], "loras": settings["loras"], "embeddings": settings.get("embeddings", {})}
    how |= {"attachments": attachments}
    if "workdir" in settings:
        model, step, weights = tuned_run.load(settings["workdir"], settings["step"], **how)
        if settings.get("weights", weights) != weights:  # older files do not state it
            raise ValueError(
                f"step {step} of {settings['workdir']} is not what made {path}: the checksum of its weights is "
                f"{weights[:12]}.., not {settings['weights'][:12]}..; the run was trained again"
            )
    else:
        keeps_stored = settings.get("quantised") == STORED
        model = text_to_image.load(folder, **how, quantised=keeps_stored, drop_text=drop_text)
    if settings.get("quantised") in KINDS:
        model, _ = text_to_image.with_quantised(model, settings["quantised"])
    return jobs.results(model, request)


def verdict(path: pathlib.Path, target: pathlib.Path, settings: Mapping[str, Any], device: str) -> str:
    """How a picture that was made again compares with the first file, in words.

    Args:
        path: the first file.
        target: the new file.
        settings: the settings in the first file.
        device: the kind of the present device.
    """
    if opener.read(path) == opener.read(target):
        return "the same bytes"
    difference = np.abs(pictures.read(path).astype(int) - pictures.read(target)).max()
    if not difference:
        return "the same pixels, in a file of other bytes, such as signed credentials"
    others = [f"device {device!r} in place of {settings['device']!r}"] * (device != settings["device"])
    for name in png.LIBRARIES:
        here = importlib.metadata.version(name)
        version = settings["versions"].get(name)
        if version not in (None, here):
            others.append(f"{name} {here} in place of {version}")
    why = f" ({', '.join(others)})" if others else ""
    within = "within" if difference <= TOLERANCE else "MORE THAN"
    return f"pixels differ by up to {difference} of 255{why}, {within} the {TOLERANCE} that rounding explains"
