"""DiT as diffusers has it, and as the paper's repository names it: written again here, since diffusers has no class."""

import math

import numpy as np
import torch
from diffusers import ConfigMixin, DiTTransformer2DModel, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

INPUTS = {"x": drawn("dit x", 2, 8, 8, 4), "t": np.array([3.0, 731.0], np.float32), "label": np.array([1, 3], np.int32)}


def small() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=3,
    )


def copies(layers: int) -> dict[str, str]:
    """Every block has the same copy of the embeddings, as in the published checkpoints."""
    names = [name for name in small().state_dict() if name.startswith("transformer_blocks.0.norm1.emb.")]
    return {name.replace(".0.", f".{i}.", 1): name for name in names for i in range(1, layers)}


def mlp(width: int, hidden: int, act: nn.Module, out: int) -> nn.ModuleDict:
    return nn.ModuleDict({"fc1": nn.Linear(width, hidden), "act": act, "fc2": nn.Linear(hidden, out)})


class DiT(ModelMixin, ConfigMixin):
    """facebookresearch/DiT, models.py (and willisma/SiT's): the names of its parameters, and what it computes."""

    @register_to_config
    def __init__(
        self,
        input_size=32,
        patch_size=2,
        in_channels=4,
        hidden_size=1152,
        depth=28,
        num_heads=16,
        mlp_ratio=4.0,
        class_dropout_prob=0.1,
        num_classes=1000,
        learn_sigma=True,
    ):
        super().__init__()
        width = hidden_size
        hidden = int(hidden_size * mlp_ratio)
        outputs = patch_size**2 * in_channels * (2 if learn_sigma else 1)
        self.x_embedder = nn.Module()
        self.t_embedder = nn.Module()
        self.y_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder.embedding_table = nn.Embedding(num_classes + 1, width)
        side = input_size // patch_size
        self.pos_embed = nn.Parameter(self.positions(side, width)[None], requires_grad=False)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.Module()
            block.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
            block.mlp = mlp(width, hidden, nn.GELU(approximate="tanh"), width)
            block.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
            self.blocks.append(block)
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(width, outputs)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    @staticmethod
    def positions(side: int, width: int) -> torch.Tensor:
        w = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        angles = [place.flatten()[:, None] * w for place in (column, row)]
        return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        patch = self.config.patch_size
        side = x.shape[-1] // self.config.patch_size
        heads = self.config.num_heads
        norm = lambda h: nn.functional.layer_norm(h, h.shape[-1:], eps=1e-6)
        vectors = lambda layer, c, count: layer(c)[:, None].chunk(count, dim=-1)
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        c = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.y_embedder.embedding_table(y)
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = vectors(block.adaLN_modulation, c, 6)
            qkv = block.attn["qkv"](norm(h) * (1 + scale_1) + shift_1)
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            h = h + gate_1 * block.attn["proj"](scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            inner = block.mlp["act"](block.mlp["fc1"](norm(h) * (1 + scale_2) + shift_2))
            h = h + gate_2 * block.mlp["fc2"](inner)
        shift, scale = vectors(self.final_layer.adaLN_modulation, c, 2)
        h = self.final_layer.linear(norm(h) * (1 + scale) + shift)
        h = h.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def run(module, a):
    return {"output": last(module(first(a["x"]), a["t"], a["label"].long()).sample)}


CASES = {
    "dit": Case(small, INPUTS, run, same=copies(2)),
    "dit_diffusers": Case(small, INPUTS, run),  # as diffusers makes it: every block has embeddings of its own
    "dit_original": Case(
        lambda: DiT(input_size=8, hidden_size=32, depth=2, num_heads=2, num_classes=3),
        INPUTS,
        lambda m, a: {"output": last(m(first(a["x"]), a["t"], a["label"].long()))},
        kept=("pos_embed",),
    ),
}
LISTINGS = {"dit_xl_2_256": lambda: DiTTransformer2DModel(out_channels=8), "dit_original_xl_2": lambda: DiT()}
