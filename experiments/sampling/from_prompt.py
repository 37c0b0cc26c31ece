"""Pictures of prompts by a published model, for experiments.sample: `--model`, and `--again` for one more time.

    python -m experiments.sample --model=FOLDER --prompt="a cat" --negative=blurry --steps=30 --guidance=7.5 -n 4
    python -m experiments.sample --model=FOLDER --prompt="a dog" --image=cat.png --strength=0.6 --mask=head.png
    python -m experiments.sample --workdir=runs/text --prompt="a red circle"
    python -m experiments.sample --again=pictures/42.png

--workdir is a folder of experiments.text_demo. Writes OUT/<seed>.png. Each file carries all that it was made from:
settings, checksums of the model and of what was edited, versions, and the kind of the device. `--again` makes it anew
from that: the same bytes on the same kind of device with the same versions, elsewhere from the same draws, with pixels
that differ by rounding.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from diffusion import text_to_image
from diffusion.io import pictures
from diffusion.text_to_image import fields, pipelines
from experiments.config import ConfigError
from experiments.run_folder import workdir

MODEL = flags.DEFINE_string("model", None, "a published text-to-image model: a folder with model_index.json")
AGAIN = flags.DEFINE_string("again", None, "a picture that this command wrote, to make anew")
PROMPT = flags.DEFINE_string("prompt", None, "what the pictures are of")
NEGATIVE = flags.DEFINE_string("negative", None, "what they are pushed away from")
STEPS = flags.DEFINE_integer("steps", None, "steps of the sampler; by default as the model was published")
GUIDANCE = flags.DEFINE_float(
    "guidance", None, "scale of the guidance, 1 is none; by default as the model was published"
)
SEED = flags.DEFINE_integer("seed", 0, "of the first picture; each further one has the next")
NUMBER = flags.DEFINE_integer("n", 1, "how many pictures")
SAMPLER = flags.DEFINE_string("sampler", "", "e.g. dpmpp_2m; the model's own by default")
HEIGHT = flags.DEFINE_integer("height", 0, "in pixels; what the model was made for by default")
WIDTH = flags.DEFINE_integer("width", 0, "in pixels")
IMAGE = flags.DEFINE_string("image", None, "a picture to start from")
MASK = flags.DEFINE_string("mask", None, "a picture of the same size, white where the image is painted anew")
MARGINS = flags.DEFINE_list("margins", [], "pixels to put on and paint: top,bottom,left,right")
STRENGTH = flags.DEFINE_float("strength", None, "in (0, 1]: how much of the image is changed")
RESAMPLINGS = flags.DEFINE_integer(
    "resamplings",
    1,
    "with a mask or margins: how often each quarter of the walk is "
    "walked, so that what is painted agrees with what is kept (RePaint)",
)
LORA = flags.DEFINE_multi_string("lora", [], "a LoRA file and its weight, FILE:0.8; may be given several times")
WINDOWS = flags.DEFINE_bool("windows", False, "read a prompt longer than the text encoder's context in several windows")
BATCH = flags.DEFINE_integer("batch_size", 1, "pictures at once")
TILE = flags.DEFINE_integer("tile", 0, "side in pixels of the autoencoder's tiles of a large picture; 0: none")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the denoiser and the text encoders")

FORMAT = 1
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "pillow", "tokenizers")
SETTINGS = ("model", "prompt", "negative", "steps", "guidance", "sampler", "height", "width", "image", "mask",
            "margins", "strength", "loras", "windows", "dtype", "batch_size", "seeds", "tile",
            "resamplings")  # fmt: skip
ADDED = {"tile": 0, "resamplings": 1}  # settings that older pictures do not carry
RECORD = ("seed", "at", "checkpoint", "files", "device", "versions")
TOLERANCE = 8  # of 255: what rounding does to a pixel on another kind of device


def asked() -> bool:
    """Whether the command line asks for this way to sample."""
    return any(flag.value is not None for flag in (MODEL, AGAIN, PROMPT))


def main(out: str | None, work: str | None = None) -> None:
    """Makes the pictures that the flags ask for.

    Args:
        out: the folder to write to; "pictures", or that of the picture that is made again, by default.
        work: the folder of experiments.text_demo whose model is taken, in place of --model.

    Raises:
        ConfigError: for a mistake in the flags.
    """
    if work is not None and (MODEL.value is not None or AGAIN.value is not None):
        raise ConfigError(
            "--workdir samples what was trained here; --model and --again a published model. Name one of them."
        )
    with warnings.catch_warnings(), _in_words():
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", flush=True)
        warnings.simplefilter("always", UserWarning)
        if AGAIN.value is not None:
            again(pathlib.Path(AGAIN.value), out)
        else:
            if work is None and MODEL.value is None:
                raise ConfigError(
                    "--prompt is for a text-to-image model: name its folder by --model, or by --workdir "
                    "that of experiments.text_demo."
                )
            settings = from_flags() | ({} if work is None else {"model": str(workdir.text_model(work))})
            model = load(settings)
            folder = pathlib.Path(out or "pictures")
            folder.mkdir(parents=True, exist_ok=True)
            for seed, picture, about in make(model, settings):
                path = free(folder, f"{seed}")
                pictures.write(path, picture, about)
                print(path, flush=True)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What the library refuses, and files that are not there, as mistakes of the command line."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


def from_flags() -> dict[str, Any]:
    """The settings that the flags say.

    Raises:
        ConfigError: for a missing prompt, or a flag that is not written as it should be.
    """
    if PROMPT.value is None:
        raise ConfigError("--prompt is missing: what the pictures are of. (--prompt= is a prompt too, the empty one.)")
    if NUMBER.value < 1 or BATCH.value < 1:
        raise ConfigError("-n and --batch_size must be at least 1.")
    try:
        margins = [int(side) for side in MARGINS.value] or [0, 0, 0, 0]
    except ValueError:
        margins = []
    if len(margins) != 4:
        raise ConfigError(f"--margins={','.join(MARGINS.value)}: write four numbers, top,bottom,left,right.")
    return {
        "model": MODEL.value,
        "prompt": PROMPT.value,
        "negative": NEGATIVE.value,
        "steps": STEPS.value,
        "guidance": GUIDANCE.value,
        "sampler": SAMPLER.value,
        "height": HEIGHT.value,
        "width": WIDTH.value,
        "image": IMAGE.value,
        "mask": MASK.value,
        "margins": margins,
        "strength": STRENGTH.value,
        "loras": loras(),
        "windows": WINDOWS.value,
        "dtype": DTYPE.value,
        "batch_size": BATCH.value,
        "tile": TILE.value,
        "resamplings": RESAMPLINGS.value,
        "seeds": list(range(SEED.value, SEED.value + NUMBER.value)),
    }


def loras() -> dict[str, float]:
    """LoRA files and their weights, as --lora says them.

    Raises:
        ConfigError: for one that is not written as it should be.
    """
    found = {}
    for text in LORA.value:
        path, colon, weight = text.rpartition(":")
        try:
            found[path if colon else text] = float(weight) if colon else 1.0
        except ValueError:
            raise ConfigError(f"--lora={text}: write FILE:WEIGHT, such as style.safetensors:0.8.") from None
    return found


def load(settings: Mapping[str, Any]) -> text_to_image.TextToImage:
    """The model of the settings."""
    return text_to_image.load(settings["model"], dtype=settings["dtype"], loras=settings["loras"])


def make(model: text_to_image.TextToImage, settings: Mapping[str, Any]) -> list[tuple[int, np.ndarray, dict]]:
    """(seed, uint8 [H, W, 3], what its file is to carry) of each picture."""
    image = mask = None
    if settings["image"] is not None:
        image = pictures.read(settings["image"])
    if settings["mask"] is not None:
        if image is None:
            raise ConfigError("--mask belongs to --image: name the picture that is painted anew.")
        mask = pictures.read_mask(settings["mask"], image.shape[:2])
    seeds = settings["seeds"]
    size = settings["batch_size"]
    usual = model.usual.but(settings["steps"], settings["guidance"])
    settings = {**settings, **usual._asdict(), "sampler": settings["sampler"] or model.process.sampler}
    made = text_to_image.generate(
        model,
        settings["prompt"],
        negative=settings["negative"],
        steps=settings["steps"],
        guidance=settings["guidance"],
        seeds=seeds,
        sampler=settings["sampler"],
        height=settings["height"],
        width=settings["width"],
        image=image,
        mask=mask,
        margins=tuple(settings["margins"]),
        strength=settings["strength"],
        batch_size=size,
        windows=settings["windows"],
        tile=settings["tile"],
        resamplings=settings["resamplings"],
    )
    named = [settings["image"], settings["mask"], *settings["loras"]]
    fixed = {
        "format": FORMAT,
        **settings,
        "checkpoint": pipelines.fingerprint(settings["model"]),
        "files": {path: checksum(path) for path in named if path},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": jax.devices()[0].device_kind,
    }
    found = []
    for i, (seed, picture) in enumerate(zip(seeds, made)):
        begin = i // size * size
        found.append((seed, picture, {**fixed, "seed": seed, "seeds": seeds[begin : begin + size], "at": i - begin}))
    return found


def again(path: pathlib.Path, out: str | None) -> None:
    """Makes a picture from what its file carries, and says whether it is the same.

    Raises:
        ValueError: if the file carries no settings, or the model or another file is not the one that it was made from.
    """
    about = pictures.settings_of(path)
    carried = {**ADDED, **about}
    if about.get("format") != FORMAT or any(field not in carried for field in SETTINGS + RECORD):
        raise ValueError(f"{path}: its settings are of another format than this program writes ({FORMAT})")
    about = fields.carried(carried, str(path))
    if about["at"] >= len(about["seeds"]):
        raise ValueError(f"{path} was made as number {about['at']}, from 0, of {len(about['seeds'])} pictures")
    settings = {field: about[field] for field in SETTINGS}
    settings["model"] = MODEL.value or settings["model"]
    if not os.path.isfile(os.path.join(os.path.expanduser(settings["model"]), "model_index.json")):
        raise FileNotFoundError(
            f"{settings['model']}, which {path} was made with, is not there: name its folder by --model"
        )
    found = pipelines.fingerprint(settings["model"])
    if found != about["checkpoint"]:
        raise ValueError(
            f"{settings['model']} is not the model that {path} was made with: its checksum is "
            f"{found[:12]}.., not {about['checkpoint'][:12]}..; name the right folder by --model"
        )
    for name in (settings["image"], settings["mask"], *settings["loras"]):
        if name and checksum(name) != about["files"].get(name):
            raise ValueError(f"{name} is not the file that {path} was made with")
    _, picture, _ = make(load(settings), settings)[about["at"]]
    device = jax.devices()[0].device_kind
    target = free(pathlib.Path(out) if out else path.parent, f"{path.stem}_again")
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures.write(target, picture, about)
    print(target, verdict(path, target, about, device), sep=": ")


def checksum(name: str) -> str:
    """sha256 of a file.

    Raises:
        FileNotFoundError: if there is no such file; a pipe or a device, which would be read without end, is none.
    """
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: there is no such file.")
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verdict(path: pathlib.Path, target: pathlib.Path, about: Mapping[str, Any], device: str) -> str:
    """Whether two files are the same, in words."""
    if path.read_bytes() == target.read_bytes():
        return "the same bytes"
    difference = np.abs(pictures.read(path).astype(int) - pictures.read(target)).max()
    others = [f"device {device!r} in place of {about['device']!r}"] * (device != about["device"])
    for name in LIBRARIES:
        found = importlib.metadata.version(name)
        version = about["versions"].get(name)
        if version not in (None, found):
            others.append(f"{name} {found} in place of {version}")
    why = f" ({', '.join(others)})" if others else ""
    said = "within" if difference <= TOLERANCE else "MORE THAN"
    return f"pixels differ by up to {difference} of 255{why}, {said} the {TOLERANCE} that rounding explains"


def free(folder: pathlib.Path, stem: str) -> pathlib.Path:
    """A name that no file has yet: stem.png, stem-1.png, .."""
    names = [f"{stem}.png", *(f"{stem}-{i}.png" for i in range(1, 10_000))]
    return next(folder / name for name in names if not (folder / name).exists())
