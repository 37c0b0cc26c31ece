"""An attachment: entries that sampling adds to the condition of a frozen denoiser, computed from a picture.

    attachment = control_net.attachment(params, denoiser, denoiser_params)    # of a module that has this method
    seen = attachment.encode(attachment.params, picture)
    entries = attachment.entries(attachment.params, weight, seen[0], x, t, clock, condition)
    output = denoiser.apply(variables, x, clock, conditions.added(condition, entries))

A module whose files attach to a denoiser has a method `attachment(params, denoiser, base)` that returns one, where
`base` are the denoiser's parameters. ControlNet is an example; any other value of this type does as well.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io.leaf_names import leaf_name, leaves_of
from diffusion.models.quantised import is_quantised


def same_size(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [H, W, 3] of the size (H, W) of the pictures that are made, as float32 in [0, 1].

    Raises:
        ValueError: for another size.
    """
    if picture.shape[:2] != tuple(size):
        raise ValueError(
            f"it has {picture.shape[0]} x {picture.shape[1]} pixels (height x width), but the pictures have {size[0]} "
            f"x {size[1]}: scale or crop it"
        )
    return picture.astype(np.float32) / 255


def same_size_in_range(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture of `same_size`, in [-1, 1], which autoencoders take."""
    return 2 * same_size(picture, size) - 1


def same_size_to_inpaint(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [H, W, 4] with a mask, as `Attachment.inpaints` has it: in [-1, 1], black where it is painted.

    Returns:
        [H, W, 4]: the fourth channel is 1 where the picture is kept, and 0 where it is repainted.
    """
    unpainted = picture[..., 3:] < 128
    shown = np.where(unpainted, same_size_in_range(picture[..., :3], size), np.float32(-1))
    return np.concatenate([shown, unpainted.astype(np.float32)], axis=-1)


def both(params: Any, picture: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The picture itself, for the conditional and for the unconditional branch."""
    return picture, picture


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["entries", "read", "encode", "latents", "shifted", "masked", "reads_base", "modes", "inpaints"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Attachment:
    """An addition to a denoiser's condition at each step; a pytree whose leaves are its parameters.

    Attributes:
        params: pytree of arrays.
        entries: (params, weight, seen, x, t, clock, condition) -> entries of the condition, a pure function: weight [B]
            scales its effect, seen is a result of `encode` with B rows, x [B, H, W, C] and clock [B] are what the
            denoiser receives (without the channels of a mask), t [B] the schedule's time, and condition the prompt's,
            which has no entries of attachments. Entries of zeros must change nothing: they replace the others where all
            weights are 0.
        read: (picture uint8 [h, w, 3], (height, width) of the pictures that are made) -> float32 array of a shape that
            depends only on these sizes; a ValueError says what is wrong with the picture.
        encode: (params, [1, ...] of `read`) -> what the conditional and the unconditional branch see of the picture,
            two pytrees of one structure with the leading axis 1; computed once for a request.
        latents: whether `read` returns a picture [H, W, 3] in [-1, 1], and `encode` receives the latents that the
            model's autoencoder makes of it (the mean of their distribution), as the denoiser knows latents. Further
            channels of the picture are taken at the first pixel of each latent, and stand beside the latents.
        shifted: whether the autoencoder's shift is subtracted from these latents, as from the denoiser's.
        masked: whether the weight may be [B, H, W], of the pixels of the pictures that are made.
        reads_base: whether `entries` takes the denoiser's parameters as a last argument.
        modes: number of kinds of control, one of which a control names; 0 for none. If it is not 0, `entries` receives
            (seen, the kind, int [B]) in place of seen.
        inpaints: whether a control has a mask that says where the picture is repainted; `read` then takes uint8
            [h, w, 4], with the mask as fourth channel, 255 where it is painted.
    """

    params: Any
    entries: Callable[..., dict[str, Any]]
    read: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = same_size
    encode: Callable[[Any, jax.Array], tuple[Any, Any]] = both
    latents: bool = False
    shifted: bool = True
    masked: bool = False
    reads_base: bool = False
    modes: int = 0
    inpaints: bool = False


class ControlNetBeside:
    """A ControlNet: a network beside a denoiser, whose residuals are added to the denoiser's layers.

    A class has `residuals(params, denoiser, x, clock, condition, seen, *base)`, the denoiser's entry "residuals": one
    for each of its layers, so that residuals of ControlNets of other depths add up. There params are the ControlNet's
    parameters; x, clock and condition the denoiser's inputs, without residuals; seen is the picture as the call takes
    it, or (the picture, the kind int [B]) for a union; and base are the denoiser's parameters where `reads_base`.

    Attributes:
        base_class: class of the denoisers.
        added_names: regular expression of the beginnings of names that a denoiser lacks, or has in another shape.
        stacks: beginnings of the names of leaves whose first axis counts layers; the denoiser may have another number
            of these.
        reads_base: whether `residuals` takes the denoiser's parameters as a last argument.
        residuals: function that returns the entry "residuals", as above.
    """

    base_class: type
    added_names: str
    stacks: tuple[str, ...] = ()
    reads_base = False
    residuals: Callable[..., Any]

    def fitted(self, denoiser: Any) -> tuple[Any, dict[str, Any]]:
        """(this module with a denoiser's compute type and attention, further fields of its `Attachment`).

        Raises:
            ValueError: for a denoiser that it does not fit.
        """
        raise NotImplementedError

    def attachment(self, params: Any, denoiser: Any, base: Any) -> Attachment:
        """This ControlNet as what sampling attaches to a denoiser, with its compute type.

        Args:
            params: its parameters.
            denoiser: the denoiser.
            base: the denoiser's parameters.

        Raises:
            ValueError: for a denoiser of another class, or with other fields, than the attachment was made for.
        """
        if not isinstance(denoiser, self.base_class):
            raise ValueError(
                f"this ControlNet is for a {self.base_class.__name__}; the denoiser is a {type(denoiser).__name__}"
            )
        module, facts = self.fitted(denoiser)
        check_base(params, base, self.added_names, "this ControlNet", self.stacks)

        def entries(params, weight, seen, x, t, clock, condition, *base):
            residuals = module.residuals(params, denoiser, x, clock, condition, seen, *base)
            scale = lambda residual: weight.reshape(-1, *[1] * (residual.ndim - 1)).astype(residual.dtype) * residual
            return {"residuals": jax.tree.map(scale, residuals)}

        return Attachment(params, entries, reads_base=self.reads_base, **facts)


def begun(initial: Any, base: Any) -> Any:
    """Initial parameters for the training of a ControlNet, float32: copies of the base's where it has them.

    Args:
        initial: initial parameters of the ControlNet. Where a leaf's first axis counts layers, it may have fewer.
        base: parameters of the denoiser, whose first layers are copied.
    """
    leaves = leaves_of(base)
    first = lambda path, leaf: jnp.asarray(leaves.get(leaf_name(path), leaf))[: len(leaf)].astype(jnp.float32)
    return jax.tree_util.tree_map_with_path(first, initial)


def check_heads(heads: int, of_base: int) -> None:
    """Refuses a ControlNet whose attention has other heads than its base's: no shape of a parameter shows them.

    Raises:
        ValueError: naming both numbers.
    """
    if heads != of_base:
        raise ValueError(
            f"this ControlNet is for another base: it has {heads} attention heads, but this model has {of_base}"
        )


def check_layers(depth: int, most: int, what: str) -> None:
    """Refuses a ControlNet with more layers than its base has for it.

    Raises:
        ValueError: naming both numbers.
    """
    if not 0 < depth <= most:
        raise ValueError(f"a ControlNet of {depth} layers does not fit: {what} are only {most}. Valid: 1 to {most}")


def check_base(params: Any, base: Any, added_names: str, what: str, stacks: tuple[str, ...] = ()) -> None:
    """Refuses parameters that began as a copy of another base's; names the first leaf that differs.

    Args:
        params: parameters of the attachment.
        base: parameters of the denoiser.
        added_names: regular expression of the beginnings of names that the base does not have.
        what: the attachment, with its article.
        stacks: beginnings of the names of leaves whose first axis counts layers; the attachment may have another number
            of these.

    Raises:
        ValueError: for a leaf that the base lacks or has in another shape.
    """
    leaves = leaves_of(base, is_quantised)
    for path, leaf in leaves_of(params).items():
        if re.match(added_names, path):
            continue
        if path not in leaves:
            raise ValueError(f"{what} is for another base: it has {path} {list(leaf.shape)}, which this model lacks")
        from_axis = 1 if stacks and path.startswith(stacks) else 0
        if tuple(leaf.shape[from_axis:]) != tuple(leaves[path].shape[from_axis:]):
            raise ValueError(
                f"{what} is for another base: {path} has the shape {list(leaf.shape)} there, but "
                f"{list(leaves[path].shape)} in this model"
            )
