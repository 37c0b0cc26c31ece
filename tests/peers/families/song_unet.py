"""EDM's U-Nets as the authors' repository computes and names them: written again here, since no library has them.

NVlabs/edm, training/networks.py, SongUNet and DhariwalUNet.
"""

import math

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, group_norm, linear, silu

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


class Conv(nn.Module):
    """Their Conv2d: a convolution if `side`, on an image that is resampled if `way` is "up" or "down"."""

    def __init__(self, channels, out, side, way="", taps=(1, 1), after=False):
        super().__init__()
        self.way, self.after, self.side = way, after, side
        if side:
            self.weight = nn.Parameter(torch.zeros(out, channels, side, side))
            self.bias = nn.Parameter(torch.zeros(out))
        if way:
            line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
            self.register_buffer("resample_filter", torch.outer(line, line)[None, None])

    def resample(self, x, border):
        taps = self.resample_filter.expand(x.shape[1], 1, -1, -1)
        if self.way == "up":
            return conv_transpose2d(x, 4 * taps, groups=x.shape[1], stride=2, padding=border)
        return conv2d(x, taps, groups=x.shape[1], stride=2, padding=border)

    def forward(self, x):
        border = (self.resample_filter.shape[-1] - 1) // 2 if self.way else 0
        if self.after:  # the convolution sees the border that the filter needs
            assert self.way == "down"
            x = self.resample(conv2d(x, self.weight, padding=self.side // 2 + border), 0)
            return x + self.bias[:, None, None]
        x = self.resample(x, border) if self.way else x
        return conv2d(x, self.weight, self.bias, padding=self.side // 2) if self.side else x


class Dense(nn.Module):
    def __init__(self, features, out, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, features))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class Norm(nn.Module):
    def __init__(self, channels, epsilon):
        super().__init__()
        self.epsilon = epsilon
        self.groups = min(32, channels // 4)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return group_norm(x, self.groups, self.weight, self.bias, self.epsilon)


class Box(nn.Module):
    """Their UNetBlock, as for Song et al. (gain sqrt(1/2), one head) or for ADM (heads of 64, scale and shift)."""

    def __init__(self, channels, out, embedding, song, way="", heads=0, taps=(1, 1)):
        super().__init__()
        epsilon = 1e-6 if song else 1e-5
        self.channels, self.out_channels, self.song, self.heads = channels, out, song, heads
        self.gain = math.sqrt(0.5) if song else 1.0
        self.norm0 = Norm(channels, epsilon)
        self.conv0 = Conv(channels, out, 3, way, taps)
        self.affine = Dense(embedding, out if song else 2 * out)
        self.norm1 = Norm(out, epsilon)
        self.conv1 = Conv(out, out, 3)
        if way or channels != out:
            self.skip = Conv(channels, out, 1 if song or channels != out else 0, way, taps)
        if heads:
            self.norm2 = Norm(out, epsilon)
            self.qkv = Conv(out, 3 * out, 1)
            self.proj = Conv(out, out, 1)

    def forward(self, x, embedding):
        h = self.conv0(silu(self.norm0(x)))
        time = self.affine(embedding)[:, :, None, None]
        if self.song:
            h = self.norm1(h + time)
        else:
            scale, shift = time.chunk(2, 1)
            h = self.norm1(h) * (1 + scale) + shift
        x = self.gain * (self.conv1(silu(h)) + (self.skip(x) if hasattr(self, "skip") else x))
        if not self.heads:
            return x
        batch, channels, height, width = x.shape
        size = channels // self.heads
        qkv = self.qkv(self.norm2(x)).reshape(batch, self.heads, size, 3, height * width)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        weights = torch.softmax(q.mT @ k / math.sqrt(size), -1)
        return self.gain * (x + self.proj((v @ weights.mT).reshape(x.shape)))


def build(module, song, side, in_channels, widths, base, blocks, sides, embedding, taps, extra_down, extra_up):
    """The dictionaries "enc" and "dec" of a network, in the order of its computation."""
    heads = lambda width, attends: (1 if song else width // 64) if attends else 0
    box = lambda channels, out, way="", attends=False: Box(
        channels, out, embedding, song, way, heads(out, attends), taps
    )
    module.enc = nn.ModuleDict()
    module.dec = nn.ModuleDict()
    skips, channels = [], base
    for level, width in enumerate(widths):
        here = side >> level
        if level == 0:
            module.enc[f"{here}x{here}_conv"] = Conv(in_channels, base, 3)
        else:
            module.enc[f"{here}x{here}_down"] = box(channels, channels, "down")
            extra_down(f"{here}x{here}", channels)
        skips.append(channels)
        for i in range(blocks):
            module.enc[f"{here}x{here}_block{i}"] = box(channels, width, attends=here in sides)
            channels = width
            skips.append(channels)
    for level in reversed(range(len(widths))):
        here = side >> level
        if level == len(widths) - 1:
            module.dec[f"{here}x{here}_in0"] = box(channels, channels, attends=True)
            module.dec[f"{here}x{here}_in1"] = box(channels, channels)
        else:
            module.dec[f"{here}x{here}_up"] = box(channels, channels, "up")
        for i in range(blocks + 1):
            attends = here in sides and (not song or i == blocks)
            module.dec[f"{here}x{here}_block{i}"] = box(channels + skips.pop(), widths[level], attends=attends)
            channels = widths[level]
        extra_up(f"{here}x{here}", level, channels)
    return channels


class SongUNet(ModelMixin, ConfigMixin):
    """The names of the parameters of SongUNet, and what it computes."""

    @register_to_config
    def __init__(
        self,
        img_resolution,
        in_channels,
        out_channels,
        label_dim=0,
        augment_dim=0,
        model_channels=128,
        channel_mult=(1, 2, 2, 2),
        num_blocks=4,
        attn_resolutions=(16,),
        dropout=0.1,
        embedding_type="positional",
        channel_mult_noise=1,
        encoder_type="standard",
        decoder_type="standard",
        resample_filter=(1, 1),
    ):
        super().__init__()
        base = model_channels
        noise = model_channels * channel_mult_noise
        widths = [base * one for one in channel_mult]
        if embedding_type == "fourier":
            self.map_noise = nn.Module()
            self.map_noise.register_buffer("freqs", torch.zeros(noise // 2))
        else:
            self.noise = noise
        if label_dim:
            self.map_label = Dense(label_dim, noise)
        if augment_dim:
            self.map_augment = Dense(augment_dim, noise, bias=False)
        self.map_layer0 = Dense(noise, 4 * base)
        self.map_layer1 = Dense(4 * base, 4 * base)
        self.residual = encoder_type == "residual"
        side_channels = [in_channels]

        def extra_down(here, channels):
            if encoder_type == "skip":
                self.enc[f"{here}_aux_down"] = Conv(0, 0, 0, "down", resample_filter)
                self.enc[f"{here}_aux_skip"] = Conv(in_channels, channels, 1)
            if encoder_type == "residual":
                aux = Conv(side_channels.pop(), channels, 3, "down", resample_filter, after=True)
                self.enc[f"{here}_aux_residual"] = aux
                side_channels.append(channels)

        def extra_up(here, level, channels):
            if decoder_type == "skip" and level + 1 < len(widths):
                self.dec[f"{here}_aux_up"] = Conv(0, 0, 0, "up", resample_filter)
            if decoder_type == "skip" or level == 0:
                self.dec[f"{here}_aux_norm"] = Norm(channels, 1e-6)
                self.dec[f"{here}_aux_conv"] = Conv(channels, out_channels, 3)

        build(
            self,
            True,
            img_resolution,
            in_channels,
            widths,
            base,
            num_blocks,
            attn_resolutions,
            4 * base,
            resample_filter,
            extra_down,
            extra_up,
        )

    def embedding(self, t, label, augment):
        if hasattr(self, "map_noise"):
            angles = t[:, None] * self.map_noise.freqs * 2 * math.pi
        else:
            half = self.noise // 2
            angles = t[:, None] * (1 / 10_000) ** (torch.arange(half) / (half - 1))
        h = torch.cat([angles.sin(), angles.cos()], 1)
        if label is not None:
            h = h + self.map_label(label * math.sqrt(label.shape[1]))
        if augment is not None:
            h = h + self.map_augment(augment)
        return silu(self.map_layer1(silu(self.map_layer0(h))))

    def forward(self, x, t, label=None, augment=None):
        embedding = self.embedding(t, label, augment)
        skips = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x, embedding) if isinstance(layer, Box) else layer(x)
                skips.append(x)
        out = 0
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                out = layer(out)
            elif name.endswith("aux_norm"):
                part = silu(layer(x))
            elif name.endswith("aux_conv"):
                out = out + layer(part)
            else:
                x = layer(torch.cat([x, skips.pop()], 1) if "_block" in name else x, embedding)
        return out


class DhariwalUNet(ModelMixin, ConfigMixin):
    """The names of the parameters of DhariwalUNet, and what it computes."""

    @register_to_config
    def __init__(
        self,
        img_resolution,
        in_channels,
        out_channels,
        label_dim=0,
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_blocks=3,
        attn_resolutions=(32, 16, 8),
        dropout=0.1,
    ):
        super().__init__()
        self.base = model_channels
        embedding = 4 * model_channels
        self.map_layer0 = Dense(model_channels, embedding)
        self.map_layer1 = Dense(embedding, embedding)
        if label_dim:
            self.map_label = Dense(label_dim, embedding, bias=False)
        widths = [model_channels * one for one in channel_mult]
        channels = build(self, False, img_resolution, in_channels, widths, widths[0], num_blocks, attn_resolutions,
                         embedding, (1, 1), lambda *_: None, lambda *_: None)  # fmt: skip
        self.out_norm = Norm(channels, 1e-5)
        self.out_conv = Conv(channels, out_channels, 3)

    def forward(self, x, t, label=None, augment=None):
        half = self.base // 2
        angles = t[:, None] * (1 / 10_000) ** (torch.arange(half) / half)
        h = self.map_layer1(silu(self.map_layer0(torch.cat([angles.cos(), angles.sin()], 1))))
        embedding = silu(h if label is None else h + self.map_label(label))
        skips = []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Box) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], 1) if "_block" in name else x, embedding)
        return self.out_conv(silu(self.out_norm(x)))


def run(module, inputs):
    """One evaluation; the null class is a row of zeros, as EDM's code has it."""
    label = inputs.get("label")
    if label is not None:
        label = nn.functional.one_hot(label.long(), module.config.label_dim + 1)[:, :-1].float()
    return {"output": last(module(first(inputs["x"]), inputs["t"], label, inputs.get("augment")))}


def filters(network):
    """The names of the filters, which keep their numbers."""
    return tuple(name for name in network.state_dict() if name.endswith("resample_filter"))


def case(network, inputs):
    """A case of a network that has filters."""
    return Case(
        network,
        {"x": drawn("song_unet x", 2, 8, 4, 3), "t": np.array([-0.9, 0.4], np.float32), **inputs},
        run,
        kept=filters(network()),
    )


FOUR = {"model_channels": 16, "num_blocks": 1, "attn_resolutions": [4]}
NCSN_PP = {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]}
AUGMENT = drawn("song_unet augment", 2, 9)
CASES = {
    "song_unet_ddpmpp": case(
        lambda: SongUNet(8, 3, 3, label_dim=5, augment_dim=9, channel_mult=[2, 2], **FOUR),
        {"label": np.array([3, 5], np.int32), "augment": AUGMENT},
    ),
    "song_unet_ncsnpp": case(
        lambda: SongUNet(8, 3, 3, augment_dim=9, channel_mult=[1, 3, 3], encoder_type="residual", **FOUR, **NCSN_PP), {}
    ),
    "song_unet_skips": case(
        lambda: SongUNet(8, 3, 6, channel_mult=[1, 2], encoder_type="skip", decoder_type="skip", **FOUR, **NCSN_PP), {}
    ),
    "song_unet_dhariwal": case(
        lambda: DhariwalUNet(
            8, 3, 3, label_dim=5, model_channels=128, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]
        ),
        {"label": np.array([3, 5], np.int32)},
    ),
}
LISTINGS = {
    "song_unet_full_ddpmpp": lambda: SongUNet(32, 3, 3, 10, 9, channel_mult=[2, 2, 2], dropout=0.13),
    "song_unet_full_ncsnpp": lambda: SongUNet(64, 3, 3, 0, 9, dropout=0.05, encoder_type="residual", **NCSN_PP),
    "song_unet_full_dhariwal": lambda: DhariwalUNet(64, 3, 3, 1000),
}
