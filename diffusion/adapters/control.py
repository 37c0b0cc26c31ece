"""Tunings by a second picture of each record: a ControlNet beside any frozen denoiser, a T2I-Adapter beside a U-Net."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters import module_folder
from diffusion.adapters.tuning import Params, Tuning
from diffusion.models import rooms
from diffusion.models.attachment import begun
from diffusion.models.interchange import families
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import ConditionalUNet, level_shapes
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter

HINT_WIDTHS = (16, 32, 96, 256)  # the widths of published ControlNets, whose autoencoder divides a side by 8
FOLDER = "controlnet"
NAME = "control"
"""Name of the attachment, and of the entry of a record."""
OF_TRANSFORMERS = rooms.Entries("control_net", "CONTROL_NETS")  # by the names of their classes


def control_net(base: Any, hint_widths: tuple[int, ...] = (), depth: int = 0) -> Tuning:
    """A ControlNet that reads "control" [H, W, 3] of each record; it begins as a copy of the denoiser's first layers.

    Its layers before the residuals are zero at the start, so that the first step's output is the base's. The ControlNet
    of a U-Net reads the picture in [-1, 1]; that of a transformer reads the picture's latents, which a run computes
    once.

    Args:
        base: the model, `text_to_image.described`; its denoiser is a U-Net, a PixArt, an MM-DiT or a Flux, or another
            transformer whose attribute `control_net` is the class of its ControlNet, with the methods of PixArt's.
        hint_widths: channels of the convolutions that read the control of a U-Net, where each after the first halves
            the side; () for the first of the published widths, as many as the factor of the autoencoder needs.
        depth: number of layers of a transformer that are copied; 0 for the number in published ControlNets.

    Raises:
        ValueError: for another denoiser or one that was trained to inpaint, and for a field that does not fit.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, section 3.
    """
    kind = _transformer_kind(base.denoiser)
    if kind:
        if hint_widths:
            raise ValueError(
                f"hint_widths = {tuple(hint_widths)} applies only to the ControlNet of a U-Net; the ControlNet of a "
                f"{type(base.denoiser).__name__} reads the hint as latents. Valid: ()"
            )
        module = kind.beside(base.denoiser, depth)
        return dataclasses.replace(_beside(base, module, lambda seen: seen), latents=(NAME,))
    if depth:
        raise ValueError(
            f"depth = {depth} applies only to the ControlNet of a transformer; a U-Net's ControlNet always copies the "
            "downward half. Valid: 0"
        )
    unet = base.denoiser
    factor = base.modules["vae"].factor
    if not isinstance(unet, ConditionalUNet) or unet.in_channels != base.channels:
        inpaints = f" of {unet.in_channels} channels" if isinstance(unet, ConditionalUNet) else ""
        raise ValueError(
            f"a ControlNet needs a base whose denoiser is a U-Net that sees only the {base.channels} channels of its "
            f"latents, or a {', '.join(OF_TRANSFORMERS)}; the denoiser of this base is a {type(unet).__name__}"
            f"{inpaints}"
        )
    widths = tuple(hint_widths) or HINT_WIDTHS[: factor.bit_length()]
    if 2 ** (len(widths) - 1) != factor:
        raise ValueError(
            f"hint_widths = {widths}: each width after the first halves the side of the hint, and the autoencoder "
            f"divides the side by {factor}. Valid: {factor.bit_length()} widths"
        )
    return _beside(base, ControlNet(unet.clone(strength_width=0), widths), lambda control: (control + 1) / 2)


def _transformer_kind(denoiser: Any) -> Any:
    """The class of a transformer's ControlNet, which its attribute `control_net` names first; None for others."""
    named = getattr(denoiser, "control_net", None)
    return named or next((kind for kind in OF_TRANSFORMERS.values() if isinstance(denoiser, kind.base_class)), None)


def _beside(base: Any, module: Any, seen: Callable[[Array], Array]) -> Tuning:
    """The tuning of a ControlNet; `seen` maps the batch's control to the input of the module."""
    denoiser = base.denoiser
    part = base.kind.denoiser.folder

    def init(key: Array, params: Params) -> Any:
        structs = families.family_of(module).example(module)
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), structs)
        return begun(module.init(key, *example)["params"], params[part])

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        prompt = dict(condition)
        hint = seen(prompt.pop(NAME))
        frozen = jax.lax.stop_gradient(params[part])
        parameters = (frozen,) if module.reads_base else ()
        residuals = module.residuals(weights, denoiser, x, clock, prompt, hint, *parameters)
        output: Any = denoiser.apply({"params": frozen}, x, clock, {**prompt, "residuals": residuals})
        return output

    return _module_tuning(base, module, FOLDER, init, apply)


def t2i_adapter(base: Any, blocks: int = 2) -> Tuning:
    """A T2I-Adapter that reads "control" [H, W, 3] of each record, in [-1, 1]; its features do not depend on the time.

    Args:
        base: the model, `text_to_image.described`; its denoiser is a U-Net.
        blocks: residual blocks of each level.

    Raises:
        ValueError: for a denoiser that is no U-Net, or whose levels fit no published kind.

    Reference: Mou et al., "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image
    Diffusion Models", 2023, section 3.3.
    """
    unet = base.denoiser
    part = base.kind.denoiser.folder
    factor = base.modules["vae"].factor
    if not isinstance(unet, ConditionalUNet):
        raise ValueError(
            "a T2I-Adapter needs a base whose denoiser is a U-Net; the denoiser of this base is a "
            f"{type(unet).__name__}"
        )
    side = 2 ** len(unet.widths)
    shapes = level_shapes(unet, side, side)
    large = shapes[0][0] < side
    widths = tuple(shape[-1] for shape in (shapes if large else shapes[:-1]))
    kind, squares = ("full_xl", 2 * factor) if large else ("full", factor)
    module = T2IAdapter(widths, blocks, squares, kind=kind)
    picture = jax.ShapeDtypeStruct((1, side * factor, side * factor, 3), jnp.float32)
    levels = jax.eval_shape(lambda picture: module.init_with_output(jax.random.key(0), picture)[0], picture)
    if [feature.shape[1:] for feature in levels] != list(shapes[: len(levels)]):
        raise ValueError(
            f"no published kind of T2I-Adapter has features of the shapes {shapes}, which the levels of this U-Net have"
        )

    def init(key: Array, params: Params) -> Any:
        return module.init(key, jnp.zeros(picture.shape))["params"]

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        condition = dict(condition)
        features = module.apply({"params": weights}, (condition.pop(NAME) + 1) / 2)
        frozen = jax.lax.stop_gradient(params[part])
        output: Any = unet.apply({"params": frozen}, x, clock, {**condition, "level_residuals": features})
        return output

    return _module_tuning(base, module, "t2i_adapter", init, apply)


def _module_tuning(base: Any, module: Any, name: str, init: Any, apply: Any) -> Tuning:
    """The tuning of a module that attaches to the denoiser; it is written to the folder `name`."""
    part = base.kind.denoiser.folder

    def attach(model: Any, weights: Any) -> Any:
        attachment = module.attachment(weights, model.denoiser, model.params[part])
        return model.replaced(attachments={**model.attachments, NAME: attachment})

    return Tuning(base, init, apply, module_folder.writer(module, name), attach, (part,), reads=(NAME,))
