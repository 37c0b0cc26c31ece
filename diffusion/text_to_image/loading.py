"""Reads a text-to-image model from its folder, with its weights or only with their shapes."""

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from diffusion import parameterizations
from diffusion.io import opener, schema
from diffusion.models.attachment import Attachment
from diffusion.models.interchange import folders, schedulers
from diffusion.models.interchange.family import SIDES, Refusal, naming
from diffusion.models.layers.choices import look_up
from diffusion.models.quantised import has_quantised
from diffusion.published.pipeline_kinds import Kind, Reader
from diffusion.text import Tokenizer
from diffusion.text_to_image import denoiser_checks, model_index, pipelines
from diffusion.text_to_image.additions import with_attachments, with_loras, with_words
from diffusion.text_to_image.model import EYES, TextToImage


def load(
    folder: str | pathlib.Path,
    *,
    dtype: str = "float32",
    prediction: str = "",
    loras: Mapping[str | pathlib.Path, Any] | None = None,
    embeddings: Mapping[str | pathlib.Path, str] | None = None,
    attachments: Mapping[str, str | pathlib.Path | Attachment] | None = None,
    quantised: bool = False,
    drop_text: bool = False,
    **how: Any,
) -> TextToImage:
    """Loads a model.

    Args:
        folder: the folder that diffusers' `save_pretrained` wrote, with model_index.json, of a class in
            `pipelines.KINDS`.
        dtype: "float32" or "bfloat16", the type of the denoiser's and the text encoders' parameters and computation.
            The autoencoder stays float32. With "float32", kernels that a file has in bfloat16 or float16 stay so in
            memory, and a layer casts them to the same numbers in float32 when it runs.
        prediction: the quantity that the caller expects the denoiser to predict, see `schedulers.read`; "" for the
            folder's.
        loras: {LoRA file: weight}, see `with_loras`.
        embeddings: {file of a word (textual inversion): the word in prompts}; "" for the word that the file names.
        attachments: {name: attachment}, see `with_attachments`. The networks that the folder itself attaches, such as
            "controlnet", have the names of their folders.
        quantised: whether kernels that the model's files store in 8 bits stay so, see `interchange.load`.
        drop_text: whether the text encoders are read from their files for each request, and dropped before its
            trajectory begins; otherwise they stay in memory.
        **how: arguments of `interchange.load` for every network, such as shardings.

    Raises:
        FileNotFoundError: if a file is missing.
        Refusal: for an unknown pipeline (the message has the nearest known ones), or a config that is not supported
            or contradicts itself.
        Mismatch: if weights do not fit their config.
    """
    folder = pathlib.Path(folder).expanduser()
    model = described(folder, dtype=dtype, prediction=prediction)

    read = lambda part: model.load_network(folder, part, quantised=quantised, **how)

    def added(params: Mapping[str, Any], *dropped: str) -> TextToImage:
        changed = dataclasses.replace(model, params={**{part: model.params[part] for part in dropped}, **params})
        changed = with_words(changed, embeddings) if embeddings else changed
        changed = dataclasses.replace(changed, params={part: changed.params[part] for part in params})
        return with_loras(changed, loras) if loras else changed

    readers = tuple(model.readers) if drop_text else ()
    result = added({part: read(part) for part in model.modules if part not in readers}, *readers)
    if readers:
        text = lambda: added({part: read(part) for part in readers}).params
        result = dataclasses.replace(result, text=text)
    if quantised and not any(map(has_quantised, result.params.values())):
        warnings.warn(f"quantised has no effect: the files of {folder} store no kernel in 8 bits", stacklevel=2)
    every = {**model_index.attached_folders(folder, model.kind.files.attaches), **(attachments or {})}
    return with_attachments(result, every, **how) if every else result


def described(
    folder: str | pathlib.Path, *, dtype: str = "float32", prediction: str = "", weights: bool = True
) -> TextToImage:
    """A model whose `params` are the shapes of its weights. Arguments and errors as in `load`.

    With `weights` the files of weights must exist and fit their configs; otherwise configs and tokenizers suffice.
    """
    look_up(dict.fromkeys(folders.FLOATS), dtype, "dtype")
    folder = pathlib.Path(folder).expanduser()
    with naming(folder):
        return _described(folder, dtype, prediction, weights)


def _described(folder: pathlib.Path, dtype: str, prediction: str, weights: bool) -> TextToImage:
    index = model_index.read_index(folder)
    name = str(index.get("_class_name"))
    kind = pipelines.kind_of(name, folder)
    model_index.check_stated(index, kind, folder)
    if index.get("expand_timesteps") and kind.video is not None:
        kind = kind._replace(video=kind.video._replace(first=kind.video.first._replace(clean=True), rate=24.0))
    readers = {reader.folder: reader for reader in kind.prompts.readers}
    if kind.files.attaches:
        model_index.has_part(index, kind.files.attaches, False)
    encoders = [part for part, reader in readers.items() if model_index.has_part(index, part, reader.optional)]
    student = bool(index.get("is_distilled"))
    changed = kind.students.schedule if student else {}
    process = _process(kind.files.place(folder, "scheduler"), changed, prediction, *kind.flow)
    boundary, second = _two_denoisers(kind, index)
    begins = kind.video is not None and kind.video.first.begins
    eyes = (EYES,) if begins and model_index.has_part(index, EYES, True) else ()
    stage = kind.second_stage
    finer = () if stage is None else (stage.network,)
    parts = (kind.denoiser.folder, *second, *finer, *kind.decoders, *encoders, *kind.prompts.connectors, *eyes)
    modules, params = _networks(folder, kind, parts, dtype, weights)
    tokenizers = {part: _tokenizer(folder, kind, readers[part], modules[part]) for part in encoders}
    denoiser = modules[kind.denoiser.folder]
    denoiser_checks.check_denoiser(folder, name, kind, denoiser, modules["vae"])
    if stage is not None:
        denoiser_checks.check_second_stage(folder, denoiser, modules[stage.network], modules["vae"])
    if getattr(denoiser, "picture_width", 0) and not eyes:
        raise Refusal(
            f"{folder}: its denoiser reads a picture through an {EYES}, which model_index.json does not name."
        )
    if any(modules[part] != denoiser for part in second):
        raise Refusal(
            f"{folder}: its two denoisers have different configs. Supported: two denoisers with the same config."
        )
    if kind.denoiser.unit_clock:
        process = process._replace(parameterization=parameterizations.velocity())
    if getattr(denoiser, "learn_sigma", False):
        process = process._replace(parameterization=parameterizations.learned_variance(process.parameterization))
    side = _side(folder, kind, modules["vae"])
    second_process = None if stage is None else _process(kind.files.place(folder, stage.scheduler))
    kind = kind.denoiser.variant(kind, denoiser)
    if kind.denoiser.jumps:
        process = process._replace(fields={**process.fields, "jumps": True})
    zeros = kind.prompts.zeros and index.get("force_zeros_for_empty_prompt", True)
    usual = pipelines.published(kind, process, denoiser, student)
    if kind.guidance.guiders is None:
        usual = model_index.read_guidance(folder, index, usual)
    elif not pipelines.distilled(denoiser):
        kind, usual = kind.guidance.guiders(kind, folder, lambda part: model_index.has_part(index, part, True), usual)
    usual = model_index.read_usual(folder, usual)
    sight = None
    pictured = kind.pictures.several if kind.video is None else kind.video.first
    if pictured is not None and pictured.sight is not None:
        sight = pictured.sight(folder, modules[encoders[0]])
    more = {"boundary": boundary, "sight": sight, "second_process": second_process}
    return TextToImage(name, kind, modules, params, tokenizers, process, side, zeros, usual, dtype, **more)


def _networks(
    folder: pathlib.Path, kind: Kind, parts: Sequence[str], dtype: str, weights: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The networks of a folder and the shapes of their parameters, by the names of their parts; see `described`."""
    families = {reader.folder: reader.family for reader in kind.prompts.readers}
    find = folders.find if weights else folders.described
    modules, params = {}, {}
    for part in parts:
        wanted = "float32" if part in kind.decoders else dtype
        family, module = find(kind.files.place(folder, part), families.get(part, ""))[:2]
        params[part] = jax.tree.map(
            lambda leaf, kind=wanted: jax.ShapeDtypeStruct(leaf.shape, kind), folders.shapes_of(family, module)
        )
        modules[part] = module.clone(dtype=wanted) if hasattr(module, "dtype") else module
    return modules, params


def _process(folder: pathlib.Path, student: Mapping[str, Any] = {}, *options: Any) -> schedulers.Process:
    """The process of a scheduler's folder, with other fields of a student; `options` of `schedulers.read`."""
    path = folder / "scheduler_config.json"
    with naming(path):
        return schedulers.read({**opener.read_table(path), **student}, *options)


def _tokenizer(folder: pathlib.Path, kind: Kind, reader: Reader, module: Any) -> Tokenizer:
    """The tokenizer of a text encoder, with the length and the padding of the pipeline."""
    longest = getattr(module, "positions", reader.length)  # T5 has no largest length
    vocabulary = kind.files.place(folder, reader.tokenizer_folder)
    tokenizer = Tokenizer.open(vocabulary, min(reader.length, longest), reader.pad)
    return tokenizer if reader.left is None else tokenizer._replace(left=reader.left)


def _side(folder: pathlib.Path, kind: Kind, autoencoder: Any) -> int:
    """The side of the pictures that a model was trained on, in pixels."""
    place = kind.files.place(folder, kind.denoiser.folder)
    config = opener.read_table(place / "config.json")
    schema.check({"sample_size": SIDES}, config, f"{place}: config.json")
    if kind.second_stage is not None:
        return kind.second_stage.side
    if kind.pictures.side:
        return kind.pictures.side
    side = config.get("sample_size") or kind.pictures.sample_size // getattr(autoencoder, "packed", 1)
    return int((max(side) if isinstance(side, list) else side) * autoencoder.factor)


def _two_denoisers(kind: Kind, index: Mapping[str, Any]) -> tuple[float | None, tuple[str, ...]]:
    """The smallest t of the first denoiser and the name of the second, if model_index.json has both."""
    if kind.video is None or not model_index.has_part(index, kind.video.second, True):
        return None, ()
    boundary = index.get("boundary_ratio")
    if boundary is None:
        raise Refusal(
            f"model_index.json has a {kind.video.second} but no boundary_ratio, which defines where it begins."
        )
    return float(boundary), (kind.video.second,)
