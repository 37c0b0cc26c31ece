"""The names in LoRA files, kohya's and peft's, and what they say of alpha."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors

from diffusion import limits
from diffusion.models.interchange.rows import Mismatch
from diffusion.models.interchange.tensor_files import Tensors

PEFT = "base_model.model."  # before the names in peft's own files, which are of one network
METADATA = "lora_adapter_metadata"  # where diffusers writes peft's config, as JSON
# What kohya's prefixes stand for, among the components that there are.
PREFIXES = {
    "lora_unet_": ("unet", "transformer"),
    "lora_transformer_": ("transformer",),
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": ("text_encoder_3", "text_encoder_2"),
}
# Before the names of CLIP's layers in files, and before transformers 5.6 in the network itself.
CLIP = "text_model."
# The two factors and the alpha by the ends of their names.
ENDS = {
    "lora_A.weight": "down", "lora_B.weight": "up",
    "lora_down.weight": "down", "lora_up.weight": "up",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
}  # fmt: skip


def underscored(layers: Iterable[str]) -> dict[str, str]:
    """The layers by their names with "_" for ".", as kohya has them, but those that would share one."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(layer.replace(".", "_"), []).append(layer)
    return {name: alike[0] for name, alike in found.items() if len(alike) == 1}


def parsed(name: str, names: Mapping[str, Mapping[str, str]]) -> tuple[str, str, str] | None:
    """(component, layer, "down", "up" or "alpha") of a tensor's name; None if it names nothing that there is.

    Args:
      name: of the tensor.
      names: for each component its layers, as from `underscored`.
    """
    end = next((end for end in ENDS if name.endswith(f".{end}")), None)
    if end is None:
        return None
    stem = name.removesuffix(f".{end}")
    for prefix, components in PREFIXES.items():
        component = next((c for c in components if c in names), None)
        if stem.startswith(prefix) and component:
            found = _known(stem.removeprefix(prefix), CLIP.replace(".", "_"), names[component])
            return (component, found, ENDS[end]) if found else None
    component, _, layer = stem.replace(".processor.", ".").partition(".")
    if stem.startswith(PEFT) and len(names) == 1:
        component, layer = next(iter(names)), stem.removeprefix(PEFT)
    found = _known(layer, CLIP, {known: known for known in names.get(component, {}).values()})
    return (component, found, ENDS[end]) if found else None


def _known(layer: str, clip: str, layers: Mapping[str, str]) -> str | None:
    """The layer of that name, with or without what stands before CLIP's."""
    return layers.get(layer) or layers.get(layer.removeprefix(clip)) or layers.get(clip + layer)


def configs(tensors: Tensors, components: Sequence[str]) -> dict[str, dict[str, Any]]:
    """peft's config of each network, from the file's metadata, or from adapter_config.json beside a file of one."""
    found: dict[str, dict[str, Any]] = {}
    for path in set(tensors.places.values()):
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA, "{}")
        about = limits.parse_json(text, f"{path}: its {METADATA}")
        for field, value in about.items() if isinstance(about, dict) else ():
            component, _, name = field.partition(".")
            found.setdefault(component, {})[name] = value
        beside = path.parent / "adapter_config.json"
        if len(components) == 1 and not found and beside.is_file():
            config = limits.read_json(beside)
            found = {components[0]: config} if isinstance(config, dict) else {}
    return found


def scale(parts: Mapping[str, np.ndarray], config: Mapping[str, Any] | None, layer: str, what: str) -> float:
    """alpha / r: by the layer's own alpha, by peft's config, or else 1."""
    rank = parts["down"].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"].reshape(-1)[0]) / rank
    if not config:
        return 1.0
    for field in ("use_dora", "lora_bias", "fan_in_fan_out"):
        if config.get(field):
            raise Mismatch(f"{what}: its config sets {field}, which is not known here.")
    alpha = config.get("lora_alpha", rank)
    for name, value in (config.get("alpha_pattern") or {}).items():
        if not re.fullmatch(r"\^?[\w.-]+", name):
            raise Mismatch(f"{what}: its config's alpha_pattern has {name!r}, which is no layer's name.")
        if layer == name.removeprefix("^") or layer.endswith(f".{name}"):
            alpha = value
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def prefix_of(component: str, components: Collection[str]) -> str:
    """kohya's prefix of a network's layers."""
    if component == "text_encoder":
        return "lora_te1_" if "text_encoder_2" in components else "lora_te_"
    return next(prefix for prefix, components in PREFIXES.items() if component in components and
                (component != "transformer" or prefix == "lora_transformer_"))  # fmt: skip


def shown(component: str, layer: str) -> str:
    """A layer's name in the files that we write: CLIP's as those know it that read LoRA files."""
    return CLIP + layer if component.startswith("text_encoder") and layer.startswith("encoder.layers.") else layer
