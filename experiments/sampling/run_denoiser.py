"""The function that a run's sampler calls, a denoiser, flow map or field, from its parameters and conditions."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion import guidance, parameterizations, sampling
from diffusion.arrays import padding, pytrees
from diffusion.flows import flow_maps
from diffusion.models import facts
from diffusion.models.layers import conditions
from diffusion.objectives import Jumps, Moves, Restores, projectors
from diffusion.parameterizations import Parameterization
from diffusion.recipe import ConfigError, guides, names
from diffusion.recipe.recipe import Recipe
from diffusion.sampling import editing
from diffusion.schedules import NoiseSchedule
from diffusion.training.step import HEADS


class GuidesRead(NamedTuple):
    """The weights and pictures that the guides of a run read, see `denoiser`."""

    weights: dict[str, Any]  # {path of a field of the config: the weights of the run that it names}
    y: Any  # the measured pictures, [B, ...]; None without any


def denoiser(recipe: Recipe) -> Callable[..., Any]:
    """The guided denoiser of a run, as a function (params, labels `[B]`, optional `GuidesRead`) -> denoiser.

    Without `GuidesRead`, the weights of the guides are read here, and become constants of the compiled program.

    Args:
        recipe: the recipe of the run, for a shape of examples.

    Raises:
        ConfigError: if the run trains something else than a denoiser, such as a flow map.
    """
    kinds = {Jumps: "a flow map", Moves: "a field on a manifold", Restores: "a predictor of symbols"}
    if trained := kinds.get(type(recipe.objective.reads), ""):
        raise ConfigError(
            f"config.objective.name = {recipe.config.objective.name!r} trains {trained}, but this needs a denoiser."
        )
    for guide in recipe.sampling.guides:
        for run in guide.runs:
            run.check(recipe)
    guided = (
        recipe.sampling.depths
        or recipe.sampling.conditions is not None
        or (recipe.examples.null is not None and recipe.scale != 1 and not recipe.objective.condition.strength)
    )

    def build(params: Any, labels: Array, read: GuidesRead | None = None) -> Any:
        weights, y = read or GuidesRead(guides.weights(recipe.sampling.guides), None)
        if y is None and any(guide.measured for guide in recipe.sampling.guides):
            raise ConfigError("config.sample.guides reads measured pictures, which only diffusion sample measures.")
        rows = guides.Rows(y, recipe.examples.shape)
        real = real_of(recipe, labels)
        network = lambda x, clock, condition, **more: recipe.network.apply(params, x, clock, condition, **more)
        return sampling.denoiser(
            network if real is None else padding.network(network, real),
            recipe.schedule,
            recipe.parameterization,
            (received_condition(recipe, labels),),
            recipe.sampling.guidance if guided else None,
            functools.partial(_branches, recipe, params),
            changes=[
                lambda denoise, by=guide: by.apply(denoise, weights, labels, rows) for guide in recipe.sampling.guides
            ],
            cache=recipe.sampling.cache,
            merge=recipe.sampling.merge,
        )

    return build


def _branches(
    recipe: Recipe,
    params: Any,
    network: Callable,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    conditions: tuple[Any],
) -> guidance.Branches:
    """The branches that a run's guidance combines; `conditions` has a single entry, the condition."""
    (condition,) = conditions
    if recipe.sampling.depths:
        # `fits.check` refuses this guidance without an early prediction.
        assert recipe.objective.blocks.early is not None
        name, layer = recipe.objective.blocks.early
        head = recipe.objective.heads[name].apply
        early = lambda h, shape: projectors.untokens(head(params[HEADS][name], h, shape), shape)
        return guidance.depth_branches(network, schedule, parameterization, condition, layer, early)
    null = None if recipe.examples.null is None else recipe.examples.null_condition(number_of(condition))
    if null is not None and real_of(recipe, condition) is not None:
        null = {**null, "real": condition["real"]}
    both = (condition, null)
    if recipe.sampling.conditions is not None:
        both = recipe.sampling.conditions(recipe.network, *both)
    if len(both) == 1:
        return guidance.separately(parameterizations.denoiser(network, schedule, parameterization, *both))
    return guidance.together(network, schedule, parameterization, both)


def side_by_side(
    recipe: Recipe, params: Any, sources: Array, targets: Array, until: float, layers: Sequence[int] | None = None
) -> Any:
    """The guided denoiser of `[2 B, ...]`, pictures and then their edits, for `editing.prompt_to_prompt`.

    Args:
        recipe: the recipe of the run.
        params: the parameters of its network.
        sources: the classes of the pictures, int `[B]`.
        targets: the classes of their edits, int `[B]`.
        until: the time below which each edit has its own attention maps.
        layers: the layers in which an edit uses the maps of its picture while t >= until; None for all.

    Raises:
        ConfigError: for a network or a guidance that does not support this, or a layer that the network lacks.
    """
    network = recipe.network
    if "borrow" not in facts.layer_masks(network) or not recipe.examples.by_class:
        valid = ", ".join(sorted(name for name, other in names.MODELS.items() if "borrow" in facts.layer_masks(other)))
        raise ConfigError(
            f"config.model.name = {recipe.config.model.name!r} has no layers that can use the attention maps of "
            f"another example, or it has no classes. Valid: one of {valid}, with classes."
        )
    chosen = recipe.sampling
    if chosen.conditions is not None or chosen.depths or chosen.guides or chosen.merge:
        raise ConfigError(
            "config.sample.guidance, config.sample.guides, config.sample.merge: examples side by side support only "
            "classifier_free, without guides or merged tokens."
        )
    layers = range(network.depth) if layers is None else layers
    if outside := [layer for layer in layers if layer not in range(network.depth)]:
        raise ConfigError(f"layers = {tuple(layers)} has {outside[0]}. Valid: 0 .. {network.depth - 1}.")
    both = lambda first, second: editing.borrowing(first, second, network.depth, layers)
    null = recipe.examples.null_condition(len(sources))

    def make(apply: Callable) -> Any:
        edits = both(sources, targets)
        to = (apply, recipe.schedule, recipe.parameterization)
        if recipe.scale == 1:
            return sampling.denoiser(*to, (edits,))
        return sampling.denoiser(*to, (edits, both(null, null)), recipe.sampling.guidance)

    return editing.prompt_to_prompt(make, lambda *inputs: network.apply(params, *inputs), until)


def flow_map(recipe: Recipe, reads: Jumps) -> Callable[[Any, Array], flow_maps.FlowMap]:
    """The flow map of a run: (params, labels `[B]`) -> a function (x_t, t, s) -> x_s."""

    def build(params: Any, labels: Array) -> flow_maps.FlowMap:
        network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
        return reads.flow_map(network, recipe.schedule, condition=received_condition(recipe, labels))

    return build


def tangent_field(recipe: Recipe, reads: Moves) -> Callable[[Any, Array], Any]:
    """The field of a run on a manifold: (params, labels `[B]`) -> `manifolds.TangentField`."""

    def build(params: Any, labels: Array) -> Any:
        network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
        condition = labels if recipe.examples.null is not None else None
        return reads.field(network, recipe.schedule, condition=condition)

    return build


def build_for_sampler(recipe: Recipe) -> Callable[[Any, Any], Any]:
    """`flow_map`, `tangent_field` or `denoiser`, whichever the recipe's sampler takes."""
    reads = recipe.objective.reads
    if isinstance(reads, Moves):
        return tangent_field(recipe, reads)
    if isinstance(reads, Jumps) and flow_maps.FlowMap in recipe.sampling.sampler.takes:
        return flow_map(recipe, reads)
    return denoiser(recipe)


def received_condition(recipe: Recipe, labels: Any) -> Any:
    """The condition in the form that the network of a run receives.

    It includes the scale and the interval of guidance, if the network takes them as inputs.

    Args:
        recipe: the recipe of the run.
        labels: the classes, int `[B]`, or the conditions, a pytree of arrays `[B, ...]`.
    """
    condition = labels if recipe.examples.null is not None else None
    received = recipe.objective.condition
    if not received.strength:
        return condition
    chosen, interval = recipe.config.sample.guidance, None
    if received.interval:
        interval = jnp.asarray(chosen.get("interval") or (0.0, recipe.schedule.t_max), jnp.float32)
        interval = jnp.tile(interval, (number_of(labels), 1))
    return conditions.with_strength(condition, jnp.full(number_of(labels), chosen.scale, jnp.float32), interval)


def real_of(recipe: Recipe, condition: Any) -> Array | None:
    """The mask of what is real in samples with these conditions, False in the padding; None without padding."""
    return pytrees.real_of(condition, recipe.examples.structure or recipe.examples.shape)


def check_plain(recipe: Recipe, condition: Any) -> None:
    """Refuses a guidance or a cache with which the recipe's denoiser does not depend on x and t alone.

    Args:
        recipe: the recipe of the run.
        condition: the condition of one example, as its network receives it.

    Raises:
        ConfigError: names the fields of the guidance and the cache.
    """
    if isinstance(denoiser(recipe)(None, condition), (guidance.Memory, guidance.Unpaired)):
        sample = recipe.config.sample
        raise ConfigError(
            f"config.sample.guidance.name = {sample.guidance.name!r}, config.sample.cache.name = "
            f"{sample.cache.name!r}: this needs a plain denoiser. Valid: e.g. classifier_free, without a cache."
        )


def check_given_frames(recipe: Recipe, condition: Any) -> None:
    """Refuses a guidance or a cache with which a run cannot continue known frames; arguments as `check_plain`.

    Raises:
        ConfigError: names the fields of the guidance and the cache.
    """
    if not isinstance(recipe.objective.reads, Jumps):
        check_plain(recipe, condition)


def number_of(labels: Any) -> int:
    """The number of examples in a pytree of conditions."""
    return jax.tree.leaves(labels)[0].shape[0]
