"""Adds LoRA files, words, attachments or 8-bit kernels to a model; the model that is passed does not change."""

import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.adapters import lora, lora_files, word_embeddings
from diffusion.models import quantised as storage
from diffusion.models.attachment import Attachment
from diffusion.models.interchange import tensor_files
from diffusion.models.quantised import Stored, has_quantised, stored
from diffusion.text_to_image import attached
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.timed_weights import TimedLora


def with_quantised(model: TextToImage, kind: str) -> tuple[TextToImage, Stored]:
    """(the model with its denoisers' kernels stored in 8 bits, the bytes saved and the errors made).

    Merge LoRA files first: merged updates are quantised with the kernels.

    Args:
        model: a model that `load` returned.
        kind: "int8" or "fp8", see `models.quantised`.

    Raises:
        ValueError: for a model with LoRAs that act in an interval of t.
    """
    if model.timed:
        raise ValueError(
            "a LoRA with an interval of t is kept beside the kernels and merged at sampling time, which quantised "
            "kernels do not support. Leave out the interval or the quantisation"
        )
    parts = [model.kind.denoiser.folder]
    if model.boundary is not None and model.kind.video is not None:
        parts.append(model.kind.video.second)
    full = {part: model.params[part] for part in parts}
    params = {part: storage.quantised(weights, kind) for part, weights in full.items()}
    return model.replaced(params={**model.params, **params}), stored(full, params)


def with_words(model: TextToImage, embeddings: Mapping[str | pathlib.Path, str]) -> TextToImage:
    """The model with the words of files, as a new model.

    Args:
        model: a model that `load` returned, without LoRA files of its text encoders.
        embeddings: {file: its word in prompts}; "" for the word that the file names.
    """
    _check_has_text(model)
    words = [word_embeddings.load(path, model, text) for path, text in embeddings.items()]
    return word_embeddings.extended(model, words)


def with_attachments(
    model: TextToImage, attachments: Mapping[str, str | pathlib.Path | Attachment], **how: Any
) -> TextToImage:
    """The model with attachments, which controls of a request name, as a new model.

    Args:
        model: a model that `load` returned.
        attachments: {name: attachment}: a folder or file of a network that attaches to the denoiser, such as a
            ControlNet, or an `Attachment`.
        **how: arguments of `interchange.load`, such as shardings.

    Raises:
        Refusal: for a network that attaches to nothing, or to another base.
    """
    denoiser, base = model.denoiser, model.params[model.kind.denoiser.folder]
    loaded = {
        name: one if isinstance(one, Attachment) else attached.load(one, denoiser, base, dtype=model.dtype, **how)
        for name, one in attachments.items()
    }
    return model.replaced(attachments={**model.attachments, **loaded})


def with_loras(model: TextToImage, loras: Mapping[str | pathlib.Path, Any]) -> TextToImage:
    """The model with LoRA files merged into its networks, as a new model.

    A file with an interval of t acts on the denoiser only at the steps of that interval. The denoiser then has further
    kernels, into which the file is merged after the files without an interval (`timed_weights`). A prompt is encoded
    once for the whole trajectory, so the file's update of text encoders acts at every step.

    A control LoRA of FLUX.1, whose first layer also reads a picture's latents, makes a FluxControlPipeline of a
    FluxPipeline; the other files are merged before.

    In a model with two denoisers, a file that names neither belongs to the first, or to the second if its interval goes
    from 0 to the boundary.

    Args:
        model: a model that `load` returned.
        loras: {file: weight}, a number or (weight, (least t, greatest t)); see `lora_weights.LoraWeight`.

    Raises:
        ValueError: for a network whose kernels are quantised, a weight that is not valid, or an interval of both
            denoisers.
    """
    _check_has_text(model)
    weights = {path: LoraWeight.read(weight) for path, weight in loras.items()}
    model, loras = _before_control(model, loras)
    files = [_assigned(model, lora_files.load(path, model.modules), path, weights[path]) for path in loras]
    denoiser = model.kind.denoiser.folder
    if has_quantised(model.params.get(denoiser, ())) and not all(weight.always for _, _, weight in files):
        raise ValueError(f"the kernels of {denoiser} are quantised, so they take no LoRA with an interval of t")
    timed = []
    for file, path, weight in files:
        if all(lora.is_zero(one.adapter, one.weighted(1.0)) for one in file.values()):
            why = "all its updates are zero, as those of a LoRA that was not trained"
            warnings.warn(f"{path} has no effect: {why}", stacklevel=2)
        if weight.always:
            continue
        if len(file) > (denoiser in file):
            warnings.warn(f"{path}: its part for text encoders acts at every t, because the prompt does", stacklevel=2)
        if denoiser in file:
            one = file.pop(denoiser)
            scales = jax.tree.map(jnp.float32, one.weighted(weight.weight))
            timed.append(TimedLora(lora.differences(model.params[denoiser], one.adapter), scales, weight.times))
            wide = lora.changeable(model.params[denoiser], [one.adapter], model.dtype_of(denoiser))
            model = dataclasses.replace(model, params={**model.params, denoiser: wide})
    loaded = [(file, weight.weight) for file, _, weight in files]
    params = dict(model.params)
    for part in params:
        updates = [(file[part], weight) for file, weight in loaded if part in file]
        if updates:
            if has_quantised(params[part]):
                raise ValueError(f"the kernels of {part} are quantised; merge LoRA files before with_quantised")
            scales = [one.weighted(weight) for one, weight in updates]
            adapters = [one.adapter for one, _ in updates]
            params[part] = _merged(params[part], adapters, scales, model.dtype_of(part))
    return model.replaced(params=params, timed=(*model.timed, *timed))


@functools.partial(jax.jit, static_argnames="dtype")
def _merged(params: Any, adapters: Any, scales: Any, dtype: str) -> Any:
    """The parameters of a network that computes in `dtype`, with the adapters merged; one program for all leaves."""
    return lora.merge(lora.changeable(params, adapters, dtype), adapters, scales)


def _before_control(
    model: TextToImage, loras: Mapping[str | pathlib.Path, Any]
) -> tuple[TextToImage, Mapping[str | pathlib.Path, Any]]:
    """(the model that takes control LoRAs, with the other files merged; these LoRAs); both unchanged without any."""
    part, how = model.kind.denoiser.folder, model.kind.relatives.control_loras
    if how is None:
        return model, loras
    control = {
        path: weight
        for path, weight in loras.items()
        if how.is_control(tensor_files.open_tensors(path).shapes, model.denoiser)
    }
    if not control:
        return model, loras
    if not model.distilled:
        raise ValueError(
            f"{next(iter(control))} is a control LoRA for a FLUX.1 that receives the guidance as an input "
            "(FLUX.1-dev), but this model does not read it"
        )
    if part in model.params and has_quantised(model.params[part]):
        raise ValueError(f"the kernels of {part} are quantised; merge LoRA files before with_quantised")
    model = with_loras(model, {path: weight for path, weight in loras.items() if path not in control})
    if model.timed:
        raise ValueError(
            f"{next(iter(control))} is a control LoRA, which changes the shapes of kernels that LoRA files with an "
            "interval of t need. Valid: the other files without intervals"
        )
    module, params = how.widened(model.denoiser, model.params.get(part))
    modules, added = {**model.modules, part: module}, {part: params} if part in model.params else {}
    wide = model.replaced(modules=modules, params={**model.params, **added})
    return wide.as_pipeline(how.pipeline), control


def _check_has_text(model: TextToImage) -> None:
    """Refuses a model that drops its text encoders: it reads them again from files, without additions."""
    if model.text is not None:
        raise ValueError(
            "this model frees its text encoders, so pass words and LoRA files when it is loaded. Valid: "
            "load(..., loras, embeddings, drop_text=True)"
        )


def _assigned(
    model: TextToImage, file: dict[str, lora_files.Lora], path: Any, weight: LoraWeight
) -> tuple[dict[str, lora_files.Lora], Any, LoraWeight]:
    """(the file, its path, its weight); with two denoisers the interval says to which one it belongs."""
    part, video = model.kind.denoiser.folder, model.kind.video
    if model.boundary is None or video is None or weight.always or part not in file:
        return file, path, weight
    low, high = weight.times
    if low >= model.boundary:
        return file, path, weight
    if (low, high) != (0.0, model.boundary):
        raise ValueError(
            f"{path}: one of the two denoisers acts at t from {model.boundary:g} on, and the other one below. Valid "
            f"intervals: 0-{model.boundary:g}, or above {model.boundary:g}"
        )
    return {video.second if name == part else name: one for name, one in file.items()}, path, LoraWeight(weight.weight)
