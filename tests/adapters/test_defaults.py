"""What adapters are where a config says nothing: runs of every version tune the same, and published files are read."""

import inspect

import pytest

from diffusion.adapters import (
    control,
    custom_diffusion,
    erasure,
    full_tuning,
    image_projection_rows,
    image_prompt,
    ip_adapter_files,
    lora,
    lora_files,
    low_rank,
    textual_inversion,
    word_embeddings,
)
from diffusion.models.image_encoders import image_features

LOW_RANK = {"rank": 8, "text_targets": ""}
WORDS = {"word": "<new>", "vectors": 1, "initial": "thing"}
DEFAULTS = [
    (control.control_net, {"hint_widths": (), "depth": 0}),
    (control.t2i_adapter, {"blocks": 2}),  # Mou et al. 2023, and diffusers' num_res_blocks
    (custom_diffusion.custom_diffusion, WORDS),
    (textual_inversion.textual_inversion, WORDS),
    (erasure.solved, {"preserve": 1.0, "keep": 0.1}),
    (erasure.edited, {"kept": (), "preserve": 1.0, "keep": 0.1}),
    (full_tuning.full, {"targets": "", "text": False}),
    (image_prompt.ip_adapter, {"kind": "global", "prompt": ""}),
    (ip_adapter_files.save, {"layout": "h94"}),
    (low_rank.lora, LOW_RANK),
    (low_rank.dora, LOW_RANK),
    (low_rank.loha, LOW_RANK),
    (low_rank.lokr, {**LOW_RANK, "factor": -1}),  # LyCORIS: a factor of -1 divides as evenly as it can
    (lora.merge, {"scale": 1.0}),
    (lora_files.save, {"layout": "peft"}),
    (word_embeddings.load, {"text": ""}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_sizes_that_published_files_rely_on():
    assert control.HINT_WIDTHS == (16, 32, 96, 256)  # conditioning_embedding_out_channels of diffusers
    assert image_projection_rows.HEAD == 64  # h94's resampler has heads of 64
    assert image_features.CROP == 224  # of CLIP's preprocessor
