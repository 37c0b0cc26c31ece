"""A text-to-image model: its networks and its process, LoRA files merged into it, and the conditions of prompts."""

__all__ = [
    "TextToImage",
    "check_words",
    "conditions",
    "described",
    "load",
    "with_attachments",
    "with_loras",
    "with_quantised",
    "with_words",
]

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import parameterizations
from diffusion.adapters import lora, lora_files, prompt_features, word_embeddings
from diffusion.adapters.tuning import CAPTIONED
from diffusion.io import limits, schema
from diffusion.models import interchange
from diffusion.models import quantised as storage
from diffusion.models.attachment import Attachment
from diffusion.models.interchange import folders, schedulers
from diffusion.models.interchange.family import SIDES, Refusal
from diffusion.models.interchange.schedulers import Process
from diffusion.models.layers.choices import look_up
from diffusion.models.quantised import Stored, is_quantised, stored
from diffusion.text import Encoder, Tokenizer
from diffusion.text.added_words import named_in
from diffusion.text.encoding import AlreadyRead, reading
from diffusion.text_to_image import attached, pipelines, timed_loras
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.pipelines import USUAL, Kind, Reader, Usual
from diffusion.text_to_image.timed_loras import TimedLora
from diffusion.text_to_image.video_models import Experts

EYES = "image_encoder"  # folder of the encoder that sees the picture with which a clip begins


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImage:
    """A model, and the programs that were compiled for it.

    Attributes:
        name: of its pipeline's class, in `pipelines.KINDS`.
        kind: how its parts belong together.
        modules: its networks by the names of their folders.
        params: their parameters; of a model that is `described`, their shapes.
        tokenizers: by the names of the encoders.
        process: that the denoiser was trained with.
        side: of the pictures that it was made for, in pixels.
        zeros: whether its unconditional branch receives zeros where there is no negative prompt.
        usual: steps and guidance where a request names none.
        words: that were added to its vocabularies, see `adapters.word_embeddings`.
        dtype: of all networks but the autoencoder, which is float32.
        attachments: by the names that controls of requests have.
        timed: LoRAs of the denoiser that act in an interval of t.
        boundary: the smallest t of the denoiser where a second one has the rest; None: it has all.
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
    _programs: dict = dataclasses.field(default_factory=dict, repr=False)

    @property
    def denoiser(self) -> nn.Module:
        """The module of the denoiser."""
        return self.modules[self.kind.denoiser]

    @functools.cached_property
    def weights(self) -> Any:
        """The parameters of the denoiser, or of both, and with the LoRAs that act in an interval of t merged."""
        params = self.params[self.kind.denoiser]
        params = timed_loras.timed(params, self.timed) if self.timed else params
        if self.boundary is None or self.kind.video is None:
            return params
        return Experts(params, self.params[self.kind.video.second], self.boundary)

    def dtype_of(self, part: str) -> str:
        """The type of a network's parameters."""
        return "float32" if part == "vae" else self.dtype

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
    def readers(self) -> dict[str, Reader]:
        """How the text encoders that it has are used, by their names."""
        named = {f"text_encoder{reader.suffix}": reader for reader in self.kind.readers}
        return {name: reader for name, reader in named.items() if name in self.modules}

    def tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """What its text encoders read of texts: "text_encoder.ids" int32 [B, N], "text_encoder.mask" Bool [B, N] ..."""
        seen = {}

        def recording(name: str) -> Encoder:
            def network(ids: Any, mask: Any) -> tuple[Array, Array]:
                seen.update({f"{name}.ids": ids, f"{name}.mask": mask})
                return jnp.zeros((*ids.shape, 1)), jnp.zeros((len(ids), 1))

            return Encoder(self.tokenizers[name], network)

        self._conditions(texts, recording)
        return seen

    def encoded(self, params: Mapping[str, Any], tokens: Mapping[str, Any]) -> dict[str, Array]:
        """What the denoiser receives of texts: a pure function of the text encoders' parameters.

        Args:
            params: of the networks by their names.
            tokens: as the method of that name returns them; other entries are left alone.
        """

        def encoder(name: str) -> Encoder:
            read = AlreadyRead(tokens[f"{name}.ids"], tokens[f"{name}.mask"])
            apply = reading(self.modules[name], **self.readers[name].how)
            return Encoder(read, functools.partial(apply, params[name]))

        number = len(tokens[f"{next(iter(self.readers))}.ids"])
        return self._conditions([""] * number, encoder)

    def with_text(self, params: Mapping[str, Any], condition: Mapping[str, Any]) -> dict[str, Any]:
        """A condition with what the text encoders make of its tokens in place of these; arguments as `encoded`.

        An entry `CAPTIONED` [B], which goes too, is 0 where there is no text: a model whose unconditional branch
        receives zeros receives them there.
        """
        gone = {f"{name}.{part}" for name in self.readers for part in ("ids", "mask")} | {CAPTIONED}
        text = self.encoded(params, condition)
        if self.zeros and CAPTIONED in condition:
            present = lambda leaf: condition[CAPTIONED].reshape(-1, *[1] * (leaf.ndim - 1)) > 0
            text = {name: jnp.where(present(leaf), leaf, 0) for name, leaf in text.items()}
        return {name: entry for name, entry in condition.items() if name not in gone} | text

    def _conditions(self, texts: Sequence[str], encoder: Callable[[str], Encoder]) -> dict[str, Any]:
        """The condition of texts by these encoders, made of their names."""
        names = [f"text_encoder{reader.suffix}" for reader in self.kind.readers]
        encoders = [encoder(name) if name in self.modules else None for name in names]
        how = {"width": self.denoiser.text_width} if None in encoders else {}  # SD 3 without T5 has zeros in its place
        return self.kind.condition(list(texts), *encoders, **how)

    def beside(self, number: int, guidance: float, height: int, width: int) -> dict[str, Array]:
        """What the denoiser receives beside the text, of N pictures: their sizes, and the strength of the guidance."""
        found = {}
        if getattr(self.denoiser, "added_width", 0) or getattr(self.denoiser, "sized", False):
            found["size"] = jnp.tile(jnp.asarray([height, width, 0, 0, height, width], jnp.float32), (number, 1))
        if self.distilled:
            found["strength"] = jnp.full(number, guidance, jnp.float32)
        return found

    def patches(self, picture: np.ndarray | None, number: int) -> dict[str, Array]:
        """What the denoiser receives of a picture, uint8 [H, W, 3], by the image encoder, N times; {} without one."""
        if picture is None or not getattr(self.denoiser, "picture_width", 0):
            return {}
        reader = self.modules[EYES]
        image = prompt_features.fitted(reader, picture)[None]
        seen = jax.jit(functools.partial(prompt_features.of, reader, whole=True))(self.params[EYES], image)
        return {"patches": jnp.repeat(seen, number, axis=0)}

    def of_pipeline(self, name: str) -> "TextToImage":
        """The model as one of another pipeline, a class in `pipelines.KINDS`, with that one's usual steps."""
        kind = pipelines.KINDS[name]
        usual = kind.usual if self.usual == self.kind.usual else self.usual
        return dataclasses.replace(self, name=name, kind=kind, usual=usual)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the pictures, or of the frames, that it was made for, in pixels."""
        return (self.side, self.side) if self.kind.video is None else self.kind.video.size

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
        seen = (self.channels + 1, self.channels + self.modules["vae"].factor ** 2)
        return self.kind.video is None and self.seen_channels in seen

    @property
    def seen_channels(self) -> int:
        """The number of channels that the denoiser takes beside the latents."""
        inputs = getattr(self.denoiser, "in_channels", getattr(self.denoiser, "channels", self.channels))
        return inputs - self.channels

    @property
    def sees_picture(self) -> bool:
        """Whether the denoiser takes the latents of a picture, too, which it edits or follows (`kind.controlled`).

        They stand beside x_t, or are further tokens (`kind.appends`).
        """
        twice = self.kind.video is None and getattr(self.denoiser, "in_channels", 0) == 2 * self.channels
        return self.kind.appends or self.kind.controlled or twice

    @property
    def distilled(self) -> bool:
        """Whether the denoiser receives the strength of the guidance, and so takes no negative prompt."""
        return pipelines.distilled(self.denoiser)


def load(
    folder: str | pathlib.Path,
    *,
    dtype: str = "float32",
    prediction: str = "",
    loras: Mapping[str | pathlib.Path, Any] | None = None,
    embeddings: Mapping[str | pathlib.Path, str] | None = None,
    attachments: Mapping[str, str | pathlib.Path | Attachment] | None = None,
    quantised: bool = False,
    **how: Any,
) -> TextToImage:
    """Loads a model.

    Args:
        folder: as diffusers' `save_pretrained` writes it, with model_index.json, of a class in `pipelines.KINDS`.
        dtype: "float32" or "bfloat16", of the denoiser's and the text encoders' parameters and computation. The
            autoencoder stays float32.
        prediction: what the caller expects the denoiser to predict, see `schedulers.read`; "" as the folder says.
        loras: LoRA files and the weight of each, see `with_loras`.
        embeddings: files of words (textual inversion) and the word of each in prompts; "" as the file says.
        attachments: see `with_attachments`.
        quantised: whether kernels stay in 8 bits that the model's own files have so, see `interchange.load`.
        **how: of `interchange.load`, for every network: shardings.

    Raises:
        FileNotFoundError: if a file is missing.
        Refusal: for another pipeline (names its known relatives), or a config that is not supported or contradicts
            itself.
        Mismatch: if weights do not fit their config.
    """
    model = described(folder, dtype=dtype, prediction=prediction)
    params = {
        part: interchange.load(
            pathlib.Path(folder).expanduser() / part, dtype=model.dtype_of(part), quantised=quantised, **how
        )[1]
        for part in model.modules
    }
    model = dataclasses.replace(model, params=params)
    model = with_words(model, embeddings) if embeddings else model
    model = with_loras(model, loras) if loras else model
    return with_attachments(model, attachments, **how) if attachments else model


def described(
    folder: str | pathlib.Path, *, dtype: str = "float32", prediction: str = "", weights: bool = True
) -> TextToImage:
    """A model without its weights: its `params` are their shapes. Arguments and errors as `load`.

    With `weights` their files have to be there and fit their config; without it the configs and tokenizers are enough.
    """
    look_up(dict.fromkeys(folders.FLOATS), dtype, "dtype")
    folder = pathlib.Path(folder).expanduser()
    index = pipelines.read_index(folder)
    name = str(index.get("_class_name"))
    kind = pipelines.kind_of(name, folder)
    clean = bool(index.get("expand_timesteps"))
    if clean and kind.video is not None:
        kind = kind._replace(video=kind.video._replace(clean=True, rate=24.0))
    readers = {f"text_encoder{reader.suffix}": reader for reader in kind.readers}
    encoders = [part for part, reader in readers.items() if pipelines.has_part(index, part, reader.optional)]
    table = limits.read_table(folder / "scheduler" / "scheduler_config.json")
    process = schedulers.read(table, prediction, kind.even, kind.by_steps)
    modules, params, tokenizers = {}, {}, {}
    boundary, second = _two_denoisers(kind, index)
    eyes = (EYES,) if kind.video is not None and kind.video.begins and pipelines.has_part(index, EYES, True) else ()
    for part in (kind.denoiser, *second, "vae", *encoders, *eyes):
        wanted = "float32" if part == "vae" else dtype
        family, module = folders.find(folder / part)[:2] if weights else folders.described(folder / part)
        params[part] = jax.tree.map(
            lambda leaf, kind=wanted: jax.ShapeDtypeStruct(leaf.shape, kind), folders.shapes_of(family, module)
        )
        modules[part] = module.clone(dtype=wanted) if hasattr(module, "dtype") else module
    for part in encoders:
        reader = readers[part]
        longest = getattr(modules[part], "positions", reader.length)  # T5 has no end of its own
        tokenizers[part] = Tokenizer.open(folder / f"tokenizer{reader.suffix}", min(reader.length, longest))
    denoiser = modules[kind.denoiser]
    pipelines.check_denoiser(folder, name, denoiser, modules["vae"], clean)
    if getattr(denoiser, "picture_width", 0) and not eyes:
        raise Refusal(f"{folder}: its denoiser sees the picture by an {EYES}, which model_index.json does not name.")
    if any(modules[part] != denoiser for part in second):
        raise Refusal(f"{folder}: two denoisers are supported that have one config, and those of this folder differ.")
    if kind.unit_clock:
        process = process._replace(parameterization=parameterizations.velocity())
    if getattr(denoiser, "learn_sigma", False):
        process = process._replace(parameterization=parameterizations.learned_variance(process.parameterization))
    config = limits.read_table(folder / kind.denoiser / "config.json")
    schema.check({"sample_size": SIDES}, config, f"{folder / kind.denoiser}: config.json")
    side = config.get("sample_size") or 128 // getattr(modules["vae"], "packed", 1)
    side = (max(side) if isinstance(side, list) else side) * modules["vae"].factor
    zeros = kind.zeros and index.get("force_zeros_for_empty_prompt", True)
    student = bool(index.get("is_distilled"))
    usual = pipelines.read_usual(folder, pipelines.published(kind, process, denoiser, student))
    made = TextToImage(name, kind, modules, params, tokenizers, process, int(side), zeros, usual, dtype)
    return dataclasses.replace(made, boundary=boundary)


def _two_denoisers(kind: Kind, index: Mapping[str, Any]) -> tuple[float | None, tuple[str, ...]]:
    """The smallest t of the first denoiser and the name of the second, if model_index.json has both."""
    if kind.video is None or not pipelines.has_part(index, kind.video.second, True):
        return None, ()
    boundary = index.get("boundary_ratio")
    if boundary is None:
        raise Refusal(f"model_index.json has a {kind.video.second} and no boundary_ratio, which says where it begins.")
    return float(boundary), (kind.video.second,)


def with_quantised(model: TextToImage, kind: str) -> tuple[TextToImage, Stored]:
    """The model with the kernels of its denoiser, or of both, stored in 8 bits, and what that saves and costs.

    Merge LoRA files first: what is merged is quantised with the rest.

    Args:
        model: from `load`.
        kind: "int8" or "fp8", see `models.quantised`.

    Raises:
        ValueError: for a model with LoRAs that act in an interval of t.
    """
    if model.timed:
        raise ValueError(
            "a LoRA with an interval of t is merged beside the kernels, and quantised kernels take none: leave the "
            "interval or the quantisation out"
        )
    parts = [model.kind.denoiser]
    if model.boundary is not None and model.kind.video is not None:
        parts.append(model.kind.video.second)
    whole = {part: model.params[part] for part in parts}
    params = {part: storage.quantised(weights, kind) for part, weights in whole.items()}
    return dataclasses.replace(model, params={**model.params, **params}, _programs={}), stored(whole, params)


def with_words(model: TextToImage, embeddings: Mapping[str | pathlib.Path, str]) -> TextToImage:
    """The model with the words of files; the model itself stays as it is.

    Args:
        model: from `load`, without LoRA files of its text encoders.
        embeddings: files, and the word of each in prompts; "" as the file says.
    """
    words = [word_embeddings.load(path, model, text) for path, text in embeddings.items()]
    return word_embeddings.extended(model, words)


def with_attachments(
    model: TextToImage, attachments: Mapping[str, str | pathlib.Path | Attachment], **how: Any
) -> TextToImage:
    """The model with attachments, which controls of a request name; the model itself stays as it is.

    Args:
        model: from `load`.
        attachments: by name: a folder or file of a network that attaches to the denoiser, such as a ControlNet, or an
            `Attachment`.
        **how: of `interchange.load`: shardings.

    Raises:
        Refusal: for a network that attaches to nothing, or to another base.
    """
    denoiser, base = model.denoiser, model.params[model.kind.denoiser]
    made = {
        name: one if isinstance(one, Attachment) else attached.load(one, denoiser, base, dtype=model.dtype, **how)
        for name, one in attachments.items()
    }
    return dataclasses.replace(model, attachments={**model.attachments, **made}, _programs={})


def with_loras(model: TextToImage, loras: Mapping[str | pathlib.Path, Any]) -> TextToImage:
    """The model with LoRA files merged into its networks; the model itself stays as it is.

    A file with an interval of t acts on the denoiser at the steps of the interval alone, after those without one, by
    kernels of its own (`timed_loras`). A prompt is read once for the whole trajectory, so that what such a file has for
    text encoders acts throughout.

    Of two denoisers, a file that names neither is of the first, or of the second with the interval from 0 to the
    boundary.

    Args:
        model: from `load`.
        loras: files and weights, each a number or (weight, (least t, greatest t)); see `lora_weights.LoraWeight`.

    Raises:
        ValueError: for a network whose kernels are quantised, a weight that is none, or an interval of both denoisers.
    """
    weights = {path: LoraWeight.of(weight) for path, weight in loras.items()}
    files = [_of_its_denoiser(model, lora_files.load(path, model.modules), path, weights[path]) for path in loras]
    denoiser = model.kind.denoiser
    if any(map(is_quantised, jax.tree.leaves(model.params[denoiser], is_leaf=is_quantised))) and not all(
        weight.always for _, _, weight in files
    ):
        raise ValueError(f"the kernels of {denoiser} are quantised, and take no LoRA with an interval of t")
    timed = []
    for file, path, weight in files:
        if weight.always:
            continue
        if len(file) > (denoiser in file):
            warnings.warn(f"{path}: its part for text encoders acts at every t, as the prompt does", stacklevel=2)
        if denoiser in file:
            one = file.pop(denoiser)
            scales = jax.tree.map(jnp.float32, one.weighted(weight.weight))
            timed.append(TimedLora(one.adapter, scales, weight.times))
    loaded = [(file, weight.weight) for file, _, weight in files]
    params = dict(model.params)
    for part in params:
        of_part = [(file[part], weight) for file, weight in loaded if part in file]
        if of_part:
            if any(map(is_quantised, jax.tree.leaves(params[part], is_leaf=is_quantised))):
                raise ValueError(f"the kernels of {part} are quantised: merge LoRA files before with_quantised")
            scales = [one.weighted(weight) for one, weight in of_part]
            params[part] = jax.jit(lora.merge)(params[part], [one.adapter for one, _ in of_part], scales)
    return dataclasses.replace(model, params=params, timed=(*model.timed, *timed), _programs={})


def _of_its_denoiser(
    model: TextToImage, file: dict[str, lora_files.Lora], path: Any, weight: LoraWeight
) -> tuple[dict[str, lora_files.Lora], Any, LoraWeight]:
    """A file, its path and its weight; of two denoisers the interval says of which it is."""
    part, video = model.kind.denoiser, model.kind.video
    if model.boundary is None or video is None or weight.always or part not in file:
        return file, path, weight
    low, high = weight.times
    if low >= model.boundary:
        return file, path, weight
    if (low, high) != (0.0, model.boundary):
        raise ValueError(
            f"{path}: of two denoisers one has t from {model.boundary:g} on and the other the rest; valid intervals: "
            f"0-{model.boundary:g}, or above {model.boundary:g}"
        )
    return {video.second if name == part else name: one for name, one in file.items()}, path, LoraWeight(weight.weight)


def check_words(model: TextToImage, texts: Sequence[str]) -> None:
    """Refuses texts with a word that is written as trigger words are, "<cat-toy>", and that the model does not have.

    Raises:
        ValueError: naming the word.
    """
    for text in texts:
        if missing := named_in(text, model.words):
            has = ", ".join(model.words) or "none"
            raise ValueError(
                f"the prompt {text[:60]!r} has the word {missing[0]!r}, whose embeddings are not there. Valid: its "
                f"file (embeddings, --embedding=FILE), or words that the model was taught: {has}"
            )


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
    own = list(dict.fromkeys(prompts))
    check_words(model, [*own, negative or ""])
    if None in model.encoders:  # SD 3 without T5 receives zeros in its place
        how = {"width": model.denoiser.text_width, **how}
    number = len(prompts)
    encode = lambda texts, **more: model.kind.condition(texts, *model.encoders, **how, **more)
    rows = lambda encoded, chosen: jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.array(chosen)], encoded)
    if model.kind.instructed:
        conditional = rows(encode(own), [own.index(prompt) for prompt in prompts])
        unconditional = rows(encode([negative or ""], instructed=False), [0] * number)
        conditional, unconditional = _equally_long(conditional, unconditional)
    else:  # in one call, so that they have as many tokens
        texts = list(dict.fromkeys([*own, negative or ""]))
        encoded = encode(texts)
        conditional = rows(encoded, [texts.index(prompt) for prompt in prompts])
        unconditional = rows(encoded, [texts.index(negative or "")] * number)
    if model.zeros and negative is None:
        unconditional = jax.tree.map(jnp.zeros_like, unconditional)
    beside = model.beside(number, guidance, height, width)
    return conditional | beside, unconditional | beside


def _equally_long(*conditions: dict[str, Array]) -> list[dict[str, Array]]:
    """Conditions of a text [B, M, E] and its mask [B, M], padded to the longest of them."""
    longest = max(condition["text"].shape[1] for condition in conditions)
    pad = lambda leaf: jnp.pad(leaf, [(0, 0), (0, longest - leaf.shape[1]), *[(0, 0)] * (leaf.ndim - 2)])
    return [jax.tree.map(pad, condition) for condition in conditions]
