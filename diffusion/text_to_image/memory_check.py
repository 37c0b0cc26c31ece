"""Checks that pictures or clips fit into memory in addition to a model's weights, before anything is computed.

`model` is a `text_to_image.TextToImage`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion import guidance
from diffusion.arrays import pytrees
from diffusion.models.budget import peak_memory
from diffusion.text_to_image import timed_weights
from diffusion.text_to_image.attached import Attached
from diffusion.text_to_image.guided_denoiser import denoise
from diffusion.text_to_image.programs import Course, decoded, sounds


def check_memory(
    model: Any,
    course: Course,
    batch: int,
    conditional: dict,
    unconditional: dict,
    attached: Sequence[Attached] = (),
    reference: bool = False,
    images: Sequence[tuple[int, ...]] = (),
    masked: bool = False,
) -> bool:
    """Refuses pictures for which the decoder or a call of the denoiser needs more memory than the weights leave.

    A denoiser that does not take words, or a reference, is also refused here.

    Args:
        model: a `TextToImage`.
        course: the settings of the program.
        batch: number of pictures at once, >= 1.
        conditional: the condition of prompts, leaves [N, ...] for any N; only the other sides matter.
        unconditional: the condition of negative prompts, of the same form.
        attached: the attachments.
        reference: whether the look of a picture is copied.
        images: (height, width) in pixels of each image that the denoiser sees.
        masked: whether a part of an image is kept, which the decoder may see.

    Returns:
        True.
    """
    denoiser_params = model.params[model.kind.denoiser.folder]
    # Shapes alone: LoRAs are merged once they are known to fit.
    weights = (
        jax.eval_shape(lambda denoiser_params: timed_weights.timed(denoiser_params, model.timed), denoiser_params)
        if model.timed
        else denoiser_params
    )
    both = weights
    if model.boundary is not None:
        both = timed_weights.Experts(weights, model.params[model.kind.video.second], model.boundary)
    one = f"clip of {course.frames} frames" if course.frames else "picture"
    several = one.replace("clip", "clips") if course.frames else "pictures"
    what = f"{batch} {several if batch > 1 else one} of {course.size[0]} x {course.size[1]} (height x width)"
    fewer = "fewer frames, fewer" if course.frames else "fewer"
    instead = f"choose {fewer} at once, or smaller ones{'' if course.tile else ', or use tiles of the autoencoder'}"

    def check(params: Any, program: Callable, *arguments: Any) -> None:
        peak = peak_memory.peak(jax.make_jaxpr(program)(params, *arguments).jaxpr)
        timed = [(one.adapter, one.scale) for one in model.timed]
        merged = weights.changed if timed else ()
        others = peak_memory.held((model.params, timed, merged, attached)) - peak_memory.held(params)
        peak_memory.check(what, others + peak, instead)

    x = jax.ShapeDtypeStruct((batch, *pytrees.packed_shape(course.shape(model))), jnp.float32)
    side = lambda channels, dtype: jax.ShapeDtypeStruct((1, *course.size, channels), dtype)
    image_and_mask = (None, side(3, jnp.float32), side(1, jnp.bool_)) if masked else ()
    # The decoder first: to trace a denoiser makes a table of positions that is as large as the pictures.
    fine = jax.ShapeDtypeStruct((batch, *course.decoded_latents(model)), jnp.float32)
    check(model.params["vae"], functools.partial(decoded, model, course), fine, *image_and_mask)
    if model.kind.sound is not None:
        networks = {part: model.params[part] for part in model.kind.sound.networks}
        check(networks, functools.partial(sounds, model, course), x)

    def guided(params: Any, x: Array, condition: Any, other: Any) -> Any:
        two = model.sees_picture or model.boundary is not None or course.evaluation.perturbed
        scale: Any = jnp.full(2, 2.0) if two else 2.0
        if model.kind.sound is not None:
            scale = dict.fromkeys(("video", "sound"), dict.fromkeys(("text", "perturbed", "apart"), 2.0))
        how = course.evaluation._replace(cache=None, merge=0.0)._asdict()
        how |= {"shape": course.shape(model), "end": 0.0 if model.kind.denoiser.jumps else None}
        denoiser = denoise(model, params[0], condition, other, scale, params[1], **how)
        if isinstance(denoiser, guidance.Memory):
            return denoiser.apply(denoiser.init(x), x, 0.9)
        return (denoiser.denoise if isinstance(denoiser, guidance.Unpaired) else denoiser)(x, 0.9)

    rows = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), tree)
    more = _beside(model, course, x, images)
    condition = rows(conditional) | more
    other = rows(unconditional) | more if course.guided else None
    if reference:
        latents = {"reference": jax.ShapeDtypeStruct((*x.shape[:3], 2 * model.channels), jnp.float32)}
        condition |= latents
        other = other and other | latents
    check((both, attached), guided, x, condition, other)
    return True


def _beside(model: Any, course: Course, x: jax.ShapeDtypeStruct, images: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """The shapes of what the denoiser receives beside x and the prompts: a picture, a control, pictures to edit."""
    latent = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    entries = {}
    if model.kind.pictures.appends:
        entries["picture"] = x
    elif model.sees_mask or model.sees_picture or (course.frames and model.seen_channels):
        entries["beside"] = latent(*x.shape[:-1], model.seen_channels)
    if channels := getattr(model.denoiser, "control_channels", 0):
        entries["control"] = latent(*x.shape[:-1], channels)
    if images:
        factor = model.modules["vae"].factor
        image_latent = lambda height, width: latent(x.shape[0], height // factor, width // factor, model.channels)
        entries["pictures"] = tuple(image_latent(*sides) for sides in images)
    return entries
