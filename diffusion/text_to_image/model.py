"""A text-to-image model: its networks and its process, LoRA files merged into it, and the conditions of prompts."""

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

from diffusion.adapters import lora, lora_files
from diffusion.models.interchange.schedulers import Process
from diffusion.text import Encoder, Tokenizer
from diffusion.text_to_image import pipelines
from diffusion.text_to_image.pipelines import USUAL, Kind, Usual


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImage:
    """A model, and the programs that were compiled for it.

    Attributes:
        name: of its pipeline's class, in `pipelines.KINDS`.
        kind: how its parts belong together.
        modules: its networks by the names of their folders.
        params: their parameters.
        tokenizers: by the names of the encoders.
        process: that the denoiser was trained with.
        side: of the pictures that it was made for, in pixels.
        zeros: whether its unconditional branch receives zeros where there is no negative prompt.
        usual: steps and guidance where a request names none.
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
        """The module of the denoiser."""
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
        """The number of channels of its latents."""
        return self.modules["vae"].latent_channels

    @property
    def sees_mask(self) -> bool:
        """Whether the denoiser was trained to inpaint: it takes a mask and the masked picture beside x_t."""
        return getattr(self.denoiser, "in_channels", 0) == 2 * self.channels + 1

    @property
    def distilled(self) -> bool:
        """Whether the denoiser receives the strength of the guidance, and so takes no negative prompt."""
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
        prediction: what the caller expects the denoiser to predict; refused where the folder says otherwise.
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
    loaded = [(lora_files.load(path, model.modules), weight) for path, weight in loras.items()]
    params = dict(model.params)
    for part in params:
        of_part = [(file[part], weight) for file, weight in loaded if part in file]
        if of_part:
            scales = [one.weighted(weight) for one, weight in of_part]
            params[part] = jax.jit(lora.merge)(params[part], [one.adapter for one, _ in of_part], scales)
    return dataclasses.replace(model, params=params, _programs={})


def conditions(
    model: TextToImage,
    prompts: Sequence[str],
    negative: str | None,
    guidance: float,
    height: int,
    width: int,
    **how: Any,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The conditions of the denoiser's two branches: of N prompts, and of the negative prompt, N times.

    Args:
        model: from `load`.
        prompts: N texts.
        negative: one text; None for what the model's unconditional branch receives where there is none.
        guidance: the strength that a distilled model receives.
        height, width: of the pictures in pixels, which some models receive.
        **how: of `text.encode`.

    Returns:
        (conditional, unconditional).
    """
    texts = list(dict.fromkeys([*prompts, negative or ""]))
    if None in model.encoders:  # SD 3 without T5 receives zeros in its place
        how = {"width": model.denoiser.text_width, **how}
    encoded = model.kind.condition(texts, *model.encoders, **how)
    number = len(prompts)
    denoiser = model.denoiser
    rows = lambda chosen: jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.array(chosen)], encoded)
    conditional = rows([texts.index(prompt) for prompt in prompts])
    unconditional = rows([texts.index(negative or "")] * number)
    if model.zeros and negative is None:
        unconditional = jax.tree.map(jnp.zeros_like, unconditional)
    beside = {}
    if getattr(denoiser, "added_width", 0) or getattr(denoiser, "sized", False):
        beside["size"] = jnp.tile(jnp.asarray([height, width, 0, 0, height, width], jnp.float32), (number, 1))
    if model.distilled:
        beside["strength"] = jnp.full(number, guidance, jnp.float32)
    return conditional | beside, unconditional | beside
