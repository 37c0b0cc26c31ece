"""A visitor's request: its fields on the page and in the HTTP interface, and how to restore it from a picture."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from diffusion.experiments.playground.uploads import keep
from diffusion.io import schema
from diffusion.text_to_image import png
from diffusion.text_to_image.requests import BATCH, SEED, Request
from diffusion.text_to_image.settings import Setting, setting, settings
from diffusion.text_to_image.valid_values import PROMPT

EDITS = ("image", "mask", "margins", "strength", "resamplings")  # the settings of a picture to start from


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageRequest(Request):
    """A request for one prompt, or for one class of a trained run; all its pictures are made in one batch."""

    label: int = setting(
        -1, schema.integer(-1, 2**31 - 1), "the class, for a trained run; -1 for a run without classes"
    )

    def __str__(self):
        what = repr(self.prompts[0]) if self.prompts[0] else f"class {self.label}"
        return f"{what}, seed {self.seeds[0]}, {self.number} at once"


def log(request: PageRequest, what: str) -> None:
    """Writes a line to the terminal of the page: the time, a request, and its outcome."""
    print(f"{time.strftime('%H:%M:%S')} {request}: {what}", flush=True)


ONE_PROMPT = {
    "prompt": Setting(str, "", PROMPT, False, settings(Request)["prompts"].help),
    "seed": Setting(
        int, 0, schema.integer(0, SEED), False, "seed of the first picture; each further picture has the next seed"
    ),
    "batch": Setting(int, 1, schema.integer(1, BATCH), False, "number of pictures, which are made at once"),
}
INPUTS: Mapping[str, Setting] = {
    name: ONE_PROMPT.get(name) or settings(PageRequest)[name]
    for name in ("prompt", "negative", "label", "steps", "guidance", "image_guidance", "seed", "sampler", "height",
                 "width", "frames", "batch", "image", "images", "mask", "margins", "strength", "resamplings",
                 "controls", "regions", "words", "attention", "reference")
}  # fmt: skip
EMPTY = {
    "negative": "",
    "image": "",
    "mask": "",
    "strength": 0.0,
    "image_guidance": 0.0,
    "reference": "",
}  # the values of inputs that are not set, since a form cannot hold None


def read(values: Mapping[str, Any]) -> PageRequest:
    """The request with these values of the inputs; a missing input has its default value.

    Raises:
        ValueError: if a value has the wrong type or is out of range, or if the values do not fit together.
    """
    given = {name: value for name, value in values.items() if name not in EMPTY or value != EMPTY[name]}
    one = {name: one.read(name, given.pop(name, one.default)) for name, one in ONE_PROMPT.items()}
    return PageRequest.series(one["prompt"], one["seed"], one["batch"], batch_size=one["batch"], **given)


def values(request: PageRequest) -> dict[str, Any]:
    """The values of the inputs that describe a request; the inverse of `read`."""
    one = {"prompt": request.prompts[0], "seed": request.seeds[0], "batch": request.number}
    one["controls"] = [control._asdict() for control in request.controls]
    one["regions"] = [region.text for region in request.regions]
    one["words"] = [word.as_text for word in request.words]
    value = lambda name: one[name] if name in one else getattr(request, name)
    return {name: EMPTY[name] if name in EMPTY and value(name) is None else value(name) for name in INPUTS}


def received(sent: Mapping[str, Any], inputs: pathlib.Path, check: Callable[[PageRequest], None]) -> PageRequest:
    """The request for inputs whose pictures arrive in base64; pictures are decoded only if everything else is valid.

    Args:
        sent: the values of the inputs by name.
        inputs: the folder in which the pictures are stored.
        check: a function that raises a ValueError for a request that the model cannot do. It is called before any
            picture is decoded, so it must not read the pictures.

    Raises:
        ValueError: if `read`, `check` or `uploads.keep` refuses the inputs.
    """
    named = [name for name in ("image", "mask", "reference") if sent.get(name)]
    later = "is not read yet"
    controls = sent.get("controls") or []
    if not isinstance(controls, list) or not all(isinstance(one, Mapping) and one.get("picture") for one in controls):
        raise ValueError(
            "controls must be a list of tables: each needs attachment and picture, and may have weight, times, mask "
            "and mode"
        )
    parts = [[name for name in ("picture", "mask") if one.get(name)] for one in controls]
    unread = [{**one, "mask": None, **dict.fromkeys(names, later)} for one, names in zip(controls, parts)]
    regions = sent.get("regions") or []
    if not isinstance(regions, list):
        raise ValueError("regions must be a list of texts, or of tables with prompt and where")
    masks = [one["where"] if isinstance(one, Mapping) and isinstance(one.get("where"), str) else "" for one in regions]
    regions = [{**one, "where": later} if mask else one for one, mask in zip(regions, masks)]
    images = sent.get("images") or []
    if not isinstance(images, list):
        raise ValueError("images must be a list of files in base64")
    unseen = {"controls": unread, "regions": regions, "images": [later] * len(images)}
    request = read({**sent, **dict.fromkeys(named, later), **unseen})
    if not all(mask or isinstance(region.where, tuple) for region, mask in zip(request.regions, masks)):
        raise ValueError(
            "regions: send a region with a mask as a table of prompt and where, with the mask's file in base64 as "
            "where; paths are not read"
        )
    check(request)
    paths_kept: dict[str, Any] = {name: keep(sent[name], inputs) for name in named}
    pictures = [{name: keep(one[name], inputs) for name in names} for one, names in zip(controls, parts)]
    paths_kept["images"] = tuple(keep(image, inputs) for image in images)
    paths_kept["controls"] = [one._replace(**paths) for one, paths in zip(request.controls, pictures)]
    held = [keep(mask, inputs) if mask else region.where for region, mask in zip(request.regions, masks)]
    paths_kept["regions"] = [region._replace(where=where) for region, where in zip(request.regions, held)]
    return dataclasses.replace(request, **paths_kept)


def read_file(path: str | pathlib.Path, usual: PageRequest, inputs: pathlib.Path) -> PageRequest:
    """The request that made a picture, on this page or by `diffusion sample --model`.

    Args:
        path: the PNG file of the picture.
        usual: the request that supplies the settings that the file lacks.
        inputs: the folder of uploaded pictures. Pictures that lie elsewhere are dropped from the request, since the
            settings in a file could name any file on this machine.

    Raises:
        ValueError: if the file carries no settings, or settings that do not fit together.
    """
    # The watermark setting is dropped, since it is a path on the machine that made the picture.
    noted = {name: value for name, value in png.read(path).items() if name != "watermark"}
    is_here = lambda name: os.path.isfile(name) and pathlib.Path(name).resolve().is_relative_to(inputs.resolve())
    files = [noted[name] for name in ("image", "mask") if noted.get(name)]
    if not files or not all(map(is_here, files)):
        noted = {name: value for name, value in noted.items() if name not in EDITS}
    if not all(is_here(path) for one in noted.get("controls", ()) for path in (one.picture, one.mask) if path):
        del noted["controls"]
    if not all(isinstance(one.where, tuple) or is_here(one.where) for one in noted.get("regions", ())):
        del noted["regions"]
    if not all(map(is_here, noted.get("images", ()))):
        del noted["images"]
    if not is_here(noted.get("reference") or ""):
        noted.pop("reference", None)
    return png.request(noted, usual)


def left_out(path: str | pathlib.Path, request: PageRequest, usual: PageRequest) -> list[str]:
    """The names of a picture's settings that the page cannot show, since it has no fields for them.

    Args:
        path: the picture's file.
        request: the request that `read_file` returned for it.
        usual: the argument `usual` of `read_file`.
    """
    shown = lambda name: getattr(request if name in INPUTS else usual, name)
    stored = {name: value for name, value in png.read(path).items() if name in png.PLAIN and value is not None}
    return [name for name, value in stored.items() if name != "batch_size" and value != shown(name)]
