"""The source of the page's pictures: a model makes them step by step, and `make` writes them with their settings."""

import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from diffusion import text_to_image
from diffusion.experiments.playground.page_request import PageRequest
from diffusion.io import clips, pictures
from diffusion.models.attachment import Attachment
from diffusion.models.interchange import schedulers
from diffusion.models.quantised import KINDS
from diffusion.text_to_image import Frame, png
from diffusion.text_to_image.png import STORED

T = TypeVar("T")


class Source(Protocol):
    """The protocol for a model on the page."""

    name: str  # the heading of the page
    usual: PageRequest  # the request with the model's usual settings
    size: tuple[int, int]  # the usual height and width of the model's pictures, in pixels
    prompts: bool  # whether the model reads prompts
    captions: bool  # whether the model reads captions, without a negative prompt or regions
    clip_rate: float  # the frames per second of the model's clips; 0 for a model of pictures
    classes: int  # the number of classes; 0 for a model without classes
    samplers: tuple[str, ...]  # the names of the samplers that the page offers
    free: bool  # whether the model also makes pictures of other sizes
    attachments: Mapping[str, Attachment]  # the attachments by the name that controls use

    @property
    def edits(self) -> bool:
        """Whether the model edits a picture by an instruction, with a second guidance scale for the picture."""
        ...

    @property
    def several(self) -> bool:
        """Whether the model accepts several pictures, which the prompt edits or combines."""
        ...

    def resolved(self, request: PageRequest) -> PageRequest:
        """The request, with the model's usual value for each setting that is not set."""
        ...

    def watch(self, request: PageRequest) -> Iterator[Frame]:
        """Yields the pictures after each step; a request that the model cannot do raises a ValueError at once."""
        ...

    def record(self, request: PageRequest) -> Mapping[str, Any]:
        """The facts about the model that are written into the pictures' files."""
        ...


class Published:
    """The model in a folder with model_index.json, as a `Source`; the arguments are those of `text_to_image.load`."""

    prompts, captions, classes, free = True, False, 0, True

    def __init__(
        self,
        folder: str,
        dtype: str,
        loras: Mapping[str, Any],
        embeddings: Mapping[str, str],
        attachments: Mapping[str, str],
        quantised: str = "",
        drop_text: bool = False,
    ):
        self.model = text_to_image.load(
            folder,
            dtype=dtype,
            loras={**loras},
            embeddings={**embeddings},
            attachments={**attachments},
            quantised=quantised == STORED,
            drop_text=drop_text,
        )
        if quantised in KINDS:
            self.model, stored = text_to_image.with_quantised(self.model, quantised)
            print(f"{quantised}: {stored}")
        self.attachments = self.model.attachments
        self.name = pathlib.Path(folder).resolve().name
        video = self.model.kind.video
        self.size = (self.model.side, self.model.side) if video is None else video.size
        self.clip_rate = 0.0 if video is None else video.rate
        self.usual = PageRequest().resolved(self.model)
        self.samplers = tuple(sorted(schedulers.SOLVERS))
        self._record = png.model(
            folder, dtype, loras, embeddings=embeddings, attachments=attachments, quantised=quantised
        )

    @property
    def edits(self) -> bool:
        return self.model.sees_picture and not self.model.distilled

    @property
    def several(self) -> bool:
        return self.model.kind.pictures.several is not None

    def resolved(self, request: PageRequest) -> PageRequest:
        return request.resolved(self.model)

    def watch(self, request: PageRequest) -> Iterator[Frame]:
        return text_to_image.frames(self.model, request)

    def record(self, request: PageRequest) -> Mapping[str, Any]:
        """The facts that `diffusion sample --again` reads to make the same picture again."""
        return self._record


class Made(NamedTuple):
    """The state of a request: the pictures so far.

    Attributes:
        frame: the pictures after the latest step.
        notes: the model's warnings so far.
        paths: the PNG files of the finished pictures; () until the last step is done.
        shown: the files that the page shows: the PNG files, or the films of clips; () until the last step is done.
    """

    frame: Frame
    notes: tuple[str, ...]
    paths: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


def make(source: Source, request: PageRequest, out: pathlib.Path) -> Iterator[Made]:
    """Makes pictures step by step, and at the end writes them into the folder `out` with their settings.

    Raises:
        ValueError: for a request that the model cannot do.
    """
    check(source, request)
    request = source.resolved(request)
    records = png.records(request, source.record(request))  # first, since a missing file would lose the pictures
    frames, notes = _noted(lambda: iter(source.watch(request)))
    while True:
        frame, more = _noted(lambda: next(frames))
        notes += more
        if frame.step == frame.steps:
            break
        yield Made(frame, notes)
    out.mkdir(parents=True, exist_ok=True)
    paths, shown = [], []
    for i, settings in enumerate(records):
        picture = coloured(frame.pictures[i])
        with pictures.reserved(out, str(settings["seed"])) as path:
            if source.clip_rate:
                sound = None if frame.sounds is None else (frame.sounds[i], frame.sample_rate)
                rate = frames_a_second(source, request)
                shown.append(clips.write_with_row(path, picture, rate, settings, sound)[0])
            elif picture.ndim == 4:
                shown += pictures.write_layers(path, picture, settings)
            else:
                pictures.write(path, picture, settings)
                shown.append(path)
        paths.append(path)
    yield Made(frame, notes, tuple(map(str, paths)), tuple(map(str, shown)))


def frames_a_second(source: Source, request: PageRequest) -> float:
    """The frames per second of a request's clips; 0 if the model makes pictures."""
    return source.clip_rate and (request.frame_rate or source.clip_rate)


def _noted(work: Callable[[], T]) -> tuple[T, tuple[str, ...]]:
    """(the result of the work, the texts of its warnings)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = work()
    return result, tuple(str(warning.message) for warning in caught if warning.category is UserWarning)


def check(source: Source, request: PageRequest) -> None:
    """Refuses a request that the model cannot do, such as one with a prompt, a class or a control that it cannot read.

    Raises:
        ValueError: if the model cannot do the request; the message says what the model reads.
    """
    needs_prompts = (request.prompts[0] and not source.captions) or request.negative or request.regions or request.words
    if not source.prompts and (needs_prompts or request.reference is not None or request.attention != 1):
        if source.captions:
            raise ValueError(
                f"{source.name} reads captions only. Leave out negative prompts, regions, words, attention and "
                "references."
            )
        reads = "a class" if source.classes else "no condition"
        instead = "Choose the class by label" if source.classes else "Leave the prompts out"
        raise ValueError(
            f"{source.name} receives {reads} and reads no prompt: without a text model it cannot use regions, words, "
            f"attention or references either. {instead}, or start the page with a text-to-image model."
        )
    if request.frames and not source.free:
        what = "clips of one length" if source.clip_rate else "pictures"
        raise ValueError(f"frames = {request.frames}: {source.name} makes only {what}; leave it out")
    if request.images and not source.several:
        raise ValueError(f"images: {source.name} cannot see several pictures; leave images out")
    if request.image_guidance not in (None, 1) and not source.edits:
        raise ValueError(
            f"image_guidance = {request.image_guidance:g}: {source.name} does not edit pictures by instructions; "
            "leave it out"
        )
    if source.classes and not 0 <= request.label < source.classes:
        raise ValueError(f"label = {request.label} is not a class of this model. Valid: 0 .. {source.classes - 1}")
    if not source.classes and request.label >= 0:
        raise ValueError(f"label = {request.label}: {source.name} has no classes; leave it out")
    if request.controls and not source.attachments:
        raise ValueError(
            f"{source.name} has no attachments that read controls. Leave controls out, or start the page with --model "
            "and --attach=NAME=FOLDER."
        )
    if odd := [one.attachment for one in request.controls if one.attachment not in source.attachments]:
        raise ValueError(
            f"controls: {odd[0]!r} is not an attachment of this model. Valid: {', '.join(source.attachments)}"
        )


def coloured(picture: np.ndarray) -> np.ndarray:
    """The picture or clip with at least 3 channels: a single channel is repeated three times; uint8 [..., H, W, C]."""
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture
