"""DiT in plain PyTorch, with which our train steps are compared.

The module does not import our library, since the environment with PyTorch has no JAX.
"""

import math

import torch
from torch import nn
from torch.nn import functional

CLASSES, PATCH = 1000, 2


class Block(nn.Module):
    """A pre-norm block with adaptive shifts, scales and gates, which depend on the class and the time."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.width, self.heads = width, heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        x = functional.layer_norm(h, (self.width,), eps=1e-6) * (1 + scale_1) + shift_1
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.width // self.heads)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate_1 * self.out(x)
        x = functional.layer_norm(h, (self.width,), eps=1e-6) * (1 + scale_2) + shift_2
        return h + gate_2 * self.down(functional.gelu(self.up(x), approximate="tanh"))


class DiT(nn.Module):
    """DiT (Peebles and Xie 2023): images [B, H, H, C], times [B] in [0, 1000] and labels int [B] -> [B, H, H, C].

    Args:
        shape: the shape (H, H, C) of an image.
        width: the width of the tokens, as in the paper's table 1.
        depth: the number of blocks.
        heads: the number of attention heads.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int, heads: int):
        super().__init__()
        self.side = shape[0] // PATCH
        self.channels = shape[2]
        self.width = width
        values = PATCH * PATCH * self.channels
        self.patches = nn.Linear(values, width)
        self.register_buffer("positions", torch.randn(1, self.side**2, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, values)

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        grid = (x.shape[0], self.side, PATCH, self.side, PATCH, self.channels)
        h = self.patches(x.view(grid).transpose(2, 3).flatten(3).flatten(1, 2)) + self.positions
        angles = t[:, None] * torch.exp(torch.arange(128, device=t.device) * (-math.log(10000) / 128))
        c = functional.silu(self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.label(label))
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        h = self.out(functional.layer_norm(h, (self.width,), eps=1e-6) * (1 + scale) + shift)
        h = h.view(x.shape[0], self.side, self.side, PATCH, PATCH, self.channels).transpose(2, 3)
        return h.reshape(x.shape)


def update(forward, x_0: torch.Tensor, label: torch.Tensor, optimizer, average: list, params: list) -> torch.Tensor:
    """One update by flow matching, with the parts of our own train step: gradients, optimizer, moving average.

    Args:
        forward: the network, eager or compiled: (x_t, 1000 t, label) -> the velocity.
        x_0: the images, [B, H, H, C].
        label: the classes, int [B].
        optimizer: the optimizer that holds the parameters.
        average: the moving averages of the parameters, changed in place.
        params: the parameters, in the order of `average`.

    Returns:
        The loss, a scalar tensor on the device.
    """
    t = torch.rand(len(x_0), device=x_0.device)
    eps = torch.randn_like(x_0)
    at = t[:, None, None, None]
    output = forward((1 - at) * x_0 + at * eps, 1000 * t, label)
    loss = (output.float() - (eps - x_0)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        torch._foreach_lerp_(average, params, 1e-4)
    return loss
