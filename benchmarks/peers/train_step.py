"""DiT in PyTorch and its train step by flow matching, eager and under torch.compile, for benchmarks/train_step.py.

    PYTHON -m benchmarks.peers.train_step WIDTH DEPTH HEADS BATCH THREADS

Latents of 32 x 32 x 4 in patches of 2, 1,000 classes, AdamW (foreach) and a moving average: as DiT's own code does it.
Answers "eager" or "compiled" with the seconds of one step; "parameters" with their number.
"""

import copy
import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """One adaLN-Zero layer (Peebles & Xie, 2023, figure 3)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c)[:, None].chunk(6, dim=-1)
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norms[0](x) * (1 + scale_a) + shift_a)
        q, k, v = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + gate_a * self.out(mixed)
        return x + gate_m * self.mlp(self.norms[1](x) * (1 + scale_m) + shift_m)


class DiT(nn.Module):
    """The network, from latents [B, 256, 16] cut into patches, times [B] and labels [B] to a velocity [B, 256, 16]."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.patches, self.final = nn.Linear(16, width), nn.Linear(width, 16)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(1001, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.register_buffer("positions", torch.randn(1, 256, width))
        self.register_buffer("frequencies", torch.exp(-9.21 * torch.arange(128) / 128))

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        angles = 1000 * t[:, None] * self.frequencies
        c = functional.silu(self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.label(label))
        x = self.patches(x) + self.positions
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        return self.final(self.norm(x) * (1 + scale) + shift)


def main(width: str, depth: str, heads: str, batch: str, threads: str) -> None:
    """Answers until the input ends."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    network = DiT(int(width), int(depth), int(heads))
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    x, label = torch.randn(int(batch), 256, 16), torch.arange(int(batch))
    forms = {"eager": network, "compiled": torch.compile(network)}
    print(f"torch {torch.__version__}", flush=True)

    def step(model: nn.Module) -> None:
        noise, t = torch.randn_like(x), torch.rand(len(x))
        mixed = (1 - t)[:, None, None] * x + t[:, None, None] * noise
        loss = (model(mixed, t, label) - (noise - x)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1e-4)
        loss.item()

    for line in sys.stdin:
        asked = line.strip()
        if asked == "parameters":
            print(sum(p.numel() for p in network.parameters()), flush=True)
            continue
        began = time.perf_counter()
        step(forms[asked])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
