"""U-ViT as its authors' repository has it (libs/uvit.py, libs/uvit_t2i.py), written again without its kernels."""

import math

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

INPUTS = {"x": drawn("u_vit x", 2, 8, 8, 4), "t": np.array([3.0, 731.0], np.float32)}
SMALL = {"img_size": 8, "patch_size": 2, "in_chans": 4, "embed_dim": 16, "depth": 4, "num_heads": 2}


class Block(nn.Module):
    def __init__(self, width, heads, ratio, qkv_bias, skip):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width, bias=qkv_bias), "proj": nn.Linear(width, width)})
        hidden = int(ratio * width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        if skip:
            self.skip_linear = nn.Linear(2 * width, width)

    def forward(self, x, skip=None):
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](gelu(self.mlp["fc1"](self.norm2(x))))


class UViT(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        qkv_bias=False,
        mlp_time_embed=False,
        num_classes=-1,
        conv=True,
        clip_dim=None,
        num_clip_token=None,
    ):
        super().__init__()
        width = embed_dim
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_chans, width, patch_size, patch_size)})
        if mlp_time_embed:
            self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.extras = 1 + (num_clip_token or 0) + (num_classes > 0)
        if num_classes > 0:
            self.label_emb = nn.Embedding(num_classes, width)
        if clip_dim:
            self.context_embed = nn.Linear(clip_dim, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + (img_size // patch_size) ** 2, width))
        block = lambda skip: Block(width, num_heads, mlp_ratio, qkv_bias, skip)
        self.in_blocks = nn.ModuleList([block(False) for _ in range(depth // 2)])
        self.mid_block = block(False)
        self.out_blocks = nn.ModuleList([block(True) for _ in range(depth // 2)])
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, patch_size**2 * in_chans)
        if conv:
            self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1)

    def forward(self, x, t, label=None, text=None):
        patch, width = self.config.patch_size, self.config.embed_dim
        w = torch.exp(-math.log(10000) * torch.arange(width // 2, dtype=torch.float32) / (width // 2))
        time = torch.cat([torch.cos(t[:, None] * w), torch.sin(t[:, None] * w)], dim=-1)
        time = self.time_embed(time) if self.config.mlp_time_embed else time
        h = [time[:, None], self.patch_embed["proj"](x).flatten(2).transpose(1, 2)]
        if label is not None:
            h.insert(0, self.label_emb(label)[:, None])
        if text is not None:
            h.insert(1, self.context_embed(text))
        h = torch.cat(h, dim=1) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            h = block(h)
            skips.append(h)
        h = self.mid_block(h)
        for block in self.out_blocks:
            h = block(h, skips.pop())
        h = self.decoder_pred(self.norm(h))[:, self.extras :]
        side = x.shape[-1] // patch
        h = h.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))
        h = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return self.final_layer(h) if self.config.conv else h


def run(module, a):
    label = a["label"].long() if "label" in a else None
    return {"output": last(module(first(a["x"]), a["t"], label, a.get("text")))}


CASES = {
    "u_vit": Case(lambda: UViT(**SMALL), INPUTS, run),
    "u_vit_class": Case(
        lambda: UViT(**SMALL, num_classes=4, qkv_bias=True, mlp_time_embed=True, conv=False),
        {**INPUTS, "label": np.array([1, 3], np.int32)},
        run,
    ),
    "u_vit_text": Case(
        lambda: UViT(**SMALL, clip_dim=10, num_clip_token=5), {**INPUTS, "text": drawn("u_vit text", 2, 5, 10)}, run
    ),
}
LISTINGS = {
    "u_vit_full_h_2": lambda: UViT(32, 2, 4, 1152, 28, 16, num_classes=1001, conv=False),
    "u_vit_full_coco": lambda: UViT(32, 2, 4, 512, 12, 8, clip_dim=768, num_clip_token=77),
}
