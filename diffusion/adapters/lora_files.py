"""LoRA files as people share them, in kohya's and in peft's layout, to adapters of our networks and back.

    loras = lora_files.load("style.safetensors", {"unet": unet, "text_encoder": text_encoder})
    merged = lora.merge(params, loras["unet"].adapter, loras["unet"].scale)

What they name is a layer of the network as its library calls it; the tables of `diffusion.models.interchange` say
which part of which parameter of ours that layer's weight is. The names of a file, for the layer down_blocks.0.proj_in:

    peft      unet.down_blocks.0.proj_in.lora_A.weight, .lora_B.weight; older .lora.down.weight, .lora.up.weight
    kohya     lora_unet_down_blocks_0_proj_in.lora_down.weight, .lora_up.weight, .alpha

A is down, B is up, and the update is alpha / r B A; where a file has no alpha it is r. Names of the original
repositories' layers (input_blocks_1_1_..) are known as well where the tables have them.
"""

import collections
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from safetensors.numpy import save as serialized

from diffusion import files
from diffusion.adapters import lora, lora_names
from diffusion.adapters.separation import Separation, separation
from diffusion.models.interchange import families, folders, rows, tensor_files
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.names import look_up

LAYOUTS = ("peft", "kohya")


class Lora(NamedTuple):
    """The adapter of one network, and alpha / r of each of its places: what `lora.merge` takes.

    Attributes:
      adapter: nested like the parameters.
      scale: a number for each place.
    """

    adapter: dict[str, Any]
    scale: dict[str, float]

    def weighted(self, weight: float) -> dict[str, float]:
        """The scales times the weight that the adapter is to have."""
        return {place: weight * scale for place, scale in self.scale.items()}


def load(path: str | pathlib.Path, modules: Mapping[str, nn.Module]) -> dict[str, Lora]:
    """Reads a LoRA file.

    Args:
      path: a .safetensors file, or a folder with one, as diffusers' `save_lora_weights` or peft's `save_pretrained`
        write it.
      modules: our networks by the names that diffusers' pipelines give them: "unet" or "transformer",
        "text_encoder", "text_encoder_2", ..

    Returns:
      A `Lora` for each network that the file changes, float32. Layers of a scan are stacked where the file has all of
      them with one rank and one alpha.

    Raises:
      FileNotFoundError: if nothing is there.
      Mismatch: for a tensor that names nothing in these networks, a factor without its other, or shapes that do not
        fit; they are named.
      limits.Refused: for a file that is damaged or hostile.
    """
    tensors = tensor_files.open_tensors(path)
    tables = {component: _layers(module) for component, module in modules.items()}
    names = {component: lora_names.underscored(table) for component, table in tables.items()}
    layers: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    unknown = []
    for name in tensors.shapes:
        component, layer, part = lora_names.parsed(name, names) or ("", "", "")
        if layer:
            layers.setdefault((component, layer), {})[part] = tensors.read(name).astype(np.float32)
        else:
            unknown.append(name)
    if unknown:
        known = ", ".join(f"{component} ({type(module).__name__})" for component, module in modules.items())
        raise Mismatch(f"{tensors.path}: {len(unknown)} of its {len(tensors.shapes)} tensors are no LoRA of {known}: "
                       f"{', '.join(unknown[:5])}{', ..' if len(unknown) > 5 else '.'}")
    configs = lora_names.configs(tensors, list(modules))
    parts: dict[str, list[_Part]] = {}
    for (component, layer), found in layers.items():
        what = f"{tensors.path}: {layer} of {component}"
        if not {"down", "up"} <= found.keys():
            raise Mismatch(f"{what} has {', '.join(found)} alone, and needs the factors down and up.")
        scale = lora_names.scale(found, configs.get(component), layer, what)
        places = tables[component][layer]
        parts.setdefault(component, []).extend(_parts(places, found["down"], found["up"], scale, what))
    return {component: _stacked(found) for component, found in parts.items()}


def save(
    path: str | pathlib.Path, loras: Mapping[str, Lora], modules: Mapping[str, nn.Module], layout: str = "peft"
) -> None:
    """Writes adapters as one file, with the layers' names of the networks' own library.

    Args:
      path: of the .safetensors file; diffusers looks for "pytorch_lora_weights.safetensors" in a folder.
      loras: by network, from `load`, or ``Lora(adapter, scale)`` of one that was trained.
      modules: our networks by the same names.
      layout: "peft" or "kohya".

    Raises:
      ValueError: for a part of a parameter that no layer of theirs is, naming it.
    """
    look_up(dict.fromkeys(LAYOUTS), layout, "layout")
    tensors: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for component, one in loras.items():
        layers = _their_layers(modules[component], one)
        ranks = {layer: down.shape[0] for layer, (down, _, _) in layers.items()}
        alphas = {layer: scale * ranks[layer] for layer, (_, _, scale) in layers.items()}
        prefix = lora_names.prefix_of(component, modules)
        for layer, (down, up, _) in layers.items():
            shown = lora_names.shown(component, layer)
            if layout == "kohya":
                name = prefix + shown.replace(".", "_")
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                            f"{name}.alpha": np.asarray(alphas[layer], np.float32)}  # fmt: skip
            else:
                tensors |= {f"{component}.{shown}.lora_A.weight": down, f"{component}.{shown}.lora_B.weight": up}
        # peft takes the end of a name, which CLIP's layers have with and without what may stand before it.
        ranks, alphas = ({layer.removeprefix(lora_names.CLIP): value for layer, value in found.items()}
                         for found in (ranks, alphas))  # fmt: skip
        rank, alpha = _usual(ranks), _usual(alphas)
        config = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(ranks),
                  "rank_pattern": _others(ranks, rank), "alpha_pattern": _others(alphas, alpha)}  # fmt: skip
        about |= {f"{component}.{field}": value for field, value in config.items()}
    metadata = {"format": "pt"} | ({lora_names.METADATA: json.dumps(about)} if layout == "peft" else {})
    tensors = {name: np.array(array, order="C") for name, array in tensors.items()}
    with files.whole(pathlib.Path(path).expanduser()) as file:
        file.write(serialized(tensors, metadata=metadata))


class _Place(NamedTuple):
    """Where a layer's weight, or some rows of it, is among our parameters."""

    row: Row
    theirs: tuple[int, ...]  # shape of the whole weight
    leaf: tuple[int, ...]  # shape of our leaf

    def how(self) -> Separation | None:
        rows_of_it = self.theirs[0] if self.row.rows is None else self.row.rows[1] - self.row.rows[0]
        ours = rows.part_shape(self.leaf, self.row.at)
        return separation(self.row.layout, (rows_of_it, *self.theirs[1:]), ours)


class _Part(NamedTuple):
    """Factors of ours and the part of a leaf that they stand for."""

    path: str
    at: tuple
    leaf: tuple[int, ...]
    down: np.ndarray
    up: np.ndarray
    scale: float


@functools.lru_cache(maxsize=16)
def _layers(module: nn.Module, layouts: tuple[str, ...] = ()) -> dict[str, list[_Place]]:
    """The layers of a network that have a matrix, by their names; in these layouts, or in all that there are."""
    own = [family for family in families.FAMILIES.values() if type(module) is family.module]
    found: dict[str, list[_Place]] = {}
    leaves = folders.leaves_of(folders.shapes_of(own[0], module)) if own else {}
    for family in own:
        for layout, table in family.tables.items():
            if layouts and layout not in layouts:
                continue
            weights = [row for row in table(module) if row.theirs.endswith(".weight")]
            shapes = rows.their_shapes(weights, leaves)
            places: dict[str, list[_Place]] = {}
            for row in weights:
                for name in (row.theirs, *row.copies) if len(shapes[row.theirs]) >= 2 else ():
                    place = _Place(row, shapes[row.theirs], leaves[row.ours].shape)
                    places.setdefault(name.removesuffix(".weight"), []).append(place)
            found = places | found
    return found


def _parts(places: Sequence[_Place], down: np.ndarray, up: np.ndarray, scale: float, what: str) -> list[_Part]:
    """A [r, in, ..] and B [out, r, ..] of one of their layers as parts of our leaves."""
    theirs, rank = places[0].theirs, down.shape[0]
    if down.size != rank * math.prod(theirs[1:]) or up.size != rank * theirs[0] or up.shape[1:2] != (rank,):
        raise Mismatch(f"{what}: factors of shapes {list(down.shape)} and {list(up.shape)} do not fit the weight "
                       f"{list(theirs)}; they are to be [r, in, ..] and [out, r, ..].")  # fmt: skip
    found = []
    for place in places:
        how = place.how()
        if how is None:
            raise Mismatch(f"{what}: our {place.row.ours} takes its inputs and outputs apart otherwise; a LoRA of this "
                           "layer is not known here.")  # fmt: skip
        mine = up if place.row.rows is None else up[slice(*place.row.rows)]
        found.append(_Part(place.row.ours, place.row.at, place.leaf, *how.to_ours(down, mine), scale))
    return found


def _stacked(parts: Sequence[_Part]) -> Lora:
    """The adapter of these parts; those that differ in the layer of a scan alone, and leave none out, as one."""
    groups: dict[tuple, list[_Part]] = {}
    for part in parts:
        layer = bool(part.at) and isinstance(part.at[0], int)  # the first axis of a kernel's inputs is never indexed so
        alike = (part.path, layer, str(part.at[1:] if layer else part.at), part.down.shape, part.scale)
        groups.setdefault(alike, []).append(part)
    adapter, scale = {}, {}

    def put(path, at, down, up, its_scale):
        while at and at[-1] == slice(None):
            at = at[:-1]
        place = lora.written(path, at)
        adapter[place], scale[place] = {"down": down, "up": up}, its_scale

    for (path, layer, *_), group in groups.items():
        if layer and sorted(part.at[0] for part in group) == list(range(group[0].leaf[0])):
            group = sorted(group, key=lambda part: part.at[0])
            at = (slice(None), *group[0].at[1:])
            put(path, at, np.stack([p.down for p in group]), np.stack([p.up for p in group]), group[0].scale)
        else:
            for part in group:
                put(*part[:2], *part[3:])
    return Lora(lora.nested(adapter), scale)


def _their_layers(module: nn.Module, one: Lora) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """(A, B, alpha / r) of each of their layers that an adapter of ours changes."""
    family = families.of(module)
    table = _layers(module, (next(iter(family.tables)),))
    found: dict[str, tuple[np.ndarray, np.ndarray, float]] = {}
    for name, factors in lora.places_of(one.adapter).items():
        path, at = lora.parsed(name)
        scale = one.scale[name] if isinstance(one.scale, Mapping) else float(one.scale)
        covered = False
        for layer, places in table.items():
            for place in (place for place in places if place.row.ours == path):
                selected = _selected(factors, at, place)
                if selected is None:
                    continue
                covered, how = True, place.how()
                if how is None or layer in found or place.row.rows is not None:
                    raise ValueError(f"{name} and others are one layer {layer} of {family.name}, with one A for all; "
                                     "that cannot be written.")  # fmt: skip
                down, up = how.to_theirs(*selected)
                # Of a convolution, B is one of one pixel.
                pixel = [1] * (len(place.theirs) - 2)
                found[layer] = down.reshape(-1, *place.theirs[1:]), up.reshape(*up.shape, *pixel), scale
        if not covered:
            raise ValueError(f"{name} is no layer of {family.name}, and cannot be written.")
    return found


def _selected(factors: Mapping[str, Any], at: tuple, place: _Place) -> tuple[np.ndarray, np.ndarray] | None:
    """The factors of a place's part, out of those that stand for the part `at` of its leaf; None if they miss it."""
    whole = lambda index: (*index, *[slice(None)] * (len(place.leaf) - len(index)))
    index, dropped = [], 0
    for mine, theirs in zip(whole(at), whole(place.row.at)):
        if mine == slice(None):
            index.append(theirs)
        elif mine == theirs:
            index += [] if isinstance(mine, int) else [slice(None)]
            dropped += isinstance(mine, int)
        else:
            return None
    down, up = np.asarray(factors["down"]), np.asarray(factors["up"])
    layers = down.ndim + up.ndim - (len(place.leaf) - dropped) - 2
    inner = down.ndim - 1
    return down[tuple(index[:inner])], up[(*index[:layers], slice(None), *index[inner:])]


def _usual(found: Mapping[str, float]) -> float:
    """The value that most layers have."""
    return collections.Counter(found.values()).most_common(1)[0][0]


def _others(found: Mapping[str, float], usual: float) -> dict[str, float]:
    """The layers that have another."""
    return {layer: value for layer, value in found.items() if value != usual}
