"""The peer: the same DiT in PyTorch, torch.compile and flash attention, one update in bfloat16 autocast.

    python -m benchmarks.gpu.torch_worker '{"model": "B/2", "batch": 128}'

Speaks as `benchmarks.gpu.worker` does. Imports nothing of ours, so that it runs where PyTorch is. What one update does
is what ours does: flow matching, gradients, AdamW (fused), and a moving average of the parameters.
"""

import json
import math
import os
import sys
import time

SIZES = {"S/2": (384, 12, 6), "B/2": (768, 12, 12), "L/2": (1024, 24, 16), "XL/2": (1152, 28, 16), "tiny": (32, 2, 2)}
CLASSES, PATCH = 1000, 2


def network(torch, shape, model):
    """The DiT of Peebles & Xie (2023): pre-norm blocks, each with shift, scale and gate from the class and the time."""
    nn, F = torch.nn, torch.nn.functional
    width, depth, heads = SIZES[model]
    height, _, channels = shape
    tokens = (height // PATCH) ** 2

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.told = nn.Linear(width, 6 * width)

        def forward(self, h, c):
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.told(c)[:, None].chunk(6, dim=-1)
            x = F.layer_norm(h, (width,), eps=1e-6) * (1 + scale_1) + shift_1
            q, k, v = self.qkv(x).unflatten(-1, (3, heads, width // heads)).permute(2, 0, 3, 1, 4)
            x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            h = h + gate_1 * self.out(x)
            x = F.layer_norm(h, (width,), eps=1e-6) * (1 + scale_2) + shift_2
            return h + gate_2 * self.down(F.gelu(self.up(x), approximate="tanh"))

    class DiT(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Linear(PATCH * PATCH * channels, width)
            self.register_buffer("positions", torch.randn(1, tokens, width))
            self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
            self.label = nn.Embedding(CLASSES + 1, width)
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.told, self.out = nn.Linear(width, 2 * width), nn.Linear(width, PATCH * PATCH * channels)

        def forward(self, x, t, label):
            batch, side = x.shape[0], height // PATCH
            h = x.view(batch, side, PATCH, side, PATCH, channels).transpose(2, 3).flatten(3).flatten(1, 2)
            h = self.patches(h) + self.positions
            angles = t[:, None] * torch.exp(torch.arange(128, device=t.device) * (-math.log(10000) / 128))
            c = F.silu(self.time(torch.cat([angles.cos(), angles.sin()], dim=-1)) + self.label(label))
            for block in self.blocks:
                h = block(h, c)
            shift, scale = self.told(c)[:, None].chunk(2, dim=-1)
            h = self.out(F.layer_norm(h, (width,), eps=1e-6) * (1 + scale) + shift)
            h = h.view(batch, side, side, PATCH, PATCH, channels).transpose(2, 3)
            return h.reshape(batch, height, height, channels)

    return DiT()


def main(spec: dict) -> None:
    """Answers until its input ends."""
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    say = lambda told: print(json.dumps(told), file=talk, flush=True)
    try:
        import torch
    except ImportError:
        return say({"failed": "no torch there"})
    cuda = torch.cuda.is_available()
    device, count = torch.device("cuda" if cuda else "cpu"), spec.get("count", 5)
    wait = torch.cuda.synchronize if cuda else lambda: None
    torch.set_float32_matmul_precision("high")
    if not cuda:
        torch.set_num_threads(2)
    shape, batch = tuple(spec.get("shape", (32, 32, 4))), spec["batch"]
    model = network(torch, shape, spec["model"]).to(device)
    params = list(model.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=cuda)
    compiled = torch.compile(model)
    x_0 = torch.randn(batch, *shape, device=device)
    label = torch.arange(batch, device=device) % CLASSES
    kernel = torch.nn.attention.sdpa_kernel
    kinds = torch.nn.attention.SDPBackend
    fused = [kinds.FLASH_ATTENTION, kinds.CUDNN_ATTENTION] if cuda else [kinds.FLASH_ATTENTION, kinds.MATH]

    def update():
        t, eps = torch.rand(batch, device=device), torch.randn_like(x_0)
        at = t[:, None, None, None]
        with torch.autocast(device.type, torch.bfloat16):
            output = compiled((1 - at) * x_0 + at * eps, 1000 * t, label)
        loss = (output.float() - (eps - x_0)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1e-4)
        return loss

    def turn():
        with kernel(fused):
            for _ in range(count):
                loss = update()
            wait()
        return loss

    try:
        began = time.perf_counter()
        turn()
        if not math.isfinite(turn().item()):
            raise FloatingPointError("the loss is not finite")
        name = torch.cuda.get_device_name() if cuda else "cpu"
        count_params = sum(p.numel() for p in params)
        say({"device": name, "torch": torch.__version__, "images": batch, "params": count_params,
             "first_seconds": time.perf_counter() - began})  # fmt: skip
        for _ in sys.stdin:
            began = time.perf_counter()
            turn()
            taken = (time.perf_counter() - began) / count
            say({"seconds": taken, "peak": torch.cuda.max_memory_allocated() if cuda else 0})
    except Exception as error:
        say({"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]})
        raise


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
