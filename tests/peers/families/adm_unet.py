"""ADM's U-Net as the authors' repository computes and names it: written again here, since no installed library has it.

openai/guided-diffusion, guided_diffusion/unet.py, UNetModel in two dimensions.
"""

import math

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


class Resize(nn.Module):
    """Twice or half the side, by a convolution if there is one; its name is theirs."""

    def __init__(self, up: bool, channels: int, convolve: bool):
        super().__init__()
        self.up = up
        if convolve:
            convolution = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1)
            self.add_module("conv" if up else "op", convolution)

    def forward(self, x):
        if self.up:
            x = interpolate(x, scale_factor=2, mode="nearest")
            return self.conv(x) if hasattr(self, "conv") else x
        return self.op(x) if hasattr(self, "op") else avg_pool2d(x, 2)


class Residual(nn.Module):
    """Their ResBlock."""

    def __init__(self, channels: int, out: int, embedding: int, scale_shift: bool, resize: Resize | None = None):
        super().__init__()
        self.scale_shift, self.resize = scale_shift, [resize]
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, 1, 1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(), nn.Conv2d(out, out, 3, 1, 1))
        if out != channels:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x, embedding):
        norm, activate, convolve = self.in_layers
        h = activate(norm(x))
        if self.resize[0] is not None:
            h = self.resize[0](h)
            x = self.resize[0](x)
        h = convolve(h)
        time = self.emb_layers(embedding)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = time.chunk(2, 1)
            h = shift + (scale + 1) * norm(h)
        else:
            h = norm(time + h)
        for layer in rest:
            h = layer(h)
        return h + (self.skip_connection(x) if hasattr(self, "skip_connection") else x)


class Attend(nn.Module):
    """Their AttentionBlock, with both orders of queries, keys and values."""

    def __init__(self, channels: int, heads: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, embedding):
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        qkv = self.qkv(self.norm(flat))
        size = channels // self.heads
        if self.new_order:
            q, k, v = qkv.reshape(batch, 3, self.heads, size, -1).unbind(1)
        else:
            q, k, v = qkv.reshape(batch, self.heads, 3, size, -1).unbind(2)
        weights = torch.softmax(torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(size), -1)
        out = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(batch, channels, -1)
        return (flat + self.proj_out(out)).reshape(x.shape)


def unconditional(layer: nn.Module) -> nn.Module:
    """The layer, called with the embedding as the others are."""
    forward = layer.forward
    layer.forward = lambda x, embedding: forward(x)
    return layer


class ADMUNet(ModelMixin, ConfigMixin):
    """The names of the parameters of UNetModel, and what it computes."""

    @register_to_config
    def __init__(
        self,
        image_size,
        in_channels,
        model_channels,
        out_channels,
        num_res_blocks,
        attention_resolutions,
        dropout=0,
        channel_mult=(1, 2, 4, 8),
        conv_resample=True,
        num_classes=None,
        num_heads=1,
        num_head_channels=-1,
        use_scale_shift_norm=False,
        resblock_updown=False,
        use_new_attention_order=False,
    ):
        super().__init__()
        embedding = 4 * model_channels
        shift = use_scale_shift_norm
        self.features = model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if num_classes:
            self.label_emb = nn.Embedding(num_classes, embedding)
        widths = [int(one * model_channels) for one in channel_mult]

        def attention(channels: int) -> Attend:
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            return Attend(channels, heads, use_new_attention_order)

        def resize(channels: int, up: bool) -> nn.Module:
            if resblock_updown:
                return Residual(channels, channels, embedding, shift, Resize(up, channels, False))
            return unconditional(Resize(up, channels, conv_resample))

        channels = widths[0]
        rate = 1
        self.input_blocks = nn.ModuleList([nn.ModuleList([unconditional(nn.Conv2d(in_channels, channels, 3, 1, 1))])])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers = [Residual(channels, width, embedding, shift)]
                channels = width
                if rate in attention_resolutions:
                    layers.append(attention(channels))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(channels)
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([resize(channels, False)]))
                skips.append(channels)
                rate *= 2
        self.middle_block = nn.ModuleList(
            [
                Residual(channels, channels, embedding, shift),
                attention(channels),
                Residual(channels, channels, embedding, shift),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(num_res_blocks + 1):
                layers = [Residual(channels + skips.pop(), widths[level], embedding, shift)]
                channels = widths[level]
                if rate in attention_resolutions:
                    layers.append(attention(channels))
                if level and i == num_res_blocks:
                    layers.append(resize(channels, True))
                    rate //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(widths[0], out_channels, 3, 1, 1))

    def forward(self, x, timesteps, y=None):
        half = self.features // 2
        angles = timesteps[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        skips = []
        for layers in self.input_blocks:
            for layer in layers:
                x = layer(x, embedding)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, embedding)
        for layers in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for layer in layers:
                x = layer(x, embedding)
        norm, _, convolve = self.out
        return convolve(silu(norm(x)))


def run(module, inputs):
    """One evaluation; of classes where there are any."""
    label = inputs.get("label")
    return {"output": last(module(first(inputs["x"]), inputs["t"], None if label is None else label.long()))}


INPUTS = {"x": drawn("adm_unet x", 2, 8, 4, 3), "t": np.array([3.0, 731.0], np.float32)}
LABEL = {"label": np.array([4, 0], np.int32)}
CASES = {
    # 0.5, as in the network for 512 x 512: the sinusoids are more than the first level's channels
    "adm_unet_new": Case(
        lambda: ADMUNet(
            8,
            3,
            64,
            6,
            1,
            [2],
            channel_mult=[0.5, 1],
            num_classes=5,
            num_head_channels=16,
            use_scale_shift_norm=True,
            resblock_updown=True,
            use_new_attention_order=True,
        ),
        INPUTS | LABEL,
        run,
    ),
    "adm_unet_legacy": Case(
        lambda: ADMUNet(
            8, 3, 32, 6, 1, [1, 4], channel_mult=[1, 1, 2], num_heads=4, use_scale_shift_norm=True, resblock_updown=True
        ),
        INPUTS,
        run,
    ),
    # the parent repository's, improved-diffusion: convolutions change the side, and the time is added
    "adm_unet_convolutions": Case(
        lambda: ADMUNet(8, 3, 32, 3, 2, [2], channel_mult=[1, 2], num_heads=2, dropout=0.1), INPUTS, run
    ),
}


def published(size, channels, levels, **options):
    """A network of the authors."""
    rates = [size // side for side in (32, 16, 8)]
    options = {"num_res_blocks": 2, "num_classes": 1000, "num_head_channels": 64, **options}
    return lambda: ADMUNet(
        size,
        3,
        channels,
        6,
        attention_resolutions=rates,
        channel_mult=levels,
        use_scale_shift_norm=True,
        resblock_updown=True,
        **options,
    )


LISTINGS = {
    "adm_unet_full_64": published(64, 192, [1, 2, 3, 4], num_res_blocks=3, dropout=0.1, use_new_attention_order=True),
    "adm_unet_full_256": published(256, 256, [1, 1, 2, 2, 4, 4]),
    "adm_unet_full_512": published(512, 256, [0.5, 1, 1, 2, 2, 4, 4]),
}
