"""The networks of a run, and how objectives call them: the model, a teacher, a second player and frozen networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.experiments.run.networks import network_of
from diffusion.models import facts
from diffusion.models.layers import conditions, fp8
from diffusion.objectives import Objective, with_dropout
from diffusion.objectives.conditioning import null_of
from diffusion.recipe.recipe import Recipe
from diffusion.training.step import HEADS

FEATURES = "features"  # the name that objectives use for the frozen network of features
ENCODER = "encoder"  # the name that objectives use for the frozen encoder
PICTURES = "pictures"  # the name that objectives use for the frozen decoder of latents
BASE = "base"  # the name of the frozen text-to-image model that a run tunes
Apply = Callable[..., jax.Array]  # (params, x_t, clock, condition) -> output


class Players(NamedTuple):
    """The players of a run."""

    modules: dict[str, Any]  # {network: Linen module}; "model", and the others if there are any
    apply: dict[str, Apply]  # {network: (params, x_t, clock, condition) -> output}, in the form that objectives call
    frozen: tuple[str, ...]  # names of the networks that no step changes
    second: str  # name of the network that trains in turn with the model; "" for none
    heads: dict[str, Apply]  # {head: (params, *inputs) -> output}, for the small networks that train with the model
    follow: dict[str, Callable[[Any, Any], Any]]  # {head: `objectives.Head.follow`}, for heads with running statistics


def build_players(recipe: Recipe) -> Players:
    """The players of a run.

    A second player has a separate architecture, or the architecture and the initial weights of the teacher. If it has a
    logit, this is the mean of its output. A teacher that only generates pairs (reflow) is used before the training, and
    is not a player.
    """
    model, objective, companions = recipe.network, recipe.objective, recipe.companions
    tuned, encoder, perceptual = companions.tuned, companions.encoder, companions.perceptual
    modules = {"model": model}
    apply = {"model": tuned.apply if tuned is not None else network_of(model).apply}
    if recipe.config.train.products == "fp8":
        apply["model"] = with_fp8(apply["model"])
    if objective.condition.strength:
        apply["model"] = with_strength(apply["model"])
    heads = {name: head.apply for name, head in objective.heads.items()}
    follow = {name: head.follow for name, head in objective.heads.items() if head.follow}
    if heads:
        apply["model"] = without_heads(apply["model"])

    def add(name: str, module: Any, function: Apply) -> None:
        modules[name], apply[name] = module, function

    if encoder is not None and not encoder.cached:
        add(ENCODER, encoder, encoder.apply)
    if perceptual is not None:
        add(FEATURES, perceptual, perceptual.apply)
    if objective.beside.prompts and tuned is not None:
        add(BASE, tuned, tuned.plain)
    if objective.beside.pictures and tuned is not None:
        add(PICTURES, tuned, tuned.pictures)
    teaching = None if objective.teacher is None or objective.teacher.pairs else objective.teacher
    if teaching is not None:
        itself = teaching.scale is not None  # then the objective applies guidance itself
        scale = 1.0 if itself or companions.teacher is None else companions.teacher.scale
        if tuned is not None:
            add("teacher", tuned, guided_teacher(tuned.plain, scale, None))
        else:
            module = teacher(model, teaching.bidirectional)
            add("teacher", module, guided_teacher(module.apply, scale, recipe.examples.null))
    frozen = tuple(name for name in modules if name != "model")
    player, second = objective.second, ""
    if player and teaching and tuned is not None:
        second = player.network
        add(second, tuned, tuned.apply)  # a second set of new weights on the same base
    elif player and player.separate and companions.second:
        second = player.network
        add(second, companions.second.network, companions.second.network.apply)
    elif player and teaching:
        second, module = player.network, modules["teacher"]
        add(second, module, mean_logit(module.apply) if player.logit else module.apply)
    return Players(modules, apply, frozen, second, heads, follow)


def reads_of_base(objective: Objective) -> dict[str, bool]:
    """Which networks of the base a loss reads in a run that tunes: the arguments of `TunedNetwork.kept_networks`."""
    plain = bool(objective.beside.prompts) or objective.teacher is not None
    return {"plain": plain, "pictures": objective.beside.pictures}


def trained_objective(objective: Objective, module: Any) -> Objective:
    """The objective with the dropout of the network that it trains, if that network has dropout."""
    return with_dropout(objective) if facts.dropout(module) else objective


def teacher(model: Any, bidirectional: bool = False) -> Any:
    """The module of a student's teacher, which receives one time, and no strength of guidance.

    Args:
        model: the student's module.
        bidirectional: whether the teacher is bidirectional although the student is block-causal.
    """
    plain = {"times": 1, "strength": False, "interval": False} | ({"causal": 0} if bidirectional else {})
    others = {field: value for field, value in plain.items() if getattr(model, field, value) != value}
    return facts.changed(model, **others) if others else model


def guided_teacher(apply: Apply, scale: float, null: Any) -> Apply:
    """A teacher with classifier-free guidance, which evaluates both branches in one call.

    A call for features has no guidance, because a discriminator reads the features and not the output.

    Args:
        apply: the teacher, (params, x_t, clock, condition) -> output.
        scale: guidance scale; at 1 the result is `apply` itself.
        null: the null condition of one example.
    """
    if scale == 1:
        return apply

    def guided(params, x, clock, condition, **features):
        if features:
            return apply(params, x, clock, condition, **features)
        both = lambda a, b: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), a, b)
        output = apply(params, both(x, x), both(clock, clock), both(condition, null_of(condition, null)))
        conditional, unconditional = jnp.split(output, 2)
        # Every parameterization is affine in the output.
        return conditional + (scale - 1) * (conditional - unconditional)

    return guided


def with_fp8(apply: Apply) -> Apply:
    """A network whose products of tokens with kernels are computed in fp8; refuses one without such products."""

    def computed(params, *inputs, **features):
        with fp8.in_fp8() as products:
            output = apply(params, *inputs, **features)
        if not products:
            raise ValueError(
                "train.products = 'fp8' needs a network whose dense layers over tokens are computed by "
                "models.layers.products.rows_first, such as a DiT; this network has none. Valid: dtype"
            )
        return output

    return computed


def with_strength(apply: Apply) -> Apply:
    """A network that takes the pair (condition, w), or (condition, w, interval), in place of its condition.

    Objectives whose condition has the facts `strength` and `interval` call it in this way.
    """

    def strengthened(params, x, clock, condition, **features):
        condition, w, *interval = condition
        return apply(params, x, clock, conditions.with_strength(condition, 1 + w, *interval), **features)

    return strengthened


def without_heads(apply: Apply) -> Apply:
    """A network whose parameters are stored together with those of its heads, which it does not receive."""

    def alone(params, *inputs, **features):
        return apply({name: leaf for name, leaf in params.items() if name != HEADS}, *inputs, **features)

    return alone


def mean_logit(apply: Apply) -> Apply:
    """A backbone as a discriminator: its logit `[B]` is the mean of its output."""
    return lambda *inputs, **more: jax.vmap(jnp.mean)(apply(*inputs, **more))
