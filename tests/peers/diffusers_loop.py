"""A DiT in PyTorch under diffusers' sampling loop, with weights that this library wrote, for benchmarks/samplers.py.

It runs in an environment of its own (tests/peers/requirements.txt), without this library:

    PYTHON -m tests.peers.diffusers_loop WEIGHTS.safetensors STEPS

The file holds the network's parameters by their path, noise "x" and classes "labels" to start from, and its sizes in
the metadata. Answers each line of its input: "loop" with the seconds of the whole loop of DPMSolverMultistepScheduler,
"network" with those of as many calls of the network alone, "write PATH" by writing the samples.
"""

import json
import sys
import time

import diffusers
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x, c):
        batch, tokens, width = x.shape
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        qkv = self.qkv(self.norm(x) * (1 + scale_1) + shift_1).reshape(batch, tokens, 3, self.heads, -1)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + gate_1 * self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        hidden = F.gelu(self.hidden(self.norm(x) * (1 + scale_2) + shift_2), approximate="tanh")
        return x + gate_2 * self.mlp_out(hidden)


class DiT(nn.Module):
    """As published (Peebles and Xie 2023), channels last."""

    def __init__(self, patch, width, depth, heads, num_classes, side, channels):
        super().__init__()
        self.patch, self.side, self.channels = patch, side, channels
        self.patch_embedding = nn.Linear(patch**2 * channels, width)
        self.time_hidden, self.time_out = nn.Linear(256, width), nn.Linear(width, width)
        self.labels = nn.Embedding(num_classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, patch**2 * channels)
        self.register_buffer("positions", positions(side // patch, width))
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(128) / 128))

    def forward(self, x, t, labels):
        n, p = self.side // self.patch, self.patch
        tokens = x.reshape(-1, n, p, n, p, self.channels).transpose(2, 3).reshape(len(x), n * n, -1)
        tokens = self.patch_embedding(tokens) + self.positions
        angles = t[:, None] * self.frequencies
        time_features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        c = F.silu(self.time_out(F.silu(self.time_hidden(time_features))) + self.labels(labels))
        for block in self.blocks:
            tokens = block(tokens, c)
        shift, scale = self.final_modulation(c)[:, None].chunk(2, dim=-1)
        tokens = self.final(self.norm(tokens) * (1 + scale) + shift)
        return tokens.reshape(-1, n, n, p, p, self.channels).transpose(2, 3).reshape(x.shape)


def positions(side, width):
    """Fixed sines and cosines of the column, then of the row."""
    w = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = (place.reshape(-1, 1) * w for place in np.mgrid[:side, :side])
    return torch.tensor(np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], 1)).float()


def load(model, found):
    """Puts this library's parameters, kernels `[in, out ...]` and layers stacked, into the modules."""

    def fill(linear, path, layer=None):
        kernel, bias = (found[f"{path}/{part}"] for part in ("kernel", "bias"))
        kernel, bias = (kernel, bias) if layer is None else (kernel[layer], bias[layer])
        with torch.no_grad():
            linear.weight.copy_(kernel.reshape(linear.in_features, linear.out_features).T)
            linear.bias.copy_(bias.reshape(-1))

    fill(model.patch_embedding, "patch_embedding")
    fill(model.time_hidden, "timestep_embedding/hidden")
    fill(model.time_out, "timestep_embedding/out")
    fill(model.final_modulation, "final_modulation/dense")
    fill(model.final, "final")
    with torch.no_grad():
        model.labels.weight.copy_(found["label_embedding/embedding"])
    for layer, block in enumerate(model.blocks):
        for linear, path in ((block.modulation, "modulation/dense"), (block.qkv, "attention/qkv"),
                             (block.out, "attention/out"), (block.hidden, "mlp/hidden"), (block.mlp_out, "mlp/out")):
            fill(linear, f"blocks/{path}", layer)


@torch.inference_mode()
def main(weights: str, steps: str) -> None:
    """Answers until the input ends."""
    with safe_open(weights, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        model = DiT(**json.loads(file.metadata()["sizes"])).eval()
    load(model, found)
    x, labels = found["x"], found["labels"]
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", solver_order=2, lower_order_final=False,
        final_sigmas_type="zero")  # fmt: skip

    def loop():
        sample = x
        scheduler.set_timesteps(int(steps))
        for t in scheduler.timesteps:
            output = model(sample, t.expand(len(x)).float(), labels)
            sample = scheduler.step(output, t, sample).prev_sample
        return sample

    def network():
        sample, t = x, torch.full((len(x),), 500.0)
        for _ in range(int(steps)):
            sample = model(sample, t, labels)
        return sample

    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}", flush=True)
    for line in sys.stdin:
        name, *path = line.split()
        if name == "write":
            save_file({"samples": loop().contiguous()}, path[0])
        began = time.perf_counter()
        {"loop": loop, "network": network, "write": lambda: None}[name]()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
