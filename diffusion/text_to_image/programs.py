"""The compiled programs of text to image, for a model and one set of settings: the whole trajectory, or step by step.

`model` is a `text_to_image.TextToImage`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, sampling, timesteps
from diffusion.arrays import pytrees
from diffusion.data.transforms import to_uint8
from diffusion.flows.flow_maps import FlowMap
from diffusion.models import facts
from diffusion.models.attachment import Attachment
from diffusion.models.autoencoders import latent_space, tiles
from diffusion.models.interchange.schedulers import Trajectory
from diffusion.sampling import caching, editing
from diffusion.sampling.watermarks import Watermark
from diffusion.schedules import NoiseSchedule
from diffusion.text_to_image import second_stage, video_models
from diffusion.text_to_image.attached import Attached
from diffusion.text_to_image.guided_denoiser import Evaluation, denoise, flow_map

REFERENCE = 7  # folded into the keys for the noise of a reference, so that it differs from all other draws


def noised(schedule: NoiseSchedule, plan: timesteps.Plan, known: Array, noise: Array) -> Array:
    """The start of a trajectory at a picture: alpha known + sigma noise at the plan's first time."""
    t = plan.t[0]
    return schedule.alpha(t) * known + schedule.sigma(t) * noise


class Kept(NamedTuple):
    """An image of which a part is kept.

    Attributes:
        latents: the image's latents, [B, ...].
        noise: the noise that is added to the latents at all steps, [B, ...].
    """

    latents: Array
    noise: Array


class Start(NamedTuple):
    """A trajectory before its first step.

    Attributes:
        x: the sample at the first time, [B, ...].
        keys: the random keys of the steps, [B].
        known: the latents of an image of which a part is kept, as an array or `Kept`, or the latents of a clip's first
            frame; None without either.
        painted: Bool [1, h, w, 1], True where the latents are painted; None if no step restores the others.
        beside: the entries that the request's images add to both conditions, by name.
    """

    x: Array
    keys: Array
    known: Any = None
    painted: Array | None = None
    beside: Mapping[str, Any] = {}


class Course(NamedTuple):
    """The settings of a program, besides the shapes of its arrays.

    Attributes:
        size: (height, width) of the pictures in pixels.
        trajectory: the sampler and its steps.
        noised: whether the trajectory starts at a noised picture.
        guided: whether the unconditional branch is evaluated too.
        tile: side of the autoencoder's tiles in pixels; 0 for no tiles.
        settings: the settings of the request that select functions, such as the sampler's name: `Request.functions`.
        watermark: the watermark in the noise or the pictures, or None.
        evaluation: the evaluation of the denoiser.
        frames: number of frames of a clip; 0 for pictures.
        layers: number of layers into which a picture is decomposed; 0 for no decomposition.
        one_noise: whether the kept part of an image has the initial noise at all steps, rather than fresh noise.
        rate: frames per second of a clip; 0 for pictures.
    """

    size: tuple[int, int]
    trajectory: Trajectory
    noised: bool
    guided: bool
    tile: int
    settings: tuple
    watermark: Watermark | None = None
    evaluation: Evaluation = Evaluation()
    frames: int = 0
    layers: int = 0
    one_noise: bool = False
    rate: float = 0.0

    @property
    def key(self) -> tuple:
        """A value that two courses of a model share if their programs are equal: every field, with arrays as bytes.

        `settings` stands for the functions of the sampler and of the cache.
        """
        plan = tuple(np.asarray(part).tobytes() for part in self.trajectory.plan)
        times = self.trajectory.network_times
        trajectory = (self.trajectory.start, plan, None if times is None else np.asarray(times).tobytes())
        evaluation = self.evaluation._replace(cache=None, places=self.evaluation.places.key)
        return tuple(self._replace(trajectory=trajectory, evaluation=evaluation))

    def latents(self, model: Any) -> tuple[int, ...]:
        """The shape of the denoiser's latents of one example; with layers, the complete picture comes first."""
        frames = (video_models.latent_frames(model, self.frames),) if self.frames else ()
        frames = (1 + self.layers,) if self.layers else frames
        return (*frames, *(side // model.factor for side in self.size), model.channels)

    def shape(self, model: Any) -> Any:
        """The shape of one example of x: `latents`, or {"video": shape, "sound": shape}, which x holds packed."""
        sound = model.kind.sound
        if sound is None:
            return self.latents(model)
        return {"video": self.latents(model), "sound": sound.shape(model.modules, self.frames, self.rate)}

    def pictured(self, model: Any, x: Array) -> Array:
        """The latents of the pictures or clips in x [B, ...], without their sound."""
        return x if model.kind.sound is None else pytrees.unpack(x, self.shape(model))["video"]

    def decoded_latents(self, model: Any) -> tuple[int, ...]:
        """The shape of the latents of one example that the autoencoder decodes; a second stage makes them finer."""
        vae = model.modules["vae"]
        return (*self.latents(model)[:-3], *(side // vae.factor for side in self.size), vae.latent_channels)


def stepwise(model: Any, course: Course) -> Callable:
    """The trajectory step by step, by `samplers.stepwise`, with the further arguments of `_guided`."""

    def loop(params, start, *conditions):
        evaluated, hook = _guided(model, course, params, start, *conditions)
        trajectory = course.trajectory
        return samplers.loop(trajectory.sampler, evaluated, model.process.schedule, trajectory.plan, start.keys, hook)

    return samplers.stepwise(loop)


def _autoencoder(model: Any, params: Any, tile: int, of_clips: bool = False) -> tuple[Callable, Callable]:
    """The autoencoder's functions (encode, decode) for pictures or clips; they work in tiles if `tile` is not 0."""
    vae = model.modules["vae"]
    encode, decode = (functools.partial(vae.apply, {"params": params}, method=name) for name in ("encode", "decode"))
    if of_clips:
        encode, decode = video_models.coding(vae, params)
    elif facts.takes_frames(vae):  # a picture is a clip of one frame
        encode, decode = _on_one_frame(encode), _on_one_frame(decode)
    if getattr(vae, "picture_channels", 3) > 3:
        encode = _on_opaque(encode)
    if tile:
        few = tile // vae.factor
        decode = tiles.tiled(decode, few, few // 4)
        encode = tiles.tiled(encode, tile, few // 4 * vae.factor, step=vae.factor)
    return encode, decode


def _on_one_frame(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Turns a function of clips into a function of pictures, which it takes as clips of one frame."""
    return lambda x: jax.tree.map(lambda leaf: leaf[:, 0], function(x[:, None]))


def _on_opaque(encode: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Turns an encoder of pictures with alpha into one of pictures [B, H, W, 3], whose alpha is 1 everywhere."""
    return lambda x: encode(jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1))


def begin(
    model: Any,
    course: Course,
    vae_params: Any,
    keys: Array,
    image: Array | None,
    mask: Array | None,
    reference: Array | None = None,
    images: Sequence[Array] = (),
) -> Start:
    """The start of a trajectory of B pictures, from their random keys and the images of the request.

    Args:
        model: a `TextToImage`.
        course: the settings of the program.
        vae_params: parameters of the autoencoder.
        keys: random keys of the pictures, [B].
        image: the request's image, float [1, H, W, 3] in [-1, 1]: the start of the trajectory, an image of which a part
            is kept, or a clip's first frame; None without one.
        mask: Bool [1, H, W, 1], True where the image is painted; None without a kept part.
        reference: the picture whose look is copied, float [1, H, W, 3] in [-1, 1]; None without one.
        images: further images that the denoiser receives, each float [1, H_i, W_i, 3] in [-1, 1]; for a clip, frames.
    """
    vae = model.modules["vae"]
    factor = vae.factor
    encode, _ = _autoencoder(model, vae_params, course.tile, course.frames > 0)
    noise_keys, keys, encoding = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    shape = course.latents(model)
    packed = pytrees.packed_shape(course.shape(model))
    noise = jax.vmap(lambda key: jax.random.normal(key, packed))(noise_keys)
    noise = sampling.marked(course.watermark, "noise", noise, noise_keys)

    def encoded(image: Array) -> Array:
        z = jax.tree.map(lambda leaf: jnp.repeat(leaf, keys.size, axis=0), encode(image))
        z = latent_space.draw(z, encoding) if isinstance(z, latent_space.Moments) else z
        return latent_space.to_diffusion(z, vae.scale, vae.shift)

    mean = lambda image: latent_space.mean(encode(image))
    for_all = lambda z: jnp.repeat(z, keys.size, axis=0)
    x = course.trajectory.start * noise
    beside: dict[str, Any] = {}
    if images and not course.frames:  # encoded by the posterior's mean
        latents = [latent_space.to_diffusion(mean(image), vae.scale, vae.shift) for image in images]
        beside["pictures"] = tuple(map(for_all, latents))
    if reference is not None:
        other = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, REFERENCE), shape))(encoding)
        beside["reference"] = jnp.concatenate([encoded(reference), other], axis=-1)
    if course.frames:
        return _begin_clip(model, course, encode, Start(x, keys, beside=beside), image, images)
    if image is None:
        return Start(x, keys, beside=beside)
    if model.sees_picture:  # encoded by the mean; a U-Net sees it beside x_t without the latents' scale
        z = mean(image)
        z = (
            latent_space.to_diffusion(z, vae.scale, vae.shift)
            if model.kind.pictures.appends or model.kind.pictures.controlled
            else z
        )
        beside["picture" if model.kind.pictures.appends else "beside"] = for_all(z)
    known = encoded(image)
    if course.noised:
        x = noised(model.process.schedule, course.trajectory.plan, known, noise)
    if mask is None:
        return Start(x, keys, beside=beside)
    # A value of the latents is repainted if one of its pixels is.
    painted = mask.reshape(1, shape[0], factor, shape[1], factor).any((2, 4))[..., None]
    if model.sees_mask:
        masked = encoded(jnp.where(mask, 0, image))
        wide = lambda mask: jnp.repeat(mask.astype(x.dtype), keys.size, axis=0)
        parts = [wide(painted), masked]
        if model.seen_channels > model.channels + 1:  # Flux sees every pixel of the mask
            pixels = mask.reshape(1, shape[0], factor, shape[1], factor).swapaxes(2, 3)
            parts = [masked, wide(pixels.reshape(1, *shape[:2], factor**2))]
        beside["beside"] = jnp.concatenate(parts, axis=-1)
        return Start(x, keys, beside=beside)
    return Start(x, keys, Kept(known, noise) if course.one_noise else known, painted, beside)


def _begin_clip(
    model: Any, course: Course, encode: Callable, start: Start, image: Array | None, images: Sequence[Array]
) -> Start:
    """The start of a trajectory of clips, from the noise and the images of the request, as in `begin`."""
    vae, video = model.modules["vae"], model.kind.video
    x, keys, beside = start.x, start.keys, start.beside
    length = course.latents(model)[0]
    for_all = lambda z: jnp.repeat(z, keys.size, axis=0)
    if video.fills:
        control = video_models.filled(vae, encode, course.size, course.frames, image, *images)
        return start._replace(beside={**beside, "control": for_all(control)})
    if image is None:
        return start
    if video.first.clean:
        first = for_all(video_models.first_latent(vae, encode, image))
        if model.kind.sound is not None:  # x keeps the place of the first frame, which the guidance sees
            clean = jnp.tile(np.arange(length) == 0, (keys.size, 1))
            return start._replace(known=first, beside={**beside, "clean": clean})
        return start._replace(x=video_models.hinted(x, first, video.first.hint)[:, 1:], known=first)
    if video.first.masked:
        frames = video_models.given(vae, encode, image, course.frames, *images)
    else:
        frames = video_models.padded(vae, encode, image, length, video.first.one_mask)
        x = video_models.hinted(x, frames[:, :1, ..., : model.channels], video.first.hint)
    return start._replace(x=x, beside={**beside, "beside": for_all(frames)})


def with_clock(model: Any, trajectory: Trajectory) -> Any:
    """The model, with a denoiser that receives the times of a trajectory (`Trajectory.clocked`)."""
    process = model.process
    clocked = trajectory.clocked(process.parameterization)
    return dataclasses.replace(model, process=process._replace(parameterization=clocked))


def _guided(
    model: Any,
    course: Course,
    params: Any,
    start: Start,
    conditional: dict,
    unconditional: dict,
    scale: Any,
    attached: Sequence[Attached] = (),
) -> tuple[Any, Callable | None]:
    """(the guided denoiser or flow map of a trajectory, the hook that restores known latents after a step or None)."""
    schedule, known, painted = model.process.schedule, start.known, start.painted
    conditional = {**conditional, **start.beside}
    other = {**unconditional, **start.beside} if course.guided else None
    model = with_clock(model, course.trajectory)
    how = {**course.evaluation._asdict(), "shape": course.shape(model)}
    evaluate = flow_map if FlowMap in course.trajectory.sampler.takes else denoise
    evaluated = evaluate(model, params, conditional, other, scale, attached, **how)
    if course.frames and known is not None:
        if model.kind.sound is not None:
            return video_models.begun(evaluated, course.shape(model), known), None
        frames, blur = course.latents(model)[0], model.kind.video.first.blur
        return video_models.completed(evaluated, schedule, known, frames, blur, start.keys), None
    if known is None or painted is None:
        return evaluated, None
    plan = course.trajectory.plan
    if isinstance(known, Kept):
        return evaluated, editing.replacement_along(schedule, plan, known.latents, ~painted, known.noise)
    return evaluated, editing.replacement(schedule, plan, known, ~painted)


def decode_latents(
    model: Any,
    vae_params: Any,
    x: Array,
    tile: int = 0,
    of_clips: bool = False,
    image: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """The pictures or clips that the autoencoder decodes from the denoiser's latents.

    Args:
        model: a `TextToImage`.
        vae_params: parameters of the model's autoencoder.
        x: the denoiser's latents, [B, h, w, D], or [B, f, h, w, D] for clips.
        tile: side of the tiles in pixels; 0 for none.
        of_clips: whether clips are decoded.
        image: the picture whose part outside the mask is kept, [1, H, W, 3], for an autoencoder that sees it.
        mask: Bool [1, H, W, 1], True where the image is painted.

    Returns:
        float [B, H, W, 3], or [B, F, H, W, 3] for clips; [B, H, W, 4] with alpha last if the autoencoder has alpha.
    """
    vae = model.modules["vae"]
    z = latent_space.from_diffusion(x, vae.scale, vae.shift)
    if mask is not None and facts.sees_kept(vae):
        return vae.apply({"params": vae_params}, z, image, mask, method="decode")
    _, decode = _autoencoder(model, vae_params, tile, of_clips)
    return decode(z)


def decoded(*arguments: Any) -> Array:
    """`decoded_values` as uint8; the arguments are the same."""
    return decoded_pictures(*arguments)[0]


def decoded_pictures(*arguments: Any) -> tuple[Array, Array]:
    """(`decoded`, whether all values of each picture were finite before they became bytes, bool `[B]`)."""
    values = decoded_values(*arguments)
    return to_uint8(values), sampling.finite(values)


def decoded_values(
    model: Any,
    course: Course,
    vae_params: Any,
    x: Array,
    first: Array | None = None,
    image: Array | None = None,
    mask: Array | None = None,
) -> Array:
    """The pictures that the autoencoder decodes from latents, before they become bytes.

    Args:
        model: a `TextToImage`.
        course: the settings of the program.
        vae_params: parameters of the autoencoder.
        x: the latents, [B, ...].
        first: the known first latent frame of clips, [B, 1, h, w, D], which x lacks; None otherwise.
        image: the picture whose part is kept, see `decode_latents`.
        mask: its mask, see `decode_latents`.

    Returns:
        float [B, H, W, 3], [B, F, H, W, 3] for clips, or [B, L, H, W, 4] for the L layers of a picture. Most values lie
        in [-1, 1], but some may lie outside.
    """
    if course.layers:
        apart = decode_latents(model, vae_params, x[:, 1:].reshape(-1, *x.shape[2:]), course.tile)
        return apart.reshape(len(x), course.layers, *apart.shape[1:])
    if first is not None and course.frames:
        others = course.latents(model)[0] - 1
        x = jnp.concatenate([first, x[:, x.shape[1] - others :]], axis=1)
    vae = model.modules["vae"]
    if course.frames:  # the frames that fill up a patch are cut off
        x = x[:, x.shape[1] - 1 - (course.frames - 1) // vae.time_factor :]
    pictures = decode_latents(model, vae_params, x, course.tile, course.frames > 0, image, mask)
    return pictures[:, model.kind.video.first.left_out * vae.time_factor :] if course.frames else pictures


class Decoded(NamedTuple):
    """The results of a trajectory.

    Attributes:
        pictures: uint8 [B, H, W, 3], or [B, F, H, W, 3] for clips.
        sounds: waveforms of the clips, float [B, L, K] in [-1, 1]; None for pictures, and for clips without sound.
        finite: whether all values of each picture were finite before they became bytes, bool [B].
    """

    pictures: Array
    sounds: Array | None
    finite: Array | None = None


def sounds(model: Any, course: Course, params: Mapping[str, Any], x: Array) -> Array | None:
    """The waveforms of x [B, D] at the end of a trajectory, see `Decoded`; `params` holds all networks."""
    sound = model.kind.sound
    if sound is None:
        return None
    networks = {part: params[part] for part in sound.networks}
    return sound.waveforms(model.modules, networks, pytrees.unpack(x, course.shape(model))["sound"])


def control_inputs(
    model: Any, course: Course, vae_params: Any, attachment: Attachment, picture: Array
) -> tuple[Any, Any]:
    """The inputs that an attachment's branches receive from a control's picture [1, H, W, C]; see `Attachment.encode`.

    If the attachment reads latents, the first 3 channels of the picture are encoded by the autoencoder, and the others
    are sampled at its spacing.
    """
    if attachment.latents:
        vae = model.modules["vae"]
        encode, _ = _autoencoder(model, vae_params, course.tile)
        z = latent_space.mean(encode(picture[..., :3]))
        z = latent_space.to_diffusion(z, vae.scale, vae.shift if attachment.shifted else 0.0)
        picture = jnp.concatenate([z, picture[:, :: vae.factor, :: vae.factor, 3:]], axis=-1)
    return attachment.encode(attachment.params, picture)


def pictures(
    model: Any,
    course: Course,
    params: Mapping,
    conditional: dict,
    unconditional: dict,
    scale,
    keys,
    image,
    mask,
    attached: Sequence[Attached] = (),
    reference: Array | None = None,
    images: Sequence[Array] = (),
) -> tuple[Decoded, caching.Work | None]:
    """The whole trajectory of B pictures as one program.

    Args:
        model: a `TextToImage`.
        course: the settings of the program.
        params: parameters of all networks, {folder of a part: parameters}.
        conditional: the condition of the prompts, leaves [B, ...].
        unconditional: the condition of the negative prompts, leaves [B, ...]; unused if `course.guided` is False.
        scale: the scale of the guidance, as `jobs.Job.scale` returns it.
        keys: random keys of the pictures, [B].
        image: the image, see `begin`.
        mask: its mask, see `begin`.
        attached: the attachments.
        reference: the picture whose look is copied, see `begin`.
        images: further images, see `begin`.

    Returns:
        (the pictures and sounds, the counts of the network's blocks and calls with a cache, or None without one).
    """
    start = begin(model, course, params["vae"], keys, image, mask, reference, images)
    return sampled(model, course, params, start, conditional, unconditional, scale, attached, image, mask)


def sampled(
    model: Any,
    course: Course,
    params: Mapping[str, Any],
    start: Start,
    conditional: dict,
    unconditional: dict,
    scale: Any,
    attached: Sequence[Attached] = (),
    image: Array | None = None,
    mask: Array | None = None,
) -> tuple[Decoded, caching.Work | None]:
    """Continues `pictures` from the `start` that `begin` returns; the other arguments are those of `pictures`."""
    weights = params[model.kind.denoiser.folder]
    evaluated, hook = _guided(model, course, weights, start, conditional, unconditional, scale, attached)
    sampler, plan, schedule = course.trajectory.sampler, course.trajectory.plan, model.process.schedule
    x, work = sampling.samples(sampler, evaluated, schedule, start.x, plan, start.keys, after_step=hook)
    x = second_stage.finer(model, course, params, x, conditional, start.keys)
    waveforms = sounds(model, course, params, x)
    x = course.pictured(model, x)
    bytes_of, finite = decoded_pictures(model, course, params["vae"], x, start.known, image, mask)
    return Decoded(bytes_of, waveforms, finite), work
