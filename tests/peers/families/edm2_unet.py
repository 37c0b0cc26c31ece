"""EDM2's U-Net as the authors' repository computes and names it: written again here, since no library has it.

NVlabs/edm2, training/networks_edm2.py, UNet (whose weights are normalised before each use, as in their evaluation).
"""

import math

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, one_hot, silu

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def normalized(x, axes):
    """x / (1e-4 + its root mean square over these axes)."""
    return x / (1e-4 + x.pow(2).mean(axes, keepdim=True).sqrt())


def mix(a, b, t):
    """Their magnitude-preserving sum."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def activate(x):
    """Their magnitude-preserving silu."""
    return silu(x) / 0.596


class Weight(nn.Module):
    """Their MPConv, of a side of 0 (dense), 1 or 3."""

    def __init__(self, channels, out, side):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, channels, *(side,) * (2 if side else 0)))

    def forward(self, x, gain=1.0):
        axes = tuple(range(1, self.weight.ndim))
        weight = gain * normalized(self.weight, axes) / math.sqrt(self.weight[0].numel())
        return x @ weight.mT if weight.ndim == 2 else conv2d(x, weight, padding=weight.shape[-1] // 2)


class Box(nn.Module):
    """Their Block."""

    def __init__(
        self,
        channels,
        out,
        embedding,
        decoder,
        way="",
        attends=False,
        size=64,
        taps=(1, 1),
        clip=256,
        residual=0.3,
        attention=0.3,
    ):
        super().__init__()
        self.decoder, self.way, self.taps, self.clip, self.out_channels = decoder, way, taps, clip, out
        self.residual = residual
        self.attention = attention
        self.heads = out // size if attends else 0
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = Weight(channels if decoder else out, out, 3)
        self.emb_linear = Weight(embedding, out, 0)
        self.conv_res1 = Weight(out, out, 3)
        if channels != out:
            self.conv_skip = Weight(channels, out, 1)
        if attends:
            self.attn_qkv = Weight(out, 3 * out, 1)
            self.attn_proj = Weight(out, out, 1)

    def resample(self, x):
        line = torch.tensor(self.taps, dtype=torch.float32) / sum(self.taps)
        taps = torch.outer(line, line).expand(x.shape[1], 1, -1, -1)
        how = {"groups": x.shape[1], "stride": 2, "padding": (len(line) - 1) // 2}
        return conv_transpose2d(x, 4 * taps, **how) if self.way == "up" else conv2d(x, taps, **how)

    def forward(self, x, embedding):
        x = self.resample(x) if self.way else x
        skip = self.conv_skip if hasattr(self, "conv_skip") else nn.Identity()
        if not self.decoder:
            x = normalized(skip(x), 1)
        y = self.conv_res0(activate(x))
        y = activate(y * (1 + self.emb_linear(embedding, self.emb_gain))[:, :, None, None])
        x = mix(skip(x) if self.decoder else x, self.conv_res1(y), self.residual)
        if self.heads:
            qkv = self.attn_qkv(x).reshape(len(x), self.heads, self.out_channels // self.heads, 3, -1)
            q, k, v = normalized(qkv, 2).unbind(3)
            weights = torch.softmax(q.mT @ k / math.sqrt(q.shape[2]), -1)
            x = mix(x, self.attn_proj((v @ weights.mT).reshape(x.shape)), self.attention)
        return x if self.clip is None else x.clip(-self.clip, self.clip)


class EDM2UNet(ModelMixin, ConfigMixin):
    """The names of the parameters of UNet, and what it computes."""

    @register_to_config
    def __init__(
        self,
        img_resolution,
        img_channels,
        label_dim,
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        channel_mult_noise=None,
        channel_mult_emb=None,
        num_blocks=3,
        attn_resolutions=(16, 8),
        label_balance=0.5,
        concat_balance=0.5,
        resample_filter=(1, 1),
        channels_per_head=64,
        dropout=0,
        res_balance=0.3,
        attn_balance=0.3,
        clip_act=256,
    ):
        super().__init__()
        widths = [model_channels * one for one in channel_mult]
        noise = model_channels * channel_mult_noise if channel_mult_noise else widths[0]
        embedding = model_channels * channel_mult_emb if channel_mult_emb else max(widths)
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = nn.Module()
        self.emb_fourier.register_buffer("freqs", torch.zeros(noise))
        self.emb_fourier.register_buffer("phases", torch.zeros(noise))
        self.emb_noise = Weight(noise, embedding, 0)
        if label_dim:
            self.emb_label = Weight(label_dim, embedding, 0)
        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()
        skips = []

        def box(channels, out, decoder, side, **options):
            return Box(
                channels,
                out,
                embedding,
                decoder,
                attends=side in attn_resolutions or side == "middle",
                size=channels_per_head,
                taps=resample_filter,
                clip=clip_act,
                residual=res_balance,
                attention=attn_balance,
                **options,
            )

        for level, width in enumerate(widths):
            side = img_resolution >> level
            if level == 0:
                self.enc[f"{side}x{side}_conv"] = Weight(img_channels + 1, width, 3)
                channels = width
            else:
                self.enc[f"{side}x{side}_down"] = box(channels, channels, False, None, way="down")
            skips.append(channels)
            for i in range(num_blocks):
                self.enc[f"{side}x{side}_block{i}"] = box(channels, width, False, side)
                channels = width
                skips.append(channels)
        for level in reversed(range(len(widths))):
            side = img_resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{side}x{side}_in0"] = box(channels, channels, True, "middle")
                self.dec[f"{side}x{side}_in1"] = box(channels, channels, True, None)
            else:
                self.dec[f"{side}x{side}_up"] = box(channels, channels, True, None, way="up")
            for i in range(num_blocks + 1):
                self.dec[f"{side}x{side}_block{i}"] = box(channels + skips.pop(), widths[level], True, side)
                channels = widths[level]
        self.out_conv = Weight(channels, img_channels, 3)

    def forward(self, x, t, label=None):
        fourier = math.sqrt(2) * torch.cos(t[:, None] * self.emb_fourier.freqs + self.emb_fourier.phases)
        embedding = self.emb_noise(fourier)
        skips = []
        if label is not None:
            embedded = self.emb_label(label * math.sqrt(label.shape[1]))
            embedding = mix(embedding, embedded, self.config.label_balance)
        embedding = activate(embedding)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Box) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            if "_block" in name:
                x = self.join(x, skips.pop())
            x = layer(x, embedding)
        return self.out_conv(x, self.out_gain)

    def join(self, a, b):
        """Their magnitude-preserving concatenation."""
        t = self.config.concat_balance
        channels = a.shape[1] + b.shape[1]
        scale = math.sqrt(channels / ((1 - t) ** 2 + t**2))
        return torch.cat([scale * (1 - t) / math.sqrt(a.shape[1]) * a, scale * t / math.sqrt(b.shape[1]) * b], 1)


def run(module, inputs):
    """One evaluation; the null class is a row of zeros, as in their code."""
    label = inputs.get("label")
    if label is not None:
        label = one_hot(label.long(), module.config.label_dim + 1)[:, :-1].float()
    return {"output": last(module(first(inputs["x"]), inputs["t"], label))}


INPUTS = {"x": drawn("edm2_unet x", 2, 8, 4, 3), "t": np.array([-0.9, 0.4], np.float32)}
CASES = {
    "edm2_unet_classes": Case(
        lambda: EDM2UNet(
            8, 3, 5, model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4], channels_per_head=16
        ),
        INPUTS | {"label": np.array([3, 5], np.int32)},
        run,
    ),
    # every balance and multiplier of its own, and activations that are clipped
    "edm2_unet_options": Case(
        lambda: EDM2UNet(
            8,
            3,
            0,
            model_channels=16,
            channel_mult=[1, 3],
            num_blocks=1,
            attn_resolutions=[8],
            channels_per_head=8,
            channel_mult_noise=2,
            channel_mult_emb=1,
            concat_balance=0.4,
            resample_filter=[1, 3, 3, 1],
            res_balance=0.6,
            attn_balance=0.2,
            clip_act=1.5,
        ),
        INPUTS,
        run,
    ),
}
LISTINGS = {
    "edm2_unet_full_xs": lambda: EDM2UNet(64, 4, 1000, model_channels=128),
    "edm2_unet_full_xxl": lambda: EDM2UNet(64, 4, 1000, model_channels=448, dropout=0.1),
}
