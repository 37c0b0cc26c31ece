"""DiT's train step in PyTorch, eager and under torch.compile, float32 on CPU, for benchmarks/train_step.py.

    PYTHON -m benchmarks.peers.train_step WIDTH DEPTH HEADS BATCH THREADS

A step trains on latents of 32 x 32 x 4, with AdamW and a moving average of the parameters. The program reads lines, and
answers "eager" and "compiled" with the seconds of one step.
"""

import sys
import time

import torch

from benchmarks.peers import dit


def main(width: str, depth: str, heads: str, batch: str, threads: str) -> None:
    """Answers each line of input until the input ends."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    shape = (32, 32, 4)
    network = dit.DiT(shape, int(width), int(depth), int(heads))
    params = list(network.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    x_0 = torch.randn(int(batch), *shape)
    label = torch.arange(int(batch))
    forms = {"eager": network, "compiled": torch.compile(network)}
    print(f"torch {torch.__version__}", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        dit.update(forms[line.strip()], x_0, label, optimizer, average, params).item()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
