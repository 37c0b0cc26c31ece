"""CogVideoX of diffusers: its transformer, small in three published forms, and at published sizes; its pipelines."""

import pathlib

import diffusers
import numpy as np
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel

from tests.peers.cases import Case
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import Pipeline, decode, encoded_by_mean, first_frame, t5, t5_tokenizer

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 12,
    "text_embed_dim": 10,
    "num_layers": 2,
    "sample_width": 12,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": 5,
}
FORMS = {
    "cogvideox_sincos": {"spatial_interpolation_scale": 1.875},
    "cogvideox_rope": {"use_rotary_positional_embeddings": True},
    "cogvideox_frames": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
    "cogvideox_picture": {
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
        "in_channels": 8,
    },
    "cogvideox_frames_picture": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "ofs_embed_dim": 12,
        "in_channels": 8,
    },
}
BIG = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
PUBLISHED = {
    "2b": {},
    "5b": BIG,
    "1_5": {**BIG, "patch_size_t": 2, "patch_bias": False},
    "5b_picture": {**BIG, "in_channels": 32, "use_learned_positional_embeddings": True},
    "1_5_picture": {**BIG, "in_channels": 32, "patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 512},
}


class Parts:
    """What the pipeline's function for the rotary angles reads."""

    vae_scale_factor_spatial = 1

    def __init__(self, transformer: CogVideoXTransformer3DModel):
        self.transformer = transformer


def run(module: CogVideoXTransformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    x = a["x"].movedim(-1, 2)
    angles = None
    if module.config.use_rotary_positional_embeddings:
        frames, _, height, width = x.shape[1:]
        angles = CogVideoXPipeline._prepare_rotary_positional_embeddings(Parts(module), height, width, frames, "cpu")
    offset = None if module.config.ofs_embed_dim is None else x.new_full((1,), fill_value=2.0)  # as its pipeline
    return {"output": module(x, a["text"], a["t"], ofs=offset, image_rotary_emb=angles).sample.movedim(2, -1)}


def small(name: str) -> Case:
    options = FORMS[name]
    pairs = "patch_size_t" in options
    # of other sides than the training's
    sides = (8, 12) if name == "cogvideox_picture" else (6, 10) if pairs else (10, 6)
    inputs = {
        "x": drawn(f"{name} x", 2, 4 if pairs else 3, *sides, options.get("in_channels", 4)),
        "t": np.array([3.0, 731.0], np.float32),
        "text": drawn(f"{name} text", 2, 5, 10),
    }
    return Case(lambda: CogVideoXTransformer3DModel(**SMALL | options), inputs, run)


CASES = {name: small(name) for name in FORMS}
LISTINGS = {
    f"cogvideox_full_{name}": lambda options=options: CogVideoXTransformer3DModel(**options)
    for name, options in PUBLISHED.items()
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


def from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    learned = {"use_learned_positional_embeddings": True, "in_channels": 8, "sample_frames": 9, "sample_width": 4}
    return diffusers.CogVideoXImageToVideoPipeline(**pipeline(folder, learned | {"sample_height": 4}).components)


def frames(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return pipeline(folder, {"patch_size_t": 2})


def frames_from_image(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    options = {"patch_size_t": 2, "ofs_embed_dim": 12, "in_channels": 8}
    base = pipeline(folder, options, {"invert_scale_latents": True})
    return diffusers.CogVideoXImageToVideoPipeline(**base.components)


def pipeline(
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


def arguments(pipe, usual: dict) -> dict:
    """Its frames come before its channels."""
    return usual | {"latents": usual["latents"].movedim(1, 2)}


def image_arguments(pipe, usual: dict) -> dict:
    return arguments(pipe, usual) | {"image": [first_frame(usual["height"])] * 2}


def dynamic_arguments(pipe, usual: dict) -> dict:
    """Its scale changes with the steps; the pipeline keeps those that it has used."""
    pipe.scales = []

    def keep(pipe, index: int, time: torch.Tensor, tensors: dict) -> dict:
        pipe.scales.append((time.item(), pipe.guidance_scale))
        return tensors

    return arguments(pipe, usual) | {"use_dynamic_cfg": True, "callback_on_step_end": keep}


def decode_last(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the frames that make their number even."""
    latents = output.movedim(2, 1)
    return latents, decode(pipe, latents[:, :, -3:])[1]


TRAJECTORIES = {"ddim": ("CogVideoXDDIMScheduler", {})}
SIZE = {"height": 16, "width": 16, "num_frames": 9}
SHORT = Pipeline(
    pipeline,
    COGVIDEOX,
    TRAJECTORIES,
    latents=(3, 4, 4, 4),
    size=SIZE,
    steps=25,
    arguments=arguments,
    decoded=decode_last,
)  # whose steps are whole numbers of the process's
FROM_IMAGE = SHORT._replace(build=from_image, arguments=image_arguments, within=encoded_by_mean)
EVEN = (4, 4, 4, 4)
PIPELINES = {
    "cogvideox": SHORT._replace(trajectories=TRAJECTORIES | {"dpmpp_2m_sde": ("CogVideoXDPMScheduler", {})}),
    "cogvideox_dynamic": SHORT._replace(
        arguments=dynamic_arguments, further=lambda pipe: {"scales": torch.tensor(pipe.scales, dtype=torch.float64)}
    ),
    "cogvideox_from_image": FROM_IMAGE,
    "cogvideox_frames": SHORT._replace(build=frames, latents=EVEN),
    "cogvideox_frames_from_image": FROM_IMAGE._replace(build=frames_from_image, latents=EVEN),
}
