"""Masked diffusion of symbols in plain PyTorch, eager and under torch.compile, for benchmarks/symbols.py.

    PYTHON -m benchmarks.peers.symbols WEIGHTS.npz SIZE LENGTH WIDTH DEPTH HEADS BATCH STEPS THREADS

The program reads lines. It answers "train eager", "sample compiled" and so on with the seconds of one train step, or of
one batch of samples. At "difference" it loads the weights of WEIGHTS.npz, and answers with the largest difference
between its logits and the logits in the file.
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A pre-norm block with rotary position embeddings; its attention layers have no biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.norms[0](h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts
        pairs = (x.unflatten(-1, (2, 2, -1)).unbind(-2) for x in (q, k))
        q, k = (torch.stack([a * cos - b * sin, a * sin + b * cos], -2).flatten(-3) for a, b in pairs)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + self.out(mixed)
        return h + self.down(functional.gelu(self.up(self.norms[1](h)), approximate="tanh"))


class Network(nn.Module):
    """A transformer from symbols, int [B, L], to logits [B, L, K]."""

    def __init__(self, size: int, length: int, width: int, depth: int, heads: int):
        super().__init__()
        self.table = nn.Embedding(size, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.last = nn.LayerNorm(width, bias=False), nn.Linear(width, size)
        half = width // heads // 2
        angles = (torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)).unflatten(-1, (-1, 2)).mT
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.table(x)
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
        return self.last(self.norm(h))


@torch.no_grad()
def difference(network: Network, path: str) -> float:
    """Loads our library's weights into the network; returns the largest difference between its logits and ours."""
    arrays = np.load(path, allow_pickle=False)
    weights = lambda name: torch.from_numpy(arrays[name])
    width = network.table.weight.shape[1]
    for i, block in enumerate(network.blocks):
        matrix = lambda name, rows, i=i: weights(f"blocks/{name}/kernel")[i].reshape(rows, -1).T
        for dense, name in ((block.qkv, "attention/qkv"), (block.out, "attention/out"), (block.up, "mlp/hidden")):
            dense.weight.copy_(matrix(name, width))
        block.down.weight.copy_(matrix("mlp/out", 4 * width))
        for dense, name in ((block.up, "mlp/hidden"), (block.down, "mlp/out")):
            dense.bias.copy_(weights(f"blocks/{name}/bias")[i])
        for norm, name in zip(block.norms, ("attention_norm", "mlp_norm")):
            norm.weight.copy_(weights(f"blocks/{name}/scale")[i])
    network.table.weight.copy_(weights("table"))
    network.norm.weight.copy_(weights("final_norm/scale"))
    network.last.weight.copy_(weights("final/kernel").T)
    network.last.bias.copy_(weights("final/bias"))
    return float((network(weights("symbols").long()) - weights("logits")).abs().max())


def main(
    path: str, size: int, length: int, width: int, depth: int, heads: int, batch: int, steps: int, threads: int
) -> None:
    """Answers each line of input until the input ends."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, mask = Network(size, length, width, depth, heads), size - 1
    params = list(network.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    x0 = torch.randint(0, mask, (batch, length))

    def train(form: nn.Module) -> None:
        t = (torch.arange(batch) + torch.rand(())) / batch
        masked = torch.rand(batch, length) < t[:, None]
        logits = form(torch.where(masked, mask, x0)).index_fill(-1, torch.tensor([mask]), -torch.inf)
        errors = functional.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
        loss = ((errors * masked).sum(1) / t).mean() / length
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in params], 1e-3)
        loss.item()

    @torch.no_grad()
    def sample(form: nn.Module) -> None:
        x = torch.full((batch, length), mask)
        for i in range(steps):
            p = form(x).index_fill(-1, torch.tensor([mask]), -torch.inf).softmax(-1)
            drawn = (p / torch.empty_like(p).exponential_()).argmax(-1)
            shown = torch.rand(batch, length) < 1 / (steps - i)
            x = torch.where((x == mask) & shown, drawn, x)

    forms = {"eager": network, "compiled": torch.compile(network)}
    print(f"torch {torch.__version__}", flush=True)
    for line in sys.stdin:
        what, *form = line.split()
        if what == "difference":
            print(difference(network, path), flush=True)
            continue
        began = time.perf_counter()
        {"train": train, "sample": sample}[what](forms[form[0]])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
