"""Reads attachments from files, and evaluates them in each step."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters import ip_adapter, ip_adapter_files
from diffusion.models import interchange
from diffusion.models.attachment import Attachment
from diffusion.models.interchange.family import Refusal
from diffusion.models.layers import conditions
from diffusion.text_to_image import pipelines


class Attached(NamedTuple):
    """An attachment in a trajectory; a pytree that compiled programs take as an argument.

    Attributes:
        attachment: the attachment.
        inputs: the inputs that the conditional and the unconditional branch receive from the picture, leaves [1, ...].
        weight: the weight of its effect, [].
        times: the first and the last t of its effect, [2].
        mask: the strength of its effect over the picture, [1, H, W]; None for 1 everywhere.
    """

    attachment: Attachment
    inputs: tuple[Any, Any]
    weight: Array
    times: Array
    mask: Array | None = None


def load(path: str | pathlib.Path, denoiser: nn.Module, base: Any, **how: Any) -> Attachment:
    """The attachment in a folder or file.

    Args:
        path: the folder or file, as in `interchange.load`.
        denoiser: the denoiser that it attaches to.
        base: the parameters of the denoiser.
        **how: arguments of `interchange.load`.

    Raises:
        Refusal: for a network that attaches to nothing.
        ValueError: for an attachment of another base; FileNotFoundError and others as in `interchange.load`.
    """
    if kind := pipelines.attachable(path):
        return kind.opened(path, denoiser, **how)
    if ip_adapter_files.recognised(path):
        return ip_adapter.opened(path, denoiser, **how)
    module, params = interchange.load(path, **how)
    if not hasattr(module, "attachment"):
        raise Refusal(f"{path} holds a {type(module).__name__}, which is not an attachment. Valid: e.g. a ControlNet.")
    try:
        return module.attachment(params, denoiser, base)
    except ValueError as error:
        raise Refusal(f"{path}: {error}.") from None


def with_seen(condition: Mapping[str, Any], attached: Sequence[Attached], branch: int) -> dict[str, Any]:
    """A condition of B pictures with the inputs of the attachments added, under "seen".

    Args:
        condition: the condition, leaves [B, ...].
        attached: the attachments, whose inputs have leaves [1, ...]; they are repeated B times.
        branch: 0 for the conditional branch, 1 for the unconditional one.
    """
    if not attached:
        return dict(condition)
    number = jax.tree.leaves(condition)[0].shape[0]
    rows = lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape[1:]))
    return {**condition, "seen": tuple(jax.tree.map(rows, one.inputs[branch]) for one in attached)}


def condition_with(
    attached: Sequence[Attached], condition: dict[str, Any], x: Array, t: Array, clock: Array, params: Any
) -> dict[str, Any]:
    """The condition that a denoiser receives: the attachments' entries replace their inputs.

    An attachment whose weight is 0 at t is not evaluated.

    Args:
        attached: the attachments of the trajectory.
        condition: the condition that `with_seen` returns, of K branches one after the other, K B rows.
        x: the denoiser's input, [K B, ...].
        t: the schedule's time, [] or [B].
        clock: the denoiser's time, [K B] or [].
        params: the parameters of the denoiser.
    """
    condition = dict(condition)
    inputs = condition.pop("seen", ())
    unperturbed = {name: entry for name, entry in condition.items() if name != "identity"}
    t = jnp.ravel(t)
    t = jnp.tile(t, x.shape[0] // t.size)
    result = condition
    for one, sees in zip(attached, inputs, strict=True):
        weight = jnp.where((one.times[0] <= t) & (t <= one.times[1]), one.weight, 0.0)
        if one.mask is not None:
            weight = weight[:, None, None] * one.mask
        parameters = (params,) if one.attachment.reads_base else ()
        evaluate = lambda one=one, sees=sees, weight=weight, parameters=parameters: one.attachment.entries(
            one.attachment.params, weight, sees, x, t, clock, unperturbed, *parameters
        )
        nothing = lambda evaluate=evaluate: jax.tree.map(jnp.zeros_like, jax.eval_shape(evaluate))
        result = conditions.added(result, jax.lax.cond(jnp.any(weight != 0), evaluate, nothing))
    return result
