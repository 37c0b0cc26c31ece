"""A request for pictures: its settings, each with type, range and help, for functions, commands, the page and files.

    request = Request(prompts="a cat", seeds=range(4), steps=30, guidance=7.5)
    for name, setting in settings(Request).items():
        print(name, setting.type, setting.default, setting.help)

A request is validated when it is built: first each setting by itself, then the settings that must fit together. `check`
and `size` validate what depends on the model, a `text_to_image.TextToImage`.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from diffusion.io import schema
from diffusion.text.weighting import EMPHASIS
from diffusion.text_to_image import request_checks
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.regions import Region, Word
from diffusion.text_to_image.settings import setting, settings
from diffusion.text_to_image.valid_values import FILE, PICTURE, PROMPT, one_of, text, typed, valid_as

STEPS = 1000
RESAMPLINGS = 100  # the paper takes 10
BATCH = 4096  # pictures at once
FRAMES = 10_000  # frames of a clip
RATE = 1000  # frames a second
LAYERS = 100  # layers of a picture
NUMBER = 2**20  # pictures of one request
SIDE = 2**16  # pixels
SEED = 2**32 - 1
ENTRY_TEXT = 10_000  # characters
CONTROLS = 16  # pictures that attachments read
REGIONS = 16
WORDS = 16
KEPT_NOISE = ("fresh", "one")
IMAGES = 16  # images that a denoiser sees in addition to the noise
MOVING = "ddim"  # the default for a guidance that moves x_t; the published methods use it
VALUES = frozenset({  # settings that a program receives as arrays, or that a field of its `programs.Course` holds
    "prompts", "negative", "guidance", "late_guidance", "dynamic_guidance", "image_guidance", "seeds", "batch_size",
    "perturbed_guidance", "sound_guidance", "modality_guidance", "frame_rate",
    "windows", "emphasis", "image", "images", "mask", "margins", "strength", "steps", "height", "width", "frames",
    "layers",
    "watermark", "controls", "regions", "words", "attention", "reference",
})  # fmt: skip
STRENGTH = schema.Valid("a number above 0 and at most 1", lambda value: type(value) in (int, float) and 0 < value <= 1)


def _is_entry(value: Any) -> bool:
    if not schema.text(ENTRY_TEXT).holds(value):
        return False
    try:
        entry = json.loads(value or "{}", parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and (not value or isinstance(entry.get("name"), str))


ENTRY = schema.Valid('an entry as JSON, {"name": ..., arguments}, or nothing', _is_entry)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A request for pictures: N prompts with N seeds, or one prompt or one seed for all pictures.

    `settings(Request)` has the type, default, range and help of each field. None means that the model or the other
    settings determine the value. Further details of some settings:

    image, mask: paths of pictures, or arrays: the image uint8 [H, W, 3], the mask Bool [H, W], True where the image
        is repainted. The rest of the image stays, pixel for pixel.
    images: pictures of any size; if the request names no size, the results have the size of the first. For a model
        that supports them, an `image` without strength, mask and margins is the first of them; for some models,
        such as Qwen-Image-Edit, it is the first in any case (`EditedPictures.repainted`).
    resamplings: RePaint (Lugmayr et al. 2022); the number of evaluations grows almost by this factor.
    kept_noise: "fresh" is `editing.replacement`, "one" is `editing.replacement_along` with the initial noise.
    tile: the side of tiles, with which the autoencoder's memory does not grow with the picture; neighbouring tiles
        overlap by a quarter of their side (`diffusion.models.autoencoders.tiles`).
    windows, emphasis: see `diffusion.text.encode`. With `windows`, every prompt of a request has as many windows as the
        longest one, so a picture may depend on the other prompts.
    controls: `Control`s, or tuples or tables of their parts; the effects of several controls are added.
    regions: `Region`s, or texts. The prompt describes the rest of the picture; overlapping regions share their
        pixels.
    words: `Word`s, or texts. Attend-and-Excite guides words without a box, layout guidance words with one.
    reference: a picture; self-attention also attends to its tokens, noised to the level of the step.
    """

    prompts: tuple[str, ...] = setting(("",), schema.several(PROMPT, 1, NUMBER), "what the pictures show")
    negative: str | None = setting(None, PROMPT, "what the pictures must not show; one text for all of them")
    steps: int | None = setting(
        None, schema.integer(1, STEPS), "steps of the sampler; by default those of the published model"
    )
    guidance: float | None = setting(
        None,
        schema.number(-1e6, 1e6),
        "scale of classifier-free guidance, or the guidance that a distilled model receives as an input; 1 or less "
        "means no guidance (only 1, for a model that edits pictures by instructions); by default that of the "
        "published model",
    )
    late_guidance: float | None = setting(
        None,
        schema.number(-1e6, 1e6),
        "guidance scale of a second denoiser, which acts at small t, as in Wan 2.2; 1 or less means no guidance; by "
        "default that of the first",
    )
    dynamic_guidance: bool = setting(
        False,
        schema.FLAG,
        "vary the guidance scale from step to step between 1 and 1 + guidance, for CogVideoX; use_dynamic_cfg in "
        "diffusers",
    )
    image_guidance: float | None = setting(
        None,
        schema.number(-1e6, 1e6),
        "guidance scale of the image, for a model that edits pictures by instructions; 1 means no guidance, and a "
        "scale below 1 weakens the image; by default that of the published model",
    )
    perturbed_guidance: float | None = setting(
        None,
        schema.number(0, 1e6),
        "scale of perturbed-attention guidance, away from a network whose tokens attend only to themselves; 0 means "
        "none; by default that of the published model",
    )
    sound_guidance: float | None = setting(
        None,
        schema.number(-1e6, 1e6),
        "guidance scale of the sound by the text, for a model that generates clips with sound; 1 means no guidance; by "
        "default that of the published model",
    )
    modality_guidance: float | None = setting(
        None,
        schema.number(-1e6, 1e6),
        "scale of the guidance away from a clip and a sound that ignore each other, for the same models; 1 means no "
        "guidance; by default that of the published model",
    )
    seeds: tuple[int, ...] = setting((0,), schema.several(schema.integer(0, SEED), 1, NUMBER), "seed of each picture")
    sampler: str = setting("", text(100), "a sampler, for example dpmpp_2m; by default that of the model")
    height: int = setting(
        0, schema.integer(0, SIDE), "height of the pictures in pixels; 0: that of the image, or the model's default"
    )
    width: int = setting(
        0, schema.integer(0, SIDE), "width of the pictures in pixels; 0: that of the image, or the model's default"
    )
    frames: int = setting(
        0,
        schema.integer(0, FRAMES),
        "frames of a clip, for a model that generates clips; 0: the number of the published model",
    )
    frame_rate: float = setting(
        0.0,
        schema.number(0, RATE),
        "frames per second of a clip, for a model whose denoiser receives this number, such as LTX-2; 0: the rate of "
        "the published model",
    )
    layers: int = setting(
        0,
        schema.integer(0, LAYERS),
        "layers into which a picture is taken apart, for a model that does so, such as Qwen-Image-Layered; 0: as the "
        "model was published",
    )
    image: str | np.ndarray | None = setting(None, PICTURE, "a picture to start from")
    images: tuple[str | np.ndarray, ...] = setting(
        (),
        schema.several(PICTURE, 0, IMAGES),
        "pictures to edit or combine as the prompt says, for a model that supports several, such as FLUX.2; or the "
        "first and the last frame of a clip, for Wan; each a path",
        lambda value: valid_as(PICTURE, "images", typed(str, value)),
    )
    mask: str | np.ndarray | None = setting(
        None, PICTURE, "a picture of the image's size, white where the image is repainted; the rest does not change"
    )
    margins: tuple[int, int, int, int] = setting(
        (0, 0, 0, 0),
        schema.several(schema.integer(0, SIDE), 4, 4),
        "pixels by which the image is extended: top,bottom,left,right",
    )
    strength: float | None = setting(
        None,
        STRENGTH,
        "how much of the image is changed, above 0 and at most 1; by default 0.8, and 1 with a mask or margins",
    )
    resamplings: int = setting(
        1,
        schema.integer(1, RESAMPLINGS),
        "with a mask or margins: how often each quarter of the trajectory except the last is sampled, so that the "
        "painted part agrees with the kept part (RePaint)",
    )
    kept_noise: str = setting(
        "fresh",
        one_of(*KEPT_NOISE),
        "with a mask or margins: the noise on the kept part, fresh after each step, or one noise for all steps, as in "
        "diffusers",
    )
    batch_size: int = setting(1, schema.integer(1, BATCH), "number of pictures computed at once")
    tile: int = setting(
        0,
        schema.integer(0, SIDE),
        "side in pixels of the tiles into which the autoencoder splits a large picture; 0: no tiles",
    )
    windows: bool = setting(
        False, schema.FLAG, "encode a prompt that is longer than the text encoder's context in several windows"
    )
    watermark: str = setting(
        "", FILE, "key file of an invisible watermark for the pictures, from diffusion watermark make; by default none"
    )
    cache: str = setting(
        "", ENTRY, 'cache of the denoiser\'s blocks, e.g. {"name": "first_block", "threshold": 0.1}; by default none'
    )
    merge: float = setting(
        0.0, schema.number(0, 0.75), "share of the tokens that are merged for self-attention; 0 merges none"
    )
    emphasis: str = setting("none", one_of(*EMPHASIS), f"meaning of brackets in a prompt: {', '.join(EMPHASIS)}")
    controls: tuple[Control, ...] = setting(
        (),
        schema.several(schema.Valid("a control", lambda value: isinstance(value, Control)), 0, CONTROLS),
        "a picture that an attachment reads, ATTACHMENT:PICTURE, with its weight and the interval of t in which it "
        "acts: edges:house.png:0.8:0.2-1; the effects of several are added",
        Control.read,
    )
    regions: tuple[Region, ...] = setting(
        (),
        schema.several(schema.Valid("a region", lambda value: isinstance(value, Region)), 0, REGIONS),
        "a prompt for a part of the picture, PROMPT:left,top,right,bottom as shares of its sides, or "
        "PROMPT:mask=PICTURE",
        Region.read,
    )
    words: tuple[Word, ...] = setting(
        (),
        schema.several(schema.Valid("words", lambda value: isinstance(value, Word)), 0, WORDS),
        "words of the prompt that the picture must show, or must show in a box: WORDS:left,top,right,bottom",
        Word.read,
    )
    attention: float = setting(
        1.0, schema.number(0, 100), "strength of the effect of words; 1 as published, 0 for none"
    )
    reference: str | np.ndarray | None = setting(
        None, PICTURE, "a picture whose look is copied without training: self-attention also attends to this picture"
    )

    def __post_init__(self):
        for name, one in settings(type(self)).items():
            object.__setattr__(self, name, one.read(name, getattr(self, name)))
        prompts = len(self.prompts)
        seeds = len(self.seeds)
        if 1 not in (prompts, seeds) and prompts != seeds:
            raise ValueError(
                f"{prompts} prompts and {seeds} seeds do not match. Valid: the same number of both, or only one of "
                "either"
            )
        if self.image is None and (self.mask is not None or any(self.margins)):
            raise ValueError("a mask and margins apply to an image; name the image")
        if self.image is None and self.strength not in (None, 1):
            raise ValueError(f"strength = {self.strength} sets how much of an image is changed; name the image")
        if self.words and (self.windows or self.emphasis != "none"):
            raise ValueError("words are located in the prompt by its text; leave windows and emphasis out")
        if self.resamplings > 1 and not self.keeps:
            raise ValueError(
                f"resamplings = {self.resamplings} makes the painted part agree with the part that is kept; name a "
                "mask or margins"
            )

        if self.kept_noise != "fresh" and not self.keeps:
            raise ValueError(
                f"kept_noise = {self.kept_noise!r} is the noise on the part of an image that is kept; name a mask or "
                "margins"
            )

    @classmethod
    def make(cls, prompts: str | Sequence[str], seeds: int | Sequence[int] = 0, **more: Any) -> Self:
        """The request for N pictures: one prompt or N, one seed or N, and the other settings by name."""
        return cls(prompts=prompts, seeds=seeds, **more)  # pyright: ignore[reportArgumentType]; read as tuples

    @classmethod
    def series(cls, prompt: str, seed: int, number: int, **more: Any) -> Self:
        """The request for `number` pictures of one prompt, with seeds that follow one another from `seed` on."""
        integer = lambda name, value, low, high: valid_as(schema.integer(low, high), name, typed(int, value))
        number = integer("number", number, 1, NUMBER)
        seed = integer("seed", seed, 0, SEED - number + 1)  # the last seed must be in range, too
        return cls(prompts=(prompt,), seeds=tuple(range(seed, seed + number)), **more)

    @property
    def number(self) -> int:
        """The number of pictures."""
        return max(len(self.prompts), len(self.seeds))

    def rows(self) -> tuple[list[str], list[int]]:
        """N prompts and N seeds."""
        repeated = lambda values: list(values) * (self.number // len(values))
        return repeated(self.prompts), repeated(self.seeds)

    @property
    def functions(self) -> tuple:
        """The settings that choose functions; a program is compiled for each. The others are `VALUES`."""
        return tuple(getattr(self, name) for name in settings(Request) if name not in VALUES)

    @property
    def keeps(self) -> bool:
        """Whether a part of the image is kept."""
        return self.mask is not None or any(self.margins)

    @property
    def changed_share(self) -> float:
        """The strength; where the request names none 0.8 of an image, and 1 without one or with a part that is kept."""
        if self.strength is not None:
            return self.strength
        return 1.0 if self.image is None or self.keeps else 0.8

    def first_step(self, steps: int, begun: bool = False) -> int:
        """The index of the first step that is run of `steps`; a lower strength begins later.

        Args:
            steps: number of steps of the whole trajectory.
            begun: whether a step that the strength leaves in part is run, as in diffusers' classes of flows.

        Raises:
            ValueError: for a strength that leaves no step.
        """
        strength = self.changed_share
        left = steps - int(max(steps - steps * strength, 0)) if begun else int(steps * strength)
        if not left and steps > 0:
            raise ValueError(
                f"strength = {strength} of {steps} steps is less than one step. Valid: at least {1 / steps:.3g}"
            )
        return steps - left

    def begins_at_image(self, first: int) -> bool:
        """Whether a trajectory from the step `first` on starts at the noised image, not at noise alone."""
        return self.image is not None and (not self.keeps or first > 0)

    def completed(self, settings: Mapping[str, Any]) -> Self:
        """The request, with these settings where it names none."""
        unset = {name: value for name, value in settings.items() if getattr(self, name) in (None, "")}
        return dataclasses.replace(self, **unset)

    def resolved(self, model: Any) -> Self:
        """The request, with the model's own steps, guidances and sampler if it names none."""
        usual = {
            **model.usual._asdict(),
            "sampler": MOVING if self.words else model.process.sampler,
            "image_guidance": 1.0 if model.distilled else model.kind.guidance.image_scale,
            "perturbed_guidance": model.kind.guidance.perturbed_scale,
        }
        if (sound := model.kind.sound) is not None:
            usual |= {name: getattr(sound, field) for name, field in request_checks.OF_SOUND.items()}
        request = self.completed(usual)
        if model.kind.pictures.several and self.image is not None and self.strength is None and not self.keeps:
            return dataclasses.replace(request, image=None, images=(self.image, *self.images))
        return request

    def check(self, model: Any) -> None:
        """Checks a resolved request against a model, see `request_checks.check`."""
        request_checks.check(self, model)

    def refuse(self, names: Iterable[str], message: str) -> None:
        """Refuses the first of some settings that is not at its default.

        Args:
            names: the names of the settings.
            message: the message of the error, in which {name} stands for the name.

        Raises:
            ValueError: with that message.
        """
        for name in names:
            value = getattr(self, name)
            if isinstance(value, np.ndarray) or value != settings(Request)[name].default:
                raise ValueError(message.format(name=name))

    def edited(self, edits: Any) -> tuple[str | np.ndarray, ...]:
        """The pictures that a model edits or combines, by its `EditedPictures`; for a resolved request."""
        return (self.image, *self.images) if edits.repainted and self.image is not None else self.images

    def guided(self, model: Any) -> bool:
        """Whether the model is also evaluated with the negative prompt; for a resolved request."""
        if model.distilled:
            return False
        if model.sees_picture:  # a scale below 1 acts too: it weakens the text, or the image
            return self.guidance != 1 or self.image_guidance != 1
        return max(self.guidance or 0, self.late_guidance or 0, self.sound_guidance or 0) > 1

    def size(self, model: Any, image: np.ndarray | None, images: Sequence[np.ndarray] = ()) -> tuple[int, int]:
        """(height, width) of the pictures that a model makes for the request.

        The size of the image with its margins comes first, then the size in the request, then the size of one of the
        `images`, as `canvas.edited_images` returns them: the first, or the image that the kind names.

        Raises:
            ValueError: for a size that is not the image's, or that the model cannot make.
        """
        height, width = self.height, self.width
        if image is not None:
            sides = image.shape[:2]
            if (height or sides[0], width or sides[1]) != sides:
                raise ValueError(
                    f"the request is for {height} x {width} pixels (height x width), but the image with its margins "
                    f"has {sides[0]} x {sides[1]}; leave height and width out, or scale the image"
                )
            height, width = sides
        edits = model.kind.pictures.several
        usual = images[edits.sized if edits else 0].shape if images else model.sides
        height, width = height or usual[0], width or usual[1]
        for name, value in (("height", height), ("width", width)):
            if value % model.multiple:
                low = max(value // model.multiple, 1) * model.multiple
                raise ValueError(
                    f"{name} = {value} must be a multiple of {model.multiple} (the autoencoder's "
                    f"{model.factor} times the denoiser's {model.kind.denoiser.multiple(model.denoiser)}). "
                    f"Valid: e.g. {low} or {low + model.multiple}"
                )
        return height, width
