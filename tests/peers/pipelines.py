"""Whole text-to-image pipelines of diffusers, tiny and with made weights: the folder that they save, what they draw.

It runs in the peers' environment, without this library:

    python -m tests.peers.pipelines tests/fixtures/text_to_image          # all of them
    python -m tests.peers.pipelines tests/fixtures/text_to_image sd       # those whose names begin so

A fixture holds the text files of the folder (configs, vocabulary), the names and shapes of the weights, which are those
of made_weights.py, and for each sampler the latents after 30 steps with guidance 7.5 and a negative prompt; of a latent
consistency model after the steps and with the guidance that its `__call__` has by default. The initial noise and that
of the stochastic steps are made from names. The last layer of a denoiser is made small, so that the trajectory follows
the noise and not the rounding.
"""

import contextlib
import functools
import gzip
import importlib
import json
import pathlib
import re
import sys
import tempfile
from unittest import mock

import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video as hunyuan
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.peers.cases import last
from tests.peers.made_weights import drawn, made
from tests.text.vocabularies import folder_of

PROMPTS, NEGATIVE = ["a cat", "the red car on a hill"], "bad"
STEPS, GUIDANCE, IMAGE_GUIDANCE = 30, 7.5, 1.5
STEPS_OF = {"lcm": 4, "lcm, two steps": 2, "pndm": 25, "cogvideox": 25}
# The half steps of PNDM are whole numbers of the process's: of 40, not of 33; so are CogVideoX's steps.
FRAMES_OF_LATENTS = 3
CLIPS = {  # pixels and frames in a latent, and its sides
    "wan_5b": (4, 2, 8),
    "wan_5b_from_image": (4, 2, 8),
    **dict.fromkeys(("ltx", "ltx_from_image", "ltx_conditions"), (32, 8, 2)),
    "cogvideox": (4, 4, 4),
    **dict.fromkeys(("cogvideox_from_image", "cogvideox_frames", "cogvideox_frames_from_image"), (4, 4, 4)),
    "hunyuan_video": (8, 4, 2),
}
LTX_FROM_FRAMES = (diffusers.LTXImageToVideoPipeline, diffusers.LTXConditionPipeline)
SMALL = 0.1  # factor of the last layer
# As SD 1.5 is published: what is not there, such as the spacing, each scheduler has by its own default.
SD_1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "trained_betas": None,
}
SD_XL = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
LCM = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "timestep_scaling": 10.0,
}
SHIFTED = {"shift": 3.0}
AURAFLOW = {"shift": 1.73}  # as it is published
KOLORS = {  # as it is published
    "beta_start": 0.00085,
    "beta_end": 0.014,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1100,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
QWEN_FLOW = {  # as it is published
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}  # SANA's
WAN_FLOW = {  # as it is published, for 480 pixels
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "disable_corrector": [],
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_p": None,
    "solver_type": "bh2",
    "timestep_spacing": "linspace",
    "use_flow_sigmas": True,
}
LTX_FLOW = {  # as it is published
    "base_image_seq_len": 1024,
    "base_shift": 0.95,
    "max_image_seq_len": 4096,
    "max_shift": 2.05,
    "shift": 1.0,
    "shift_terminal": 0.1,
    "use_dynamic_shifting": True,
}
COGVIDEOX = {  # as 2b is published
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
}
PIXART = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "final_sigmas_type": "zero"}
EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
}
UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "layers_per_block": 1,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
CLIP = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 12,
    "projection_dim": 24,
    "bos_token_id": 52,
    "eos_token_id": 53,
}


def clip_tokenizer(folder: pathlib.Path):
    """Letters, some of them merged."""
    letters = [chr(ord("a") + i) for i in range(26)]
    merges = [("c", "a"), ("ca", "t</w>"), ("t", "h")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    words += ["".join(pair) for pair in merges]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=12)


def clip(projected: bool = False):
    model = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return model(transformers.CLIPTextConfig(**CLIP))


def t5(width: int = 32):
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=512, d_model=width, d_kv=8, d_ff=40, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
        )
    )


def t5_tokenizer(folder: pathlib.Path):
    return transformers.T5Tokenizer.from_pretrained(folder_of(folder, "t5"))


def stable_diffusion(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """With the scheduler that SD 1.5 is published with."""
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=clip(),
        unet=diffusers.UNet2DConditionModel(cross_attention_dim=24, **UNET),
        scheduler=diffusers.PNDMScheduler.from_config(SD_1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_inpaint(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Trained to paint: of nine channels, the latents, the mask and the latents of what is not masked."""
    return diffusers.StableDiffusionInpaintPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=clip(),
        unet=diffusers.UNet2DConditionModel(cross_attention_dim=24, in_channels=9, **UNET),
        scheduler=diffusers.PNDMScheduler.from_config(SD_1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def instruct_pix2pix(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Trained to edit: of eight channels, the latents and those of the picture."""
    return diffusers.StableDiffusionInstructPix2PixPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=clip(),
        unet=diffusers.UNet2DConditionModel(cross_attention_dim=24, in_channels=8, **UNET),
        scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(SD_1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: pathlib.Path, **how) -> diffusers.DiffusionPipeline:
    unet = diffusers.UNet2DConditionModel(
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        use_linear_projection=True,
        **UNET,
    )
    parts = {"vae": diffusers.AutoencoderKL(**VAE), "scheduler": diffusers.EulerDiscreteScheduler.from_config(SD_XL)}
    return diffusers.StableDiffusionXLPipeline(
        tokenizer=clip_tokenizer(folder / "clip"),
        tokenizer_2=clip_tokenizer(folder / "clip_2"),
        text_encoder=clip(),
        text_encoder_2=clip(True),
        unet=unet,
        add_watermarker=False,
        **{**parts, **how},
    )


def instruct_pix2pix_xl(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """An SDXL trained to edit."""
    base = stable_diffusion_xl(folder)
    unet = diffusers.UNet2DConditionModel.from_config(base.unet.config, in_channels=8)
    parts = {name: part for name, part in base.components.items() if name not in ("image_encoder", "feature_extractor")}
    return diffusers.StableDiffusionXLInstructPix2PixPipeline(**(parts | {"unet": unet}), add_watermarker=False)


def playground(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """As Playground 2.5 is published: EDM's process, and latents with a mean and a deviation for each channel."""
    vae = diffusers.AutoencoderKL(
        latents_mean=[-1.6574, 1.886, -1.383, 2.5155],
        latents_std=[8.4927, 5.9022, 6.5498, 5.2299],
        scaling_factor=0.5,
        **VAE,
    )
    return stable_diffusion_xl(folder, vae=vae, scheduler=diffusers.EDMDPMSolverMultistepScheduler.from_config(EDM))


def latent_consistency(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """A student of SD that reads the guidance as a strength."""
    return diffusers.LatentConsistencyModelPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        text_encoder=clip(),
        unet=diffusers.UNet2DConditionModel(cross_attention_dim=24, time_cond_proj_dim=16, **UNET),
        scheduler=diffusers.LCMScheduler.from_config(LCM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_3(folder: pathlib.Path, with_t5: bool = False) -> diffusers.DiffusionPipeline:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=56,
        pooled_projection_dim=48,
        pos_embed_max_size=8,
    )
    return diffusers.StableDiffusion3Pipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        tokenizer_2=clip_tokenizer(folder / "clip_2"),
        text_encoder=clip(True),
        text_encoder_2=clip(True),
        text_encoder_3=t5(56) if with_t5 else None,
        tokenizer_3=t5_tokenizer(folder / "t5") if with_t5 else None,
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED),
    )


def stable_diffusion_3_t5(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return stable_diffusion_3(folder, with_t5=True)


def pixart_alpha(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Of 1024 pixels, which receives the size of the picture."""
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=128,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=4,
        cross_attention_dim=48,
        caption_channels=32,
        use_additional_conditions=True,
    )
    return diffusers.PixArtAlphaPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=t5(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(PIXART),
    )


def pixart_sigma(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=32,
        interpolation_scale=1,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=t5(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(PIXART),
    )


def flux(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.FluxPipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        tokenizer_2=t5_tokenizer(folder / "t5"),
        text_encoder=clip(),
        text_encoder_2=t5(),
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED | {"use_dynamic_shifting": True}),
    )


def flux_like(folder: pathlib.Path, kind: type, **fields) -> diffusers.DiffusionPipeline:
    """A pipeline of Flux's parts with a denoiser of other channels."""
    base = flux(folder)
    parts = {name: part for name, part in base.components.items() if name not in ("image_encoder", "feature_extractor")}
    config = {name: value for name, value in base.transformer.config.items() if name[0] != "_"} | fields
    transformer = diffusers.FluxTransformer2DModel.from_config(config)
    return kind(**{**parts, "transformer": transformer})


def flux_fill(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """4 channels of latents, 4 of what is not masked, which are made, and 2 x 2 of the mask."""
    pipe = flux_like(folder, diffusers.FluxFillPipeline, in_channels=48, out_channels=16)
    made_latents = torch.from_numpy(drawn("masked", 1, 8, 8, 4)).movedim(-1, 1)
    as_encoded = made_latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    prepare = pipe.prepare_mask_latents
    pipe.prepare_mask_latents = lambda mask, masked, *rest: prepare(mask, as_encoded, *rest)
    return pipe


def flux_control(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """4 channels of latents, and 4 of a picture's."""
    return flux_like(folder, diffusers.FluxControlPipeline, in_channels=32, out_channels=16)


def flux_kontext(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return flux_like(folder, diffusers.FluxKontextPipeline)


def chroma(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=24,
        approximator_layers=2,
    )
    return diffusers.ChromaPipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=t5(),
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED | {"use_dynamic_shifting": True}),
    )


def chroma_texts(pipe) -> dict:
    """The texts as its pipeline reads them, with masks of booleans: it adds one of ones to the scores."""
    found = {}
    for before, texts in (("", PROMPTS), ("negative_", [NEGATIVE] * 2)):
        embeds, mask = pipe._get_t5_prompt_embeds(texts)
        found |= {f"{before}prompt_embeds": embeds, f"{before}prompt_attention_mask": mask.bool()}
    return found


def qwen_tokenizer(thought: str = ""):
    """Bytes, some of them merged, with the template of Qwen 3's chats for one message, and what it answers at once."""
    letters = sorted(bytes_to_unicode().values())
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("u", "s"), ("e", "r"), ("us", "er")]
    words = [*letters, *("".join(pair) for pair in merges), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = transformers.Qwen2Tokenizer({word: i for i, word in enumerate(words)}, merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + thought + "{% endif %}"
    )
    return tokenizer


QWEN = {
    "vocab_size": 272,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def flux2_klein(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """A base, not distilled; of its language model layers 9, 18 and 27 are read."""
    body = {name: value for name, value in VAE.items() if name != "latent_channels"}
    vae = diffusers.AutoencoderKLFlux2(latent_channels=1, **body)
    vae.bn.running_mean.copy_(torch.from_numpy(drawn("mean of latents", 4)))
    vae.bn.running_var.copy_(torch.from_numpy(np.square(drawn("deviation of latents", 4))))
    return diffusers.Flux2KleinPipeline(
        vae=vae,
        tokenizer=qwen_tokenizer("<think>\n\n</think>\n\n"),
        text_encoder=transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**QWEN | {"num_hidden_layers": 28})),
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=72,
            axes_dims_rope=(2, 6, 6, 2),
            guidance_embeds=False,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED | {"use_dynamic_shifting": True}),
    )


def mistral_tokenizer():
    """Bytes, some of them merged, with padding on the left and the template of Mistral's chats for two messages."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<pad>"]
    merges = [("c", "a"), ("ca", "t"), ("\u0120", "cat"), ("o", "n"), ("i", "on"), ("t", "ion")]
    words = [*special, *sorted(bytes_to_unicode().values()), *("".join(pair) for pair in merges)]
    library = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, merges))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[3:7]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% set name = 'SYSTEM_PROMPT' if m.role == 'system' else 'INST' %}"
        "[{{ name }}]{{ m.content[0].text }}[/{{ name }}]{% endfor %}"
    )
    return tokenizer


def flux2(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """FLUX.2 dev, which reads the guidance; of its language model layers 10, 20 and 30 are read."""
    base = flux2_klein(folder)
    tokenizer = mistral_tokenizer()
    text = QWEN | {"vocab_size": len(tokenizer), "num_hidden_layers": 31, "sliding_window": None}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(text_config=text | {"model_type": "mistral"}, vision_config=vision)
    transformer = {name: value for name, value in base.transformer.config.items() if name[0] != "_"}
    return diffusers.Flux2Pipeline(
        scheduler=base.scheduler,
        vae=base.vae,
        text_encoder=transformers.Mistral3ForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=diffusers.Flux2Transformer2DModel.from_config(transformer | {"guidance_embeds": True}),
    )


def qwen_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
              "patch_size": 4}  # fmt: skip
    turns = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {name: value for name, value in QWEN.items() if name != "head_dim"} | {"rope_parameters": turns}
    config = transformers.Qwen2_5_VLConfig(text_config=text | {"hidden_size": 32}, vision_config=vision)
    return diffusers.QwenImagePipeline(
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[-0.7, 0.1, 0.9, -0.2],
            latents_std=[2.8, 1.4, 0.7, 1.9],
        ),
        tokenizer=qwen_tokenizer(),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(QWEN_FLOW),
    )


def gemma_tokenizer():
    """Letters, some of them merged, behind a start."""
    letters = [chr(code) for code in range(33, 127)] + ["\n", "\u2581"]
    merges = [("c", "a"), ("ca", "t"), ("\u2581", "cat"), ("\u2581", "a"), ("u", "s"), ("e", "r"), ("us", "er")]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters, *("".join(pair) for pair in merges)]
    return transformers.GemmaTokenizer({word: i for i, word in enumerate(words)}, merges)


GEMMA = {name: value for name, value in QWEN.items() if name != "vocab_size"} | {"vocab_size": 120}


def lumina2(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.Lumina2Pipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=gemma_tokenizer(),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**GEMMA)),
        transformer=diffusers.Lumina2Transformer2DModel(
            in_channels=4,
            hidden_size=64,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=8,
            axes_dim_rope=(4, 6, 6),
            cap_feat_dim=24,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config({"shift": 6.0}),
    )


def auraflow(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """With Llama's kind of vocabulary, as Pile-T5 has, which ends a text and does not begin it."""
    words = ["<pad>", "</s>", "<s>", "<unk>", *(chr(code) for code in range(33, 127)), "\u2581", "ca", "cat"]
    tokenizer = transformers.LlamaTokenizer(
        {word: i for i, word in enumerate(words)},
        [("c", "a"), ("ca", "t")],
        pad_token="<pad>",
        add_bos_token=False,
        add_eos_token=True,
    )
    config = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    return diffusers.AuraFlowPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=tokenizer,
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**config)),
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=25,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(AURAFLOW),
    )


def kolors(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """SDXL's U-Net with a layer on the text, which ChatGLM reads."""
    vocabulary = folder_of(folder / "t5", "t5") / "spiece.model"
    vocabulary = vocabulary.rename(vocabulary.with_name("tokenizer.model"))
    config = {"num_layers": 3, "padded_vocab_size": 128, "hidden_size": 24, "ffn_hidden_size": 20, "kv_channels": 8,
              "num_attention_heads": 4, "multi_query_group_num": 2, "seq_length": 32768}  # fmt: skip
    flags = dict.fromkeys(("multi_query_attention", "add_qkv_bias", "original_rope"), True)
    return diffusers.KolorsPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=ChatGLMTokenizer(str(vocabulary)),
        text_encoder=ChatGLMModel(ChatGLMConfig(**config, **flags)),
        unet=diffusers.UNet2DConditionModel(
            cross_attention_dim=20,
            encoder_hid_dim=24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            **UNET,
        ),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(KOLORS),
    )


def sana(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """With the scheduler that SANA is published with."""
    levels = {"block_out_channels": (8, 16), "layers_per_block": (1, 1)}
    of_level = {"block_types": ("ResBlock", "EfficientViTBlock"), "qkv_multiscales": ((), (5,))}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (levels | of_level).items()}
    return diffusers.SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**GEMMA)),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
            **sides,
        ),
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=24,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(FLOW_SIGMAS),
    )


def sana_sprint(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """A student of SANA that reads the guidance as a strength."""
    base = sana(folder)
    config = {name: value for name, value in base.transformer.config.items() if name[0] != "_"}
    of_student = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    transformer = diffusers.SanaTransformer2DModel.from_config(config | of_student)
    return diffusers.SanaSprintPipeline(
        **(base.components | {"transformer": transformer, "scheduler": diffusers.SCMScheduler()})
    )


def z_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.ZImagePipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=qwen_tokenizer(),
        text_encoder=transformers.Qwen3Model(transformers.Qwen3Config(**QWEN)),
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=24,
            axes_dims=[4, 6, 6],
            axes_lens=[1536, 512, 512],
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(SHIFTED),
    )


def wan(folder: pathlib.Path, second: bool = False, image: bool = False) -> diffusers.DiffusionPipeline:
    """Wan 2.1 of prompts, or from an image, which CLIP sees; with a second transformer as 2.2."""
    vae = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True],
           "scale_factor_temporal": 2, "scale_factor_spatial": 2}  # fmt: skip
    transformer = lambda: diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=10 if image else 4,
        out_channels=4,
        text_dim=32,
        ffn_dim=40,
        num_layers=2,
        **({"image_dim": 24, "added_kv_proj_dim": 32} if image else {}),
    )
    seen = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 8, "patch_size": 4, "hidden_act": "gelu"}  # fmt: skip
    sides = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    eyes = {
        "image_encoder": transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**seen)),
        "image_processor": transformers.CLIPImageProcessor(**sides),
    }
    config = {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    return (diffusers.WanImageToVideoPipeline if image else diffusers.WanPipeline)(
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**config)),
        vae=diffusers.AutoencoderKLWan(latents_mean=[-0.7, 0.1, 0.9, -0.2], latents_std=[2.8, 1.4, 0.7, 1.9], **vae),
        scheduler=diffusers.UniPCMultistepScheduler.from_config(WAN_FLOW),
        transformer=transformer(),
        **({"transformer_2": transformer(), "boundary_ratio": 0.875} if second else {}),
        **(eyes if image else {}),
    )


def wan_of_two(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return wan(folder, second=True)


def wan_5b(folder: pathlib.Path, image: bool = False) -> diffusers.DiffusionPipeline:
    """Wan 2.2 with a residual autoencoder, a first frame of which has a time of its own."""
    base = wan(folder)
    config = {name: value for name, value in base.vae.config.items() if name[0] != "_"}
    config |= {"is_residual": True, "patch_size": 2, "dim_mult": [1, 1], "scale_factor_spatial": 4}
    vae = diffusers.AutoencoderKLWan.from_config(config | {"in_channels": 12, "out_channels": 12})
    parts = {name: part for name, part in base.components.items() if part is not None} | {"vae": vae}
    mend_letters()
    kind = diffusers.WanImageToVideoPipeline if image else diffusers.WanPipeline
    return kind(**parts, expand_timesteps=True)


def wan_5b_from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return wan_5b(folder, image=True)


def mend_letters() -> None:
    """A library mends letters that these texts do not have."""
    module = importlib.import_module("diffusers.pipelines.wan.pipeline_wan_i2v")
    module.ftfy = mock.MagicMock(fix_text=lambda text: text)


def wan_from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    mend_letters()
    return wan(folder, image=True)


def first_frame(side: int) -> Image.Image:
    return Image.fromarray((128 + 60 * drawn("first frame", side, side, 3)).clip(0, 255).astype(np.uint8))


def ltx(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Its autoencoder is of 0.9.5, whose decoder receives a time."""
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 16, 16, 16),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(8, 16, 32),
        decoder_layers_per_block=(1,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        timestep_conditioning=True,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    vae.latents_mean.copy_(torch.arange(8) / 4 - 1)
    vae.latents_std.copy_(1 + torch.arange(8) / 8)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(LTX_FLOW),
        vae=vae,
        text_encoder=t5(),
        tokenizer=t5_tokenizer(folder / "t5"),
        transformer=transformer,
    )


def ltx_from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.LTXImageToVideoPipeline(**ltx(folder).components)


def ltx_conditions(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.LTXConditionPipeline(**ltx(folder).components | {"scheduler": scheduler})


def cogvideox_from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    learned = {"use_learned_positional_embeddings": True, "in_channels": 8, "sample_frames": 9, "sample_width": 4}
    return diffusers.CogVideoXImageToVideoPipeline(**cogvideox(folder, learned | {"sample_height": 4}).components)


def cogvideox_frames(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return cogvideox(folder, {"patch_size_t": 2})


def cogvideox_frames_from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    options = {"patch_size_t": 2, "ofs_embed_dim": 12, "in_channels": 8}
    base = cogvideox(folder, options, {"invert_scale_latents": True})
    return diffusers.CogVideoXImageToVideoPipeline(**base.components)


def cogvideox(
    folder: pathlib.Path, options: dict | None = None, of_latents: dict | None = None
) -> diffusers.DiffusionPipeline:
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 12,
        "text_embed_dim": 32,
        "num_layers": 2,
        "sample_width": 12,
        "sample_height": 8,
        "use_rotary_positional_embeddings": True,
    }
    transformer = diffusers.CogVideoXTransformer3DModel(**sizes | (options or {}))
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.7,
        **(of_latents or {}),
    )
    return diffusers.CogVideoXPipeline(
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=t5(),
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.CogVideoXDDIMScheduler.from_config(COGVIDEOX),
    )


def llama_tokenizer():
    """Bytes, of which the words of HunyuanVideo's task are merged, so that the prompt fits behind it."""
    task = hunyuan.DEFAULT_PROMPT_TEMPLATE["template"].replace("{}", "")
    words = [word.replace(" ", "Ġ") for word in re.findall(r" ?[a-zA-Z]+", re.sub(r"<\|.*?\|>", "", task))]
    merges = list(dict.fromkeys((word[:i], word[i]) for word in words for i in range(1, len(word))))
    special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    letters = sorted(bytes_to_unicode().values())
    known = dict.fromkeys([*letters, *("".join(pair) for pair in merges), "<|endoftext|>", *special])
    tokenizer = transformers.Qwen2Tokenizer({word: i for i, word in enumerate(known)}, merges)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def hunyuan_video(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    tokenizer, of_clip = llama_tokenizer(), clip_tokenizer(folder / "clip")
    of_clip.model_max_length = 77
    config = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    return diffusers.HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel(transformers.LlamaConfig(**config)),
        tokenizer=tokenizer,
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=32,
            pooled_projection_dim=24,
            rope_axes_dim=(4, 6, 6),
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 16),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config({"shift": 7.0}),
        text_encoder_2=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**CLIP | {"max_position_embeddings": 77})
        ),
        tokenizer_2=of_clip,
    )


PIPELINES = {
    "sd": stable_diffusion,
    "inpaint": stable_diffusion_inpaint,
    "edit": instruct_pix2pix,
    "edit_xl": instruct_pix2pix_xl,
    "xl": stable_diffusion_xl,
    "mmdit": stable_diffusion_3,
    "t5_mmdit": stable_diffusion_3_t5,
    "pixart": pixart_sigma,
    "alpha": pixart_alpha,
    "flux": flux,
    "fill": flux_fill,
    "control": flux_control,
    "kontext": flux_kontext,
    "chroma": chroma,
    "flux2": flux2,
    "klein": flux2_klein,
    "flux2_edits": flux2,
    "klein_edits": flux2_klein,
    "qwen_image": qwen_image,
    "lumina2": lumina2,
    "auraflow": auraflow,
    "kolors": kolors,
    "sana": sana,
    "sprint": sana_sprint,
    "z_image": z_image,
    "wan": wan,
    "wan_of_two": wan_of_two,
    "wan_from_image": wan_from_image,
    "ltx": ltx,
    "ltx_from_image": ltx_from_image,
    "ltx_conditions": ltx_conditions,
    "cogvideox": cogvideox,
    "cogvideox_from_image": cogvideox_from_image,
    "cogvideox_frames": cogvideox_frames,
    "cogvideox_frames_from_image": cogvideox_frames_from_image,
    "hunyuan_video": hunyuan_video,
    "wan_5b": wan_5b,
    "wan_5b_from_image": wan_5b_from_image,
    "playground": playground,
    "lcm": latent_consistency,
}
# Of each pipeline: the base of its scheduler's config, and a name for our sampler with the scheduler and its settings.
KARRAS = {"use_karras_sigmas": True}
LEADING, TRAILING = {"timestep_spacing": "leading"}, {"timestep_spacing": "trailing"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
V, ZERO = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}
TRAJECTORIES = {
    "sd": (
        SD_1,
        {
            "plms": ("PNDMScheduler", {}),
            "pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
            "ddpm": ("DDPMScheduler", {}),
            "ddim": ("DDIMScheduler", {}),
            "ddim to zero, v": ("DDIMScheduler", {"set_alpha_to_one": True, **V}),
            "euler": ("EulerDiscreteScheduler", {}),
            "euler, leading": ("EulerDiscreteScheduler", LEADING),
            "euler, trailing, zero-terminal v": ("EulerDiscreteScheduler", TRAILING | V | ZERO),
            "euler, karras": ("EulerDiscreteScheduler", KARRAS),
            "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
            "heun": ("HeunDiscreteScheduler", {}),
            "dpm_2": ("KDPM2DiscreteScheduler", {}),
            "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
            "lms": ("LMSDiscreteScheduler", {}),
            "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
            "dpmpp_2m, karras": ("DPMSolverMultistepScheduler", KARRAS),
            "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
            "dpmpp_2m, trailing, sigma_min": (
                "DPMSolverMultistepScheduler",
                TRAILING | {"final_sigmas_type": "sigma_min"},
            ),
            "unipc": ("UniPCMultistepScheduler", {}),
            "unipc, leading": ("UniPCMultistepScheduler", LEADING),
            "lcm": ("LCMScheduler", {}),
        },
    ),
    "inpaint": (SD_1, {"plms": ("PNDMScheduler", {}), "dpmpp_2m": ("DPMSolverMultistepScheduler", {})}),
    "edit": (SD_1, {"euler_ancestral": ("EulerAncestralDiscreteScheduler", {}), "ddim": ("DDIMScheduler", {})}),
    "edit_xl": (SD_XL, {"euler_ancestral": ("EulerAncestralDiscreteScheduler", {})}),
    "xl": (
        SD_XL,
        {
            "euler": ("EulerDiscreteScheduler", {}),
            "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
            "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
            "unipc": ("UniPCMultistepScheduler", {}),
        },
    ),
    "mmdit": (
        SHIFTED,
        {"euler": ("FlowMatchEulerDiscreteScheduler", {}), "heun": ("FlowMatchHeunDiscreteScheduler", {})},
    ),
    "t5_mmdit": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    "pixart": (PIXART, {"dpmpp_2m": ("DPMSolverMultistepScheduler", {})}),
    "alpha": (PIXART, {"dpmpp_2m": ("DPMSolverMultistepScheduler", {})}),
    "flux": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    "fill": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    "control": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    "kontext": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    "chroma": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    **dict.fromkeys(
        ("flux2_edits", "klein_edits"),
        (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    ),
    "flux2": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    "klein": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True})}),
    "qwen_image": (QWEN_FLOW, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    "z_image": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    "lumina2": ({"shift": 6.0}, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    "kolors": (KOLORS, {"euler": ("EulerDiscreteScheduler", {})}),
    "auraflow": (AURAFLOW, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    "sprint": ({}, {"lcm": ("SCMScheduler", {}), "lcm, two steps": ("SCMScheduler", {})}),
    "sana": (FLOW_SIGMAS, {"dpmpp_2m": ("DPMSolverMultistepScheduler", {})}),
    "wan": (WAN_FLOW, {"unipc": ("UniPCMultistepScheduler", {})}),
    **dict.fromkeys(("ltx", "ltx_from_image"), (LTX_FLOW, {"euler": ("FlowMatchEulerDiscreteScheduler", {})})),
    "ltx_conditions": ({"shift": 1.0}, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    **dict.fromkeys(
        ("cogvideox_from_image", "cogvideox_frames", "cogvideox_frames_from_image"),
        (COGVIDEOX, {"ddim": ("CogVideoXDDIMScheduler", {})}),
    ),
    "hunyuan_video": ({"shift": 7.0}, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    "cogvideox": (COGVIDEOX, {"ddim": ("CogVideoXDDIMScheduler", {}), "dpmpp_2m_sde": ("CogVideoXDPMScheduler", {})}),
    "wan_of_two": (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {})}),
    **dict.fromkeys(
        ("wan_from_image", "wan_5b", "wan_5b_from_image"), (SHIFTED, {"euler": ("FlowMatchEulerDiscreteScheduler", {})})
    ),
    "playground": (
        EDM,
        {
            "dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
            "euler": ("EDMEulerScheduler", {}),
        },
    ),
    "lcm": (LCM, {"lcm": ("LCMScheduler", {})}),
}


PICTURES = ("playground", "lcm")  # whose pictures are those of the pipeline itself, before they are clipped
EDITED, STRENGTH = ("ddim", "euler", "dpmpp_2m", "plms"), 0.6  # trajectories of "sd" from a picture, and how late

PAINTED = (1.0, 0.6)  # strengths at which "sd" paints a part of a picture, by DDIM


OTHERWISE = {  # parts of Mistral 3's names in memory, and in a file
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


def fill(pipe) -> None:
    """Gives every network its made weights, a tensor of two names that of the first."""
    for component, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            module.eval()
            saved_as = OTHERWISE if isinstance(module, transformers.Mistral3ForConditionalGeneration) else {}
            with torch.no_grad():
                for name, tensor in module.named_parameters():
                    for own, theirs in saved_as.items():
                        name = name.replace(own, theirs)
                    tensor.copy_(torch.from_numpy(weight(component, name, tuple(tensor.shape))))


def weight(component: str, name: str, shape: tuple[int, ...]):
    """The made weights of a network; the last layer of a denoiser is small."""
    small = component in ("unet", "transformer", "transformer_2") and name.startswith(LAST)
    return np.asarray(made(f"{component}.{name}", shape) * np.float32(SMALL if small else 1))


LAST = ("conv_out.", "proj_out.", "all_final_layer.", "norm_out.linear_2.")


def saved(pipe, folder: pathlib.Path) -> dict:
    """What `save_pretrained` writes: the text of the files, the shapes of tensors, and those that no name gives."""
    pipe.save_pretrained(folder, safe_serialization=True)
    about = {"files": {}, "shapes": {}, "kept": {}}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                about["shapes"][name] = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
                for key, shape in about["shapes"][name].items():
                    if not np.array_equal(file.get_tensor(key), weight(path.parent.name, key, tuple(shape))):
                        about["kept"][f"{path.parent.name}/{key}"] = file.get_tensor(key)
        elif path.suffix == ".model":  # tests/fixtures/text/spiece.model
            about.setdefault("sentencepiece", []).append(name)
        elif path.is_file():
            about["files"][name] = path.read_text()
    return about


def made_noise(scheduler):
    """Each draw of the scheduler is made from its number; one that draws nothing is left as it is."""
    count = 0

    def draw(shape, **_):
        nonlocal count
        count += 1
        *before, channels, height, width = shape  # CogVideoX's frames stand before the channels
        return torch.from_numpy(drawn(f"step {count - 1}", *before, height, width, channels)).movedim(-1, -3)

    return mock.patch.object(sys.modules[scheduler.__module__], "randn_tensor", draw, create=True)


@contextlib.contextmanager
def beginning(pipe, latents: torch.Tensor):
    """A first frame is encoded by its mean; LTX's pipelines with one take no latents beside it, and draw these."""
    module = sys.modules[type(pipe).__module__]
    mean = mock.patch.object(module, "retrieve_latents", lambda output, *_, **__: output.latent_dist.mode())
    draws = mock.patch.object(module, "randn_tensor", lambda *_, **__: latents.clone())
    with contextlib.ExitStack() as patched:
        if "cogvideo" in module.__name__ and hasattr(module, "retrieve_latents"):
            patched.enter_context(mean)
        if isinstance(pipe, LTX_FROM_FRAMES):
            patched.enter_context(mean)
            patched.enter_context(draws)
        yield


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.uint8(np.clip(128 + 60 * picture, 0, 255))


def mask() -> torch.Tensor:
    """One where it is painted: the right half of a picture."""
    return (torch.arange(16) >= 8).float().expand(1, 1, 16, 16)


def write(name: str, folder: pathlib.Path) -> None:
    """Writes one fixture."""
    with tempfile.TemporaryDirectory() as place:
        pipe = PIPELINES[name](pathlib.Path(place))
        fill(pipe)
        pipe.set_progress_bar_config(disable=True)
        about = saved(pipe, pathlib.Path(place) / "saved")
    arrays = {f"kept/{key}": torch.from_numpy(value) for key, value in about.pop("kept").items()}
    print(name, "kept:", ", ".join(arrays) or "none")
    clip_of = lambda kind: name.startswith(kind) and name in CLIPS
    channels = pipe.vae.config.get("latent_channels") or pipe.vae.config.z_dim
    own = name.removesuffix("_edits")
    channels = 4 * channels if own in ("flux2", "klein") else channels  # of patches of 2 x 2
    clip = (FRAMES_OF_LATENTS,) * (name.startswith("wan") or name in CLIPS)
    factor, of_frames, side = CLIPS.get(name, (2, 2, 8))
    of_latents = tuple(frames + ("frames" in name) for frames in clip)  # of CogVideoX 1.5 an even number
    x = torch.from_numpy(drawn("latents", 2, *of_latents, side, side, channels)).movedim(-1, 1)
    if name.endswith("_edits"):  # at least of 64 pixels, and one whose sides its factor does not divide
        levels = [drawn(f"edited {i}", *sides, 3) for i, sides in enumerate([(64, 64), (66, 75)])]
        arrays |= {f"image/{i}": torch.from_numpy(_bytes(picture)) for i, picture in enumerate(levels)}
    about["walks"], about["steps"], (base, trajectories) = {}, {}, TRAJECTORIES[name]
    for trajectory, (scheduler, settings) in trajectories.items():
        pipe.scheduler = getattr(diffusers, scheduler).from_config(base | settings)
        about["walks"][trajectory] = {"_class_name": scheduler, **base, **settings}
        usual = STEPS_OF["cogvideox"] if clip_of("cogvideox") else STEPS
        steps = about["steps"][trajectory] = STEPS_OF.get(trajectory, usual)
        with made_noise(pipe.scheduler), torch.no_grad():
            arguments = {"negative_prompt": [NEGATIVE] * 2, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
            latents = x.clone()
            if name in ("flux", "fill", "control", "kontext"):  # has its guidance distilled in, and takes patches
                del arguments["negative_prompt"]
                latents = pipe._pack_latents(latents, 2, channels, 8, 8)
            if name == "fill":
                arguments |= {"image": torch.zeros(1, 3, 16, 16), "mask_image": mask()}
            if name == "control":  # tokens, which it does not encode
                image = torch.from_numpy(drawn("pictured", 2, 8, 8, 4)).movedim(-1, 1)
                arguments["control_image"] = pipe._pack_latents(image, 2, channels, 8, 8)
            if name == "kontext":
                image = torch.from_numpy(drawn("pictured", 2, 8, 8, 4)).movedim(-1, 1)
                arguments |= {"image": image, "max_area": 256, "_auto_resize": False}
            if name == "chroma":
                del arguments["negative_prompt"]
                arguments |= chroma_texts(pipe)
                latents = pipe._pack_latents(latents, 2, channels, 8, 8)
            if own == "flux2":  # has its guidance distilled in
                del arguments["negative_prompt"]
            if own == "klein":
                del arguments["negative_prompt"]
                arguments["negative_prompt_embeds"], _ = pipe.encode_prompt([NEGATIVE] * 2, device="cpu")
            if name.endswith("_edits"):
                arguments["image"] = [Image.fromarray(arrays[f"image/{i}"].numpy()) for i in range(2)]
            if name == "qwen_image":
                arguments["true_cfg_scale"] = arguments.pop("guidance_scale")
                latents = pipe._pack_latents(latents, 2, channels, 8, 8)
            if name == "z_image":  # its scale is 0 without guidance
                arguments |= {"guidance_scale": GUIDANCE - 1, "max_sequence_length": 64}
            if name == "inpaint":
                arguments |= {
                    "image": torch.zeros(1, 3, 16, 16),
                    "mask_image": mask(),
                    "strength": 1.0,
                    "masked_image_latents": torch.from_numpy(drawn("masked", 1, 8, 8, 4)).movedim(-1, 1),
                }
            if name.startswith("edit"):  # from a picture that has its latents' form, so that it is not encoded
                image = torch.from_numpy(drawn("pictured", 2, 8, 8, 4)).movedim(-1, 1)
                arguments |= {"image": image, "image_guidance_scale": IMAGE_GUIDANCE}
            if name == "sana":
                arguments["negative_prompt"] = NEGATIVE
            if name == "sprint":
                del arguments["negative_prompt"]
                arguments["intermediate_timesteps"] = 1.3 if steps == 2 else None
            if name in ("pixart", "alpha", "sana", "sprint"):
                arguments |= {"clean_caption": False, "use_resolution_binning": False}
            if name == "lcm":
                arguments = {}
            if clip:
                arguments["num_frames"] = of_frames * (FRAMES_OF_LATENTS - 1) + 1
            if clip and name.endswith(("from_image", "conditions")):
                images = [first_frame(side * factor)]
                arguments["image"] = images * 2 if clip_of("cogvideox") else images[0]
            sides = {} if name.startswith("edit") else {"height": 16, "width": 16}  # there those of the picture
            sides = {"height": 32, "width": 32} if own in ("flux2", "klein", "sana", "sprint") else sides
            sides = {"height": factor * side, "width": factor * side} if clip else sides
            if name == "ltx_conditions":  # without noise on the first frame
                arguments["image_cond_noise_scale"] = 0.0
            if name == "ltx":
                latents = pipe._pack_latents(latents)
            if name == "hunyuan_video":  # has its guidance distilled in
                del arguments["negative_prompt"]
            if clip_of("cogvideox"):  # its frames come before its channels
                latents = latents.movedim(1, 2)
            given = {} if isinstance(pipe, LTX_FROM_FRAMES) else {"latents": latents}
            draw = functools.partial(pipe, prompt=None if name == "chroma" else PROMPTS, **given, **sides, **arguments)
            with beginning(pipe, latents):
                found = draw(output_type="latent")
            found = found.frames if clip else found.images
            if name in ("flux", "fill", "control", "kontext", "chroma"):
                found = pipe._unpack_latents(found, 16, 16, pipe.vae_scale_factor)
            if own == "flux2":
                found = found.reshape(2, side, side, channels).movedim(-1, 1)
                of_channels = lambda numbers: numbers.view(1, -1, 1, 1)
                deviation = torch.sqrt(of_channels(pipe.vae.bn.running_var) + 1e-4)
                as_decoded = pipe._unpatchify_latents(found * deviation + of_channels(pipe.vae.bn.running_mean))
                picture = pipe.vae.decode(as_decoded).sample
            elif own == "klein":  # what it returns is decoded as it is
                picture = pipe.vae.decode(found).sample
                of_channels = lambda numbers: numbers.view(1, -1, 1, 1)
                deviation = torch.sqrt(of_channels(pipe.vae.bn.running_var) + 1e-4)
                found = (pipe._patchify_latents(found) - of_channels(pipe.vae.bn.running_mean)) / deviation
            elif clip_of("ltx"):
                if found.ndim == 3:
                    found = pipe._unpack_latents(found, FRAMES_OF_LATENTS, side, side)
                moments = pipe.vae.latents_mean, pipe.vae.latents_std
                picture = pipe.vae.decode(pipe._denormalize_latents(found, *moments), torch.zeros(2)).sample
            elif name == "hunyuan_video":
                picture = pipe.vae.decode(found / pipe.vae.config.scaling_factor).sample
            elif clip_of("cogvideox"):
                found = found.movedim(2, 1)
                picture = pipe.vae.decode(found[:, :, -FRAMES_OF_LATENTS:] / pipe.vae.config.scaling_factor).sample
            elif clip:
                of_channels = lambda numbers: torch.tensor(numbers).view(1, -1, 1, 1, 1)
                mean, deviation = (of_channels(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
                parts = []  # of the decoder, since the peer cuts what lies outside [-1, 1]
                hook = pipe.vae.decoder.register_forward_hook(lambda *called, parts=parts: parts.append(called[-1]))
                pipe.vae.decode(found * deviation + mean)
                hook.remove()
                picture = torch.cat(parts, dim=2)
                if patch := pipe.vae.config.get("patch_size"):
                    picture = unpatchify(picture, patch)
            elif name == "qwen_image":  # a clip of one frame
                found = pipe._unpack_latents(found, 16, 16, pipe.vae_scale_factor)
                of_channels = lambda numbers: torch.tensor(numbers).view(1, -1, 1, 1, 1)
                mean, deviation = (of_channels(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
                picture = pipe.vae.decode(found * deviation + mean).sample[:, :, 0]
                found = found[:, :, 0]
            else:
                factor = pipe.vae.config.scaling_factor
                shift = getattr(pipe.vae.config, "shift_factor", None) or 0
                picture = pipe.vae.decode(found / factor + shift).sample
        if name in PICTURES and "picture" not in arrays:
            unclipped = mock.patch.object(pipe.image_processor, "postprocess", lambda image, **_: image)
            with made_noise(pipe.scheduler), torch.no_grad(), unclipped:
                picture = draw(output_type="pt").images
        print(name, trajectory, f"latents up to {found.abs().max():.2f}, picture up to {picture.abs().max():.2f}")
        arrays[f"latents/{trajectory}"] = last(found).contiguous()
        if "picture" not in arrays:
            seen = last(picture)[:1, ::4].half() if name in CLIPS else last(picture)  # large ones in part
            arrays["picture"] = seen.contiguous()
    if name == "sd":
        edit = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        edit.set_progress_bar_config(disable=True)
        image = torch.from_numpy(drawn("image", 2, 8, 8, channels)).movedim(-1, 1)  # its latents
        for trajectory in EDITED:
            edit.scheduler = getattr(diffusers, trajectories[trajectory][0]).from_config(
                base | trajectories[trajectory][1]
            )
            with made_noise(edit), torch.no_grad():
                found = edit(
                    PROMPTS,
                    image=image,
                    strength=STRENGTH,
                    num_inference_steps=STEPS,
                    output_type="latent",
                    guidance_scale=GUIDANCE,
                    negative_prompt=[NEGATIVE] * 2,
                ).images
            arrays[f"edited/{trajectory}"] = last(found).contiguous()
        paint = diffusers.StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
        paint.set_progress_bar_config(disable=True)
        paint.scheduler = diffusers.DDIMScheduler.from_config(base)
        for strength in PAINTED:  # by a network of four channels, which sees no mask
            with made_noise(paint), torch.no_grad():
                found = paint(
                    PROMPTS,
                    image=image,
                    mask_image=mask(),
                    masked_image_latents=torch.zeros_like(image),
                    strength=strength,
                    num_inference_steps=STEPS,
                    height=16,
                    width=16,
                    output_type="latent",
                    guidance_scale=GUIDANCE,
                    negative_prompt=[NEGATIVE] * 2,
                ).images
            arrays[f"painted/{strength}"] = last(found).contiguous()
    arrays["about"] = torch.tensor(list(gzip.compress(json.dumps(about).encode(), mtime=0)), dtype=torch.uint8)
    versions = {library.__name__: library.__version__ for library in (diffusers, transformers, torch)}
    command = "python -m tests.peers.pipelines tests/fixtures/text_to_image"
    path = folder / f"{name}.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": command})
    path.chmod(0o644)


SDE_FILE = "diffusers.schedulers.scheduling_dpmsolver_sde"


def defaults(folder: pathlib.Path) -> None:
    """Writes the config that each scheduler has by default, all fields of it."""
    classes = ("DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete",
               "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep",
               "UniPCMultistep", "LCM", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "TCD", "DPMSolverSDE",
               "EDMEuler", "EDMDPMSolverMultistep")  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        found = {}
        for name in classes:
            of = diffusers
            if name == "DPMSolverSDE":  # torchsde draws its noise, and no config
                with mock.patch.dict(sys.modules, {"torchsde": mock.MagicMock()}):
                    of = importlib.import_module(SDE_FILE)
            getattr(of, f"{name}Scheduler")().save_pretrained(place)
            found[name] = json.loads((pathlib.Path(place) / "scheduler_config.json").read_text())
    (folder / "schedulers.json").write_text(json.dumps(found, indent=1) + "\n")


def main(folder: str, prefix: str = "") -> None:
    """Writes those whose names begin with the prefix."""
    torch.set_num_threads(1)
    defaults(pathlib.Path(folder))
    for name in PIPELINES:
        if name.startswith(prefix):
            write(name, pathlib.Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
