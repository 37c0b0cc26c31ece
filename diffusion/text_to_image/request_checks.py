"""Checks a request for pictures against a model; an error names the setting, and what is valid.

`diffusion.text_to_image.video_models.check` does the same for clips.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

OF_SOUND = {"sound_guidance": "guidance", "modality_guidance": "modality_guidance"}  # with the fields of `Sound`


def check(request: Any, model: Any) -> None:
    """Checks a request against a model, and warns of a setting without effect.

    Args:
        request: a resolved `Request`.
        model: a `TextToImage`.

    Raises:
        ValueError: if the model does not support a setting.
    """
    _check_tiles(request, model)
    _check_pictures(request, model)
    if model.sees_mask:
        _check_mask(request)
    _check_guidance(request, model)
    if request.perturbed_guidance:
        _check_perturbed(request, model)
    _warn(request, model)


def _check_tiles(request: Any, model: Any) -> None:
    factor = model.modules["vae"].factor
    if request.tile % factor:
        raise ValueError(
            f"tile = {request.tile} must be a multiple of {factor}, the autoencoder's factor, for example "
            f"{max(request.tile // factor, 1) * factor}; 0 switches tiles off"
        )
    if request.tile and request.keeps and model.decodes_kept:
        raise ValueError(
            f"tile = {request.tile}: the autoencoder of this model needs the whole kept part; leave tile out"
        )


def _check_pictures(request: Any, model: Any) -> None:
    """Checks the pictures that the model sees beside the noise."""
    pictures = model.kind.pictures
    if model.sees_picture:
        _check_edit(request, "follows" if pictures.controlled else "edits")
    if request.layers and not pictures.layers:
        raise ValueError(f"layers = {request.layers}: a {model.name} makes no layers; leave layers out")
    if pictures.layers:
        _check_layers(request, model)
    if model.kind.second_stage is not None:
        stage = f"the first stage of a {model.name} supports only whole prompts"
        request.refuse(("image", "reference", "regions"), f"{{name}}: {stage}; leave {{name}} out")
    if request.images and not pictures.several and model.kind.video is None:
        one = "one picture, its image" if model.sees_picture else "none"
        raise ValueError(
            f"images: a {model.name} sees {one}; only models such as FLUX.2 support several pictures. Leave images out"
        )
    if edits := pictures.several:
        shown = request.edited(edits)
        if edits.needed and not shown:
            raise ValueError("this model edits pictures by the prompt; name the image, or images")
        if edits.number and len(shown) > edits.number:
            raise ValueError(f"images: {len(shown)} pictures. Valid: at most {edits.number} for this model")


def _check_edit(request: Any, does: str) -> None:
    """Refuses settings that do not go with a model which edits a picture or follows its edges or depths."""
    if request.image is None:
        part = ", its edges or depths," if does == "follows" else ""
        raise ValueError(f"this model {does} a picture{part} by the prompt; name the image")
    if request.strength not in (None, 1):
        raise ValueError(
            f"strength = {request.strength}: this model sees the image and starts from noise; use image_guidance to "
            "say how much of the image stays"
        )
    why = f"this model {does} a picture by the prompt and takes no {{name}}; leave it out"
    request.refuse(("regions", "reference"), why)


def _check_layers(request: Any, model: Any) -> None:
    """Refuses what does not go with a picture that is taken apart into layers."""
    if not all(prompt.strip() for prompt in request.prompts):
        raise ValueError(f"a {model.name} reads a prompt that describes the picture; write one")
    why = f"{{name}}: a {model.name} takes one picture apart, at its size; leave {{name}} out"
    if request.image is not None:
        raise ValueError(why.format(name="mask, margins and strength"))
    request.refuse(("reference", "regions", "watermark"), why)
    if request.height or request.width:
        raise ValueError(why.format(name="height and width"))


def _check_mask(request: Any) -> None:
    """Refuses what does not go with a model whose denoiser sees the mask."""
    if not request.keeps:
        raise ValueError("this model was trained to inpaint: name an image and a mask")
    if request.resamplings > 1:
        raise ValueError(
            f"resamplings = {request.resamplings}: this model sees the part that is kept, so nothing is resampled; "
            "leave it at 1"
        )
    if request.kept_noise != "fresh":
        raise ValueError(
            f"kept_noise = {request.kept_noise!r}: this model sees the part that is kept, so that part receives no "
            "noise; leave it out"
        )
    if request.reference is not None:
        raise ValueError("this model was trained to inpaint and takes no reference; leave it out")


def _check_guidance(request: Any, model: Any) -> None:
    """Refuses a guidance that the model does not have."""
    if (model.distilled or not model.sees_picture) and request.image_guidance != 1:
        raise ValueError(
            f"image_guidance = {request.image_guidance:g}: this model has only guidance by the text; leave "
            "image_guidance out"
        )
    if request.late_guidance is not None and model.boundary is None:
        raise ValueError(
            f"late_guidance = {request.late_guidance:g}: this model has only one denoiser; leave late_guidance out"
        )
    if request.dynamic_guidance and model.kind.guidance.dynamic_scales is None:
        raise ValueError(
            f"dynamic_guidance: a {model.name} has the same scale at all steps; leave dynamic_guidance out"
        )
    if request.dynamic_guidance and not request.guided(model):
        raise ValueError(
            f"dynamic_guidance changes the scale of the guidance, but guidance = {request.guidance:g} means none. "
            "Valid: a guidance above 1, or no dynamic_guidance"
        )
    for name in OF_SOUND:
        if model.kind.sound is None and getattr(request, name) is not None:
            raise ValueError(
                f"{name} = {getattr(request, name):g}: a {model.name} generates no sound; leave {name} out"
            )


def _check_perturbed(request: Any, model: Any) -> None:
    """Refuses perturbed-attention guidance where the model, or another setting, has another guidance."""
    stated = f"perturbed_guidance = {request.perturbed_guidance:g}"
    if model.kind.guidance.perturbs is None or model.sees_picture:
        which = "that edits pictures " if model.sees_picture else ""
        raise ValueError(f"{stated}: a {model.name} {which}has no perturbed-attention guidance; leave it out")
    if request.regions:
        raise ValueError(f"{stated} cannot be combined with regions. Valid: one of the two")


def _warn(request: Any, model: Any) -> None:
    """Warns of a negative prompt or an attention without effect, and of an empty prompt."""
    if request.negative and not request.guided(model):
        needs = "another than" if model.sees_picture else "one above"
        why = (
            "this model has its guidance distilled in"
            if model.distilled
            else f"guidance = {request.guidance:g} is none; it needs {needs} 1"
        )
        warnings.warn(f"the negative prompt {request.negative[:30]!r} has no effect: {why}", stacklevel=5)
    if request.attention != 1 and not request.words:
        why = "it is the strength of the effect of words, and the request names none"
        warnings.warn(f"attention = {request.attention:g} has no effect: {why}", stacklevel=5)
    if not all(prompt.strip() for prompt in request.prompts):
        warnings.warn("a prompt is empty, so its picture can show anything that the model knows", stacklevel=5)


def warn_of_intervals(controls: Sequence[Any], timed: Sequence[Any], trajectory: Any) -> None:
    """Warns of controls, and of LoRAs of the denoiser, in whose interval of t no step evaluates the denoiser.

    Args:
        controls: the controls of a request.
        timed: the `TimedLora`s of the model.
        trajectory: the sampler and the plan of the request.
    """
    plan, sampler = trajectory.plan, trajectory.sampler
    begins = np.asarray(plan.t, np.float32)[~np.asarray(plan.renoise)]
    begins = begins.reshape(len(begins), -1).max(axis=1)  # of several frames the greatest time counts
    if sampler.nfe(len(begins)) != len(begins):  # it evaluates the denoiser between these times too
        return
    intervals = [(f"the control {one.attachment!r}", one.times) for one in controls]
    for what, (low, high) in [*intervals, *(("a LoRA", one.times) for one in timed)]:
        if not ((np.float32(low) <= begins) & (begins <= np.float32(high))).any():
            warnings.warn(
                f"{what} has no effect: no step begins at a t from {low:g} to {high:g}. The steps begin at "
                f"{', '.join(f'{t:.3g}' for t in begins[:8])}{', ..' if len(begins) > 8 else ''}",
                stacklevel=4,
            )
