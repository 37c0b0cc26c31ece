"""Attachments in use: they are read from files, joined to the pictures of controls, and evaluated at each step."""

__all__ = ["Attached", "Opened", "condition_with", "load", "opened", "with_seen"]

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters import ip_adapter, ip_adapter_files
from diffusion.io import pictures
from diffusion.models import interchange
from diffusion.models.attachment import Attachment
from diffusion.models.interchange.family import Refusal
from diffusion.models.layers import conditions
from diffusion.text_to_image import pipelines
from diffusion.text_to_image.picture_controls import Control


class Opened(NamedTuple):
    """A control whose picture has been read.

    Attributes:
        attachment: the attachment that the control names.
        picture: the picture as the attachment reads it, float32 [1, ...].
        control: the control.
        mask: the strength of the control over the picture, float32 [1, H, W]; None for 1 everywhere.
    """

    attachment: Attachment
    picture: np.ndarray
    control: Control
    mask: np.ndarray | None = None


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


def opened(
    controls: Sequence[Control], attachments: Mapping[str, Attachment], size: tuple[int, int]
) -> tuple[Opened, ...]:
    """Reads the pictures of controls.

    Args:
        controls: the controls of a request.
        attachments: the attachments of the model, by their names.
        size: (height, width) of the pictures that are made.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an attachment that the model does not have, or a picture that does not fit, which it names.
    """
    ready = []
    for control in controls:
        if control.attachment not in attachments:
            raise ValueError(
                f"the control {control.attachment!r} names no attachment of this model. Valid: "
                f"{', '.join(map(repr, attachments)) or 'none'}. Attachments are loaded with the model: "
                "text_to_image.load(.., attachments={'edges': FOLDER}), --attach=edges=FOLDER"
            )
        attachment = attachments[control.attachment]
        _check_mode(control, attachment)
        picture = control.picture
        picture = pictures.read(picture) if isinstance(picture, str) else picture
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(
                f"the picture of the control {control.attachment!r} must be uint8 [H, W, 3]; got {picture.dtype} "
                f"{list(picture.shape)}"
            )
        if attachment.inpaints and picture.shape[:2] == tuple(size):  # `read` refuses a picture of another size
            picture = np.dstack([picture, _painted(control, size)])
        try:
            array = attachment.read(picture, size)
        except ValueError as error:
            raise ValueError(f"the picture of the control {control.attachment!r} does not fit: {error}") from None
        ready.append(Opened(attachment, array[None], control, _mask(control, attachment, size)))
    return tuple(ready)


def _check_mode(control: Control, attachment: Attachment) -> None:
    """Refuses a kind of control that is missing or unknown to the attachment; a ValueError names the control."""
    if (control.mode is None) != (attachment.modes == 0) or (control.mode or 0) >= max(attachment.modes, 1):
        valid = f"0 to {attachment.modes - 1}, one of the kinds that it knows" if attachment.modes else "None"
        raise ValueError(f"the control {control.attachment!r} has mode = {control.mode}. Valid: {valid}")


def _mask(control: Control, attachment: Attachment, size: tuple[int, int]) -> np.ndarray | None:
    """The checked mask of a control; a ValueError names the control and both sizes."""
    if control.mask is None or attachment.inpaints:
        return None
    if not attachment.masked:
        raise ValueError(
            f"the mask of the control {control.attachment!r} would have no effect, because this attachment acts on "
            "the whole picture; leave the mask out"
        )
    return _read_mask(control, size)[None].astype(np.float32)


def _painted(control: Control, size: tuple[int, int]) -> np.ndarray:
    """The mask of an inpainting control, uint8 [H, W], 255 where the picture is repainted."""
    if control.mask is None:
        raise ValueError(
            f"the control {control.attachment!r} has no mask, but this attachment inpaints. Valid: a mask, white "
            "where the picture is to be painted"
        )
    return 255 * _read_mask(control, size).astype(np.uint8)


def _read_mask(control: Control, size: tuple[int, int]) -> np.ndarray:
    """The mask of a control, Bool [H, W]."""
    if isinstance(control.mask, str):
        return pictures.read_mask(control.mask, size)
    if control.mask is None or control.mask.shape != tuple(size) or control.mask.dtype != bool:
        actual = "none" if control.mask is None else f"{control.mask.dtype} {list(control.mask.shape)}"
        raise ValueError(
            f"the mask of the control {control.attachment!r} must be Bool with the size of the pictures {list(size)}; "
            f"got {actual}"
        )
    return control.mask


def with_seen(condition: Mapping[str, Any], attached: Sequence[Attached], branch: int) -> dict[str, Any]:
    """The condition of B pictures with the attachments' inputs, repeated B times, for a branch (0: conditional)."""
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
