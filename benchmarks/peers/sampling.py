"""The networks and the sampling loop of diffusers, in PyTorch, for benchmarks/sampling.py.

    PYTHON -m benchmarks.peers.sampling FOLDER THREADS

The folder holds a network as diffusers saves it, and start.safetensors with the noise "x" [B, C, H, W] and, for a
network with classes, "labels" [B] and the guidance "scale". The program reads lines. It answers "eager STEPS" and
"compiled STEPS" (torch.compile) with the seconds of the whole loop. For "write PATH STEPS" it writes the samples of the
eager loop.
"""

import json
import pathlib
import sys
import time

import diffusers
import torch
from safetensors.torch import load_file, save_file


@torch.inference_mode()
def main(folder: str, threads: str) -> None:
    """Answers each line of input until the input ends."""
    torch.set_num_threads(int(threads))
    kind = json.loads((pathlib.Path(folder) / "config.json").read_text())["_class_name"]
    network = getattr(diffusers, kind).from_pretrained(folder).eval()
    networks = {"eager": network, "compiled": torch.compile(network)}
    start = load_file(f"{folder}/start.safetensors")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}", flush=True)
    for line in sys.stdin:
        how, *words = line.split()
        began = time.perf_counter()
        if how == "write":
            save_file({"samples": loop(network, scheduler, start, int(words[1])).contiguous()}, words[0])
        else:
            loop(networks[how], scheduler, start, int(words[0]))
        print(time.perf_counter() - began, flush=True)


def loop(network, scheduler, start: dict, steps: int) -> torch.Tensor:
    """The sampling loop of DiTPipeline (with guidance) or DDPMPipeline (without), from noise to latents."""
    sample = start["x"]
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        sample = scheduler.step(output(network, sample, t, start), t, sample).prev_sample
    return sample


def output(network, sample: torch.Tensor, t: torch.Tensor, start: dict) -> torch.Tensor:
    """The predicted noise [B, C, H, W], with classifier-free guidance if the network has classes."""
    if "labels" not in start:
        return network(sample, t.expand(len(sample))).sample
    labels = torch.cat([start["labels"], torch.full_like(start["labels"], network.config.num_embeds_ada_norm)])
    both = network(torch.cat([sample, sample]), timestep=t.expand(len(labels)), class_labels=labels).sample
    conditional, null = both.chunk(2)
    return null + start["scale"] * (conditional - null)


if __name__ == "__main__":
    main(*sys.argv[1:])
