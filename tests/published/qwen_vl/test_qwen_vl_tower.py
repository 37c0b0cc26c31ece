"""The image tower of Qwen 2.5 VL, written out in numpy."""

import numpy as np

from diffusion.models.text_encoders.clip import MEAN, STD
from diffusion.published.qwen_vl.network import QwenVision
from tests.models.dit_oracle import silu
from tests.published.equations import applied, attention, close, dense, exact_gelu, layer_of, out_of_heads, patches, rms

ROWS, COLUMNS = 6, 10  # patches; windows have 4 x 4 of them, and fewer at two edges


def turned(x, angles):
    """Features i and i + S / 2 of heads [N, H, S] are a complex number, which turns."""
    a, b = np.split(x, 2, axis=-1)
    z = (a + 1j * b) * np.exp(1j * angles[:, None])
    return np.concatenate([z.real, z.imag], axis=-1)


def layer(p, x, angles, shown):
    norm = lambda name, x: p[name]["scale"] * rms(x, 1e-6)
    read, heads = norm("norm_1", x), p["attention"]
    q, k, v = (dense(heads[name], read) for name in ("query", "key", "value"))
    x = x + out_of_heads(heads["out"], attention(turned(q, angles), turned(k, angles), v, shown))
    gate, up = np.moveaxis(dense(p["mlp"]["hidden"], norm("norm_2", x)), 1, 0)
    return x + dense(p["mlp"]["out"], silu(gate) * up)


def test_the_tower_is_its_equations():
    """The first layer attends within windows, and the second to the whole picture."""
    net = QwenVision(width=16, depth=2, heads=2, hidden=6, features=5, patch=2, merge=2, window=8, full_attention=(1,))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 2 * ROWS, 2 * COLUMNS, 3)).astype(np.float32)
    p, found = applied(net, images)
    row, column = np.indices((ROWS, COLUMNS)).reshape(2, -1)
    window = row // 4 * 3 + column // 4
    turns = 10_000.0 ** (-np.arange(2) / 2)
    angles = np.concatenate([np.outer(row, turns), np.outer(column, turns)], axis=1)
    for b in range(2):
        x = patches(((np.float64(images[b]) + 1) / 2 - MEAN) / STD) @ p["patches"]["kernel"].sum(0)
        for i, shown in enumerate((window[:, None] == window, None)):
            x = layer(layer_of(p["layers"], i), x, angles, shown)
        squares = patches((p["norm"]["scale"] * rms(x, 1e-6)).reshape(ROWS, COLUMNS, -1))
        close(found[b].reshape(-1, 5), dense(p["out"], exact_gelu(dense(p["hidden"], squares))))
