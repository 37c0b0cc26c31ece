"""Reads attachments such as ControlNets and IP-Adapters from files, and evaluates them in each step of a sampler."""

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
        weight: the weight of the attachment's effect, float32 [].
        times: the smallest and the largest t at which the attachment acts, [2].
        mask: the strength of the effect over the picture, [1, H, W]; None for 1 everywhere.
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
        denoiser: the denoiser to which the network is attached.
        base: the parameters of the denoiser.
        **how: arguments of `interchange.load`.

    Raises:
        Refusal: if the network is not an attachment, or belongs to another denoiser.
        FileNotFoundError, ValueError and others: under the conditions of `interchange.load`.
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
    """A condition of B pictures, to which the inputs of the attachments are added as the entry "seen".

    Args:
        condition: the condition, leaves [B, ...].
        attached: the attachments, whose inputs have leaves [1, ...], which are repeated B times.
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
    """The condition that a denoiser receives: the outputs of the attachments take the place of their inputs, "seen".

    An attachment whose weight is 0 at t is not evaluated.

    Args:
        attached: the attachments of the trajectory.
        condition: the conditions that `with_seen` returns for K branches, concatenated, leaves [K B, ...].
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
