"""Clips from the same requests as pictures: a pipeline with a `Video` generates [F, H, W, C] for each prompt and seed.

    model = text_to_image.load("Wan2.1-T2V-1.3B-Diffusers")
    clips = text_to_image.generate(model, "a cat runs", frames=33, height=480, width=832)      # uint8 [1, 33, H, W, 3]

Its denoiser takes x_t [B, F', h, w, C], and its autoencoder compresses frames by `time_factor`: F = 1 + (F' - 1)
time_factor.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays import pytrees, random_keys
from diffusion.flows.flow_maps import FlowMap
from diffusion.models.autoencoders import latent_space
from diffusion.parameterizations import Denoiser
from diffusion.sampling import videos
from diffusion.schedules import NoiseSchedule

# The settings of a request that apply to pictures alone; some models take `images`, a first and a last frame.
OF_PICTURES = ("mask", "margins", "strength", "resamplings", "watermark", "merge", "controls", "regions", "words",
               "reference")  # fmt: skip
OF_FIRST = 2**31  # number of the draws of a first frame's noise


def frames(request: Any, model: Any) -> int:
    """The number of frames of a request's clips; 0 for a model that makes pictures.

    Raises:
        ValueError: for a number that the autoencoder cannot make, or any number where the model makes pictures.
    """
    video = model.kind.video
    if video is None:
        if request.frames:
            raise ValueError(f"frames = {request.frames}: this model generates single pictures; leave frames out")
        return 0
    wanted = request.frames or video.frames
    vae = model.modules["vae"]
    factor = getattr(vae, "frame_step", vae.time_factor)
    if (wanted - 1) % factor:
        low = 1 + (wanted - 1) // factor * factor
        raise ValueError(
            f"frames = {wanted}: the autoencoder encodes the first frame alone and the others in groups of {factor}. "
            f"Valid: e.g. {low} or {low + factor}"
        )
    return wanted


def frame_rate(request: Any, model: Any) -> float:
    """The frames a second of a request's clips; 0 for a model that makes pictures.

    Raises:
        ValueError: for a rate where the denoiser receives none.
    """
    video = model.kind.video
    if request.frame_rate and (video is None or not video.rated):
        how = "makes single pictures" if video is None else f"makes clips of {video.rate:g} frames a second"
        raise ValueError(f"frame_rate = {request.frame_rate:g}: this model {how}; leave frame_rate out")
    return 0.0 if video is None else request.frame_rate or video.rate


def check_learned(model: Any, size: tuple[int, int], number: int) -> None:
    """Refuses clips of another shape than the one whose positions a denoiser has learned.

    Args:
        model: a `TextToImage`.
        size: height and width in pixels.
        number: number of frames; 0 for pictures.

    Raises:
        ValueError: if the shapes differ; the message states the learned one.
    """
    learned = getattr(model.denoiser, "learned", None)
    if not number or not learned:
        return
    vae = model.modules["vae"]
    height, width = (side * vae.factor for side in model.denoiser.grid)
    valid = 1 + (learned - 1) * vae.time_factor
    if (number, *size) != (valid, height, width):
        raise ValueError(
            f"{number} frames of {size[0]} x {size[1]} (height x width): this model has learned positions only for "
            f"{valid} frames of {height} x {width}; scale or crop the image"
        )


def takes_last(model: Any) -> bool:
    """Whether the clips of a model may begin and end with images: with masks of known frames, and where it sees both.

    A Wan whose denoiser sees the first image through an encoder must have positions for the tokens of two.
    """
    video = model.kind.video
    if video is not None and video.fills:
        return True
    if video is None or not video.first.begins or not video.first.masked or video.first.clean:
        return False
    return not getattr(model.denoiser, "picture_width", 0) or bool(model.denoiser.picture_tokens)


def check(request: Any, model: Any) -> None:
    """Refuses what a model of clips cannot do.

    Args:
        request: a resolved `Request`.
        model: a `TextToImage`.

    Raises:
        ValueError: naming the setting.
    """
    video = model.kind.video
    if video is None:
        return
    ends = takes_last(model)
    why = "this model generates clips and does not support {name}; leave it out"
    request.refuse(OF_PICTURES if ends else ("images", *OF_PICTURES), why)
    if request.images and (len(request.images) != 2 or request.image is not None):
        raise ValueError(
            f"images: {len(request.images)} of them{'' if request.image is None else ' beside an image'}. Valid: the "
            "first and the last frame of the clip, without an image; or an image alone, with which it begins"
        )
    if ends and getattr(model.denoiser, "picture_tokens", 0) and not request.images:
        raise ValueError("the clips of this model start and end with pictures; name both by images")
    needed = video.first.begins and (not video.first.clean or video.first.sight is not None)
    if needed and request.image is None and not request.images:
        raise ValueError("the clips of this model start from a picture; name the image")
    if not (video.first.begins or video.first.clean or video.fills) and request.image is not None:
        raise ValueError(f"this model ({model.name}) generates clips only from prompts; leave the image out")
    if request.cache and video.second:
        raise ValueError(
            f"cache = {request.cache}: this model has two denoisers, which no cache supports; leave it out"
        )


def latent_frames(model: Any, number: int) -> int:
    """F', the number of latent frames of `number` frames, including those that fill the denoiser's first patch."""
    frames_of_latent = 1 + (number - 1) // model.modules["vae"].time_factor
    return frames_of_latent + -frames_of_latent % getattr(model.denoiser, "frames", 1)


def seconds(model: Any, number: int) -> Array:
    """The time in seconds at which each latent frame of `number` frames ends, [F'], as LTX-Video defines it."""
    factor = model.modules["vae"].time_factor
    return jnp.maximum(factor * jnp.arange(latent_frames(model, number)) - factor + 1, 0) / model.kind.video.rate


def coding(vae: Any, params: Any) -> tuple[Callable[[Array], Any], Callable[[Array], Array]]:
    """(encode, decode) of clips, part by part, see `diffusion.models.autoencoders.clip_parts`."""
    return vae.in_parts(vae, params, "encode"), vae.in_parts(vae, params, "decode")


def _latents(vae: Any, encode: Callable[[Array], Any], clip: Array) -> Array:
    """The denoiser's latents of a clip, [B, F', h, w, D], by the posterior's mean."""
    return latent_space.to_diffusion(latent_space.mean(encode(clip)), vae.scale, vae.shift)


def first_latent(vae: Any, encode: Callable[[Array], Any], image: Array) -> Array:
    """The latents [1, 1, h, w, D] of an image [1, H, W, C], which is encoded as a clip of one frame."""
    return _latents(vae, encode, image[:, None])


def completed(
    denoise: Denoiser | FlowMap,
    schedule: NoiseSchedule,
    first: Array,
    frames: int,
    blur: float = 0.0,
    keys: Array | None = None,
) -> Any:
    """The denoiser, or flow map, of the frames after the first, which is clean; see `videos.completing`.

        the first frame at the time t of the others: first + blur t^2 n(t),   n(t) ~ N(0, I), independent for each t

    Args:
        denoise: (x_t [B, F', h, w, D], t [B, F']) -> prediction of x_0; or a flow map, which also takes s [B, F'].
        schedule: the schedule of the process.
        first: the latent of the first frame, [B, 1, h, w, D].
        frames: number of latent frames, F'.
        blur: scale of the first frame's noise, see `FirstImage.blur`.
        keys: the random keys of n, [B]; needed only with a blur.

    Reference: the noise is as in the code of LTX-Video 0.9.5 (Lightricks, 2025).
    """

    def completing(first: Array) -> Any:
        clips = jnp.pad(first, ((0, 0), (0, frames - 1), (0, 0), (0, 0), (0, 0)))
        return videos.completing(denoise, schedule, clips, np.arange(frames) == 0)

    if not blur:
        return completing(first)

    def at(x_t: Array, t: Any, *later: Any) -> Any:
        now = jnp.max(jnp.asarray(t, jnp.float32))
        bits = jax.lax.bitcast_convert_type(now, jnp.uint32)
        key_at_t = lambda key: jax.random.fold_in(random_keys.further(key, OF_FIRST), bits)
        noise = jax.vmap(lambda key: jax.random.normal(key_at_t(key), first.shape[1:]))(keys)
        return completing(first + blur * now**2 * noise)(x_t, t, *later)

    return FlowMap(at) if isinstance(denoise, FlowMap) else at


def begun(denoise: Any, shape: Mapping[str, Any], first: Array) -> Any:
    """The denoiser, or flow map, of a clip and its sound that sees the clean first frame at its place of x_t.

    Args:
        denoise: denoiser, or flow map, of packed {"video", "sound"}.
        shape: the shapes of both, without the batch.
        first: the latent of the first frame, [B, 1, h, w, D].
    """

    def assembled(x_t: Array) -> Array:
        parts = pytrees.unpack(x_t, shape)
        return pytrees.pack(parts | {"video": parts["video"].at[:, :1].set(first)})

    evaluate = lambda x_t, *times: denoise(assembled(x_t), *times)
    return FlowMap(evaluate) if isinstance(denoise, FlowMap) else evaluate


def hinted(x: Array, first: Array, share: float) -> Array:
    """(1 - share) x + share `first`: noise in which each frame has a share of the first frame's latents.

    Args:
        x: the noise, [B, F', h, w, D].
        first: the latents of the first frame, [B, 1, h, w, D].
        share: the share, in [0, 1]; at 0, x is unchanged.

    Reference: as in the code of HunyuanVideo-I2V (Tencent, 2025), "i2v_stability".
    """
    return (1 - share) * x + share * first if share else x


def padded(vae: Any, encode: Callable[[Array], Any], image: Array, frames: int, one_mask: bool = False) -> Array:
    """A denoiser's input for a clip with a known first frame: (its latents, 0, 0, ...), optionally followed by a mask.

    Args:
        vae: the autoencoder; one of CogVideoX says whether it divides by its scale here, where it multiplies otherwise.
        encode: the encoder that `coding` returns.
        image: the first frame, [1, H, W, C] in [-1, 1].
        frames: number of latent frames, F'.
        one_mask: whether one mask, 1 at the first frame and 0 at the others, follows the latents.

    Returns:
        The input, [1, F', h, w, D], or D + 1.
    """
    first = first_latent(vae, encode, image)
    first = first / vae.scale**2 if getattr(vae, "inverted", False) else first
    first = jnp.concatenate([first, jnp.ones_like(first[..., :1])], axis=-1) if one_mask else first
    return jnp.pad(first, ((0, 0), (0, frames - 1), (0, 0), (0, 0), (0, 0)))


def given(vae: Any, encode: Callable[[Array], Any], image: Array, number: int, last: Array | None = None) -> Array:
    """A denoiser's input for a clip whose first frame, or also the last, is known: `time_factor` masks, and latents.

        [whether a frame is known, latents of (image, 0, 0, ..., 0 or last)]

    The first latent frame is of one frame, whose mask it has `time_factor` times.

    Args:
        vae: the autoencoder.
        encode: the encoder that `coding` returns.
        image: the first frame, [1, H, W, C] in [-1, 1].
        number: number of frames of the clip, F.
        last: the last frame, as the first; None if it is not known.

    Returns:
        The input, [1, F', h, w, time_factor + D].

    Reference: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, on image to video.
    """
    unknown = number - 1 - (last is not None)
    ends = [] if last is None else [last[:, None]]
    clip = [image[:, None], jnp.zeros((1, unknown, *image.shape[1:]), image.dtype), *ends]
    z = _latents(vae, encode, jnp.concatenate(clip, axis=1))
    known = np.array([True] * vae.time_factor + [False] * unknown + [True] * len(ends))
    mask = jnp.broadcast_to(known.reshape(1, -1, 1, 1, vae.time_factor), (*z.shape[:-1], vae.time_factor))
    return jnp.concatenate([mask.astype(z.dtype), z], axis=-1)


def filled(vae: Any, encode: Callable[[Array], Any], size: tuple[int, int], number: int, *known: Array | None) -> Array:
    """The control of a denoiser that fills clips (VACE): latents of what is known and of what is not, and masks.

        [latents of (first, 0, ..., last), latents of (0, 0, ...), whether a frame is made]

    A frame that is made is 0 in both clips, since a request names no others; each latent has the mask of one frame.

    Args:
        vae: the autoencoder.
        encode: the encoder that `coding` returns.
        size: height and width in pixels.
        number: number of frames of the clip, F.
        *known: the first frame, and the last one, each [1, H, W, 3] in [-1, 1]; None for one that is not known.

    Returns:
        The control, [1, F', h, w, 2 D + factor^2].

    Reference: Jiang et al., "VACE: All-in-One Video Creation and Editing", 2025, section 3.
    """
    empty = jnp.zeros((1, number, *size, 3))
    clip, unknown = empty, np.ones(number, bool)
    for at, frame in zip((0, -1), known):
        if frame is not None:
            clip, unknown[at] = clip.at[:, at].set(frame), False
    z = _latents(vae, encode, clip)
    nearest = np.floor((np.arange(z.shape[1]) + 0.5) * number / z.shape[1]).astype(int)
    mask = jnp.broadcast_to(unknown[nearest].reshape(1, -1, 1, 1, 1), (*z.shape[:-1], vae.factor**2))
    return jnp.concatenate([z, _latents(vae, encode, empty), mask.astype(z.dtype)], axis=-1)
