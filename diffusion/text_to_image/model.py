"""A text-to-image model: its networks, its noise schedule, the merging of LoRA files, and the conditions of prompts."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters.tuning import CAPTIONED
from diffusion.models import facts, interchange
from diffusion.models.attachment import Attachment
from diffusion.models.image_encoders import prompt_features
from diffusion.models.interchange.schedulers import Process
from diffusion.published.pipeline_kinds import USUAL, Kind, Reader, Usual
from diffusion.text import Encoder, Tokenizer
from diffusion.text.encoding import AlreadyRead, reading
from diffusion.text_to_image import pipelines, timed_weights, video_models
from diffusion.text_to_image.timed_weights import Experts, TimedLora

EYES = "image_encoder"  # the folder of the image encoder that reads the first picture of a clip


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImage:
    """A model, and the programs that were compiled for it.

    Attributes:
        name: the name of its pipeline's class, in `pipelines.KINDS`.
        kind: the pipeline, which says how its parts belong together.
        modules: its networks, by the names of their folders.
        params: the parameters of the networks; their shapes if the model is `described`. A model that drops its text
            encoders has none for these.
        tokenizers: the tokenizers, by the names of the encoders.
        process: the diffusion process that the denoiser was trained with.
        side: height and width of the pictures that it was trained on, in pixels.
        zeros: whether its unconditional branch receives zeros if there is no negative prompt.
        usual: default steps and guidance.
        words: the words that were added to its vocabularies, see `adapters.word_embeddings`.
        dtype: the type of all networks except the ones after the latents (`Kind.decoders`), which are float32.
        attachments: the attachments, by the names that controls of requests use.
        timed: LoRAs of the denoiser that act in an interval of t.
        boundary: the smallest t of the denoiser if a second one takes the smaller t; None if there is one denoiser.
        text: () -> parameters of the text encoders, for a model that drops them; None if they are in `params`.
        sight: picture uint8 [H, W, 3] -> uint8 [h, w, 3] as the text encoder takes it; None if it sees no pictures.
        second_process: the process of the second stage (`kind.second_stage`); None if there is none.
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
    dtype: str = "float32"
    words: tuple[str, ...] = ()
    attachments: Mapping[str, Attachment] = dataclasses.field(default_factory=dict)
    timed: tuple[TimedLora, ...] = ()
    boundary: float | None = None
    text: Callable[[], Mapping[str, Any]] | None = None
    sight: Callable[[np.ndarray], np.ndarray] | None = None
    second_process: Process | None = None
    _programs: dict = dataclasses.field(default_factory=dict, repr=False)

    @property
    def denoiser(self) -> nn.Module:
        """The module of the denoiser."""
        return self.modules[self.kind.denoiser.folder]

    @functools.cached_property
    def weights(self) -> Any:
        """The parameters of the denoiser, or of both denoisers, with the LoRAs that act in an interval of t."""
        params = self.params[self.kind.denoiser.folder]
        params = timed_weights.timed(params, self.timed) if self.timed else params
        if self.boundary is None or self.kind.video is None:
            return params
        return Experts(params, self.params[self.kind.video.second], self.boundary)

    @property
    def drawing(self) -> dict[str, Any]:
        """The parameters of the networks that make pictures of conditions, by their names."""
        stage = self.kind.second_stage
        second = {} if stage is None else {stage.network: self.params[stage.network]}
        decoders = {part: self.params[part] for part in self.kind.decoders}
        return {self.kind.denoiser.folder: self.weights, **second, **decoders}

    def dtype_of(self, part: str) -> str:
        """The type of a network's parameters."""
        return "float32" if part in self.kind.decoders else self.dtype

    @property
    def sample_rate(self) -> int:
        """Samples in a second of the sound that its clips have; 0 where it makes none."""
        return 0 if self.kind.sound is None else self.kind.sound.sample_rate(self.modules)

    @functools.cached_property
    def _readings(self) -> dict[str, Callable[[Any, Any, Any], tuple]]:
        """(parameters, ids, mask) -> (tokens, pooled) of its text encoders, compiled once."""
        return {name: jax.jit(reading(self.modules[name], **reader.how)) for name, reader in self.readers.items()}

    @functools.cached_property
    def _seeings(self) -> dict[str, Callable[[Any, Any], Array]]:
        """(parameters, picture) -> tokens of a picture, by its text encoders that see pictures, compiled once."""
        see = lambda module: lambda params, picture: module.apply({"params": params}, picture, method="see")[0]
        return {name: jax.jit(see(self.modules[name])) for name in self.readers if hasattr(self.modules[name], "see")}

    @functools.cached_property
    def _connections(self) -> dict[str, Callable[..., Any]]:
        """(parameters, *arrays) -> outputs of the networks after its text encoders, compiled once."""
        apply = lambda module: lambda params, *arrays: module.apply({"params": params}, *arrays)
        return {name: jax.jit(apply(self.modules[name])) for name in self.kind.prompts.connectors}

    def connected(self, params: Mapping[str, Any]) -> tuple[Callable[..., Any], ...]:
        """The networks after its text encoders, as functions of arrays."""
        return tuple(functools.partial(apply, params[name]) for name, apply in self._connections.items())

    def opened_as(self, part: str) -> str:
        """The architecture by which the folder of a network is opened; "" if its config names it."""
        return self.readers[part].family if part in self.readers else ""

    def load_network(self, folder: pathlib.Path, part: str, **how: Any) -> Any:
        """The parameters of a network in the model's folder; those of decoders are float32.

        With a `dtype` of float32 the other kernels have the types of their files.

        Args:
            folder: the folder of the model.
            part: the name of the network.
            **how: further arguments of `interchange.load`.
        """
        keep = part not in self.kind.decoders
        place, family = self.kind.files.place(folder, part), self.opened_as(part)
        return interchange.load(place, family, dtype=self.dtype_of(part), keep=keep, **how)[1]

    @property
    def encoders(self) -> tuple[Any, ...]:
        """The networks that compute the condition of prompts: its compiled text encoders, and the networks after them.

        An encoder is None where the folder leaves it out. A model that drops its text encoders reads them here; they
        stay in memory as long as the result.
        """
        params = self.params if self.text is None else self.text()

        def encoder(name: str) -> Encoder:
            see = functools.partial(self._seeings[name], params[name]) if name in self._seeings else None
            return Encoder(self.tokenizers[name], functools.partial(self._readings[name], params[name]), see)

        return *self._in_order(encoder), *self.connected(self.params)

    @property
    def readers(self) -> dict[str, Reader]:
        """{name: how the text encoder is used} of its text encoders."""
        return {reader.folder: reader for reader in self.kind.prompts.readers if reader.folder in self.modules}

    def _in_order(self, encoder: Callable[[str], Encoder]) -> list[Encoder | None]:
        """`encoder(name)` of each text encoder of the pipeline; None for one that the folder leaves out."""
        names = [reader.folder for reader in self.kind.prompts.readers]
        return [encoder(name) if name in self.modules else None for name in names]

    def tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The inputs of its text encoders: "text_encoder.ids" int32 [B, N], "text_encoder.mask" Bool [B, N], ...

        Raises:
            ValueError: for a model with networks after its text encoders, whose prompts cannot be read by tokens.
        """
        entries = {}

        if self.kind.prompts.connectors:
            raise ValueError(
                f"a {self.name} reads the states of its text encoders; its prompts cannot be read by tokens"
            )

        def recording(name: str) -> Encoder:
            def network(ids: Any, mask: Any) -> tuple[Array, Array]:
                entries.update({f"{name}.ids": ids, f"{name}.mask": mask})
                return jnp.zeros((*ids.shape, 1)), jnp.zeros((len(ids), 1))

            return Encoder(self.tokenizers[name], network)

        self._conditions(texts, recording)
        return entries

    def encoded(self, params: Mapping[str, Any], tokens: Mapping[str, Any]) -> dict[str, Array]:
        """The denoiser's condition for texts: a pure function of the text encoders' parameters.

        Args:
            params: the parameters of the networks, by their names.
            tokens: the tokens that the method of that name returns; other entries are ignored.
        """

        def encoder(name: str) -> Encoder:
            read = AlreadyRead(tokens[f"{name}.ids"], tokens[f"{name}.mask"])
            apply = reading(self.modules[name], **self.readers[name].how)
            return Encoder(read, functools.partial(apply, params[name]))

        number = len(tokens[f"{next(iter(self.readers))}.ids"])
        return self._conditions([""] * number, encoder, *self.connected(params))

    def with_text(self, params: Mapping[str, Any], condition: Mapping[str, Any]) -> dict[str, Any]:
        """A condition whose tokens are replaced by the text encoders' outputs; arguments as in `encoded`.

        The entry `CAPTIONED` [B], which is also removed, is 0 for an example without text: a model whose unconditional
        branch receives zeros receives them for these examples.
        """
        gone = {f"{name}.{part}" for name in self.readers for part in ("ids", "mask")} | {CAPTIONED}
        text = self.encoded(params, condition)
        if self.zeros and CAPTIONED in condition:
            present = lambda leaf: condition[CAPTIONED].reshape(-1, *[1] * (leaf.ndim - 1)) > 0
            text = {name: jnp.where(present(leaf), leaf, 0) for name, leaf in text.items()}
        return {name: entry for name, entry in condition.items() if name not in gone} | text

    def _conditions(self, texts: Sequence[str], encoder: Callable[[str], Encoder], *connectors: Any) -> dict[str, Any]:
        """The condition of texts, encoded by `encoder(name)` for each encoder's name."""
        encoders = self._in_order(encoder)
        # Without T5, SD 3 receives zeros in its place.
        how = {"width": self.denoiser.text_width} if None in encoders else {}
        return self.kind.prompts.condition(list(texts), *encoders, *connectors, **how)

    def beside(
        self, number: int, guidance: float, height: int, width: int, frames: int = 0, rate: float = 0.0
    ) -> dict[str, Array]:
        """The denoiser's inputs beside the text for N pictures or clips.

        They are the sizes, the strength of the guidance, the times of the frames and their number in a second, if the
        denoiser reads them.
        """
        inputs = {}
        if getattr(self.denoiser, "added_width", 0) or getattr(self.denoiser, "sized", False):
            inputs["size"] = jnp.tile(jnp.asarray([height, width, 0, 0, height, width], jnp.float32), (number, 1))
        if self.distilled:
            inputs["strength"] = jnp.full(number, guidance, jnp.float32)
        if frames and self.kind.video is not None and self.kind.video.timed:
            inputs["seconds"] = jnp.tile(video_models.seconds(self, frames), (number, 1))
        if frames and self.kind.video is not None and self.kind.video.rated:
            inputs["rate"] = jnp.full(number, rate, jnp.float32)
        return inputs

    def patches(self, pictures: Sequence[np.ndarray], number: int) -> dict[str, Array]:
        """The image encoder's features of pictures uint8 [H, W, 3], one after the other, repeated N times.

        They are {} without an image encoder, or without a picture.
        """
        if not pictures or not getattr(self.denoiser, "picture_width", 0):
            return {}
        reader = self.modules[EYES]
        images = np.stack([prompt_features.fitted(reader, picture) for picture in pictures])
        patches = jax.jit(functools.partial(prompt_features.image_features, reader, whole=True))(
            self.params[EYES], images
        )
        patches = patches.reshape(1, -1, patches.shape[-1])
        return {"patches": jnp.repeat(patches, number, axis=0)}

    def replaced(self, **fields: Any) -> "TextToImage":
        """The model with other fields, for which programs are compiled again."""
        return dataclasses.replace(self, **fields, _programs={})

    def as_pipeline(self, name: str) -> "TextToImage":
        """The model in another pipeline, a class in `pipelines.KINDS`, with the usual steps of that pipeline."""
        kind = pipelines.KINDS[name]
        kind = kind.denoiser.variant(kind, self.denoiser)
        usual = kind.usual if self.usual == self.kind.usual else self.usual
        return self.replaced(name=name, kind=kind, usual=usual)

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the pictures or frames that it was trained on, in pixels."""
        return (self.side, self.side) if self.kind.video is None else self.kind.video.size

    @property
    def factor(self) -> int | Fraction:
        """The number of the picture's pixels along a side for one of the denoiser's latents."""
        stage = self.kind.second_stage
        return self.modules["vae"].factor if stage is None else stage.factor

    @property
    def multiple(self) -> int:
        """The number of pixels that divides the sides of its pictures."""
        return int(self.factor * self.kind.denoiser.multiple(self.denoiser))

    @property
    def channels(self) -> int:
        """The number of channels of the denoiser's latents."""
        return self.modules["vae"].latent_channels if self.kind.second_stage is None else self.denoiser.channels

    @property
    def sees_mask(self) -> bool:
        """Whether the denoiser was trained to inpaint: it takes a mask and the masked picture beside x_t."""
        channels = (self.channels + 1, self.channels + self.modules["vae"].factor ** 2)
        return self.kind.video is None and self.seen_channels in channels

    @property
    def decodes_kept(self) -> bool:
        """Whether its autoencoder decodes with the kept part of a picture."""
        return facts.sees_kept(self.modules["vae"])

    @property
    def seen_channels(self) -> int:
        """The number of channels that the denoiser takes beside the latents."""
        inputs = getattr(self.denoiser, "in_channels", getattr(self.denoiser, "channels", self.channels))
        return inputs - self.channels

    @property
    def sees_picture(self) -> bool:
        """Whether the denoiser also receives the latents of a picture that it edits or follows (`Pictures.controlled`).

        They stand beside x_t, or are further tokens (`Pictures.appends`).
        """
        twice = self.kind.video is None and getattr(self.denoiser, "in_channels", 0) == 2 * self.channels
        return self.kind.pictures.appends or self.kind.pictures.controlled or twice

    @property
    def distilled(self) -> bool:
        """Whether the denoiser receives the strength of the guidance, and so takes no negative prompt."""
        return pipelines.distilled(self.denoiser)
