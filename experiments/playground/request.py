"""What a visitor of the page asks for, and what the file of a picture carries of it."""

import base64
import binascii
import dataclasses
import hashlib
import importlib.metadata
import io
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from PIL import Image

from diffusion.io import files, pictures
from diffusion.text_to_image import Frame, fields
from experiments.sampling import from_prompt

PIXELS = 2**24  # of a picture to start from


@dataclasses.dataclass(frozen=True)
class Asked:
    """The parameters of the page and of its API.

    Attributes:
        prompt: what the pictures are of, of a text-to-image model.
        negative: what they are pushed away from; "" for nothing.
        label: the class, of a trained run; -1 for a run without classes.
        steps: of the sampler.
        guidance: scale of the guidance; 1 is none.
        seed: of the first picture; each further one has the next.
        sampler: by name.
        height, width: in pixels; 0 of the image, or what the model was made for.
        batch: how many pictures.
        image: file of a picture to start from, or "".
        mask: file of a picture of the same size, white where the image is painted anew, or "".
        margins: pixels put on at the top, bottom, left and right of the image, and painted.
        strength: in (0, 1], how much of the image is changed; 0 for the usual.
        resamplings: how often each quarter of the walk is walked, where a part of the image is kept.
    """

    prompt: str = ""
    negative: str = ""
    label: int = -1
    steps: int = 30
    guidance: float = 7.5
    seed: int = 0
    sampler: str = ""
    height: int = 0
    width: int = 0
    batch: int = 1
    image: str = ""
    mask: str = ""
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    strength: float = 0.0
    resamplings: int = 1

    @property
    def seeds(self) -> list[int]:
        """One a picture."""
        return list(range(self.seed, self.seed + self.batch))

    def canvas(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(image uint8 [H, W, 3] or None, mask Bool [H, W] or None).

        Raises:
            ValueError: if a file is no sound picture, the mask has another size, or there is a mask alone.
        """
        if not self.image:
            if self.mask or any(self.margins):
                raise ValueError("a mask and margins belong to a picture to start from; give the picture")
            return None, None
        image = pictures.read(self.image)
        return image, pictures.read_mask(self.mask, image.shape[:2]) if self.mask else None


def checked(given: Mapping[str, Any]) -> Asked:
    """The parameters as a page or a program sends them; JSON has one type of numbers.

    Raises:
        ValueError: for one of another kind or out of the range of `picture_fields.SETTINGS`.
    """
    found = {}
    for field in dataclasses.fields(Asked):
        found[field.name] = fields.SETTINGS[field.name](field.name, given.get(field.name, field.default))
    if found["seed"] + found["batch"] - 1 > fields.SEED:
        raise ValueError(f"seed = {found['seed']}: the last of {found['batch']} would be above {fields.SEED}")
    return Asked(**found | {"margins": tuple(found["margins"])})


def received(given: Mapping[str, Any], inputs: pathlib.Path) -> Asked:
    """The parameters with the pictures themselves in base64, which are kept once all else is found to be in range.

    Raises:
        ValueError: as `checked` and `keep`.
    """
    asked = checked({**given, "image": "", "mask": ""})
    return dataclasses.replace(asked, **{name: keep(given.get(name, ""), inputs) for name in ("image", "mask")})


class Source(Protocol):
    """What makes the pictures of a page.

    Attributes:
        name: as the page is headed.
        usual: what is asked for where a visitor says nothing.
        prompts: whether it is told a prompt.
        classes: how many it has; 0 for none.
        samplers: names.
        free: whether it makes pictures of other sizes than its own.
    """

    name: str
    usual: Asked
    prompts: bool
    classes: int
    samplers: tuple[str, ...]
    free: bool

    def watch(self, asked: Asked) -> Iterator[Frame]:
        """What is seen of the walk, step by step; refuses (ValueError) before it returns."""
        ...

    def carried(self, asked: Asked) -> dict[str, Any]:
        """What the files of the pictures carry beside their seed."""
        ...


class Made(NamedTuple):
    """What became of what was asked, until now.

    Attributes:
        frame: what is seen.
        notes: what the model says of the request.
        paths: files of the pictures, once they are done.
    """

    frame: Frame
    notes: tuple[str, ...]
    paths: tuple[str, ...] = ()


def make(source: Source, asked: Asked, out: pathlib.Path) -> Iterator[Made]:
    """Makes pictures, step by step, and at the end writes them to a folder with all that they were made from.

    Args:
        source: what makes them.
        asked: the parameters.
        out: the folder.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        frames = source.watch(asked)
    notes = tuple(str(warning.message) for warning in told if warning.category is UserWarning)
    for frame in frames:
        if frame.step < frame.steps:
            yield Made(frame, notes)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for at, (seed, picture) in enumerate(zip(asked.seeds, frame.pictures)):
        about = {**source.carried(asked), "seed": seed, "seeds": asked.seeds, "at": at}
        paths.append(from_prompt.free(out, str(seed)))
        pictures.write(paths[-1], coloured(picture), about)
    yield Made(frame, notes, tuple(map(str, paths)))


def coloured(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of a picture of 1 or 3 channels."""
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture


def common(asked: Asked) -> dict[str, Any]:
    """What the pictures of every model carry."""
    named = [path for path in (asked.image, asked.mask) if path]
    return {
        "negative": asked.negative or None,
        "steps": asked.steps,
        "guidance": asked.guidance,
        "height": asked.height,
        "width": asked.width,
        "image": asked.image or None,
        "mask": asked.mask or None,
        "margins": list(asked.margins),
        "strength": asked.strength or None,
        "resamplings": asked.resamplings,
        "batch_size": asked.batch,
        "files": {path: from_prompt.checksum(path) for path in named},
        "versions": {name: importlib.metadata.version(name) for name in from_prompt.LIBRARIES},
        "device": jax.devices()[0].device_kind,
    }


def of_file(path: str | pathlib.Path, usual: Asked, inputs: pathlib.Path) -> Asked:
    """The parameters that a picture was made with.

    Args:
        path: of a file that this page, or `experiments.sample --model`, wrote.
        usual: for parameters that it does not carry.
        inputs: the folder of the pictures that were started from; others are not read.

    Raises:
        ValueError: if it carries none.
    """
    about = fields.carried(pictures.settings_of(path), str(path))
    inside = lambda name: pathlib.Path(name).resolve().is_relative_to(inputs.resolve())
    kept = lambda name: name if name and os.path.isfile(name) and inside(name) else ""
    known = {
        name: about[name]
        for name in ("prompt", "label", "steps", "guidance", "sampler", "height", "width")
        if about.get(name) is not None
    }
    seeds = about.get("seeds") or [about.get("seed", 0)]
    edited = kept(about.get("image"))
    return checked(
        dataclasses.asdict(usual)
        | known
        | {
            "negative": about.get("negative") or "",
            "seed": seeds[0],
            "batch": len(seeds),
            "image": edited,
            "mask": kept(about.get("mask")) if edited else "",
            "strength": (about.get("strength") or 0.0) if edited else 0.0,
            "resamplings": about.get("resamplings", 1) if edited else 1,
            "margins": tuple(about.get("margins") or (0, 0, 0, 0)) if edited else (0, 0, 0, 0),
        }
    )


def keep(content: str, inputs: pathlib.Path) -> str:
    """Writes a picture that a visitor gave to the folder of such pictures, by its checksum; returns its path.

    Args:
        content: a file in base64, or as a data URL; "" for none, which gives "".
        inputs: the folder.

    Raises:
        ValueError: if it is no sound picture.
    """
    if not content:
        return ""
    if not isinstance(content, str):
        raise ValueError("a picture is a file in base64, or a data URL")
    try:
        sent = base64.b64decode(content.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError(f"the picture did not arrive whole: {error}") from error
    with pictures.opened(sent, "the file that was given") as header:
        if header.width * header.height > PIXELS:
            raise ValueError(
                f"the picture has {header.width} x {header.height} pixels, and at most {PIXELS:,} are "
                "taken here (4096 x 4096): scale it"
            )
    with tempfile.NamedTemporaryFile(suffix=".picture") as file:
        file.write(sent)
        file.flush()
        try:
            picture = pictures.read(file.name)
        except ValueError as error:
            raise ValueError(str(error).replace(file.name, "the file that was given")) from error
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    inputs.mkdir(parents=True, exist_ok=True)
    path = inputs / f"{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}-{picture.shape[1]}x{picture.shape[0]}.png"
    if not path.exists():
        with files.whole(path) as file:
            file.write(encoded.getvalue())
    return str(path)
