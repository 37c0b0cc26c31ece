"""From a prompt to a picture, by any of the published models that `diffusion.text_to_image.pipelines` reads.

    from diffusion import text_to_image
    model = text_to_image.load("stable-diffusion-v1-5")
    pictures = text_to_image.generate(model, ["a cat on a mat"] * 4, negative="blurry", seeds=range(4))
    for frame in text_to_image.watch(model, "a cat on a mat"): show(frame.pictures)

A picture depends on its own prompt, seed and settings alone. Pictures are edited by `image` and `strength`, repainted
in part by `mask`, and made larger by `margins`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters import lora, lora_files
from diffusion.data.transforms import to_model
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.schedulers import Process
from diffusion.text import Encoder, Tokenizer
from diffusion.text_to_image import pipelines, programs, requests
from diffusion.text_to_image.pipelines import USUAL, Kind, Usual
from diffusion.text_to_image.programs import Course, compiled, denoise, noised

__all__ = ["Frame", "TextToImage", "conditions", "denoise", "generate", "load", "noised", "watch", "with_loras"]


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImage:
    """A model and what was compiled of it.

    Attributes:
        name: of its pipeline's class, in `pipelines.KINDS`.
        kind: how its parts belong together.
        modules: its networks by the names of their folders.
        params: their parameters.
        tokenizers: by the names of the encoders.
        process: what the denoiser was trained with.
        side: of the pictures that it was made for, in pixels.
        zeros: whether it is told zeros where no negative prompt is given.
        usual: steps and guidance where none are asked for.
    """

    name: str
    kind: Kind
    modules: Mapping[str, nn.Module]
    params: Mapping[str, Any]
    tokenizers: Mapping[str, Tokenizer]
    process: Process
    side: int
    zeros: bool
    usual: Usual = USUAL
    _programs: dict = dataclasses.field(default_factory=dict, repr=False)

    @property
    def denoiser(self) -> nn.Module:
        """The denoiser's module."""
        return self.modules[self.kind.denoiser]

    @functools.cached_property
    def encoders(self) -> tuple[Encoder | None, ...]:
        """Its text encoders, compiled; None for one that the folder leaves out."""
        names = [(f"text_encoder{reader.suffix}", reader.how) for reader in self.kind.readers]
        return tuple(
            Encoder.of(self.tokenizers[name], self.modules[name], self.params[name], **how)
            if name in self.modules
            else None
            for name, how in names
        )

    @property
    def multiple(self) -> int:
        """The number of pixels that divides the sides of its pictures."""
        return self.modules["vae"].factor * self.kind.multiple(self.denoiser)

    @property
    def channels(self) -> int:
        """Of its latents."""
        return self.modules["vae"].latent_channels

    @property
    def sees_mask(self) -> bool:
        """Whether the denoiser was trained to paint: it takes a mask and the masked picture beside x_t."""
        return getattr(self.denoiser, "in_channels", 0) == 2 * self.channels + 1

    @property
    def distilled(self) -> bool:
        """Whether the denoiser is told the strength of the guidance, and so takes no negative prompt."""
        return pipelines.distilled(self.denoiser)


def load(
    folder: str | pathlib.Path,
    *,
    dtype: str = "float32",
    prediction: str = "",
    loras: Mapping[str | pathlib.Path, float] | None = None,
    **how: Any,
) -> TextToImage:
    """Loads a model.

    Args:
        folder: with model_index.json, see `diffusion.text_to_image.pipelines`.
        dtype: "float32" or "bfloat16", of the denoiser and the text encoders.
        prediction: what the denoiser is thought to predict; refused where the folder says otherwise.
        loras: LoRA files and the weight of each.
        **how: of `interchange.load`, such as shardings.

    Raises:
        FileNotFoundError, Refusal, Mismatch: as `pipelines.read` and `lora_files.load`.
    """
    parts = pipelines.read(folder, dtype=dtype, prediction=prediction, **how)
    side = parts.side * parts.modules["vae"].factor
    model = TextToImage(*parts[:6], side, parts.zeros, parts.usual)
    return with_loras(model, loras) if loras else model


def with_loras(model: TextToImage, loras: Mapping[str | pathlib.Path, float]) -> TextToImage:
    """The model with LoRA files merged into its networks; the model itself stays as it is.

    Args:
        model: from `load`.
        loras: files and weights.
    """
    found = [(lora_files.load(path, model.modules), weight) for path, weight in loras.items()]
    params = dict(model.params)
    for part in params:
        mine = [(one[part], weight) for one, weight in found if part in one]
        if mine:
            scales = [one.weighted(weight) for one, weight in mine]
            params[part] = jax.jit(lora.merge)(params[part], [one.adapter for one, _ in mine], scales)
    return dataclasses.replace(model, params=params, _programs={})


def generate(
    model: TextToImage,
    prompts: str | Sequence[str],
    *,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seeds: int | Sequence[int] = 0,
    sampler: str = "",
    height: int = 0,
    width: int = 0,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    strength: float | None = None,
    resamplings: int = 1,
    batch_size: int = 1,
    tile: int = 0,
    **how: Any,
) -> np.ndarray:
    """Pictures of prompts.

    Args:
        model: from `load`.
        prompts: one text, or N.
        negative: what the pictures are pushed away from; one text for all of them.
        steps: of the solver; None: as the model's folder says, or was published with (`pipelines.published`).
        guidance: scale of classifier-free guidance, 1 or below: none; or the strength that a distilled model is told.
            None: likewise.
        seeds: one number for all, or N; with one prompt as many pictures as seeds are made.
        sampler: a name in `schedulers.SOLVERS`; "" the one that the model is published with.
        height, width: of the pictures in pixels; 0: of `image`, or what the model was made for.
        image: uint8 [H, W, 3], from which the pictures start.
        mask: Bool [H, W], True where it is painted anew; the rest stays as it is, pixel for pixel.
        margins: pixels put on at the top, bottom, left and right of `image`, and painted.
        strength: in (0, 1], how much of the walk is walked, the freer the larger; 0.8, and 1 with a mask or margins.
        resamplings: how often each quarter of the walk but the last is walked, with a mask or margins (RePaint, Lugmayr
            et al. 2022): what is painted agrees better with what is kept, for nearly as many times the evaluations.
        batch_size: pictures at once.
        tile: side in pixels of the tiles in which the autoencoder sees a larger picture, so that its memory does not
            grow with it, see `diffusion.models.autoencoders.tiles`; neighbours share a quarter. 0: the picture at once.
        **how: of `text.encode`: `windows=True` for prompts longer than the context, `emphasis="scale"`.

    Returns:
        uint8 [N, H, W, 3].

    Raises:
        ValueError: for settings that do not fit, before anything is computed; `limits.Refused` for pictures that do not
            fit into memory, with what they would need.
    """
    steps, guidance = model.usual.but(steps, guidance)
    asked = _asked(
        model,
        prompts,
        negative,
        steps,
        guidance,
        seeds,
        sampler,
        height,
        width,
        image,
        mask,
        margins,
        strength,
        resamplings,
        tile,
    )
    told, untold = _told(model, asked, negative, guidance, batch_size, how)
    program = _program(model, asked.course, "pictures", compiled(programs.pictures))
    params = {part: model.params[part] for part in (model.kind.denoiser, "vae")}
    made = []
    number = len(asked.prompts)
    for begin in range(0, number, batch_size):
        rows = np.resize(np.arange(begin, min(begin + batch_size, number)), batch_size)
        pick = lambda tree, rows=rows: jax.tree.map(lambda leaf: leaf[rows], tree)
        keys = _keys(np.asarray(asked.seeds)[rows])
        found = program(params, pick(told), pick(untold), guidance, keys, *asked.canvas)
        made.append(np.asarray(found)[: number - begin])
    return asked.kept(np.concatenate(made))


class Frame(NamedTuple):
    """What is seen of a walk after one of its steps.

    Attributes:
        step: how many steps are walked.
        steps: of the whole walk.
        t: where it is, plan.s.
        pictures: uint8 [N, H, W, 3], the prediction of x_0; after the last step what `generate` returns.
    """

    step: int
    steps: int
    t: float
    pictures: np.ndarray


def watch(
    model: TextToImage,
    prompts: str | Sequence[str],
    *,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seeds: int | Sequence[int] = 0,
    sampler: str = "",
    height: int = 0,
    width: int = 0,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    strength: float | None = None,
    resamplings: int = 1,
    tile: int = 0,
    **how: Any,
) -> Iterator[Frame]:
    """The pictures of `generate`, all of them at once, seen after each step; each step runs when it is asked for.

    Steps that only add noise again (`resamplings`) are not seen.

    Its steps are compiled one by one (`samplers.stepwise`), so that it ends where the iterator is closed. The pictures
    are those of `generate` with as large a batch, up to the rounding of another program.

    Args:
        model: from `load`.
        prompts, negative, steps, guidance, seeds, sampler, height, width, image, mask, margins, strength, resamplings,
            tile, **how: as `generate` takes them.

    Returns:
        An iterator; what `generate` refuses is refused before it is returned.
    """
    steps, guidance = model.usual.but(steps, guidance)
    asked = _asked(
        model,
        prompts,
        negative,
        steps,
        guidance,
        seeds,
        sampler,
        height,
        width,
        image,
        mask,
        margins,
        strength,
        resamplings,
        tile,
    )
    return _frames(model, asked, *_told(model, asked, negative, guidance, len(asked.seeds), how), guidance)


def _frames(model: TextToImage, asked: "_Asked", told: dict, untold: dict, scale: float) -> Iterator[Frame]:
    begin = _program(model, asked.course, "begin", compiled(programs.begin))
    run = _program(model, asked.course, "steps", programs.stepwise)
    decoded = _program(model, asked.course, "decoded", compiled(programs.decoded))
    params = model.params[model.kind.denoiser]
    vae = model.params["vae"]
    x, rest, known, whole, beside = begin(vae, _keys(asked.seeds), *asked.canvas)
    plan = asked.course.walk.plan
    s = np.asarray(plan.s)
    states = run(x, len(s), params, told | beside, untold | beside, jnp.float32(scale), rest, known, whole)
    for i, state in enumerate(states):
        if plan.renoise[i]:
            continue
        pictures = np.asarray(decoded(vae, state.x0 if i + 1 < len(s) else state.x))
        yield Frame(i + 1, len(s), float(s[i]), asked.kept(pictures))


def conditions(
    model: TextToImage,
    prompts: Sequence[str],
    negative: str | None,
    guidance: float,
    height: int,
    width: int,
    **how: Any,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What the denoiser is told of N prompts, and of the negative one, N times.

    Args:
        model: from `load`.
        prompts: N texts.
        negative: one text; None as the model is told where there is none.
        guidance: the strength that a distilled model is told.
        height, width: of the pictures in pixels, which some models are told.
        **how: of `text.encode`.
    """
    texts = list(dict.fromkeys([*prompts, negative or ""]))
    if None in model.encoders:  # SD 3 without T5 is told zeros in its place
        how = {"width": model.denoiser.text_width, **how}
    both = model.kind.condition(texts, *model.encoders, **how)
    number = len(prompts)
    denoiser = model.denoiser
    told = jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.array([texts.index(p) for p in prompts])], both)
    untold = jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.array([texts.index(negative or "")] * number)], both)
    if model.zeros and negative is None:
        untold = jax.tree.map(jnp.zeros_like, untold)
    more = {}
    if getattr(denoiser, "added_width", 0) or getattr(denoiser, "sized", False):
        more["size"] = jnp.tile(jnp.asarray([height, width, 0, 0, height, width], jnp.float32), (number, 1))
    if model.distilled:
        more["strength"] = jnp.full(number, guidance, jnp.float32)
    return told | more, untold | more


class _Asked(NamedTuple):
    """What pictures are made of, checked.

    Attributes:
        prompts, seeds: N of each.
        image: uint8 [H, W, 3] with its margins, or None.
        mask: Bool [H, W], what is painted, or None.
        course: all else.
    """

    prompts: list[str]
    seeds: list[int]
    image: np.ndarray | None
    mask: np.ndarray | None
    course: Course

    @property
    def canvas(self) -> tuple[Array | None, Array | None]:
        """The image and the mask as the programs take them."""
        start = None if self.image is None else jnp.asarray(to_model(self.image))[None]
        return start, None if self.mask is None else jnp.asarray(self.mask)[None, :, :, None]

    def kept(self, pictures: np.ndarray) -> np.ndarray:
        """The pictures with the image where it is not painted."""
        if self.mask is None or self.image is None:
            return pictures
        return np.where(self.mask[..., None], pictures, self.image)


def _asked(
    model: TextToImage,
    prompts: str | Sequence[str],
    negative: str | None,
    steps: int,
    scale: float,
    seeds: int | Sequence[int],
    sampler: str,
    height: int,
    width: int,
    image: np.ndarray | None,
    mask: np.ndarray | None,
    margins: tuple[int, int, int, int],
    strength: float | None,
    resamplings: int,
    tile: int,
) -> _Asked:
    prompts, seeds = requests.rows(prompts, seeds)
    image, mask = requests.canvas(image, mask, margins)
    size = requests.size(model, height, width, image)
    strength = requests.strength(strength, image, mask)
    requests.resampled(resamplings, mask, model.sees_mask)
    requests.tile(model, tile)
    guided = requests.guided(model, scale, negative)
    first = requests.first_step(steps, strength)
    walk = schedulers.walk(model.process, sampler, steps, (size[0] // model.multiple) * (size[1] // model.multiple))
    walk = walk._replace(plan=requests.walked(walk.plan, first, resamplings))
    noised = image is not None and (mask is None or first > 0)
    course = Course(size, walk, noised, guided, tile, (sampler, steps, first, resamplings, noised, guided, size, tile))
    return _Asked(prompts, seeds, image, mask, course)


def _told(
    model: TextToImage, asked: _Asked, negative: str | None, scale: float, batch: int, how: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What the denoiser is told; the shapes are then known, and `batch` pictures at once have to fit into memory."""
    course = asked.course
    told, untold = conditions(model, asked.prompts, negative, scale, *course.size, **how)
    check = lambda *_: programs.check_memory(model, course, batch, told, untold)
    _program(model, course, ("memory", batch), check)
    return told, untold


def _keys(seeds: Sequence[int] | np.ndarray) -> Array:
    return jax.vmap(jax.random.key)(jnp.asarray(np.asarray(seeds), jnp.uint32))


def _program(model: TextToImage, course: Course, name: Any, make: Callable[[TextToImage, Course], Any]) -> Any:
    """What `make` made of a model for the same course, now or before."""
    key = (name, *course.key)
    if key not in model._programs:
        model._programs[key] = make(model, course)
    return model._programs[key]
