"""Files of IP-Adapters: h94's for Stable Diffusion 1.5 and XL, InstantX's for 3 and 3.5 large, and XLabs' for Flux.

    module, params = ip_adapter_files.load("ip-adapter-plus_sd15.safetensors", unet)
    ip_adapter_files.save("mine.safetensors", module, params, unet)

| names     | projection         | layers                                                                          |
|-----------|--------------------|---------------------------------------------------------------------------------|
| h94       | `image_proj.*`     | `ip_adapter.N.to_k_ip.weight`, `to_v_ip`; N = 1, 3, .. counts all attentions of |
|           |                    | a U-Net: down, up, middle. Joint transformers have N = 0, 1, .., Flux biases    |
| InstantX  | `image_proj.*` of  | as h94, with `norm_ip.linear` and the norms `norm_q`, `norm_k`, `norm_ip_k`     |
|           | the time too       |                                                                                 |
| XLabs     | `ip_adapter_proj_  | `double_blocks.N.processor.ip_adapter_double_stream_k_proj.weight`, `v_proj`    |
|           | model.*`           |                                                                                 |

Which projection a file has, and its sizes, follow from its names and shapes. diffusers loads h94's and InstantX's as
they are, and XLabs' for Flux.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.adapters import image_projection_rows
from diffusion.io import safetensors_files
from diffusion.models.image_projections import FullProjection, GlobalProjection, IPAdapter, Resampler
from diffusion.models.interchange import folder_writing, folders, tensor_files
from diffusion.models.interchange.family import Family
from diffusion.models.interchange.rows import Mismatch, Row, linear, within
from diffusion.models.joint_image_projections import JointIPAdapter, TimedResampler
from diffusion.models.layers.choices import look_up
from diffusion.published.flux.network import Flux
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion_3.network import MMDiT

KINDS = {"global": GlobalProjection, "full": FullProjection, "plus": Resampler}
SIDE = 32  # side of the latents for which layers are listed; widths do not depend on it


def widths(denoiser: Any) -> tuple[int, ...]:
    """The width of each layer of a denoiser that attends to image prompts.

    Raises:
        ValueError: for a denoiser without such layers.
    """
    if not hasattr(denoiser, "extra_layers"):
        raise ValueError(
            f"a {type(denoiser).__name__} has no layers for image prompts: it does not define `extra_layers`"
        )
    return tuple(layer.width for layer in denoiser.extra_layers(SIDE, SIDE))


def numbers(denoiser: Any) -> tuple[int, ...]:
    """The number that files give to each of these layers, in the order of the network."""
    number = len(widths(denoiser))
    if isinstance(denoiser, (Flux, MMDiT)):
        return tuple(range(number))
    order = list(range(number))
    if isinstance(denoiser, ConditionalUNet):  # files list the middle last
        down = sum(sum(denoiser.transformers(level, up=False)) for level in range(len(denoiser.widths)))
        middle = list(range(down, down + denoiser.middle))
        order = [i for i in order if i not in middle] + middle
    place = {layer: i for i, layer in enumerate(order)}
    return tuple(2 * place[i] + 1 for i in range(number))


def fresh(denoiser: Any, features: int, kind: str = "global", **sizes: int) -> IPAdapter:
    """A new adapter for a denoiser.

    Args:
        denoiser: the denoiser, which has `text_width` and `extra_layers`.
        features: number of features of the image encoder, see `image_projections`.
        kind: "global", "full" or "plus".
        **sizes: further fields of the projection, such as tokens.

    Raises:
        ValueError: for an unknown kind, a field out of range, heads that files do not have, or a denoiser without
            layers for image prompts.
    """
    known = look_up(KINDS, kind, "kind")
    if odd := [field for field in sizes if field not in known.__dataclass_fields__]:
        raise ValueError(f"the projection {kind!r} has no field {odd[0]}")
    projection = known(features, denoiser.text_width, **sizes)
    image_projection_rows.check_heads(projection)
    return IPAdapter(projection, widths(denoiser), bias=isinstance(denoiser, Flux))


def table(module: IPAdapter | JointIPAdapter, its: tuple[int, ...], layout: str = "h94") -> list[Row]:
    """The rows of an adapter.

    Args:
        module: the adapter.
        its: the numbers of its layers in files.
        layout: "h94" or "xlabs".
    """
    heads, layer, key, value = LAYOUTS[layout]
    rows = within(image_projection_rows.rows(module.projection), heads, "projection/")
    bias = isinstance(module, IPAdapter) and module.bias
    for i, number in enumerate(its):
        layer_rows = linear(key, f"key_{i}", bias=bias) + linear(value, f"value_{i}", bias=bias)
        if isinstance(module, JointIPAdapter):
            layer_rows += linear("norm_ip.linear", f"modulation_{i}/dense")
            layer_rows += [Row(f"{theirs}.weight", f"{ours}_scale_{i}") for theirs, ours in NORMS.items()]
        rows += within(layer_rows, layer.format(number))
    return rows


NORMS = {"norm_q": "query", "norm_k": "key", "norm_ip_k": "image_key"}
LAYOUTS = {  # (before the projection's names, before those of a layer, keys, values)
    "h94": ("image_proj.", "ip_adapter.{}.", "to_k_ip", "to_v_ip"),
    "xlabs": (
        "ip_adapter_proj_model.",
        "double_blocks.{}.processor.",
        "ip_adapter_double_stream_k_proj",
        "ip_adapter_double_stream_v_proj",
    ),
}


def recognised(path: str | pathlib.Path) -> bool:
    """Whether a file, or the first one in a folder, is an IP-Adapter.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    return bool(_layout(tensor_files.open_tensors(path)))


def _layout(tensors: tensor_files.Tensors) -> str:
    return next((name for name, names in LAYOUTS.items() if any(n.startswith(names[0]) for n in tensors.shapes)), "")


def load(path: str | pathlib.Path, denoiser: Any) -> tuple[IPAdapter | JointIPAdapter, Any]:
    """Reads an IP-Adapter.

    Args:
        path: a .safetensors file, or one of torch.save (.bin, .pt, .pth, .ckpt), which is read without executing it.
        denoiser: the module of the denoiser that it is for.

    Returns:
        (module, parameters), float32.

    Raises:
        FileNotFoundError: if there is no such file.
        Mismatch: for a file that is no IP-Adapter, or one for another denoiser, with the first layer that does not fit.
        limits.Refused: for a file that is damaged or hostile.
    """
    tensors = tensor_files.open_only(path)
    layout = _layout(tensors)
    if not layout:
        raise Mismatch(
            f"{tensors.path} is not an IP-Adapter: it has no tensor named image_proj.* or ip_adapter_proj_model.*; "
            f"its tensors begin with {', '.join(sorted(tensors.shapes)[:3])}."
        )
    head = LAYOUTS[layout][0]
    shapes = {name.removeprefix(head): shape for name, shape in tensors.shapes.items() if name.startswith(head)}
    projection = image_projection_rows.read(shapes, str(tensors.path))
    module: IPAdapter | JointIPAdapter
    if isinstance(projection, TimedResampler):
        module = _joint(projection, denoiser, str(tensors.path))
    else:
        module = IPAdapter(projection, widths(denoiser), bias=isinstance(denoiser, Flux))
    its = numbers(denoiser)
    _check_base(tensors, layout, module, its, type(denoiser).__name__)
    family = _family(module, its, layout)
    return module, folders.read(folders.Found(family, module, layout, tensors))


def _joint(projection: TimedResampler, denoiser: Any, path: str) -> JointIPAdapter:
    if not isinstance(denoiser, MMDiT) or denoiser.dual:
        second = " with second attentions (3.5 medium)" if isinstance(denoiser, MMDiT) else ""
        raise Mismatch(
            f"{path}: its image_proj reads the time, as the IP-Adapters of Stable Diffusion 3 and 3.5 large do, but "
            f"the denoiser is a {type(denoiser).__name__}{second}."
        )
    if projection.width != denoiser.width:
        raise Mismatch(
            f"{path} is an IP-Adapter for another denoiser: its tokens have {projection.width} features, and this "
            f"{type(denoiser).__name__} has {denoiser.width}."
        )
    return JointIPAdapter(projection, widths(denoiser), denoiser.heads)


def _check_base(
    tensors: tensor_files.Tensors, layout: str, module: IPAdapter | JointIPAdapter, its: tuple[int, ...], name: str
) -> None:
    """Refuses layers of another denoiser, by the first one that differs."""
    _, layer, key, value = LAYOUTS[layout]
    for number, width in zip(its, module.widths):
        for part in (key, value):
            tensor = f"{layer.format(number)}{part}.weight"
            shape = tensors.shapes.get(tensor)
            expected = (width, module.projection.width)
            if shape != expected:
                what = "is missing" if shape is None else f"has shape {list(shape)}, not {list(expected)}"
                raise Mismatch(
                    f"{tensors.path} is an IP-Adapter for another denoiser; this {name} has {len(its)} layers for "
                    f"image prompts: {tensor} {what}."
                )


def _family(module: IPAdapter | JointIPAdapter, its: tuple[int, ...], layout: str) -> Family:
    """The reader's description of one adapter, which has no config of its own."""
    shape = (1, 2, module.projection.features)[:: 1 if module.projection.reads_tokens else 2]
    times = () if isinstance(module, IPAdapter) else (jax.ShapeDtypeStruct((1,), jnp.float32),)
    return Family(
        name="IPAdapter",
        module=type(module),
        build=lambda config: module,
        describe=lambda module: {},
        example=lambda module: (jax.ShapeDtypeStruct(shape, jnp.float32), *times),
        tables={layout: lambda module: table(module, its, layout)},
    )


def save(
    path: str | pathlib.Path,
    module: IPAdapter | JointIPAdapter,
    params: Any,
    denoiser: Any,
    layout: str = "h94",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes an IP-Adapter as one .safetensors file, which diffusers' `load_ip_adapter` opens.

    Args:
        path: the .safetensors file.
        module, params: the adapter and its parameters.
        denoiser: the module of the denoiser that it is for.
        layout: "h94" or "xlabs" (Flux).
        metadata: texts for the file's head.

    Raises:
        ValueError: for an unknown layout, a projection that has no names in files, or heads of another size than 64.
    """
    look_up(LAYOUTS, layout, "layout")
    family = _family(module, numbers(denoiser), layout)
    safetensors_files.save(path, dict(folder_writing.write(family, module, layout, params)), metadata or {})
