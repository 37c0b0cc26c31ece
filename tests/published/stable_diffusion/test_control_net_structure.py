"""What a union ControlNet of Stable Diffusion adds to the skips, written out in numpy."""

import flax.linen as nn
import numpy as np
import pytest

from diffusion.published.stable_diffusion import control_net
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import ConditionalUNet, Layers
from tests.models.dit_oracle import silu
from tests.published.equations import applied, close, convolution, dense, normal, wave

UNET = ConditionalUNet((4, 6), (0, 1), (1, 2), 5, layers=1, in_channels=3, groups=2, size_width=6)


class Tokens(nn.Module):
    """A dense layer in place of the transformer."""

    depth: int
    heads: int
    hidden: int
    activation: str
    epsilon: float
    attention: str
    remat: str
    dtype: str

    @nn.compact
    def __call__(self, x, bias, skip):
        return nn.Dense(x.shape[-1], name="dense")(x), None


def block(layers, h, level, name):
    """Dense layers of the features and of the embedding in place of a residual block."""
    change = nn.Dense(UNET.widths[level], name=f"{name}_embedding")(layers.embedding)
    return nn.Dense(UNET.widths[level], name=name)(h) + change[:, None, None]


def test_a_kind_of_control_is_embedded_beside_the_time_and_added_to_the_hint(monkeypatch):
    """Its token is the mean of the hint plus a learned vector; every skip has a convolution of one pixel."""
    monkeypatch.setattr(control_net, "Tokens", Tokens)
    monkeypatch.setattr(Layers, "_resnet", block)
    monkeypatch.setattr(Layers, "_transformer", lambda layers, h, depths, j, level, name: h)
    module = ControlNet(UNET, (2, 3), modes=3, kind_heads=1)
    x, t, text, hint = normal(2, 2, 4, 3), np.float32([30, 800]), normal(2, 3, 5), normal(2, 4, 8, 3)
    mode = np.array([2, 0])
    p, found = applied(module, x, t, {"text": text}, hint, mode)
    for b in range(2):
        two_layers = lambda name, features: dense(p[f"{name}_out"], silu(dense(p[f"{name}_hidden"], features)))
        kinds = np.concatenate([wave(float(mode[b] == kind), 6) for kind in range(3)])
        embedding = two_layers("time", wave(np.float64(t[b]), 4)) + two_layers("kind", kinds)
        resnet = lambda name, h, c=embedding: dense(p[name], h) + dense(p[f"{name}_embedding"], c)
        read = silu(convolution(p["hint_in"], np.float64(hint[b])))
        read = silu(convolution(p["hint_0_same"], read))
        read = convolution(p["hint_out"], silu(convolution(p["hint_0_half"], read, 2)))
        token = dense(p["kind_tokens"]["dense"], read.mean((0, 1)) + p["kind_embedding"]["embedding"][mode[b]])
        h = convolution(p["conv_in"], np.float64(x[b])) + read + dense(p["kind_added"], token)
        skips = [h, resnet("down_0_resnet_0", h)]
        skips.append(convolution(p["down_0_downsample"], skips[-1], 2))
        skips.append(resnet("down_1_resnet_0", skips[-1]))
        middle = resnet("middle_resnet_1", resnet("middle_resnet_0", skips[-1]))
        names = [*(f"residual_{i}" for i in range(4)), "residual_middle"]
        for name, output, skip in zip(names, found, [*skips, middle], strict=True):
            pixel = {"kernel": p[name]["kernel"][0, 0], "bias": p[name]["bias"]}
            close(output[b], dense(pixel, skip))


@pytest.mark.parametrize(("strength_width", "read"), [(0, {"text"}), (6, {"text", "strength"})])
def test_a_distilled_control_net_alone_reads_the_strength_of_guidance(strength_width, read, monkeypatch):
    monkeypatch.setattr(ControlNet, "apply", lambda module, variables, x, t, condition, *hint: (condition, *hint))
    module = ControlNet(UNET.clone(strength_width=strength_width))
    x, t, hint, mode = normal(1, 2, 4, 3), normal(1), normal(1, 4, 8, 3), np.array([2])
    condition = {"text": normal(1, 3, 5), "strength": normal(1)}
    found, *seen = module.residuals({}, UNET, x, t, condition, (hint, mode))
    assert found.keys() == read and seen[0] is hint and seen[1] is mode
