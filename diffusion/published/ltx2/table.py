"""LTX-2's transformer: diffusers' LTX2VideoTransformer3DModel, and the names of its authors' files (2.0)."""

from typing import Any

import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import Row, layers, linear, mlp, renamed, two_linear, within
from diffusion.published.ltx2.network import LTX2
from diffusion.published.ltx_video.table import wide_attention

NAME = "LTX2VideoTransformer3DModel"
ORIGINAL = {
    "proj_in.": "patchify_proj.",
    "av_cross_attn_video_scale_shift.": "av_ca_video_scale_shift_adaln_single.",
    "av_cross_attn_audio_scale_shift.": "av_ca_audio_scale_shift_adaln_single.",
    "av_cross_attn_video_a2v_gate.": "av_ca_a2v_gate_adaln_single.",
    "av_cross_attn_audio_v2a_gate.": "av_ca_v2a_gate_adaln_single.",
    "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
    "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
    "time_embed.": "adaln_single.",
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
}


def _time(theirs: str, ours: str) -> list[Row]:
    embedding = two_linear(f"{theirs}.emb.timestep_embedder", f"{ours}/embedding/")
    return embedding + linear(f"{theirs}.linear", f"{ours}/vectors")


def _stream(module: LTX2, audio: bool) -> list[Row]:
    """The rows of one modality outside of the layers."""
    prefix, ours, name = ("audio_", "audio", "audio") if audio else ("", "video", "video")
    rows = [
        *linear(f"{prefix}proj_in", f"{ours}/patch_embedding"),
        *_time(f"{prefix}time_embed", f"{ours}/time"),
        *_time(f"av_cross_attn_{name}_scale_shift", f"{ours}/other_time"),
        *_time("av_cross_attn_audio_v2a_gate" if audio else "av_cross_attn_video_a2v_gate", f"{ours}/other_gate"),
        Row(f"{prefix}scale_shift_table", f"{ours}_output/table"),
        *linear(f"{prefix}proj_out", f"{ours}_output/final"),
    ]
    if module.projected:
        rows += two_linear(f"{prefix}caption_projection", f"{ours}/text_")
    return rows + (_time(f"{prefix}prompt_adaln", f"{ours}/text_time") if module.modulated else [])


def _layer(module: LTX2, audio: bool) -> list[Row]:
    """The rows of one modality in a layer."""
    prefix, name = ("audio_", "audio") if audio else ("", "video")
    rows = [
        Row(f"{prefix}scale_shift_table", "table"),
        Row(f"{name}_a2v_cross_attn_scale_shift_table", "other_table"),
        *wide_attention(f"{prefix}attn1", "self_attention", module.gated),
        *wide_attention(f"{prefix}attn2", "text_attention", module.gated),
        *wide_attention("video_to_audio_attn" if audio else "audio_to_video_attn", "other_attention", module.gated),
        *mlp(f"{prefix}ff.net.0.proj", f"{prefix}ff.net.2", "mlp/"),
    ]
    rows += [Row(f"{prefix}prompt_scale_shift_table", "text_table")] * module.modulated
    return within(rows, ours=f"{name}/")


def _rows(module: LTX2) -> list[Row]:
    layer = [row for audio in (False, True) for row in _layer(module, audio)]
    table = [row for audio in (False, True) for row in _stream(module, audio)]
    return table + layers(layer, module.depth, "transformer_blocks.", "blocks/")


def _example(module: LTX2) -> tuple:
    x = {"video": array(1, 1, 1, 1, module.channels), "sound": array(1, 1, module.sound_channels)}
    texts = dict(zip(("text", "sound_text"), (array(1, 1, width) for width in module.text_widths)))
    return x, array(1, dtype=jnp.float32), texts


def _sound_size(size: int, ours: Any) -> int:
    return size * ours["heads"]


CONFIG = FieldTable(
    NAME,
    LTX2,
    (
        Field("in_channels", "channels", 128),
        Follows("out_channels", lambda module: module.channels, default=128, optional=True),
        *width_of_heads(32, 128),
        Follows("cross_attention_dim", lambda module: module.width, default=4096),
        Field("gated_attn", "gated", False),
        Field("cross_attn_mod", "modulated", False),
        Field("audio_in_channels", "sound_channels", 128),
        Follows("audio_out_channels", lambda module: module.sound_channels, default=128, optional=True),
        Follows("audio_num_attention_heads", lambda module: module.heads, default=32),
        Field(
            "audio_attention_head_dim",
            "sound_width",
            64,
            read=_sound_size,
            write=lambda module: module.sound_width // module.heads,
        ),
        Follows("audio_cross_attention_dim", lambda module: module.sound_width, default=2048),
        Follows("audio_gated_attn", lambda module: module.gated, default=False),
        Follows("audio_cross_attn_mod", lambda module: module.modulated, default=False),
        Field("num_layers", "depth", 48, DEPTH),
        Field("caption_channels", "text_width", 3840),
        Field("use_prompt_embeddings", "projected", True),
        Choice("rope_type", "halves", {"interleaved": False, "split": True}),
        Field("perturbed_attn", "perturbed", False),
        Field("cross_attn_timestep_scale_multiplier", "gate_clock", 1000),
        Follows("timestep_scale_multiplier", 1000),
        Follows("patch_size", 1),
        Follows("patch_size_t", 1),
        Follows("audio_patch_size", 1),
        Follows("audio_patch_size_t", 1),
        Follows("vae_scale_factors", (8, 32, 32)),
        Follows("pos_embed_max_pos", 20),
        Follows("base_height", 2048),
        Follows("base_width", 2048),
        Follows("audio_scale_factor", 4),
        Follows("audio_pos_embed_max_pos", 20),
        Follows("audio_sampling_rate", 16000),
        Follows("audio_hop_length", 160),
        Follows("activation_fn", "gelu-approximate"),
        Follows("qk_norm", "rms_norm_across_heads"),
        Follows("norm_elementwise_affine", False),
        Follows("norm_eps", 1e-6),
        Follows("attention_bias", True),
        Follows("attention_out_bias", True),
        Follows("rope_theta", 10000.0),
        Follows("rope_double_precision", True),
        Follows("causal_offset", 1),
        # These fields are new in LTX-2.5; other values of them are refused.
        Follows("ff_bias", True),
        Follows("audio_ff_bias", True),
        Follows("use_prompt_adaln_single", True),
        Follows("use_keyframes_abs_pos_embedding", False),
    ),
)

FAMILY = CONFIG.family(
    _example,
    {"diffusers": _rows, "original": lambda module: renamed(_rows(module), ORIGINAL)},
    published={"LTX-2, 19 B": {"rope_type": "split"}},
    prefixes=("model.diffusion_model.", ""),
    ignored=(r"(video|audio)_embeddings_connector\..*",),
)
FAMILIES = {FAMILY.name: FAMILY}
