"""The folder of a text-to-image model that we wrote, opened by diffusers: the pictures that it makes of our noise.

It runs in the peers' environment: python -m tests.peers.text_model_opened FOLDER NOISE.npz OUT.npz
"""

import sys

import numpy as np
import torch
from diffusers import PixArtSigmaPipeline


def main(folder: str, noise: str, out: str) -> None:
    """Makes a picture of each prompt."""
    torch.set_num_threads(1)
    arrays = np.load(noise)
    pipeline = PixArtSigmaPipeline.from_pretrained(folder)
    pictures = pipeline(
        arrays["prompts"].tolist(),
        negative_prompt=str(arrays["negative"]),
        num_inference_steps=int(arrays["steps"]),
        guidance_scale=float(arrays["guidance"]),
        latents=torch.from_numpy(arrays["noise"]).permute(0, 3, 1, 2),
        max_sequence_length=pipeline.text_encoder.config.max_position_embeddings,
        use_resolution_binning=False,
        output_type="np",
    ).images
    np.savez(out, pictures=np.round(pictures * 255).astype(np.uint8))


if __name__ == "__main__":
    main(*sys.argv[1:])
