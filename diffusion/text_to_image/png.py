"""The settings in the PNG file of a picture: its request, and the model and files from which it was generated.

`diffusion.io.pictures` reads and writes the file; this module defines its JSON. A file may come from anyone, so `read`
checks each setting.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from diffusion.adapters.ip_adapter import IMAGE_ENCODER
from diffusion.io import opener, pictures, schema
from diffusion.models.quantised import KINDS
from diffusion.text_to_image import model_index, requests
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.requests import BATCH, SEED, Request
from diffusion.text_to_image.valid_values import FILE, NAME, PROMPT, one_of, text, valid_as

FORMAT = 1
STORED = "stored"  # kernels stay in 8 bits, as in the model's files
READ_IN_FOLDERS = (
    "config.json",
    "model_index.json",
    ".safetensors",
    ".gguf",
)  # ends of the names of configs and weights
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "pillow", "tokenizers")
TYPES = ("float32", "bfloat16")
PLAIN = tuple(name for name in requests.settings(Request) if name not in ("prompts", "seeds"))  # a file has its own
LATER = (  # settings that older files do not carry
    *("embeddings", "tile", "resamplings", "kept_noise", "emphasis", "watermark", "cache", "merge", "quantised"),
    *("controls", "attachments", "regions", "words", "attention", "reference", "image_guidance"),
    *("frames", "late_guidance", "images", "dynamic_guidance", "perturbed_guidance"),
    *("sound_guidance", "modality_guidance", "frame_rate", "layers"),
)
CHECKSUM = schema.Valid(
    "a checksum of 64 digits, 0 .. 9 and a .. f",
    lambda value: isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"),
)


def _is_lora(value: Any) -> bool:
    try:
        LoraWeight.read(value)
    except ValueError:
        return False
    return True


LORA = schema.Valid("a weight, or a weight and two times", _is_lora)
PICTURE: Mapping[str, schema.Valid] = {
    "format": schema.integer(0, 2**31),
    "prompt": PROMPT,
    "seed": schema.integer(0, SEED),
    "seeds": schema.several(schema.integer(0, SEED), 1, BATCH),  # seeds of all pictures of the request
    "at": schema.integer(0, BATCH - 1),  # index of this picture among them
    "files": schema.table(CHECKSUM, 200, FILE),
    "versions": schema.table(text(100), 100),
    "device": text(200),
}
MODEL: Mapping[str, schema.Valid] = {
    "model": FILE,
    "dtype": one_of(*TYPES),
    "loras": schema.table(LORA, 100, FILE),
    "embeddings": schema.table(text(100), 100, FILE),
    "attachments": schema.table(FILE, 100, NAME),
    "checkpoint": FILE,
    "quantised": one_of("", *KINDS, STORED),
}
RUN: Mapping[str, schema.Valid] = {
    "workdir": FILE,
    "step": schema.integer(0, 2**63),
    "weights": CHECKSUM,
    "label": schema.integer(-1, 2**31 - 1),
}
Kind = TypeVar("Kind", bound=Request)


def model(
    folder: str,
    dtype: str,
    loras: Mapping[str, Any],
    embeddings: Mapping[str, str] = MappingProxyType({}),
    attachments: Mapping[str, str] = MappingProxyType({}),
    quantised: str = "",
) -> dict[str, Any]:
    """The entry of a picture's file about the model that made it.

    Except for `quantised`, the arguments are those of `text_to_image.load`. `quantised` is the kind of
    `text_to_image.with_quantised`, STORED for kernels that stay as the files store them, or "" for neither.
    """
    checkpoint = model_index.fingerprint(folder)
    return {
        "format": FORMAT,
        "model": folder,
        "dtype": dtype,
        "loras": {path: LoraWeight.read(weight).written for path, weight in loras.items()},
        "embeddings": dict(embeddings),
        "checkpoint": checkpoint,
        "attachments": dict(attachments),
        "quantised": quantised,
    }


def named_files(request: Request, source: Mapping[str, Any]) -> list[str]:
    """The files and folders that a request's pictures depend on beside the model: only attachments in use."""
    controls = [path for control in request.controls for path in (control.picture, control.mask)]
    masks = [region.where for region in request.regions if isinstance(region.where, str)]
    single = (request.image, request.mask, request.watermark, request.reference)
    named = [
        *single,
        *request.images,
        *masks,
        *controls,
        *source.get("loras", ()),
        *source.get("embeddings", ()),
        *_attachments(request, source),
    ]
    return [str(path) for path in named if path]


def _attachments(request: Request, source: Mapping[str, Any]) -> list[str]:
    used = [control.attachment for control in request.controls]
    return [path for name, path in source.get("attachments", {}).items() if name in used]


def records(request: Request, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that go into the files of a request's pictures, one table for each picture.

    Args:
        request: the request of one prompt, which includes the model's settings; its image, mask and controls are
            paths.
        source: the origin of the pictures, as `model` returns it, or the folder, the step, the checksum of the weights
            and the class of a trained run.
    """
    files = [*named_files(request, source), *image_encoders(request, source)]
    common = {
        **source,
        **{name: getattr(request, name) for name in PLAIN},
        "controls": [control._asdict() for control in request.controls],
        "prompt": request.prompts[0],
        "files": {path: checksum(path) for path in files},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": jax.devices()[0].device_kind,
    }
    _, seeds = request.rows()
    tables = []
    for i, seed in enumerate(seeds):
        begin = i // request.batch_size * request.batch_size
        batch = seeds[begin : begin + request.batch_size]
        tables.append({**common, "seed": seed, "seeds": batch, "at": i - begin})
    return tables


def read(path: str | pathlib.Path) -> dict[str, Any]:
    """The settings in the file of a picture, each of its type and in its range; unknown fields are left out.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it carries no settings, or a setting of another type or out of range.
    """
    valid = {**PICTURE, **MODEL, **RUN}
    settings = {}
    stored = pictures.settings_of(path)
    try:
        for name, value in stored.items():
            if name in PLAIN:
                settings[name] = requests.settings(Request)[name].read(name, value)
            elif name in valid:
                settings[name] = valid_as(valid[name], name, value)
    except ValueError as error:
        raise ValueError(f"{path} has settings that this program does not write: {error}") from None
    return settings


def is_complete(about: Mapping[str, Any]) -> bool:
    """Whether a file carries all that is needed to make its picture again with a text-to-image model."""
    needed = {*PLAIN, *PICTURE, *MODEL} - {*LATER}
    return about.get("format") == FORMAT and needed <= about.keys()


def request(about: Mapping[str, Any], otherwise: Kind) -> Kind:
    """The request of a picture's batch, by what `read` returns; `otherwise` for the settings that are not in the file.

    Raises:
        ValueError: if they do not fit together.
    """
    names = [name for name in requests.settings(type(otherwise)) if about.get(name) is not None]
    settings: dict[str, Any] = {name: about[name] for name in names}
    if "prompt" in about:
        settings["prompts"] = (about["prompt"],)
    if "seed" in about:
        settings["seeds"] = about.get("seeds") or (about["seed"],)
    return dataclasses.replace(otherwise, **settings)


def image_encoders(request: Request, source: Mapping[str, Any]) -> list[str]:
    """The folders of image encoders beside the files of attachments in use, which an IP-Adapter reads."""
    is_folder = lambda path: os.path.isdir(os.path.expanduser(path))
    folders = [os.path.join(os.path.dirname(file), IMAGE_ENCODER) for file in _attachments(request, source)
               if not is_folder(file)]  # fmt: skip
    return [folder for folder in folders if is_folder(folder)]


def checksum(name: str) -> str:
    """sha256 of a file, or of the configs and weights in a folder of a network, an adapter or a pipeline.

    Raises:
        FileNotFoundError: if there is no such file; pipes and devices, which would be read without end, are not files.
    """
    place = os.path.expanduser(name)
    if os.path.isdir(place) and any(file.endswith(READ_IN_FOLDERS) for file in os.listdir(place)):
        return model_index.fingerprint(place)
    if not os.path.isfile(place):
        raise FileNotFoundError(f"{name}: there is no such file.")
    with opener.open_file(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
