"""A T2I-Adapter that we wrote, opened by diffusers: the latents that its pipeline ends at.

It runs in the peers' environment: python -m tests.peers.sketches FOLDER ADAPTER OUT, where FOLDER is a pipeline.
"""

import sys

import diffusers
import torch
from safetensors.torch import save_file

from tests.peers.cases import last
from tests.peers.controlled import picture
from tests.peers.families.stable_diffusion import SD_1
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import GUIDANCE, NEGATIVE, PROMPTS

STEPS, WEIGHT = 4, 0.8


def main(folder: str, adapter: str, out: str) -> None:
    """Samples with the adapter."""
    torch.set_num_threads(1)
    base = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    parts = {name: part for name, part in base.components.items() if name != "image_encoder"}
    pipe = diffusers.StableDiffusionAdapterPipeline(
        **parts, adapter=diffusers.T2IAdapter.from_pretrained(adapter), requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(SD_1)
    with torch.no_grad():
        found = pipe(
            PROMPTS, image=picture("sketch").repeat(2, 1, 1, 1), negative_prompt=[NEGATIVE] * 2,
            latents=torch.from_numpy(drawn("latents", 2, 8, 8, 4)).movedim(-1, 1), num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, height=16, width=16, output_type="latent", adapter_conditioning_scale=WEIGHT,
        ).images  # fmt: skip
    save_file({"latents": last(found).contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
