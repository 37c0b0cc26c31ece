"""The ways down and up of Stable Diffusion's U-Net, and what is embedded beside its time, written out in numpy."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.stable_diffusion import network, table
from diffusion.published.stable_diffusion.network import ConditionalUNet, Layers
from tests.models.dit_oracle import silu
from tests.published.equations import applied, close, convolution, dense, normal, wave

SMALL = ConditionalUNet((4, 6, 8), (1, 0, 1), (2, 1, 2), 5, layers=1, in_channels=3, out_channels=2, groups=2)


def test_both_ways_take_the_skips_and_the_additions_of_adapters_in_order(monkeypatch):
    """Dense layers stand for residual blocks and transformers; level 1 has no attention, and ends with its halving."""
    monkeypatch.setattr(Layers, "_resnet", lambda self, h, level, name: nn.Dense(SMALL.widths[level], name=name)(h))
    transformer = lambda self, h, depths, j, level, name: nn.Dense(h.shape[-1], name=name)(h) if depths else h
    monkeypatch.setattr(Layers, "_transformer", transformer)
    x, t, text = normal(2, 4, 8, 3), np.float32([30, 800]), normal(2, 3, 5)
    residuals = tuple(normal(2, *shape) for shape in network.residual_shapes(SMALL, 4, 8))
    levels = tuple(normal(2, *shape) for shape in ((4, 8, 4), (1, 2, 6), (1, 2, 8), (1, 2, 8)))
    p, found = applied(SMALL, x, t, {"text": text, "residuals": residuals, "level_residuals": levels})
    for b in range(2):
        skips, h = [], convolution(p["conv_in"], np.float64(x[b]))
        skips.append(h)
        h = dense(p["down_0_transformer_0"], dense(p["down_0_resnet_0"], h)) + levels[0][b]
        skips.append(h)
        skips.append(convolution(p["down_0_downsample"], h, 2))
        skips.append(dense(p["down_1_resnet_0"], skips[-1]))
        skips.append(convolution(p["down_1_downsample"], skips[-1], 2) + levels[1][b])
        h = dense(p["down_2_transformer_0"], dense(p["down_2_resnet_0"], skips[-1])) + levels[2][b]
        skips.append(h)
        for name in ("middle_resnet_0", "middle_transformer", "middle_resnet_1"):
            h = dense(p[name], h)
        h = h + levels[3][b] + residuals[-1][b]
        skips = [skip + residual[b] for skip, residual in zip(skips, residuals)]
        for level in (2, 1, 0):
            for j in range(2):
                h = dense(p[f"up_{level}_resnet_{j}"], np.concatenate([h, skips.pop()], axis=-1))
                h = h if level == 1 else dense(p[f"up_{level}_transformer_{j}"], h)
            if level:
                h = convolution(p[f"up_{level}_upsample"], h.repeat(2, axis=0).repeat(2, axis=1))
        groups = h.reshape(4, 8, 2, 2)
        groups = (groups - groups.mean((0, 1, 3), keepdims=True)) / np.sqrt(groups.var((0, 1, 3), keepdims=True) + 1e-5)
        h = silu(groups.reshape(h.shape) * p["norm_out"]["scale"] + p["norm_out"]["bias"])
        close(found[b], convolution(p["conv_out"], h))


class Embedded(nn.Module):
    """What residual blocks read of the time and of other numbers."""

    unet: ConditionalUNet

    @nn.compact
    def __call__(self, t, inputs):
        return Layers(self.unet, t, {"text": jnp.zeros((2, 1, 5)), "text_mask": None} | inputs).embedding


def two_layers(p, name, features):
    return dense(p[f"{name}_out"], silu(dense(p[f"{name}_hidden"], features)))


@pytest.mark.parametrize("kind", ["size", "timestep", "projection", "table", "strength"])
def test_numbers_beside_the_time_are_embedded_as_their_kind(kind):
    t, pooled, size = np.float32([30, 800]), normal(2, 3), np.float32([[512, 768], [64, 9]])
    label, strength = np.array([4, 2]), np.float32([1.5, 7])
    fields, inputs = {
        "size": ({"added_width": 3 + 2 * 6, "size_width": 6}, {"pooled": pooled, "size": size}),
        "timestep": ({"class_embedding": kind}, {"label": label}),
        "projection": ({"class_embedding": kind, "class_width": 3}, {"pooled": pooled}),
        "table": ({"class_embedding": kind, "class_width": 5}, {"label": label}),
        "strength": ({"strength_width": 6}, {"strength": strength}),
    }[kind]
    p, found = applied(Embedded(SMALL.clone(**fields)), t, inputs)
    for b in range(2):
        features, expected = wave(np.float64(t[b]), 4), 0
        if kind == "size":
            sizes = [wave(np.float64(side), 6) for side in size[b]]
            expected = two_layers(p, "added", np.concatenate([pooled[b], *sizes]))
        elif kind == "timestep":
            expected = two_layers(p, "class", wave(np.float64(label[b]), 4))
        elif kind == "projection":
            expected = two_layers(p, "class", np.float64(pooled[b]))
        elif kind == "table":
            expected = p["classes"]["embedding"][label[b]]
        else:  # sines first, and the last of three periods is the largest
            angles = 1000 * (np.float64(strength[b]) - 1) * np.array([1, 0.01, 0.0001])
            features = features + np.concatenate([np.sin(angles), np.cos(angles)]) @ p["strength"]["kernel"]
        close(found[b], expected + two_layers(p, "time", features))


def test_the_middle_has_a_depth_in_the_config_where_the_last_level_has_no_attention():
    """In place of the last level's, which would be without effect."""
    module = ConditionalUNet((32, 64), (1, 0), (2, 2), 5, middle=3)
    config = table.CONFIG.describe(module)
    assert list(config["transformer_layers_per_block"]) == [1, 3]
    assert table.CONFIG.build(config) == module
