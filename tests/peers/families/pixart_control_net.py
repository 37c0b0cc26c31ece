"""PixArt's ControlNet: diffusers' own layers, under the names of PixArtControlNetAdapterModel of its research projects.

That class is in no release of diffusers. Here it stands as its names and its published description have it: a layer of
PixArt's transformer each, with a dense layer behind, and one before the first.
"""

import json
import pathlib

import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import save_file

from tests.peers.cases import Case
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


CASES = {"pixart_control_net": Case(lambda: ControlNet(DEPTH, HEADS, WIDTH), INPUTS, run)}


class PixArtControlNetAdapterModel(ControlNet):
    """By its name, for the listing."""


LISTINGS = {"pixart_control_net_full": lambda: PixArtControlNetAdapterModel(13, 16, 1152)}
