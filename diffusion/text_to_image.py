"""From a prompt to a picture, by any of the published models that `diffusion.pipelines` reads.

    from diffusion import text_to_image
    model = text_to_image.load("stable-diffusion-v1-5")
    pictures = text_to_image.generate(model, ["a cat on a mat"] * 4, negative="blurry", seeds=range(4))

A picture depends on its own prompt, seed and settings alone. Pictures are edited by `image` and `strength`, repainted
in part by `mask`, and made larger by `margins`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import editing, guidance, parameterizations, picture_settings, pipelines, samplers, timesteps
from diffusion.adapters import lora, lora_files
from diffusion.data.transforms import to_model, to_uint8
from diffusion.models import latents as autoencoders
from diffusion.models import tiles
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.schedulers import Process, Walk
from diffusion.pipelines import Kind
from diffusion.schedules import NoiseSchedule
from diffusion.text import Encoder, Tokenizer

VAE = ("encode", "decode")  # methods of an autoencoder


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
    """

    name: str
    kind: Kind
    modules: Mapping[str, nn.Module]
    params: Mapping[str, Any]
    tokenizers: Mapping[str, Tokenizer]
    process: Process
    side: int
    zeros: bool
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
            if name in self.modules else None for name, how in names
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
        return bool(getattr(self.denoiser, "strength", False) or getattr(self.denoiser, "strength_width", 0))


def load(
    folder: str | pathlib.Path, *, dtype: str = "float32", prediction: str = "",
    loras: Mapping[str | pathlib.Path, float] | None = None, **how: Any,
) -> TextToImage:  # fmt: skip
    """Loads a model.

    Args:
      folder: with model_index.json, see `diffusion.pipelines`.
      dtype: "float32" or "bfloat16", of the denoiser and the text encoders.
      prediction: what the denoiser is thought to predict; refused where the folder says otherwise.
      loras: LoRA files and the weight of each.
      **how: of `interchange.load`, such as shardings.

    Raises:
      As `pipelines.read` and `lora_files.load`.
    """
    parts = pipelines.read(folder, dtype=dtype, prediction=prediction, **how)
    side = parts.side * parts.modules["vae"].factor
    model = TextToImage(*parts[:6], side, parts.zeros)
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
    steps: int = 30,
    guidance: float = 7.5,
    seeds: int | Sequence[int] = 0,
    sampler: str = "",
    height: int = 0,
    width: int = 0,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    strength: float | None = None,
    batch_size: int = 1,
    tile: int = 0,
    **how: Any,
) -> np.ndarray:
    """Pictures of prompts.

    Args:
      model: from `load`.
      prompts: one text, or N.
      negative: what the pictures are pushed away from; one text for all of them.
      steps: of the solver.
      guidance: scale of classifier-free guidance, 1 or below: none; or the strength that a distilled model is told.
      seeds: one number for all, or N; with one prompt as many pictures as seeds are made.
      sampler: a name in `schedulers.SOLVERS`; "" the one that the model is published with.
      height, width: of the pictures in pixels; 0: of `image`, or what the model was made for.
      image: uint8 [H, W, 3], from which the pictures start.
      mask: Bool [H, W], True where it is painted anew; the rest stays as it is, pixel for pixel.
      margins: pixels put on at the top, bottom, left and right of `image`, and painted.
      strength: in (0, 1], how much of the walk is walked, the freer the larger; 0.8, and 1 with a mask or margins.
      batch_size: pictures at once.
      tile: side in pixels of the tiles in which the autoencoder sees a larger picture, so that its memory does not grow
        with it, see `diffusion.models.tiles`; neighbours share a quarter. 0: the picture at once.
      **how: of `text.encode`: ``windows=True`` for prompts longer than the context, ``emphasis="scale"``.

    Returns:
      uint8 [N, H, W, 3].

    Raises:
      ValueError: for settings that do not fit, before anything is computed.
    """
    prompts, seeds = picture_settings.rows(prompts, seeds)
    image, mask = picture_settings.canvas(image, mask, margins)
    height, width = picture_settings.size(model, height, width, image)
    if strength is None:
        strength = 0.8 if image is not None and mask is None else 1.0
    if image is None and strength != 1:
        raise ValueError(f"strength = {strength}: it says how much of an image is changed; give the image")
    picture_settings.tile(model, tile)
    guided = picture_settings.guided(model, guidance, negative)
    first = picture_settings.first_step(steps, strength)
    tokens = (height // model.multiple) * (width // model.multiple)
    walk = schedulers.walk(model.process, sampler, steps, tokens)
    told, untold = conditions(model, prompts, negative, guidance, height, width, **how)

    key = (sampler, steps, tokens, first, guided, height, width, tile)
    if key not in model._programs:
        model._programs[key] = jax.jit(functools.partial(_pictures, model, walk, first, guided, (height, width), tile))
    start = None if image is None else jnp.asarray(to_model(image))[None]
    repaint = None if mask is None else jnp.asarray(mask)[None, :, :, None]
    params = {part: model.params[part] for part in (model.kind.denoiser, "vae")}
    made = []
    for begin in range(0, len(prompts), batch_size):
        rows = np.resize(np.arange(begin, min(begin + batch_size, len(prompts))), batch_size)
        pick = lambda tree, rows=rows: jax.tree.map(lambda leaf: leaf[rows], tree)
        keys = jax.vmap(jax.random.key)(jnp.asarray(np.asarray(seeds)[rows], jnp.uint32))
        found = model._programs[key](params, pick(told), pick(untold), guidance, keys, start, repaint)
        made.append(np.asarray(found)[: len(prompts) - begin])
    pictures = np.concatenate(made)
    return pictures if mask is None or image is None else np.where(mask[..., None], pictures, image)


def conditions(
    model: TextToImage, prompts: Sequence[str], negative: str | None, guidance: float, height: int, width: int,
    **how: Any,
) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
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
    number, denoiser = len(prompts), model.denoiser
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


def denoise(
    model: TextToImage, params: Any, told: Mapping[str, Array], untold: Mapping[str, Array] | None, scale: Any
) -> parameterizations.Denoiser:
    """The guided denoiser of a model.

    Args:
      model: from `load`.
      params: the denoiser's.
      told: condition of B pictures; with "beside" [B, h, w, K] for a network that sees more than the latents.
      untold: of the negative prompt; None for no guidance.
      scale: of the guidance.
    """

    def network(x: Array, clock: Array, condition: Mapping[str, Array]) -> Any:
        condition = dict(condition)
        if "beside" in condition:
            x = jnp.concatenate([x, condition.pop("beside")], axis=-1)
        return model.denoiser.apply({"params": params}, x, clock, condition)

    schedule, parameterization = model.process.schedule, model.process.parameterization
    if untold is None:
        return parameterizations.denoiser(network, schedule, parameterization, told)
    return guidance.classifier_free(guidance.together(network, schedule, parameterization, (told, untold)), scale)


def noised(schedule: NoiseSchedule, plan: timesteps.Plan, known: Array, noise: Array) -> Array:
    """Latents of a picture with the noise of a plan's first time, where its walk begins: alpha known + sigma noise."""
    t = plan.t[0]
    return schedule.alpha(t) * known + schedule.sigma(t) * noise


def _pictures(
    model: TextToImage, walk: Walk, first: int, guided: bool, size: tuple[int, int], tile: int,
    params: Mapping[str, Any], told: dict, untold: dict, scale: Array, keys: Array, image: Array | None,
    mask: Array | None,
) -> Array:  # fmt: skip
    """uint8 [B, H, W, 3], from settings, and from arrays that a compiled program takes."""
    vae, factor = model.modules["vae"], model.modules["vae"].factor
    encode, decode = (functools.partial(vae.apply, {"params": params["vae"]}, method=name) for name in VAE)
    if tile:
        few = tile // factor
        decode = tiles.tiled(decode, few, few // 4)
        encode = tiles.tiled(encode, tile, few // 4 * factor, step=factor)
    own, rest, encoding = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    shape = (size[0] // factor, size[1] // factor, model.channels)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(own)
    plan = timesteps.Plan(*(part[first:] for part in walk.plan))
    schedule, x, hook = model.process.schedule, walk.start * noise, None

    def encoded(image: Array) -> Array:
        moments = jax.tree.map(lambda leaf: jnp.repeat(leaf, keys.size, axis=0), encode(image))
        return autoencoders.to_diffusion(autoencoders.draw(moments, encoding), vae.scale, vae.shift)

    if image is not None:
        known = encoded(image)
        if mask is None or first > 0:
            x = noised(schedule, plan, known, noise)
    if mask is not None and image is not None:
        # A value of the latents is painted anew if one of its pixels is.
        whole = mask.reshape(1, shape[0], factor, shape[1], factor).any((2, 4))[..., None]
        if model.sees_mask:
            wide = jnp.repeat(whole.astype(x.dtype), keys.size, axis=0)
            beside = {"beside": jnp.concatenate([wide, encoded(jnp.where(mask, 0, image))], axis=-1)}
            told, untold = told | beside, untold | beside
        else:
            hook = editing.replacement(schedule, plan, known, ~whole)
    denoiser = denoise(model, params[model.kind.denoiser], told, untold if guided else None, scale)
    x = samplers.sample(walk.sampler, denoiser, schedule, x, plan, rest, after_step=hook)
    return to_uint8(decode(autoencoders.from_diffusion(x, vae.scale, vae.shift)))
