"""PixArt of diffusers, and of its authors' repository, written again here without its kernels; its pipelines."""

import functools
import math
import pathlib

import diffusers
import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin, PixArtTransformer2DModel as Theirs
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import VAE, Pipeline, as_written, t5, t5_tokenizer

INPUTS = {
    "x": drawn("pixart x", 2, 8, 12, 4),
    "t": np.array([3.0, 731.0], np.float32),
    "text": drawn("pixart text", 2, 5, 10),
    "text_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool),
}
SIZE = np.array([[640, 480, 0, 0, 1024, 512], [512, 700, 0, 0, 1024, 1024]], np.float32)
SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 2,
    "cross_attention_dim": 24,
    "caption_channels": 10,
    "sample_size": 16,
    "interpolation_scale": 2,
}
PUBLISHED = {"caption_channels": 4096, "norm_eps": 1e-6}


class PixArtTransformer2DModel(ModelMixin, ConfigMixin):
    """PixArt-alpha, diffusion/model/nets/PixArtMS.py: the names of its parameters, and what it computes.

    Under diffusers' name and config, so that the file says what is in it.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads,
        attention_head_dim,
        num_layers,
        cross_attention_dim,
        caption_channels,
        sample_size,
        interpolation_scale,
        use_additional_conditions,
        in_channels=4,
        out_channels=8,
        patch_size=2,
    ):
        super().__init__()
        width = num_attention_heads * attention_head_dim
        self.span = sample_size // patch_size / interpolation_scale
        layers = lambda size: nn.Sequential(nn.Linear(256, size), nn.SiLU(), nn.Linear(size, size))
        embedder = lambda size: nn.ModuleDict({"mlp": layers(size)})
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, patch_size, patch_size)})
        self.t_embedder = embedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        if use_additional_conditions:
            self.csize_embedder = embedder(width // 3)
            self.ar_embedder = embedder(width // 3)
        pair = lambda size, hidden: nn.ModuleDict({"fc1": nn.Linear(size, hidden), "fc2": nn.Linear(hidden, width)})
        self.y_embedder = nn.ModuleDict({"y_proj": pair(caption_channels, width)})
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            block = nn.Module()
            block.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
            block.cross_attn = nn.ModuleDict(
                {
                    "q_linear": nn.Linear(width, width),
                    "kv_linear": nn.Linear(width, 2 * width),
                    "proj": nn.Linear(width, width),
                }
            )
            block.mlp = pair(width, 4 * width)
            block.scale_shift_table = nn.Parameter(torch.zeros(6, width))
            self.blocks.append(block)
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(width, patch_size**2 * out_channels)
        self.final_layer.scale_shift_table = nn.Parameter(torch.zeros(2, width))

    def features(self, t: torch.Tensor) -> torch.Tensor:
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def positions(self, rows: int, columns: int, width: int) -> torch.Tensor:
        w = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
        place = lambda count: torch.arange(count, dtype=torch.float64) * self.span / count
        row, column = torch.meshgrid(place(rows), place(columns), indexing="ij")
        angles = [at.flatten()[:, None] * w for at in (column, row)]
        return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()

    def forward(self, x, t, text, mask, size=None):
        heads, patch = self.config.num_attention_heads, self.config.patch_size
        rows = x.shape[2] // patch
        columns = x.shape[3] // patch
        norm = lambda h: layer_norm(h, h.shape[-1:], eps=1e-6)
        mlp = lambda layers, h: layers["fc2"](gelu(layers["fc1"](h), approximate="tanh"))
        split = lambda h, parts: h.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)
        joined = lambda h: h.transpose(1, 2).flatten(2)
        h = self.x_embedder["proj"](x).flatten(2).transpose(1, 2)
        h = h + self.positions(rows, columns, h.shape[-1])
        t = self.t_embedder["mlp"](self.features(t))
        if size is not None:
            original = self.csize_embedder["mlp"](self.features(size[:, :2].flatten())).reshape(len(x), -1)
            t = t + torch.cat([original, self.ar_embedder["mlp"](self.features(size[:, 4] / size[:, 5]))], dim=1)
        c = self.t_block(t).unflatten(-1, (6, -1))
        y = mlp(self.y_embedder["y_proj"], text)
        for block in self.blocks:
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (block.scale_shift_table + c).chunk(6, dim=1)
            q, k, v = split(block.attn["qkv"](norm(h) * (1 + scale_1) + shift_1), 3)
            h = h + gate_1 * block.attn["proj"](joined(scaled_dot_product_attention(q, k, v)))
            (q,) = split(block.cross_attn["q_linear"](h), 1)
            k, v = split(block.cross_attn["kv_linear"](y), 2)
            seen = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
            h = h + block.cross_attn["proj"](joined(seen))
            h = h + gate_2 * mlp(block.mlp, norm(h) * (1 + scale_2) + shift_2)
        shift, scale = (self.final_layer.scale_shift_table + t[:, None]).chunk(2, dim=1)
        h = self.final_layer.linear(norm(h) * (1 + scale) + shift)
        h = h.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def run(module, a):
    size = a.get("size")
    sizes = None if size is None else {"resolution": size[:, :2], "aspect_ratio": (size[:, 4] / size[:, 5])[:, None]}
    found = module(first(a["x"]), a["text"], a["t"], sizes, encoder_attention_mask=a["text_mask"])
    return {"output": last(found.sample)}


CASES = {
    "pixart": Case(lambda: Theirs(**SMALL, use_additional_conditions=False), INPUTS, run),
    "pixart_sized": Case(lambda: Theirs(**SMALL, use_additional_conditions=True), {**INPUTS, "size": SIZE}, run),
    "pixart_original": Case(
        lambda: PixArtTransformer2DModel(**SMALL, use_additional_conditions=True),
        {**INPUTS, "size": SIZE},
        lambda m, a: {"output": last(m(first(a["x"]), a["t"], a["text"], a["text_mask"], a["size"]))},
    ),
}
LISTINGS = {
    "pixart_xl_2_512": lambda: Theirs(**PUBLISHED, sample_size=64),
    "pixart_xl_2_1024": lambda: Theirs(**PUBLISHED, sample_size=128),
}


PIXART = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "final_sigmas_type": "zero"}


def pipeline(folder: pathlib.Path, kind: type, **transformer) -> diffusers.DiffusionPipeline:
    return kind(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=t5(),
        transformer=diffusers.PixArtTransformer2DModel(
            in_channels=4, out_channels=8, num_layers=2, num_attention_heads=4, caption_channels=32, **transformer
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(PIXART),
    )


alpha = functools.partial(  # of 1024 pixels, which receives the size of the picture
    pipeline,
    kind=diffusers.PixArtAlphaPipeline,
    sample_size=128,
    attention_head_dim=12,
    cross_attention_dim=48,
    use_additional_conditions=True,
)
sigma = functools.partial(
    pipeline,
    kind=diffusers.PixArtSigmaPipeline,
    sample_size=8,
    attention_head_dim=8,
    cross_attention_dim=32,
    interpolation_scale=1,
    use_additional_conditions=False,
)
SIGMA = Pipeline(sigma, PIXART, {"dpmpp_2m": ("DPMSolverMultistepScheduler", {})}, arguments=as_written)
PIPELINES = {"pixart": SIGMA, "alpha": SIGMA._replace(build=alpha)}
