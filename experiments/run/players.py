"""The networks of a run beside its model, and how each is called: a teacher, and a rival that trains in turn."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.models.layers import conditions
from diffusion.objectives.conditioning import null_of
from experiments.config import names, resolve
from experiments.run.networks import network_of

Apply = Callable[..., jax.Array]  # (params, x_t, clock, condition) -> output


class Players(NamedTuple):
    """What plays in a run.

    Attributes:
        modules: {network: Linen module}: "model", and "teacher" and a rival where there are such.
        apply: {network: (params, x_t, clock, condition) -> output}, as objectives see them.
        frozen: names of those that no step changes.
        rival: name of the one that trains in turn with the model; "" for none.
    """

    modules: dict[str, Any]
    apply: dict[str, Apply]
    frozen: tuple[str, ...]
    rival: str


def of(config: Mapping, shape: tuple[int, ...]) -> Players:
    """The players of a run.

    A rival has the teacher's architecture, and starts from its weights; a discriminator's logit is the mean of its
    output. A teacher of pairs alone (reflow) makes them before the training, and takes no part in it.

    Args:
        config: the config, valid.
        shape: of one example, (H, W, C).

    Returns:
        `Players`.
    """
    model = resolve.model(config, shape)
    name = config["objective"]["name"]
    modules = {"model": model}
    apply = {"model": network_of(model).apply}
    if name in names.TOLD_STRENGTH:
        apply["model"] = told_strength(model.apply)
    if not config["teacher"]["path"] or name in names.PAIRED:
        return Players(modules, apply, (), "")
    modules["teacher"] = teacher(model)
    # An objective in stages guides its first teacher itself: the later ones have the guidance built in.
    apply["teacher"] = modules["teacher"].apply if name in names.STAGED else guided_teacher(config, modules["teacher"])
    _, rival = names.SECOND.get(name, ("", ""))
    if rival:
        modules[rival] = modules["teacher"]
        apply[rival] = judging(modules[rival].apply) if rival == "discriminator" else modules[rival].apply
    return Players(modules, apply, ("teacher",), rival)


def teacher(model: Any) -> Any:
    """The module of a student's teacher: told one time, and no strength of guidance."""
    plain = {"times": 1, "strength": False}
    return model.clone(**{field: value for field, value in plain.items() if hasattr(model, field)})


def guided_teacher(config: Mapping, module: Any) -> Apply:
    """The teacher as it teaches: guided by `config.teacher.scale`, in one call on both branches."""
    scale = config["teacher"]["scale"]
    if scale == 1:
        return module.apply
    null = resolve.null(config)

    def apply(params, x, clock, condition):
        both = lambda a, b: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), a, b)
        output = module.apply(params, both(x, x), both(clock, clock), both(condition, null_of(condition, null)))
        given, without = jnp.split(output, 2)
        return given + (scale - 1) * (given - without)  # every parameterization is affine in the output

    return apply


def told_strength(apply: Apply) -> Apply:
    """A network that is called with (condition, w), as `latent_consistency_distillation` calls its student."""

    def told(params, x, clock, condition):
        given, w = condition
        return apply(params, x, clock, conditions.with_strength(given, 1 + w))

    return told


def judging(apply: Apply) -> Apply:
    """A backbone as a discriminator, whose logit `[B]` is the mean of its output."""
    return lambda *inputs: jnp.mean(apply(*inputs), axis=(1, 2, 3))
