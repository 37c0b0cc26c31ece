"""Diffusers' UNet2DModel: small networks in the styles of DDPM, ADM and NCSN++, and the published sizes."""

import math

import diffusers
import numpy as np

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn

X = drawn("unet_2d x", 2, 8, 4, 3)
T = np.array([3.0, 731.0], np.float32)


def run(module, inputs):
    """One evaluation; of classes where there are any. A learned time is a whole number."""
    t = inputs["t"].long() if module.config.time_embedding_type == "learned" else inputs["t"]
    labels = inputs.get("label", inputs.get("vector"))
    labels = labels[:, 0] if module.config.class_embed_type == "timestep" else labels
    return {"output": last(module(first(inputs["x"]), t, class_labels=labels).sample)}


def types(attends: str, down: str, up: str) -> dict:
    """Types of blocks for a string of one letter a level, "a" where it has attention."""
    return {
        "down_block_types": ["AttnDownBlock2D" if letter == "a" else down for letter in attends],
        "up_block_types": ["AttnUpBlock2D" if letter == "a" else up for letter in reversed(attends)],
    }


PLAIN, RESNET = ("DownBlock2D", "UpBlock2D"), ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
DDPM = {
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
ADM = {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"}
SONG = {
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "norm_num_groups": None,
    "time_embedding_type": "fourier",
    "mid_block_scale_factor": math.sqrt(2),
}


def skips(attends: str) -> dict:
    """Types of blocks of NCSN++."""
    kind = lambda way, letter: f"{'Attn' if letter == 'a' else ''}Skip{way}Block2D"
    return {
        "down_block_types": [kind("Down", letter) for letter in attends],
        "up_block_types": [kind("Up", letter) for letter in reversed(attends)],
    }


def small(**options):
    """A network of this library."""
    return lambda: diffusers.UNet2DModel(**options)


CASES = {
    "unet_2d_ddpm": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 16, 32),
            layers_per_block=2,
            norm_num_groups=8,
            dropout=0.1,
            **types("-a-", *PLAIN),
            **DDPM,
        ),
        {"x": X, "t": T},
        run,
    ),
    # Diffusers' own defaults, and two outputs a channel
    "unet_2d_heads": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            out_channels=6,
            **types("-a", *PLAIN),
        ),
        {"x": X, "t": T},
        run,
    ),
    "unet_2d_adm": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            num_class_embeds=5,
            attn_norm_num_groups=8,
            **types("-a", *RESNET),
            **ADM,
        ),
        {"x": X, "t": T, "label": np.array([4, 0], np.int64)},
        run,
    ),
    "unet_2d_centred": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            center_input_sample=True,
            add_attention=False,
            **types("a-", *PLAIN),
        ),
        {"x": X, "t": T},
        run,
    ),
    "unet_2d_mish": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            act_fn="mish",
            time_embedding_type="learned",
            num_train_timesteps=20,
            attn_norm_num_groups=8,
            **types("-a", *RESNET),
            **ADM,
        ),
        {"x": X, "t": np.array([3.0, 19.0], np.float32)},
        run,
    ),
    "unet_2d_gelu": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            act_fn="gelu",
            **types("-a", *PLAIN),
        ),
        {"x": X, "t": T},
        run,
    ),
    # A number in place of a class; the middle's attention has no norm, which is the default where the time scales.
    "unet_2d_number": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            class_embed_type="timestep",
            time_embedding_dim=24,
            mid_block_scale_factor=1.25,
            **types("-a", *RESNET),
            **ADM,
        ),
        {"x": X, "t": T, "vector": np.array([[4.5], [810.0]], np.float32)},
        run,
    ),
    "unet_2d_embedding": Case(
        small(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            class_embed_type="identity",
            attn_norm_num_groups=4,
            **types("a-", *PLAIN),
        ),
        {"x": X, "t": T, "vector": drawn("unet_2d vector", 2, 64)},
        run,
    ),
    # 128 channels are the fewest of which diffusers' norms have groups as the paper's.
    "unet_2d_ncsnpp": Case(
        small(sample_size=8, block_out_channels=(32, 32, 128), layers_per_block=1, **skips("--a"), **SONG),
        {"x": X, "t": np.array([0.02, 7.0], np.float32)},
        run,
    ),
}
LISTINGS = {
    "unet_2d_full_cifar10": small(
        sample_size=32, block_out_channels=(128, 256, 256, 256), **types("-a--", *PLAIN), **DDPM
    ),
    "unet_2d_full_256": small(
        sample_size=256, block_out_channels=(128, 128, 256, 256, 512, 512), **types("----a-", *PLAIN), **DDPM
    ),
    "unet_2d_full_imagenet64": small(
        sample_size=64,
        block_out_channels=(192, 384, 576, 768),
        layers_per_block=3,
        num_class_embeds=1000,
        attention_head_dim=64,
        attn_norm_num_groups=32,
        **types("-aaa", *RESNET),
        **ADM,
    ),
    "unet_2d_full_ncsnpp": small(
        sample_size=256, block_out_channels=(128, 128, 256, 256, 256, 256, 256), **skips("----a--"), **SONG
    ),
}
