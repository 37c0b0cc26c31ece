"""Files of IP-Adapters: h94's for Stable Diffusion 1.5 and XL, which diffusers loads, and XLabs' for Flux.

    module, params = ip_adapter_files.load("ip-adapter-plus_sd15.safetensors", unet)
    ip_adapter_files.save("mine.safetensors", module, params, unet)

| names     | projection         | layers                                                                          |
|-----------|--------------------|---------------------------------------------------------------------------------|
| h94       | `image_proj.*`     | `ip_adapter.N.to_k_ip.weight`, `to_v_ip`; N = 1, 3, .. counts all attentions of |
|           |                    | a U-Net: down, up, middle. Joint transformers have N = 0, 1, .. and biases      |
| XLabs     | `ip_adapter_proj_  | `double_blocks.N.processor.ip_adapter_double_stream_k_proj.weight`, `v_proj`    |
|           | model.*`           |                                                                                 |

Which projection a file has, and its sizes, follow from its names and shapes.
"""

__all__ = ["fresh", "load", "numbers", "recognised", "save", "table", "widths"]

import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as serialized

from diffusion.io import files
from diffusion.models.conditional_unet import ConditionalUNet
from diffusion.models.flux import Flux
from diffusion.models.image_projections import FullProjection, GlobalProjection, IPAdapter, Resampler
from diffusion.models.interchange import folders, tensor_files
from diffusion.models.interchange.family import Family
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Layout, Mismatch, Row, linear, within
from diffusion.models.layers.choices import look_up
from diffusion.models.mmdit import MMDiT

KINDS = {"global": GlobalProjection, "full": FullProjection, "plus": Resampler}
HEAD = 64  # features of a head in every published resampler; the file has the product with their number alone
# Learned queries: theirs [1, K, D], ours [K, D].
LEADING = Layout(lambda a, shape: a.reshape(shape), lambda a: a[None])
SIDE = 32  # of latents for which layers are listed: their widths do not depend on it


def widths(denoiser: Any) -> tuple[int, ...]:
    """The width of each layer of a denoiser that attends to image prompts.

    Raises:
        ValueError: for a denoiser without such layers.
    """
    if not hasattr(denoiser, "extra_layers"):
        raise ValueError(f"a {type(denoiser).__name__} has no layers for image prompts (`extra_layers`)")
    return tuple(layer.width for layer in denoiser.extra_layers(SIDE, SIDE))


def numbers(denoiser: Any) -> tuple[int, ...]:
    """The number that files give to each of these layers, in the order of the network."""
    number = len(widths(denoiser))
    if isinstance(denoiser, (Flux, MMDiT)):
        return tuple(range(number))
    order = list(range(number))
    if isinstance(denoiser, ConditionalUNet):  # in files the middle comes last
        down = sum(sum(denoiser.transformers(level, up=False)) for level in range(len(denoiser.widths)))
        middle = list(range(down, down + denoiser.middle))
        order = [i for i in order if i not in middle] + middle
    place = {layer: i for i, layer in enumerate(order)}
    return tuple(2 * place[i] + 1 for i in range(number))


def fresh(denoiser: Any, features: int, kind: str = "global", **sizes: int) -> IPAdapter:
    """A new adapter for a denoiser.

    Args:
        denoiser: with `text_width` and `extra_layers`.
        features: of the image encoder, see `image_projections`.
        kind: "global", "full" or "plus".
        **sizes: further fields of the projection, such as tokens.

    Raises:
        ValueError: for an unknown kind, a field out of range, heads that files do not have, or a denoiser without
            layers for image prompts.
    """
    known = look_up(KINDS, kind, "kind")
    if odd := [field for field in sizes if field not in known.__dataclass_fields__]:
        raise ValueError(f"the projection {kind!r} has no {odd[0]}")
    projection = known(features, denoiser.text_width, **sizes)
    _check_heads(projection)
    return IPAdapter(projection, widths(denoiser), bias=isinstance(denoiser, Flux))


def table(module: IPAdapter, its: tuple[int, ...], layout: str = "h94") -> list[Row]:
    """The rows of an adapter.

    Args:
        module: ours.
        its: the numbers of its layers in files.
        layout: "h94" or "xlabs".
    """
    heads, layer, key, value = LAYOUTS[layout]
    rows = within(_projection(module.projection), heads, "projection/")
    for i, number in enumerate(its):
        rows += linear(layer.format(number) + key, f"key_{i}", bias=module.bias)
        rows += linear(layer.format(number) + value, f"value_{i}", bias=module.bias)
    return rows


LAYOUTS = {  # (before the projection's names, before those of a layer, keys, values)
    "h94": ("image_proj.", "ip_adapter.{}.", "to_k_ip", "to_v_ip"),
    "xlabs": (
        "ip_adapter_proj_model.",
        "double_blocks.{}.processor.",
        "ip_adapter_double_stream_k_proj",
        "ip_adapter_double_stream_v_proj",
    ),
}


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def _check_heads(projection: nn.Module) -> None:
    if isinstance(projection, Resampler) and projection.head_size != HEAD:
        raise ValueError(f"head_size = {projection.head_size}: files do not name it, and every reader takes {HEAD}")


def _projection(projection: nn.Module) -> list[Row]:
    if isinstance(projection, GlobalProjection):
        return linear("proj", "dense") + _norm("norm", "norm")
    if isinstance(projection, FullProjection):
        return linear("proj.0", "hidden") + linear("proj.2", "out") + _norm("proj.3", "norm")
    if not isinstance(projection, Resampler):
        raise ValueError(f"a projection {type(projection).__name__} has no names in files; save a pytree of your own")
    _check_heads(projection)
    rows = [Row("latents", "queries", LEADING), *linear("proj_in", "in"), *linear("proj_out", "out")]
    rows += _norm("norm_out", "norm")
    inner = projection.heads * projection.head_size
    for i in range(projection.depth):
        mixed, mlp, ours = f"layers.{i}.0", f"layers.{i}.1", f"layer_{i}"
        rows += _norm(f"{mixed}.norm1", f"{ours}/norm_seen") + _norm(f"{mixed}.norm2", f"{ours}/norm_own")
        rows += [
            Row(f"{mixed}.to_q.weight", f"{ours}/query/kernel", DENSE),
            Row(f"{mixed}.to_kv.weight", f"{ours}/key/kernel", DENSE, rows=(0, inner)),
            Row(f"{mixed}.to_kv.weight", f"{ours}/value/kernel", DENSE, rows=(inner, 2 * inner)),
            Row(f"{mixed}.to_out.weight", f"{ours}/out/kernel", DENSE_OUT),
            *_norm(f"{mlp}.0", f"{ours}/norm_mlp"),
            Row(f"{mlp}.1.weight", f"{ours}/mlp_hidden/kernel", DENSE),
            Row(f"{mlp}.3.weight", f"{ours}/mlp_out/kernel", DENSE),
        ]
    return rows


def recognised(path: str | pathlib.Path) -> bool:
    """Whether a file, or the first one in a folder, is an IP-Adapter.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    return bool(_layout(tensor_files.open_tensors(path)))


def _layout(tensors: tensor_files.Tensors) -> str:
    return next((name for name, names in LAYOUTS.items() if any(n.startswith(names[0]) for n in tensors.shapes)), "")


def load(path: str | pathlib.Path, denoiser: Any) -> tuple[IPAdapter, Any]:
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
    tensors = tensor_files.open_tensors(path)
    layout = _layout(tensors)
    if not layout:
        raise Mismatch(
            f"{tensors.path} is no IP-Adapter: it has no tensor image_proj.* or ip_adapter_proj_model.*, but "
            f"{', '.join(sorted(tensors.shapes)[:3])}."
        )
    head = LAYOUTS[layout][0]
    shapes = {name.removeprefix(head): shape for name, shape in tensors.shapes.items() if name.startswith(head)}
    projection = _read_projection(shapes, str(tensors.path))
    module = IPAdapter(projection, widths(denoiser), bias=isinstance(denoiser, Flux))
    its = numbers(denoiser)
    _check_base(tensors, layout, module, its, type(denoiser).__name__)
    family = _family(module, its, layout)
    return module, folders.read(folders.Found(family, module, layout, tensors))


def _check_base(tensors: tensor_files.Tensors, layout: str, module: IPAdapter, its: tuple[int, ...], name: str) -> None:
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
                    f"{tensors.path} is an IP-Adapter for another denoiser than this {name} with {len(its)} layers for "
                    f"image prompts: {tensor} {what}."
                )


def _read_projection(shapes: Mapping[str, tuple[int, ...]], path: str) -> nn.Module:
    """The projection that has these names and shapes; what is missing is refused where the file is read."""

    def sides(name: str, axes: int) -> tuple[int, ...]:
        shape = shapes.get(name, (0,) * axes)
        if len(shape) != axes:
            raise Mismatch(f"{path}: its {name} has the shape {list(shape)}; valid: one of {axes} axes")
        return shape

    matrix = lambda name: sides(name, 2)
    if "time_embedding.linear_1.weight" in shapes:
        raise Mismatch(
            f"{path}: its image_proj reads the time (Stable Diffusion 3); global, full-face and plus projections are "
            "read."
        )
    if "proj.weight" in shapes and "norm.weight" in shapes:
        (width,) = sides("norm.weight", 1)
        outputs, features = matrix("proj.weight")
        return GlobalProjection(features, width, outputs // max(width, 1))
    if "proj.3.weight" in shapes:
        return FullProjection(matrix("proj.0.weight")[1], *sides("proj.3.weight", 1))
    if "latents" in shapes and "proj_in.weight" in shapes and "layers.0.0.to_q.weight" in shapes:
        depth = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
        inner, features = matrix("proj_in.weight")
        rows = matrix("layers.0.0.to_q.weight")[0]
        if rows < HEAD:
            raise Mismatch(f"{path}: its layers.0.0.to_q.weight has {rows} rows; a head has {HEAD}")
        return Resampler(
            features,
            matrix("proj_out.weight")[0],
            tokens=sides("latents", 3)[1],
            inner=inner,
            depth=depth,
            heads=rows // HEAD,
            ratio=matrix("layers.0.1.1.weight")[0] // max(inner, 1),
        )
    face = any(name.startswith(("perceiver_resampler.", "proj.2.")) for name in shapes)
    why = "a FaceID adapter, which reads the embeddings of a face recogniser" if face else "of a structure not known"
    raise Mismatch(f"{path}: its image_proj is {why}; global, full-face and plus projections are read.")


def _family(module: IPAdapter, its: tuple[int, ...], layout: str) -> Family:
    """The reader's description of one adapter, which has no config of its own."""
    shape = (1, 2, module.projection.features)[:: 1 if module.projection.whole else 2]
    return Family(
        name="IPAdapter",
        module=IPAdapter,
        build=lambda config: module,
        describe=lambda module: {},
        example=lambda module: (jax.ShapeDtypeStruct(shape, jnp.float32),),
        tables={layout: lambda module: table(module, its, layout)},
    )


def save(
    path: str | pathlib.Path,
    module: IPAdapter,
    params: Any,
    denoiser: Any,
    layout: str = "h94",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes an IP-Adapter as one .safetensors file, which diffusers' `load_ip_adapter` opens.

    Args:
        path: of the file.
        module, params: ours.
        denoiser: the module of the denoiser that it is for.
        layout: "h94" or "xlabs" (Flux).
        metadata: texts for the file's head.

    Raises:
        ValueError: for an unknown layout, a projection that has no names in files, or heads of another size than 64.
    """
    look_up(LAYOUTS, layout, "layout")
    family = _family(module, numbers(denoiser), layout)
    tensors = {name: np.array(a, order="C") for name, a in folders.write(family, module, layout, params)}
    with files.whole(pathlib.Path(path).expanduser()) as file:
        file.write(serialized(tensors, metadata={"format": "pt", **(metadata or {})}))
