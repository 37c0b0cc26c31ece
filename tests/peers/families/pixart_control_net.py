"""PixArt's ControlNet: diffusers' own layers, under the names of PixArtControlNetAdapterModel of its research projects.

That class is in no release of diffusers. Here it stands as its names and its published description have it: a layer of
PixArt's transformer each, with a dense layer behind, and one before the first. "pixart_with_control_net" is a small
transformer with it: what the ControlNet makes beside layer k is added to the tokens that layer k + 1 reads.
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import save_file

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

HEADS, WIDTH, DEPTH = 4, 32, 2
INPUTS = {
    "tokens": drawn("pixart control tokens", 2, 6, WIDTH),
    "seen": drawn("pixart control seen", 2, 6, WIDTH),
    "c": drawn("pixart control c", 2, 6, WIDTH),
    "text": drawn("pixart control text", 2, 5, WIDTH),
}


class ControlNet(torch.nn.Module):
    """`DEPTH` layers of a small PixArt."""

    def __init__(self, depth: int, heads: int, width: int):
        super().__init__()
        base = PixArtTransformer2DModel(
            sample_size=8,
            num_layers=depth,
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            cross_attention_dim=width,
            caption_channels=16,
        )
        dense = lambda: torch.nn.Linear(width, width)
        parts = lambda layer: {"transformer_block": layer, "after_proj": dense()}
        blocks = [torch.nn.ModuleDict(parts(layer)) for layer in base.transformer_blocks]
        blocks[0]["before_proj"] = dense()
        self.controlnet_blocks = torch.nn.ModuleList(blocks)
        sizes = {"num_attention_heads": heads, "attention_head_dim": width // heads, "cross_attention_dim": width}
        self.config = {"num_layers": depth} | (sizes if width != 1152 else {})

    def save_pretrained(self, folder: str, safe_serialization: bool = True) -> None:
        about = {"_class_name": "PixArtControlNetAdapterModel", **self.config}
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(about))
        save_file(self.state_dict(), pathlib.Path(folder) / "diffusion_pytorch_model.safetensors")


def run(module, a):
    h = a["tokens"] + module.controlnet_blocks[0]["before_proj"](a["seen"])
    outputs = {}
    for i, block in enumerate(module.controlnet_blocks):
        h = block["transformer_block"](h, encoder_hidden_states=a["text"], timestep=a["c"].reshape(len(h), -1))
        outputs[f"residual_{i}"] = block["after_proj"](h)
    return outputs


LAYERS = 4
BESIDE = {
    "x": drawn("pixart beside x", 2, 8, 8, 4),
    "t": np.array([3.0, 731.0], np.float32),
    "text": drawn("pixart beside text", 2, 5, 16),
    "seen": drawn("pixart beside seen", 2, 8, 8, 4),
}


class Beside(torch.nn.Module):
    """A transformer of `LAYERS` layers and its ControlNet of `DEPTH`."""

    def __init__(self):
        super().__init__()
        sizes = {"num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS, "cross_attention_dim": WIDTH}
        self.transformer = PixArtTransformer2DModel(sample_size=8, num_layers=LAYERS, caption_channels=16, **sizes)
        self.controlnet = ControlNet(DEPTH, HEADS, WIDTH)

    def save_pretrained(self, folder: str, safe_serialization: bool = True) -> None:
        configs = {
            "transformer": {"_class_name": "PixArtTransformer2DModel", **self.transformer.config},
            "controlnet": {"_class_name": "PixArtControlNetAdapterModel", **self.controlnet.config},
        }
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(configs))
        save_file(self.state_dict(), pathlib.Path(folder) / "diffusion_pytorch_model.safetensors")


def run_beside(module, a):
    """diffusers' own forward, whose layers are called with a hook that adds the residual of the one before."""
    base, blocks = module.transformer, module.controlnet.controlnet_blocks
    control = [base.pos_embed(first(a["seen"]))]

    def enter(number):
        def hook(layer, arguments, named):
            (h,) = arguments
            shared = {name: named[name] for name in ("encoder_hidden_states", "timestep")}
            start = h + blocks[0]["before_proj"](control[0]) if number == 1 else control[-1]
            control.append(blocks[number - 1]["transformer_block"](start, **shared))
            return (h + blocks[number - 1]["after_proj"](control[-1]),), named

        return hook

    for number in range(1, DEPTH + 1):
        base.transformer_blocks[number].register_forward_pre_hook(enter(number), with_kwargs=True)
    found = base(first(a["x"]), encoder_hidden_states=a["text"], timestep=a["t"])
    return {"output": last(found.sample)}


CASES = {
    "pixart_control_net": Case(lambda: ControlNet(DEPTH, HEADS, WIDTH), INPUTS, run),
    "pixart_with_control_net": Case(Beside, BESIDE, run_beside),
}


class PixArtControlNetAdapterModel(ControlNet):
    """By its name, for the listing."""


LISTINGS = {"pixart_control_net_full": lambda: PixArtControlNetAdapterModel(13, 16, 1152)}
