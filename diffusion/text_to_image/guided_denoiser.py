"""The guided denoiser of a text-to-image model, with the attachments, cache, merging, regions and words of a request.

`model` is a `text_to_image.TextToImage`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import guidance, parameterizations, sampling, timesteps
from diffusion.arrays import pytrees
from diffusion.flows import flow_maps
from diffusion.flows.flow_maps import FlowMap
from diffusion.guidance.regional import mixed
from diffusion.models.layers import attention_records
from diffusion.sampling import caching
from diffusion.schedules import NoiseSchedule
from diffusion.text_to_image import timed_weights
from diffusion.text_to_image.attached import Attached, condition_with, with_seen
from diffusion.text_to_image.regions import NOWHERE, Places

# The entries that attachments add to a condition; the condition of a reference has none.
ADDED = ("extra", "extra_joint", "extra_text", "residuals", "level_residuals")


class Evaluation(NamedTuple):
    """The evaluation of a model's network, as `denoise` takes it beside the conditions and the scale of the guidance.

    Attributes:
        cache: the cache of the network's blocks; None runs all of them.
        merge: share of the tokens that self-attention sees merged.
        places: masks of the regions, and boxes of the words.
        perturbed: whether a branch has perturbed attention (`guidance.perturbed_attention`).
        apart: whether a branch has a clip and a sound that do not attend to each other.
    """

    cache: caching.Cache | None = None
    merge: float = 0.0
    places: Places = NOWHERE
    perturbed: bool = False
    apart: bool = False


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
    perturbed: bool = False,
    apart: bool = False,
    shape: Any = (),
    end: Any = None,
) -> parameterizations.Denoiser | guidance.Memory | guidance.Unpaired:
    """The guided denoiser of a model.

    Args:
        model: a model that `load` returned.
        params: the parameters of the denoiser, `TextToImage.weights`.
        conditional: condition of B pictures. Its optional entries are "beside" [B, h, w, K], what the network sees
            beside the latents; "reference" [B, h, w, 2 C], latents and noise of a picture that attention reads;
            "clean" Bool [B, F], the frames of a clip with a sound that are known; "regions", a condition for each
            region; and "words" int [B, S, K], the numbers of their tokens.
        unconditional: condition of the negative prompt; None for no guidance.
        scale: scale of the guidance, [], or a function of t such as `guidance.Stepwise`; [2], by text and by picture,
            for a model that sees a picture beside its latents; [] or [2] for two denoisers; [2], by text and away from
            perturbed attention, if `perturbed`; for clips with a sound as `Sound.guides` takes it.
        attached: attachments that add to both conditions.
        cache, merge, places, perturbed, apart: the fields of `Evaluation`.
        shape: shapes of {"video", "sound"} of one example, for a model whose clips have a sound (`Course.shape`).
        end: the time at which a step ends, [], for a denoiser that also receives it (`DenoiserNetwork.jumps`); None for
            other denoisers.

    Returns:
        The denoiser; `Memory` with a cache, `Unpaired` where words move x_t.
    """
    schedule, parameterization = model.process.schedule, model.process.parameterization
    conditional = dict(conditional)
    regions: Any = conditional.pop("regions", ())
    tokens: Any = conditional.pop("words", None)
    condition = with_seen(conditional, attached, 0)
    null = None if unconditional is None else with_seen(unconditional, attached, 1)
    conditions = _branch_conditions(model, condition, regions, null, perturbed, apart)
    timed = isinstance(params, (timed_weights.Timed, timed_weights.Experts))
    reads_time = bool(attached) or timed or "reference" in conditional  # a part of the network reads it
    network = _network(model, params, attached, shape, end)

    def at(t: Any, condition: dict[str, Any], batch: int) -> dict[str, Any]:
        return {**condition, "time": jnp.broadcast_to(t, (batch,))} if reads_time else condition

    def guide(branches: guidance.Branches) -> parameterizations.Denoiser:
        if model.kind.sound is not None:
            flags = {"text": unconditional is not None, "perturbed": perturbed, "apart": apart}
            names = tuple(name for name, flag in flags.items() if flag)
            return model.kind.sound.guides(branches, schedule, shape, scale, names)
        if perturbed:
            return guidance.perturbed_attention(branches, scale[1], None if unconditional is None else scale[0])
        if model.sees_picture:
            return guidance.text_and_picture(branches, scale[0], scale[1])
        if regions:
            branches = mixed(branches, places.masks)
            if unconditional is None:
                return lambda x, t: branches(x, t)[0]
        if isinstance(params, timed_weights.Experts):
            scale_at = params.scale
            return lambda x, t: model.kind.guidance.guides(branches, schedule, scale_at(t, scale))(x, t)
        if model.kind.guidance.by_condition:
            return model.kind.guidance.guides(branches, schedule, scale, condition)
        return model.kind.guidance.guides(branches, schedule, scale)

    def with_words(denoise: parameterizations.Denoiser) -> guidance.Unpaired:
        maps = lambda x, t: _attention_maps(model, network, at(t, condition, len(x)), x, t)
        return _with_words(denoise, schedule, maps, tokens, places)

    # Conditions that do not depend on the time are joined once, if their shapes allow it.
    at_time = lambda x, t: tuple(at(t, condition, len(x)) for condition in conditions)
    return sampling.denoiser(
        network,
        schedule,
        parameterization,
        at_time if reads_time else conditions,
        None if len(conditions) == 1 else guide,
        changes=() if tokens is None else (with_words,),
        cache=cache,
        merge=merge,
    )


def _network(model: Any, params: Any, attached: Sequence[Attached], shape: Any, end: Any) -> Callable[..., Any]:
    """The network of a model as `sampling.denoiser` calls it: (x, clock, condition, **further arguments) -> output.

    It takes from the condition what is no input of the denoiser itself: "time", "beside", "reference" and "clean".
    """
    schedule, parameterization = model.process.schedule, model.process.parameterization

    def network(x: Array, clock: Array, condition: Mapping[str, Array], **more: Any) -> Any:
        condition = dict(condition)
        beside = condition.pop("beside", None)
        reference = condition.pop("reference", None)
        clean = condition.pop("clean", None)
        t: Any = condition.pop("time", None)

        def evaluate(now: Any) -> Any:
            inner = condition_with(attached, condition, x, t, clock, now) if attached else condition
            variables = {"params": now}
            if reference is not None:
                variables |= _states(model, variables, reference, x, t, clock, inner)
            inputs = x if beside is None else jnp.concatenate([x, beside], axis=-1)
            apply = functools.partial(model.denoiser.apply, variables)
            if model.kind.sound is not None:
                apply = pytrees.vector_network(_with_clean_frames(model, apply, clean), shape)
            clocks = clock if end is None else (clock, parameterization.clock(schedule, end))
            return apply(inputs, clocks, inner, **more)

        return timed_weights.at(params, t, evaluate)

    return network


def _attention_maps(
    model: Any, network: Callable[..., Any], condition: Mapping[str, Array], x: Array, t: Any
) -> tuple[Array, ...]:
    """The maps of cross-attention at x_t, of each layer that has it.

    Raises:
        ValueError: if the network has no cross-attention.
    """
    shown = []

    def showing(x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        output, maps = network(x, clock, condition, mutable=[attention_records.MAPS])
        shown.append(maps)
        return output

    parameterizations.denoiser(showing, model.process.schedule, model.process.parameterization, condition)(x, t)
    if not (layers := attention_records.records(shown[0])):
        raise ValueError(
            f"words are located in the maps of cross-attention, which a {type(model.denoiser).__name__} does not have"
        )
    return layers


def _branch_conditions(
    model: Any,
    condition: dict[str, Any],
    regions: Sequence[Mapping[str, Any]],
    null: dict[str, Any] | None,
    perturbed: bool,
    apart: bool,
) -> tuple[dict[str, Any], ...]:
    """The conditions of the branches: the prompts and the regions, the negative prompt, and perturbed networks."""
    conditions = [condition, *({**condition, **region} for region in regions)]
    if null is not None:
        conditions.append(null)
        if model.sees_picture:
            conditions.append({**null, "beside": jnp.zeros_like(null["beside"])})
    if perturbed:
        mask = np.repeat(model.kind.guidance.perturbs(model.denoiser), len(condition["text"]), axis=0)
        conditions = [{**one, "identity": mask & False} for one in conditions] + [{**condition, "identity": mask}]
    if apart:
        plain = np.zeros(len(condition["text"]), bool)
        conditions = [{**one, "apart": plain} for one in conditions] + [{**conditions[0], "apart": ~plain}]
    return tuple(conditions)


def _with_clean_frames(model: Any, apply: Callable[..., Any], clean: Array | None) -> Callable[..., Any]:
    """The network of a clip and its sound, in which the frames `clean` [B, F] have the time of data without noise."""
    if clean is None:
        return apply
    schedule = model.process.schedule
    still = model.process.parameterization.clock(schedule, jnp.float32(timesteps.clean_time(schedule)))

    def network(x: Mapping[str, Array], clock: Array, condition: Mapping[str, Array], **more: Any) -> Any:
        frame_clocks = jnp.where(clean, still, jnp.reshape(clock, (-1, 1)))
        return apply(x, {"video": frame_clocks, "sound": clock}, condition, **more)

    return network


def flow_map(model: Any, *arguments: Any, **how: Any) -> FlowMap:
    """The flow map of a model: a step of DDIM by `denoise`, which knows the end of the step if the denoiser jumps.

    In a flow this is x_s = x_t + (s - t) v, with the velocity at t, or the mean velocity from s to t.
    """

    def carry(x_t: Array, t: Any, s: Any) -> Array:
        evaluated = denoise(model, *arguments, **how, end=s if model.kind.denoiser.jumps else None)
        return flow_maps.from_denoiser(evaluated, model.process.schedule)(x_t, t, s)

    return FlowMap(carry)


def _states(
    model: Any, variables: dict, reference: Array, x: Array, t: Any, clock: Array, condition: Mapping[str, Any]
) -> dict:
    """The states of self-attention for a reference [B, h, w, 2 C] (latents, noise), noised to the time of x."""
    schedule = model.process.schedule
    known, noise = jnp.split(reference, 2, axis=-1)
    wide = lambda value: jnp.reshape(value, (-1, 1, 1, 1))
    repeat = lambda value: jnp.tile(value, (len(x) // len(value), 1, 1, 1)) if value.ndim else value
    t = jnp.ravel(t)
    scale = model.process.parameterization.input_scale(schedule, t)
    noised = repeat(wide(scale * schedule.alpha(t))) * known + repeat(wide(scale * schedule.sigma(t))) * noise
    entries = {name: entry for name, entry in condition.items() if name not in ADDED}
    _, states = model.denoiser.apply(
        variables, noised.astype(x.dtype), clock, entries, mutable=[attention_records.STATES]
    )
    if not jax.tree.leaves(states):
        raise ValueError(f"a {type(model.denoiser).__name__} has no self-attention that can use a reference")
    return dict(states)


def _with_words(
    denoise: parameterizations.Denoiser, schedule: NoiseSchedule, maps: guidance.Maps, tokens: Array, places: Places
) -> guidance.Unpaired:
    """The denoiser whose x_t is moved until the words are seen, with the published strengths and times.

    Attend-and-Excite has a strength of 20 sqrt(1 .. 1/2) over the first half of the steps, layout guidance one of 30,
    five times in each step of the first fifth.
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
