"""Makes a picture anew from the settings in its file, and says whether it is the same: diffusion sample --again."""

import importlib.metadata
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion import text_to_image
from diffusion.io import pictures
from diffusion.text_to_image import pipelines, png
from diffusion.text_to_image.requests import Request

TOLERANCE = 8  # of 255: what rounding does to a pixel on another kind of device


def again(path: pathlib.Path, out: str | None, folder: str | None = None) -> None:
    """Makes a picture from what its file carries, and says whether it is the same.

    Args:
        path: of the file.
        out: the folder to write to; that of the file by default.
        folder: of the model, where it is no longer where the file says.

    Raises:
        ValueError: if the file carries no settings, or the model or another file is not the one that it was made from.
        FileNotFoundError: if one of them is not there.
    """
    about = png.read(path)
    if not png.is_complete(about):
        raise ValueError(f"{path}: its settings are of another format than this program writes ({png.FORMAT})")
    if about["at"] >= len(about["seeds"]):
        raise ValueError(f"{path} was made as number {about['at']}, from 0, of {len(about['seeds'])} pictures")
    request = png.request(about, Request())
    picture = make(request, about, folder or about["model"], path)[about["at"]]
    target = pictures.unused(pathlib.Path(out) if out else path.parent, f"{path.stem}_again")
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures.write(target, picture, about)
    print(target, verdict(path, target, about, jax.devices()[0].device_kind), sep=": ")


def make(request: Request, about: Mapping[str, Any], folder: str, path: pathlib.Path) -> np.ndarray:
    """The pictures of a request, if all that they were made from is still the same.

    Args:
        request: of the picture's batch.
        about: what the picture's file carries.
        folder: of the model.
        path: of the picture's file, for messages.
    """
    if not os.path.isfile(os.path.join(os.path.expanduser(folder), "model_index.json")):
        raise FileNotFoundError(f"{folder}, which {path} was made with, is not there: name its folder by --model")
    found = pipelines.fingerprint(folder)
    if found != about["checkpoint"]:
        raise ValueError(
            f"{folder} is not the model that {path} was made with: its checksum is "
            f"{found[:12]}.., not {about['checkpoint'][:12]}..; name the right folder by --model"
        )
    for name in (request.image, request.mask, *about["loras"]):
        if name and png.checksum(name) != about["files"].get(name):
            raise ValueError(f"{name} is not the file that {path} was made with")
    return text_to_image.make(load(folder, about), request)


def load(folder: str, about: Mapping[str, Any]) -> text_to_image.TextToImage:
    """The model in the type and with the LoRA files that a picture's file names."""
    return text_to_image.load(folder, dtype=about["dtype"], loras=about["loras"])


def verdict(path: pathlib.Path, target: pathlib.Path, about: Mapping[str, Any], device: str) -> str:
    """Whether two files are the same, in words."""
    if path.read_bytes() == target.read_bytes():
        return "the same bytes"
    difference = np.abs(pictures.read(path).astype(int) - pictures.read(target)).max()
    others = [f"device {device!r} in place of {about['device']!r}"] * (device != about["device"])
    for name in png.LIBRARIES:
        here = importlib.metadata.version(name)
        version = about["versions"].get(name)
        if version not in (None, here):
            others.append(f"{name} {here} in place of {version}")
    why = f" ({', '.join(others)})" if others else ""
    within = "within" if difference <= TOLERANCE else "MORE THAN"
    return f"pixels differ by up to {difference} of 255{why}, {within} the {TOLERANCE} that rounding explains"
