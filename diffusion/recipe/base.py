"""The text-to-image model that a run tunes: its folder, and the network of new weights that the run trains."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.adapters.tuning import CAPTIONED, Tuning
from diffusion.data.sources.spec import Leaf
from diffusion.models.interchange import folders, schedulers
from diffusion.parameterizations import Parameterization
from diffusion.text_to_image import TextToImage, model_index
from diffusion.text_to_image.programs import decode_latents

NULL = "null"  # the entry of the base's parameters that stands for no caption


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """The frozen model of a run.

    Attributes:
        path: absolute path of its folder.
        model: the model's description by `text_to_image.described`.
        null: the condition that stands for no caption, {entry: array}; None before the text encoders have run.
    """

    path: str
    model: TextToImage
    null: Mapping[str, np.ndarray] | None = None

    @property
    def parameterization(self) -> Parameterization:
        """The denoiser's prediction; with a learned variance only its first half, which is what a tuning trains."""
        predicts = self.model.process.parameterization
        if predicts.channels == 1:
            return predicts
        return schedulers.PREDICTIONS[self.model.process.prediction](predicts.clock)

    def load(self, parts: Iterable[str], shardings: Callable[[str, Any], Any] | None = None) -> dict[str, Any]:
        """The parameters of some of its networks, on the devices; kernels keep the files' types, except the vae's.

        Args:
            parts: their names.
            shardings: (name, pytree of shapes) -> pytree of shardings; None: all on the first device.
        """
        placed = lambda part: functools.partial(shardings, part) if shardings else None
        return {part: self.model.load_network(self._folder, part, shardings=placed(part)) for part in parts}

    def shapes(self, part: str) -> Any:
        """The shapes of a network's parameters, as `load` returns them."""
        if part == "vae":
            return self.model.params[part]
        network = folders.find(self.model.kind.files.place(self._folder, part), self.model.opened_as(part))
        return folders.kept_shapes(network, self.model.dtype_of(part))

    @functools.cached_property
    def text_fingerprints(self) -> dict[str, str]:
        """{part: sha256 of its files} for the tokenizers and the text encoders; large files take seconds, once."""
        place, readers = self.model.kind.files.place, self.model.readers
        parts = [*readers, *(reader.tokenizer_folder for reader in readers.values())]
        return {part: model_index.fingerprint(place(self._folder, part)) for part in parts}

    @property
    def _folder(self) -> pathlib.Path:
        return pathlib.Path(self.path).expanduser()


class TunedNetwork:
    """A base and its tuning as the network that an objective calls.

    Attributes:
        base: the model.
        tuning: the new weights beside it.
    """

    def __init__(self, base: Base, tuning: Tuning):
        """The network of a base and a tuning."""
        self.base = base
        self.tuning = tuning

    ranks = (3,)  # examples are latents

    def text(self) -> dict[str, Leaf]:
        """The entries of a caption in a record's condition: its text's, or its tokens'."""
        reader = self.tuning.base
        tokens = reader.tokens([""])
        rows = tokens if self.tuning.encodes else jax.eval_shape(reader.encoded, reader.params, tokens)
        kind = lambda leaf: "float32" if jnp.issubdtype(leaf.dtype, jnp.floating) else str(leaf.dtype)
        form = lambda leaf: Leaf(tuple(leaf.shape[1:]), kind(leaf))
        return {name: form(leaf) for name, leaf in rows.items()} | {CAPTIONED: Leaf((), "float32")}

    def kept_networks(self, plain: bool = False, pictures: bool = False) -> tuple[str, ...]:
        """The names of the base's networks that a run keeps.

        Args:
            plain: whether an objective also reads the base itself, by `plain`.
            pictures: whether an objective reads latents as pictures, by `pictures`.
        """
        model = self.base.model
        parts = list(self.tuning.networks)
        if plain:
            parts += [model.kind.denoiser.folder, *(model.readers if self.tuning.encodes else ())]
        if pictures:
            parts.append("vae")
        return tuple(dict.fromkeys(parts))

    def shapes(self, plain: bool = False, pictures: bool = False) -> dict[str, Any]:
        """The shapes of the base's parameters that a run reads when it begins, and of the null condition."""
        parts = (*self.kept_networks(plain, pictures), *self.tuning.copies)
        params = {part: self.base.shapes(part) for part in parts}
        text = {name: leaf for name, leaf in self.text().items() if name != CAPTIONED}
        return params | {NULL: {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in text.items()}}

    def init(self, key: jax.Array, params: Mapping[str, Any]) -> Any:
        """The new weights, beside the base's parameters."""
        return self.tuning.init(key, params)

    def apply(
        self, params: Mapping[str, Any], weights: Any, x: jax.Array, clock: jax.Array, condition: Mapping[str, Any]
    ) -> jax.Array:
        """The output of the denoiser; with a learned variance only its first half.

        Args:
            params: the parameters of the base, and the null condition.
            weights: the parameters of the tuning.
            x: latents [B, h, w, C].
            clock: the clock of each example, [B].
            condition: the condition of a record, [B, ...].
        """
        entries = self._entries(params, x, condition)
        output = self.tuning.apply({name: params[name] for name in self.tuning.networks}, weights, x, clock, entries)
        return output[..., : x.shape[-1]]

    def plain(
        self, params: Mapping[str, Any], x: jax.Array, clock: jax.Array, condition: Mapping[str, Any]
    ) -> jax.Array:
        """The output of the base itself; arguments as `apply`, without the weights."""
        model = self.base.model
        entries = self._entries(params, x, condition)
        if self.tuning.encodes:
            entries = model.with_text(params, entries)
        output: Any = model.denoiser.apply({"params": params[model.kind.denoiser.folder]}, x, clock, entries)
        return output[..., : x.shape[-1]]

    def pictures(self, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
        """The pictures [B, H, W, 3] of latents, in [-1, 1] as far as the autoencoder keeps to it."""
        return decode_latents(self.base.model, params["vae"], x)

    def _entries(self, params: Mapping[str, Any], x: jax.Array, condition: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that the denoiser receives: a condition's, or no caption's where the condition was dropped."""
        model = self.base.model
        entries = dict(condition)
        captioned = entries.pop(CAPTIONED)
        for name, null in params[NULL].items():
            present = captioned.reshape(-1, *[1] * (entries[name].ndim - 1)) > 0
            entries[name] = jnp.where(present, entries[name], null)
        height, width = (side * model.modules["vae"].factor for side in x.shape[1:3])
        entries |= {CAPTIONED: captioned} if self.tuning.encodes else {}
        return entries | model.beside(len(x), model.usual.guidance, height, width)
