"""LTX-2 of diffusers: its transformer of clips and sounds, as 2.0 and as 2.3, by both kinds of names."""

import pathlib
import sys
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.loaders.single_file_utils import convert_ltx2_transformer_to_diffusers
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

from tests.peers.cases import Case, first, last
from tests.peers.families.ltx_video import LTX_FLOW
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import GEMMA, NEGATIVE, PROMPTS, Pipeline, first_frame, gemma_tokenizer
from tests.peers.translated import Translated, dense, under

WIDTH, SOUND_WIDTH, TEXT = 28, 16, 10
OF_23 = {"gated_attn": True, "cross_attn_mod": True, "audio_gated_attn": True, "audio_cross_attn_mod": True,
         "use_prompt_embeddings": False, "perturbed_attn": True}  # fmt: skip


def small(**options) -> LTX2VideoTransformer3DModel:
    fields = {
        "in_channels": 6,
        "out_channels": 6,
        "num_attention_heads": 2,
        "attention_head_dim": WIDTH // 2,  # six does not divide the width
        "cross_attention_dim": WIDTH,
        "audio_in_channels": 5,
        "audio_out_channels": 5,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": SOUND_WIDTH // 2,
        "audio_cross_attention_dim": SOUND_WIDTH,
        "num_layers": 2,
        "caption_channels": TEXT,
        "rope_type": "split",
    }
    return LTX2VideoTransformer3DModel(**fields | options)


def inputs(text: int, sound_text: int) -> dict[str, np.ndarray]:
    return {
        "video": drawn("ltx2 video", 2, 3, 2, 3, 6),
        "sound": drawn("ltx2 sound", 2, 7, 5),
        "t_of_frames": np.array([[0.0, 612.0, 612.0], [31.0, 31.0, 900.0]], np.float32),
        "t_of_sound": np.array([250.0, 731.5], np.float32),
        "rate": np.array([12.0, 30.0], np.float32),
        "text": drawn("ltx2 text", 2, 5, text),
        "sound_text": drawn("ltx2 sound text", 2, 5, sound_text),
        "text_mask": np.arange(5) < np.array([[5], [3]]),
    }


def run(module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As its pipelines call it, with a time for each frame, and another for the sound."""
    network = module if isinstance(module, LTX2VideoTransformer3DModel) else module.network()
    video, sound = a["video"], a["sound"]
    frames, height, width = video.shape[1:4]
    sizes = {"num_frames": frames, "height": height, "width": width}
    coordinates = [
        network.rope.prepare_video_coords(1, frames, height, width, video.device, fps=float(rate)) for rate in a["rate"]
    ]
    mask = a["text_mask"].float()
    how = {
        "audio_hidden_states": sound,
        "encoder_hidden_states": a["text"],
        "audio_encoder_hidden_states": a["sound_text"],
        "timestep": a["t_of_frames"].repeat_interleave(height * width, dim=1),
        "audio_timestep": a["t_of_sound"],
        "sigma": a["t_of_frames"].amax(1),
        "audio_sigma": a["t_of_sound"],
        "encoder_attention_mask": mask,
        "audio_encoder_attention_mask": mask,
        **sizes,
        "audio_num_frames": sound.shape[1],
        "video_coords": torch.cat(coordinates),
        "use_cross_timestep": True,
        "return_dict": False,
    }

    def call(name: str, **more) -> dict[str, torch.Tensor]:
        output, sound_output = network(video.flatten(1, 3), **how, **more)
        return {f"{name}video": output.reshape(video.shape), f"{name}sound": sound_output}

    outputs = call("")
    if network.config["perturbed_attn"]:
        outputs |= call("perturbed_", spatio_temporal_guidance_blocks=[1])
        outputs |= call("apart_", isolate_modalities=True)
    return outputs


def attention(query: int, context: int, size: int) -> dict[str, tuple[int, ...]]:
    shapes = dense(to_q=(query, size), to_k=(context, size), to_v=(context, size), to_out__0=(size, query))
    return shapes | {"q_norm.weight": (size,), "k_norm.weight": (size,)}


def times(name: str, width: int, count: int) -> dict[str, tuple[int, ...]]:
    shapes = under(f"{name}.emb.timestep_embedder", dense(linear_1=(256, width), linear_2=(width, width)))
    return shapes | under(name, dense(linear=(width, count * width)))


def original() -> Translated:
    """Under the names of the authors' files of 2.0, without a table."""
    shapes = {}
    for prefix, width, other, name, gate, channels in (
        ("", WIDTH, SOUND_WIDTH, "video", "a2v", 6),
        ("audio_", SOUND_WIDTH, WIDTH, "audio", "v2a", 5),
    ):
        layers = {f"{prefix}patchify_proj": (channels, width), f"{prefix}proj_out": (width, channels)}
        layers |= {f"{prefix}caption_projection__linear_1": (TEXT, width)}
        layers |= {f"{prefix}caption_projection__linear_2": (width, width)}
        shapes |= dense(**layers) | {f"{prefix}scale_shift_table": (2, width)}
        shapes |= times(f"{prefix}adaln_single", width, 6)
        shapes |= times(f"av_ca_{name}_scale_shift_adaln_single", width, 4)
        shapes |= times(f"av_ca_{gate}_gate_adaln_single", width, 1)
        for i in range(2):
            across = "audio_to_video_attn" if name == "video" else "video_to_audio_attn"
            layer = under(f"{prefix}attn1", attention(width, width, width))
            layer |= under(f"{prefix}attn2", attention(width, width, width))
            layer |= under(across, attention(width, other, SOUND_WIDTH))
            layer |= under(f"{prefix}ff.net", dense(**{"0__proj": (width, 4 * width), "2": (4 * width, width)}))
            layer |= {f"{prefix}scale_shift_table": (6, width), f"scale_shift_table_a2v_ca_{name}": (5, width)}
            shapes |= under(f"transformer_blocks.{i}", layer)
    return Translated(small(), shapes, convert_ltx2_transformer_to_diffusers)


CASES = {
    "ltx2": Case(small, inputs(TEXT, TEXT), run),
    "ltx2_neighbours": Case(lambda: small(rope_type="interleaved"), inputs(TEXT, TEXT), run),
    "ltx2_gated": Case(lambda: small(**OF_23), inputs(WIDTH, SOUND_WIDTH), run),
    "ltx2_original": Case(original, inputs(TEXT, TEXT), run),
}
LISTINGS = {
    "ltx2_full": lambda: LTX2VideoTransformer3DModel(rope_type="split"),
    "ltx2_full_2_3": lambda: LTX2VideoTransformer3DModel(rope_type="split", **OF_23),
}

STATES, OF_STATE, TOKENS = 3, 8, 8
CONNECTED_23 = {"per_modality_projections": True, "proj_bias": True, "video_gated_attn": True, "audio_gated_attn": True,
                "video_connector_attention_head_dim": 8, "video_hidden_dim": 16, "audio_hidden_dim": 8}  # fmt: skip
STATE_INPUTS = {
    "states": drawn("ltx2 states", 2, TOKENS, STATES * OF_STATE),
    "mask": np.arange(TOKENS) >= np.array([[3], [6]]),  # padding stands in front
}


def connectors(**options) -> LTX2TextConnectors:
    fields = {
        "caption_channels": OF_STATE,
        "text_proj_in_factor": STATES,
        "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": OF_STATE // 2,
        "video_connector_num_learnable_registers": 4,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": OF_STATE // 2,
        "audio_connector_num_learnable_registers": 4,
        "rope_type": "split",
    }
    return LTX2TextConnectors(**fields | options)


def connect(module: LTX2TextConnectors, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    states = a["states"].unflatten(-1, (STATES, OF_STATE)).transpose(2, 3)
    text, sound_text, mask = module(states, a["mask"].long())
    assert mask.all()
    return {"text": text, "sound_text": sound_text}


CASES |= {
    "ltx2_connectors": Case(connectors, STATE_INPUTS, connect),
    "ltx2_connectors_separate": Case(lambda: connectors(**CONNECTED_23), STATE_INPUTS, connect),
}
LISTINGS |= {
    "ltx2_connectors_full": lambda: LTX2TextConnectors(rope_type="split"),
    "ltx2_connectors_full_2_3": lambda: LTX2TextConnectors(
        rope_type="split",
        **CONNECTED_23
        | {
            "video_connector_num_attention_heads": 32,
            "video_connector_attention_head_dim": 128,
            "video_hidden_dim": 4096,
            "audio_connector_num_attention_heads": 32,
            "audio_connector_attention_head_dim": 64,
            "audio_hidden_dim": 2048,
        },
    ),
}

CLIP_VAE = {
    "block_out_channels": (8, 16, 32),
    "down_block_types": ("LTX2VideoDownBlock3D",) * 3,
    "layers_per_block": (1, 1, 1, 1),
    "spatio_temporal_scaling": (True,) * 3,
    "downsample_type": ("spatial", "temporal", "spatiotemporal"),
    "decoder_block_out_channels": (8, 16),
    "decoder_layers_per_block": (1, 2, 1),
    "decoder_spatio_temporal_scaling": (True, True),
    "decoder_inject_noise": (False,) * 3,
    "upsample_type": ("spatiotemporal",) * 2,
    "upsample_residual": (True, True),
    "upsample_factor": (2, 2),
    "latent_channels": 8,
    "patch_size": 2,
    "decoder_causal": False,
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 4,
}


def clip_vae(**options) -> AutoencoderKLLTX2Video:
    module = AutoencoderKLLTX2Video(**CLIP_VAE | options)
    channels = len(module.latents_mean)
    module.latents_mean.copy_(torch.arange(channels) / 4)
    module.latents_std.copy_(1 + torch.arange(channels) / 2)
    return module


def clip_moments(module: AutoencoderKLLTX2Video, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    posterior = module.encode(first(a["x"])).latent_dist
    decoded = module.decode(first(a["z"])).sample
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


CLIP_INPUTS = {"x": drawn("ltx2 clip x", 2, 5, 8, 16, 3), "z": drawn("ltx2 clip z", 2, 2, 2, 3, 8)}
CASES["ltx2_autoencoder"] = Case(clip_vae, CLIP_INPUTS, clip_moments, kept=("latents_mean", "latents_std"))
LISTINGS["ltx2_autoencoder_full"] = lambda: AutoencoderKLLTX2Video(decoder_causal=False)
BY_AXES = {
    "decoder_block_out_channels": (16, 16, 32),
    "decoder_layers_per_block": (1, 2, 1, 1),
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "upsample_type": ("spatiotemporal", "temporal", "spatial"),
    "upsample_residual": (False, True, True),
    "upsample_factor": (2, 1, 2),
    "decoder_spatial_padding_mode": "zeros",
}
"""A decoder with zeros at the edges, one level of which doubles the frames alone and one the sides."""
CASES["ltx2_autoencoder_axes"] = Case(
    lambda: clip_vae(**BY_AXES), CLIP_INPUTS, clip_moments, kept=("latents_mean", "latents_std")
)


def sound_vae(**options) -> AutoencoderKLLTX2Audio:
    fields = {"base_channels": 8, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "latent_channels": 2, "mel_bins": 16}
    module = AutoencoderKLLTX2Audio(**fields | options)
    features = len(module.latents_mean)
    module.latents_mean.copy_(torch.arange(features) / 4 - 1)
    module.latents_std.copy_(1 + torch.arange(features) / 2)
    return module


def sound_moments(module: AutoencoderKLLTX2Audio, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """And the latents of a diffusion model's tokens, as its pipeline has them."""
    posterior = module.encode(first(a["x"])).latent_dist
    moments = module.latents_mean, module.latents_std
    latents = LTX2Pipeline._denormalize_audio_latents(a["tokens"], *moments)
    latents = LTX2Pipeline._unpack_audio_latents(latents, a["tokens"].shape[1], module.config.mel_bins // 4)
    tokens = LTX2Pipeline._normalize_audio_latents(LTX2Pipeline._pack_audio_latents(posterior.mean), *moments)
    decoded = module.decode(latents).sample
    outputs = {"mean": posterior.mean, "log_variance": posterior.logvar, "latents": latents, "decoded": decoded}
    return {name: last(array) for name, array in outputs.items()} | {"tokens": tokens}


def vocoder(**options) -> LTX2Vocoder:
    fields = {
        "in_channels": 8,
        "hidden_channels": 16,
        "upsample_kernel_sizes": [7, 4],
        "upsample_factors": [3, 2],
        "resnet_kernel_sizes": [3, 5],
        "resnet_dilations": [[1, 3], [2]],
    }
    return LTX2Vocoder(**fields | options)


SOUND_INPUTS = {"x": drawn("ltx2 sound x", 2, 9, 16, 2), "tokens": drawn("ltx2 sound tokens", 2, 3, 8)}
CASES |= {
    "ltx2_sound_autoencoder": Case(sound_vae, SOUND_INPUTS, sound_moments, kept=("latents_mean", "latents_std")),
    "ltx2_vocoder": Case(
        vocoder,
        {"x": drawn("ltx2 spectrogram", 2, 5, 4, 2)},
        lambda module, a: {"waveform": last(module(first(a["x"])))},
    ),
}
LISTINGS |= {"ltx2_sound_autoencoder_full": AutoencoderKLLTX2Audio, "ltx2_vocoder_full": LTX2Vocoder}


def wide_vocoder() -> LTX2VocoderWithBWE:
    """Three times the rate; of nine frames the waveform has 54 samples, which its hop of four does not divide."""
    blocks = {"resnet_kernel_sizes": [3, 5], "resnet_dilations": [[1, 3], [2]]}
    first = {"in_channels": 8, "hidden_channels": 8, "upsample_kernel_sizes": [7, 4], "upsample_factors": [3, 2]}
    second = {"in_channels": 6, "hidden_channels": 8, "upsample_kernel_sizes": [8, 5], "upsample_factors": [4, 3]}
    return LTX2VocoderWithBWE(
        **first | blocks,
        **{f"bwe_{name}": value for name, value in (second | blocks).items()},
        filter_length=16,
        hop_length=4,
        window_length=16,
        num_mel_channels=3,
        input_sampling_rate=100,
        output_sampling_rate=300,
    )


CASES["ltx2_wide_vocoder"] = Case(
    wide_vocoder,
    {"x": drawn("ltx2 spectrogram", 2, 9, 4, 2)},
    lambda module, a: {"waveform": last(module(first(a["x"])))},
)
LISTINGS["ltx2_wide_vocoder_full"] = LTX2VocoderWithBWE


PUBLISHED_CELL = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("LTX2VideoDownBlock3D",) * 4,
    "layers_per_block": (1,) * 5,
    "spatio_temporal_scaling": (True,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 3,
    "decoder_inject_noise": (False,) * 4,
    "upsample_type": ("spatiotemporal",) * 3,
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2,) * 3,
    "patch_size": 4,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
"""The autoencoder whose latents stand for 8 frames of 32 x 32 pixels, as the positions of the denoiser count."""
FRAMES, STEPS, LENGTH = 17, 6, 16
SCALES = {"guidance_scale": 3.5, "stg_scale": 1.2, "modality_scale": 2.5, "guidance_rescale": 0.6,
          "audio_guidance_scale": 6.0, "audio_stg_scale": 0.8, "audio_modality_scale": 3.0,
          "audio_guidance_rescale": 0.3}  # fmt: skip


def pipeline(folder: pathlib.Path) -> LTX2Pipeline:
    """Of 2.0, whose denoiser has layers that may be perturbed, as 2.3's."""
    text = {**GEMMA, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    encoder = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )
    width = GEMMA["hidden_size"]
    connected = {
        "caption_channels": width,
        "video_connector_attention_head_dim": width // 2,
        "audio_connector_attention_head_dim": width // 2,
    }
    channels = {"in_channels": 8, "out_channels": 8, "audio_in_channels": 8, "audio_out_channels": 8}
    return LTX2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(LTX_FLOW),
        vae=clip_vae(**PUBLISHED_CELL),
        audio_vae=sound_vae(),
        text_encoder=encoder,
        tokenizer=gemma_tokenizer(),
        connectors=connectors(**connected),
        transformer=small(**channels, caption_channels=width, perturbed_attn=True),
        vocoder=vocoder(in_channels=32),
    )


def from_image(folder: pathlib.Path) -> LTX2ImageToVideoPipeline:
    return LTX2ImageToVideoPipeline(**pipeline(folder).components)


NOISE = torch.from_numpy(drawn("latents", 2, 3, 2, 2, 8)).movedim(-1, 1)
SOUND = torch.from_numpy(drawn("sound latents", 2, 18, 8))  # 25 a second, of 17 / 24 seconds
USUAL = {"prompt": [*PROMPTS], "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": STEPS, "height": 64,
         "width": 64, "num_frames": FRAMES, "max_sequence_length": LENGTH}  # fmt: skip
GUIDED = SCALES | {"spatio_temporal_guidance_blocks": [1]}
ALONE = dict.fromkeys(SCALES, 1.0) | {"stg_scale": 0.0, "audio_stg_scale": 0.0, "guidance_rescale": 0.0}


def trajectories(pipe, usual: dict) -> dict[str, torch.Tensor]:
    """Latents of two prompts: with all guidances, and with none."""
    arrays = {}
    with torch.no_grad():
        for name, scales in (("guided", GUIDED), ("alone", ALONE)):
            latents, sounds = pipe(**usual, **scales, output_type="latent", return_dict=False)
            arrays |= {
                f"{name}/latents": last(latents).contiguous(),
                f"{name}/sound_latents": last(sounds).contiguous(),
            }
    return arrays


def clips(pipe: LTX2Pipeline) -> dict[str, torch.Tensor]:
    """And the clips and the sounds of all guidances."""
    moments = pipe.audio_vae.latents_mean, pipe.audio_vae.latents_std
    sound = pipe._denormalize_audio_latents(SOUND, *moments)
    usual = USUAL | {"latents": pipe._pack_latents(NOISE), "audio_latents": sound}
    arrays = trajectories(pipe, usual)
    with torch.no_grad():
        clip, waveform = pipe(**usual, **GUIDED, output_type="pt", return_dict=False)
    return arrays | {"clip": clip.movedim(2, -1)[:1, ::4].contiguous(), "waveform": last(waveform).contiguous()}


def clips_from_image(pipe: LTX2ImageToVideoPipeline) -> dict[str, torch.Tensor]:
    """It draws the same noise, and encodes its first frame as it is."""
    sound = SOUND.unflatten(2, (2, 4)).transpose(1, 2)
    noise = {tuple(array.shape): array for array in (NOISE, sound)}
    module = sys.modules[type(pipe).__module__]
    with mock.patch.object(module, "randn_tensor", lambda shape, **_: noise[tuple(shape)].clone()):
        return trajectories(pipe, USUAL | {"image": first_frame(64), "image_crf": 0})


PIPELINES = {
    "ltx2": Pipeline(pipeline, LTX_FLOW, {}, further=clips, further_steps={"euler": STEPS}),
    "ltx2_from_image": Pipeline(from_image, LTX_FLOW, {}, further=clips_from_image, further_steps={"euler": STEPS}),
}
