"""The programs of text to image: what is compiled for a model and one course of settings, whole or step by step.

`model` is a `text_to_image.TextToImage`.
"""

__all__ = [
    "Course",
    "Places",
    "begin",
    "check_memory",
    "compiled",
    "decoded",
    "denoise",
    "ends",
    "noised",
    "pictures",
    "repeated",
    "sampled",
    "seen",
    "stepwise",
]

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import caching, editing, flow_maps, guidance, parameterizations, samplers, timesteps
from diffusion.data.transforms import to_uint8
from diffusion.guidance.regional import mixed
from diffusion.models import facts, token_merging
from diffusion.models.attachment import Attachment
from diffusion.models.autoencoders import latent_space, tiles
from diffusion.models.budget import peak_memory
from diffusion.models.interchange.schedulers import Trajectory
from diffusion.models.layers import attention_records
from diffusion.schedules import NoiseSchedule
from diffusion.text_to_image import timed_loras, video_models
from diffusion.text_to_image.attached import Attached, condition_with, with_seen
from diffusion.text_to_image.regions import Box
from diffusion.watermarks import Watermark

QUARTERS = 4  # parts of a trajectory that `resamplings` repeats
ADDED = (
    "extra",
    "extra_joint",
    "residuals",
    "level_residuals",
)  # entries of attachments, which a reference does not have
REFERENCE = 7  # of the keys of a reference's noise, apart from all others


class Places(NamedTuple):
    """Where regions and words lie, as far as a program is compiled for it.

    Attributes:
        masks: of the regions, float32 [h, w] over the latents.
        boxes: of the words, or None for one that may be anywhere.
        attention: scale of what words do.
        first: tokens before the prompt's.
        ends: the last t at which words without a box move x_t, and those with one.
    """

    masks: tuple[np.ndarray, ...] = ()
    boxes: tuple[Box | None, ...] = ()
    attention: float = 1.0
    first: int = 0
    ends: tuple[float, float] = (0.5, 0.8)

    @property
    def key(self) -> tuple:
        """Equal for equal places."""
        return (*(mask.tobytes() for mask in self.masks), self.boxes, self.attention, self.first, self.ends)


NOWHERE = Places()


def ends(plan: timesteps.Plan) -> tuple[float, float]:
    """The last t of the first half of the steps of a plan, and of their first fifth, each of one step at least."""
    t = np.unique(np.asarray(plan.t)[~np.asarray(plan.renoise)])[::-1]  # a step that is repeated counts once
    last = lambda parts: float(t[-(-len(t) // parts) - 1])
    return last(2), last(5)


def denoise(
    model: Any,
    params: Any,
    conditional: Mapping[str, Array],
    unconditional: Mapping[str, Array] | None,
    scale: Any,
    attached: Sequence[Attached] = (),
    cache: caching.Cache | None = None,
    merge: float = 0.0,
    places: Places = NOWHERE,
) -> parameterizations.Denoiser | guidance.Memory | guidance.Unpaired:
    """The guided denoiser of a model.

    Args:
        model: from `load`.
        params: the denoiser's, `TextToImage.weights`.
        conditional: condition of B pictures; with "beside" [B, h, w, K] for a network that sees more than the latents,
            with "reference" [B, h, w, 2 C], latents and their noise, for attention to another picture, with "regions",
            a condition for each region, and with "words", int [B, S, K], the numbers of their tokens.
        unconditional: condition of the negative prompt; None for no guidance.
        scale: of the guidance; of a model that sees a picture beside its latents [2], those by text and by picture; of
            two denoisers [2], or one for both.
        attached: attachments that add to both conditions.
        cache: of the network's blocks; None: all of them run.
        merge: share of the tokens that self-attention sees merged.
        places: masks of the regions, and boxes of the words.

    Returns:
        The denoiser; `Memory` with a cache, `Unpaired` where words move x_t.
    """
    schedule, parameterization = model.process.schedule, model.process.parameterization
    conditional = dict(conditional)
    regions = conditional.pop("regions", ())
    tokens = conditional.pop("words", None)
    condition = with_seen(conditional, attached, 0)
    conditions = [condition, *({**condition, **region} for region in regions)]
    if unconditional is not None:
        conditions.append(with_seen(unconditional, attached, 1))
        if model.sees_picture:
            conditions.append({**conditions[-1], "beside": jnp.zeros_like(conditions[-1]["beside"])})
    timed = isinstance(params, (timed_loras.Timed, video_models.Experts))
    timely = bool(attached) or timed or "reference" in conditional  # what reads the schedule's time

    def network(x: Array, clock: Array, condition: Mapping[str, Array], **more: Any) -> Any:
        condition = dict(condition)
        beside = condition.pop("beside", None)
        reference = condition.pop("reference", None)
        t: Any = condition.pop("time", None)

        def evaluate(now: Any) -> Any:
            seen = condition_with(attached, condition, x, t, clock, now) if attached else condition
            variables = {"params": now}
            if reference is not None:
                variables |= _states(model, variables, reference, x, t, clock, seen)
            inputs = x if beside is None else jnp.concatenate([x, beside], axis=-1)
            return model.denoiser.apply(variables, inputs, clock, seen, **more)

        return video_models.evaluated(params, t, evaluate)

    def at(t: Any, condition: dict[str, Any], batch: int) -> dict[str, Any]:
        return {**condition, "time": jnp.broadcast_to(t, (batch,))} if timely else condition

    def guided(network: parameterizations.Network) -> parameterizations.Denoiser:
        def of(conditions: tuple[dict[str, Any], ...]) -> parameterizations.Denoiser:
            if len(conditions) == 1:
                return parameterizations.denoiser(network, schedule, parameterization, conditions[0])
            branches = guidance.together(network, schedule, parameterization, conditions)
            if model.sees_picture:
                return guidance.text_and_picture(branches, scale[0], scale[1])
            if regions:
                branches = mixed(branches, places.masks)
                if unconditional is None:
                    return lambda x, t: branches(x, t)[0]
            if isinstance(params, video_models.Experts):
                return lambda x, t: model.kind.guides(branches, schedule, params.scale(t, scale))(x, t)
            return model.kind.guides(branches, schedule, scale)

        if not timely:  # the branches' conditions are joined once, and not at each step
            return of(tuple(conditions))
        return lambda x, t: of(tuple(at(t, condition, len(x)) for condition in conditions))(x, t)

    def maps(x: Array, t: Any) -> tuple[Array, ...]:
        shown = []

        def showing(x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
            output, seen = network(x, clock, condition, mutable=[attention_records.MAPS])
            shown.append(seen)
            return output

        parameterizations.denoiser(showing, schedule, parameterization, at(t, condition, len(x)))(x, t)
        if not (layers := attention_records.of_layers(shown[0])):
            raise ValueError(
                f"words are found in the maps of cross-attention; a {type(model.denoiser).__name__} has none"
            )
        return layers

    merged = token_merging.merged(network, merge)
    if tokens is not None:
        return _with_words(guided(merged), schedule, maps, tokens, places)
    return guided(merged) if cache is None else caching.cached(guided, merged, cache)


def _states(
    model: Any, variables: dict, reference: Array, x: Array, t: Any, clock: Array, condition: Mapping[str, Any]
) -> dict:
    """The states of self-attention for a reference [B, h, w, 2 C], latents and noise, noised to the time of x."""
    schedule = model.process.schedule
    known, noise = jnp.split(reference, 2, axis=-1)
    wide = lambda value: jnp.reshape(value, (-1, 1, 1, 1))
    repeat = lambda value: jnp.tile(value, (len(x) // len(value), 1, 1, 1)) if value.ndim else value
    t = jnp.ravel(t)
    scale = model.process.parameterization.input_scale(schedule, t)
    noised = repeat(wide(scale * schedule.alpha(t))) * known + repeat(wide(scale * schedule.sigma(t))) * noise
    own = {name: entry for name, entry in condition.items() if name not in ADDED}
    _, states = model.denoiser.apply(variables, noised.astype(x.dtype), clock, own, mutable=[attention_records.STATES])
    if not jax.tree.leaves(states):
        raise ValueError(f"a {type(model.denoiser).__name__} has no self-attention that takes a reference")
    return dict(states)


def _with_words(
    denoise: parameterizations.Denoiser, schedule: NoiseSchedule, maps: guidance.Maps, tokens: Array, places: Places
) -> guidance.Unpaired:
    """The denoiser that is moved until words are seen, with the published strengths and times.

    Attend-and-Excite: 20 sqrt(1 .. 1/2) over the steps, in the first half of them. Layout guidance: 30, in the first
    fifth, five times each.
    """
    half, fifth = places.ends
    boxes = [box for box in places.boxes if box is not None]
    boxed = np.array([box is not None for box in places.boxes])
    if not boxed.all():
        fall = lambda t: 20.0 * places.attention * jnp.sqrt((1 + t) / 2)
        free = tokens[:, ~boxed]
        denoise = guidance.attend_and_excite(denoise, maps, free, fall, (half, 1.0), first=places.first).denoise
    if boxes:
        scale = 30.0 * places.attention
        denoise = guidance.layout(denoise, schedule, maps, tokens[:, boxed], boxes, scale, (fifth, 1.0), 5).denoise
    return guidance.Unpaired(denoise)


def noised(schedule: NoiseSchedule, plan: timesteps.Plan, known: Array, noise: Array) -> Array:
    """Latents of a picture at a plan's first time, where its trajectory begins: alpha known + sigma noise."""
    t = plan.t[0]
    return schedule.alpha(t) * known + schedule.sigma(t) * noise


def repeated(plan: timesteps.Plan, first: int, resamplings: int) -> timesteps.Plan:
    """The steps of a plan from the `first` on, with RePaint's repetitions of each quarter but the last."""
    grid = plan.grid[first:]
    return editing.repaint(grid, max((len(grid) - 1) // QUARTERS, 1), resamplings)


class Course(NamedTuple):
    """What programs are compiled for, beside the shapes of arrays.

    Attributes:
        size: (height, width) of the pictures.
        trajectory: the sampler and its steps.
        noised: whether it begins at a picture with noise.
        guided: whether two branches are evaluated.
        tile: side of the autoencoder's tiles in pixels, or 0.
        key: equal for equal courses.
        watermark: in the noise or the pictures; None for none.
        cache: of the denoiser's blocks; None: all of them run.
        merge: share of the tokens that self-attention sees merged.
        places: of regions and words.
        frames: of a clip; 0: pictures.
    """

    size: tuple[int, int]
    trajectory: Trajectory
    noised: bool
    guided: bool
    tile: int
    key: tuple
    watermark: Watermark | None = None
    cache: caching.Cache | None = None
    merge: float = 0.0
    places: Places = NOWHERE
    frames: int = 0

    def latents(self, model: Any) -> tuple[int, ...]:
        """The shape of the latents of one example of a model."""
        vae = model.modules["vae"]
        frames = (video_models.latent_frames(vae, self.frames),) if self.frames else ()
        return (*frames, self.size[0] // vae.factor, self.size[1] // vae.factor, model.channels)


def check_memory(
    model: Any,
    course: Course,
    batch: int,
    conditional: dict,
    unconditional: dict,
    attached: Sequence[Attached] = (),
    reference: bool = False,
) -> bool:
    """Refuses pictures that the decoder or a call of the denoiser cannot hold beside the weights; or returns True.

    A denoiser that does not take words, or a reference, is refused here, too.

    The decoder comes first: while a denoiser is traced it makes a table of positions, as large as the pictures.
    """
    own = model.params[model.kind.denoiser]
    # Their shapes, for nothing is merged before it is known to fit.
    weights = jax.eval_shape(lambda own: timed_loras.timed(own, model.timed), own) if model.timed else own
    both = weights
    if model.boundary is not None:
        both = video_models.Experts(weights, model.params[model.kind.video.second], model.boundary)
    one = f"clip of {course.frames} frames" if course.frames else "picture"
    several = one.replace("clip", "clips") if course.frames else "pictures"
    what = f"{batch} {several if batch > 1 else one} of {course.size[0]} x {course.size[1]} (height x width)"
    fewer = "fewer frames, fewer" if course.frames else "fewer"
    instead = f"choose {fewer} at once or smaller ones{'' if course.tile else ', or for tiles of the autoencoder'}"

    def check(params: Any, program: Callable, *arguments: Any) -> None:
        peak = peak_memory.peak(jax.make_jaxpr(program)(params, *arguments).jaxpr)
        timed = [(one.adapter, one.scale) for one in model.timed]
        merged = weights.changed if timed else ()
        others = peak_memory.held((model.params, timed, merged, attached)) - peak_memory.held(params)
        peak_memory.check(what, others + peak, instead)

    x = jax.ShapeDtypeStruct((batch, *course.latents(model)), jnp.float32)
    check(model.params["vae"], functools.partial(decoded, model, course), x)

    def guided(params: Any, x: Array, condition: Any, other: Any) -> Any:
        scale = jnp.full(2, 2.0) if model.sees_picture or model.boundary is not None else 2.0
        made = denoise(model, params[0], condition, other, scale, params[1], places=course.places)
        return (made.denoise if isinstance(made, guidance.Unpaired) else made)(x, 0.9)

    rows = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), tree)
    more = {}
    if model.kind.appends:
        more["picture"] = x
    elif model.sees_mask or model.sees_picture or (course.frames and model.seen_channels):
        more["beside"] = jax.ShapeDtypeStruct((*x.shape[:-1], model.seen_channels), jnp.float32)
    condition = rows(conditional) | more
    other = rows(unconditional) | more if course.guided else None
    if reference:
        seen = {"reference": jax.ShapeDtypeStruct((*x.shape[:3], 2 * model.channels), jnp.float32)}
        condition |= seen
        other = other and other | seen
    check((both, attached), guided, x, condition, other)
    return True


def compiled(function: Callable) -> Callable[[Any, Course], Any]:
    """(model, course) -> the function of the rest of its arguments, compiled at its first call."""
    return lambda model, course: jax.jit(functools.partial(function, model, course))


def stepwise(model: Any, course: Course) -> Callable:
    """The trajectory step by step, see `samplers.stepwise`; its arguments are those of `_guided`."""

    def loop(*arguments):
        evaluated, keys, hook = _guided(model, course, *arguments)
        trajectory = course.trajectory
        return samplers.loop(trajectory.sampler, evaluated, model.process.schedule, trajectory.plan, keys, hook)

    return samplers.stepwise(loop)


def _autoencoder(model: Any, params: Any, tile: int, of_clips: bool = False) -> tuple[Callable, Callable]:
    """(encode, decode) of pictures or of clips, in tiles if `tile` is not 0."""
    vae = model.modules["vae"]
    encode, decode = (functools.partial(vae.apply, {"params": params}, method=name) for name in ("encode", "decode"))
    if of_clips:
        encode, decode = video_models.coding(vae, params)
    elif facts.of_frames(vae):  # a picture is a clip of one frame
        encode, decode = _of_one_frame(encode), _of_one_frame(decode)
    if tile:
        few = tile // vae.factor
        decode = tiles.tiled(decode, few, few // 4)
        encode = tiles.tiled(encode, tile, few // 4 * vae.factor, step=vae.factor)
    return encode, decode


def _of_one_frame(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    return lambda x: jax.tree.map(lambda leaf: leaf[:, 0], function(x[:, None]))


def begin(
    model: Any,
    course: Course,
    vae_params: Any,
    keys: Array,
    image: Array | None,
    mask: Array | None,
    reference: Array | None = None,
) -> tuple[Array, Array, Array | None, Array | None, dict[str, Array]]:
    """(x at the first time, keys, latents of the image, where they are painted, further conditions)."""
    vae = model.modules["vae"]
    factor = vae.factor
    encode, _ = _autoencoder(model, vae_params, course.tile, course.frames > 0)
    own, keys, encoding = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    shape = course.latents(model)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(own)
    if course.watermark is not None and course.watermark.carrier == "noise":
        noise = course.watermark.embed(noise, own)

    def encoded(image: Array) -> Array:
        z = jax.tree.map(lambda leaf: jnp.repeat(leaf, keys.size, axis=0), encode(image))
        z = latent_space.draw(z, encoding) if isinstance(z, latent_space.Moments) else z
        return latent_space.to_diffusion(z, vae.scale, vae.shift)

    x = course.trajectory.start * noise
    beside = {}
    if reference is not None:
        other = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, REFERENCE), shape))(encoding)
        beside["reference"] = jnp.concatenate([encoded(reference), other], axis=-1)
    if image is None:
        return x, keys, None, None, beside
    if course.frames and model.kind.video.clean:
        first = jnp.repeat(video_models.first_latent(vae, encode, image), keys.size, axis=0)
        return x[:, 1:], keys, first, None, beside
    if course.frames:
        seen = video_models.given(vae, encode, image, course.frames)
        return x, keys, None, None, beside | {"beside": jnp.repeat(seen, keys.size, axis=0)}
    if model.sees_picture:  # by the mean; beside a U-Net's x_t without the scale of latents
        z = encode(image)
        z = z.mean if isinstance(z, latent_space.Moments) else z
        z = latent_space.to_diffusion(z, vae.scale, vae.shift) if model.kind.appends or model.kind.controlled else z
        beside["picture" if model.kind.appends else "beside"] = jnp.repeat(z, keys.size, axis=0)
    known = encoded(image)
    if course.noised:
        x = noised(model.process.schedule, course.trajectory.plan, known, noise)
    if mask is None:
        return x, keys, None, None, beside
    # A value of the latents is painted anew if one of its pixels is.
    painted = mask.reshape(1, shape[0], factor, shape[1], factor).any((2, 4))[..., None]
    if model.sees_mask:
        masked = encoded(jnp.where(mask, 0, image))
        wide = lambda mask: jnp.repeat(mask.astype(x.dtype), keys.size, axis=0)
        parts = [wide(painted), masked]
        if model.seen_channels > model.channels + 1:  # Flux's has all pixels of the mask
            pixels = mask.reshape(1, shape[0], factor, shape[1], factor).swapaxes(2, 3)
            parts = [masked, wide(pixels.reshape(1, *shape[:2], factor**2))]
        beside["beside"] = jnp.concatenate(parts, axis=-1)
        return x, keys, None, None, beside
    return x, keys, known, painted, beside


def _guided(
    model: Any,
    course: Course,
    params: Any,
    conditional: dict,
    unconditional: dict,
    scale,
    keys,
    known,
    painted,
    attached: Sequence[Attached] = (),
) -> tuple[Any, Array, Callable | None]:
    """(denoiser or flow map, keys, the hook that puts back the known latents) of a trajectory."""
    schedule = model.process.schedule
    other = unconditional if course.guided else None
    evaluated = denoise(model, params, conditional, other, scale, attached, course.cache, course.merge, course.places)
    if flow_maps.FlowMap in course.trajectory.sampler.takes:
        evaluated = flow_maps.from_denoiser(evaluated, schedule)
    if course.frames and known is not None:
        return video_models.completed(evaluated, schedule, known, course.latents(model)[0]), keys, None
    if known is None or painted is None:
        return evaluated, keys, None
    return evaluated, keys, editing.replacement(schedule, course.trajectory.plan, known, ~painted)


def decoded(model: Any, course: Course, vae_params: Any, x: Array, first: Array | None = None) -> Array:
    """uint8 [B, H, W, 3] of latents, of a clip [B, F, H, W, 3]; `first` is its first frame where that was given."""
    x = x if first is None or not course.frames else jnp.concatenate([first, x], axis=1)
    vae = model.modules["vae"]
    _, decode = _autoencoder(model, vae_params, course.tile, course.frames > 0)
    return to_uint8(decode(latent_space.from_diffusion(x, vae.scale, vae.shift)))


def seen(model: Any, course: Course, vae_params: Any, attachment: Attachment, picture: Array) -> tuple[Any, Any]:
    """What the branches see of a control's picture [1, ...], by `Attachment.encode`."""
    if attachment.latents:
        vae = model.modules["vae"]
        encode, _ = _autoencoder(model, vae_params, course.tile)
        z = encode(picture[..., :3])
        z = z.mean if isinstance(z, latent_space.Moments) else z
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
) -> tuple[Array, caching.Work | None]:
    """(uint8 [B, H, W, 3], what of the denoiser has run under a cache): the whole trajectory as one program."""
    x, keys, known, painted, beside = begin(model, course, params["vae"], keys, image, mask, reference)
    both = conditional | beside, unconditional | beside
    return sampled(model, course, params, x, *both, scale, keys, known, painted, attached)


def sampled(
    model: Any,
    course: Course,
    params: Mapping[str, Any],
    x: Array,
    conditional: dict,
    unconditional: dict,
    scale,
    keys,
    known,
    *rest: Any,
) -> tuple[Array, caching.Work | None]:
    """As `pictures`, of x at the first time; the rest are the arguments of `_guided` from the conditions on."""
    both = conditional, unconditional
    evaluated, keys, hook = _guided(model, course, params[model.kind.denoiser], *both, scale, keys, known, *rest)
    sampler, plan, _ = course.trajectory
    x, memory = samplers.sample_with_memory(sampler, evaluated, model.process.schedule, x, plan, keys, after_step=hook)
    return decoded(model, course, params["vae"], x, known), caching.work(memory)
