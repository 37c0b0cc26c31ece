"""CLIP under the names of OpenAI's repository (clip/model.py), which OpenCLIP and single files of SD 2 and SDXL keep.

A small torch module of its own: the names are those that torch gives to parts called as they are there, and that
diffusers' conversion of single files reads.
"""

import pathlib

import torch
from safetensors.torch import save_file
from torch import nn


class Mlp(nn.Module):
    """c_proj(act(c_fc(x)))."""

    def __init__(self, width: int, hidden: int, act: str):
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)
        self.act = act

    def forward(self, x):
        h = self.c_fc(x)
        return self.c_proj(h * torch.sigmoid(1.702 * h) if self.act == "quick_gelu" else nn.functional.gelu(h))


class Block(nn.Module):
    """A layer."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.mlp = Mlp(width, config.intermediate_size, config.hidden_act)

    def forward(self, x, mask):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """All layers."""

    def __init__(self, config):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    """The image tower."""

    def __init__(self, config, features: int):
        super().__init__()
        width = config.hidden_size
        side = config.image_size // config.patch_size
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(side**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.ln_post = nn.LayerNorm(width)
        self.transformer = Transformer(config)
        self.proj = nn.Parameter(torch.empty(width, features))

    def forward(self, images):
        x = self.conv1(images).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """Both towers, or, for a text config alone, that of the texts.

    Args:
        config: transformers' config of what it holds, saved beside it.
    """

    def __init__(self, config, architecture: str, layers: int = 0):
        super().__init__()
        config.architectures = [architecture]
        text = config if architecture.startswith("CLIPText") else config.text_config
        self.config = config
        features = config.projection_dim
        self.positional_embedding = nn.Parameter(torch.empty(text.max_position_embeddings, text.hidden_size))
        self.text_projection = nn.Parameter(torch.empty(text.hidden_size, features))
        self.logit_scale = nn.Parameter(torch.empty(()))
        if text is not config:
            self.visual = Visual(config.vision_config, features)
        self.transformer = Transformer(text)
        if layers:  # a tower of more layers than its config says: that of SD 2
            self.transformer.resblocks.extend(Block(text) for _ in range(layers - text.num_hidden_layers))
        self.token_embedding = nn.Embedding(text.vocab_size, text.hidden_size)
        self.ln_final = nn.LayerNorm(text.hidden_size)

    def encode_text(self, ids):
        seen = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding, seen))
        return x[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection

    def save_pretrained(self, folder, safe_serialization=True):
        self.config.save_pretrained(folder)
        save_file(self.state_dict(), pathlib.Path(folder) / "model.safetensors")
