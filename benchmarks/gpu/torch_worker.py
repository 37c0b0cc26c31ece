"""Measures the peer: updates of the same DiT in PyTorch, with torch.compile, flash attention and bfloat16 autocast.

    python -m benchmarks.gpu.torch_worker '{"model": "B/2", "batch": 128}'

Its input and output are those of `benchmarks.gpu.worker`. An update does the same as ours: flow matching, gradients,
AdamW (fused), and a moving average of the parameters.
"""

import json
import math
import os
import sys
import time

SIZES = {"S/2": (384, 12, 6), "B/2": (768, 12, 12), "L/2": (1024, 24, 16), "XL/2": (1152, 28, 16), "tiny": (32, 2, 2)}


def main(spec: dict) -> None:
    """Answers each line of input until the input ends."""
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    say = lambda answer: print(json.dumps(answer), file=talk, flush=True)
    try:
        import torch
    except ImportError:
        return say({"failed": "no torch there"})
    from benchmarks.peers import dit

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    count = spec.get("count", 5)
    wait = torch.cuda.synchronize if cuda else lambda: None
    torch.set_float32_matmul_precision("high")
    if not cuda:
        torch.set_num_threads(2)
    shape = tuple(spec.get("shape", (32, 32, 4)))
    batch = spec["batch"]
    model = dit.DiT(shape, *SIZES[spec["model"]]).to(device)
    params = list(model.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=cuda)
    compiled = torch.compile(model)
    x_0 = torch.randn(batch, *shape, device=device)
    label = torch.arange(batch, device=device) % dit.CLASSES
    kernel = torch.nn.attention.sdpa_kernel
    kinds = torch.nn.attention.SDPBackend
    fused = [kinds.FLASH_ATTENTION, kinds.CUDNN_ATTENTION] if cuda else [kinds.FLASH_ATTENTION, kinds.MATH]

    def forward(*inputs):
        with torch.autocast(device.type, torch.bfloat16):
            return compiled(*inputs)

    def turn():
        with kernel(fused):
            for _ in range(count):
                loss = dit.update(forward, x_0, label, optimizer, average, params)
            wait()
        return loss

    try:
        began = time.perf_counter()
        turn()
        if not math.isfinite(turn().item()):
            raise FloatingPointError("the loss is not finite")
        name = torch.cuda.get_device_name() if cuda else "cpu"
        count_params = sum(p.numel() for p in params)
        say(
            {
                "device": name,
                "torch": torch.__version__,
                "images": batch,
                "params": count_params,
                "first_seconds": time.perf_counter() - began,
            }
        )
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
