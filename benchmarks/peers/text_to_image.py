"""The pipelines of diffusers, from the prompt to the picture, in PyTorch, for benchmarks/text_to_image.py.

    PYTHON -m benchmarks.peers.text_to_image FOLDER KIND THREADS

The program writes the folder of a small pipeline with random weights (KIND is a name in PIPELINES), and prints the
versions of its libraries. Then it reads lines. It answers "eager STEPS" and "compiled STEPS" (torch.compile) with the
seconds of the whole pipeline. For "write PATH STEPS" it writes the pictures of the eager pipeline.
FOLDER/start.safetensors holds the initial latents and, in its metadata, the prompt, the negative prompt and the
guidance scale.
"""

import pathlib
import sys
import tempfile
import time

import diffusers
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from tests.peers.families.pixart import PIXART
from tests.peers.pipeline_parts import clip_tokenizer, t5_tokenizer

VAE = {
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
LAST = ("conv_out.", "proj_out.")  # the last layers; their weights are scaled down, so that the outputs stay small


def transformer(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """PixArt's pipeline with T5: a transformer of 8 layers and width 256, for 16 x 16 tokens."""
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=512, d_model=256, d_kv=32, d_ff=512, num_layers=4, num_heads=8, feed_forward_proj="gated-gelu"
        )
    )
    network = diffusers.PixArtTransformer2DModel(
        sample_size=32,
        in_channels=4,
        out_channels=8,
        num_layers=8,
        attention_head_dim=64,
        num_attention_heads=4,
        cross_attention_dim=256,
        caption_channels=256,
        interpolation_scale=1,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=encoder,
        transformer=network,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(PIXART),
    )


def unet(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Stable Diffusion's pipeline with CLIP: a U-Net of widths 64, 128 and 256."""
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=60,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=12,
            bos_token_id=52,
            eos_token_id=53,
        )
    )
    network = diffusers.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=encoder,
        unet=network,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(PIXART),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


PIPELINES = {"transformer": transformer, "unet": unet}


@torch.inference_mode()
def main(folder: str, kind: str, threads: str) -> None:
    """Answers each line of input until the input ends."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        pipe = PIPELINES[kind](pathlib.Path(place))
        for name, weight in getattr(pipe, kind).named_parameters():
            if name.startswith(LAST):
                weight.mul_(0.1)
        pipe.save_pretrained(folder, safe_serialization=True)
    pipe.set_progress_bar_config(disable=True)
    plain = {"text_encoder": pipe.text_encoder, kind: getattr(pipe, kind)}
    decode = pipe.vae.decode
    compiled = {name: torch.compile(module) for name, module in plain.items()}
    decodes = {"eager": decode, "compiled": torch.compile(decode)}
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}", flush=True)
    for line in sys.stdin:
        how, *words = line.split()
        steps = int(words[-1])
        for name, module in (compiled if how == "compiled" else plain).items():
            setattr(pipe, name, module)
        pipe.vae.decode = decodes.get(how, decode)
        with safe_open(f"{folder}/start.safetensors", framework="pt") as file:
            settings = file.metadata()
            latents = file.get_tensor("latents")
        more = {"clean_caption": False, "use_resolution_binning": False} if kind == "transformer" else {}
        began = time.perf_counter()
        images = pipe(
            settings["prompt"],
            negative_prompt=settings["negative"],
            num_inference_steps=steps,
            output_type="pt",
            guidance_scale=float(settings["scale"]),
            latents=latents,
            height=256,
            width=256,
            **more,
        ).images
        if how == "write":
            save_file({"pictures": images.contiguous()}, words[0])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
