"""Qwen 2.5 VL of transformers, small: its image tower, and its states of texts with pictures."""

import numpy as np
import torch
import transformers
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from tests.peers.cases import Case
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import bytes_of

VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 2,
    "out_hidden_size": 24,
    "patch_size": 4,
    "window_size": 16,  # two of its tokens
    "fullatt_block_indexes": [1],
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 2, 1], "rope_theta": 1e4},
}
PLACEHOLDER = 50
# Pictures of 5 x 3 and of 2 x 4 tokens: the windows at their edges are smaller.
PICTURES = [bytes_of(drawn(f"qwen_vl picture {i}", *sides, 3)) for i, sides in enumerate([(40, 24), (16, 32)])]
TOKENS = [15, 8]


def ids() -> np.ndarray:
    """Two texts, each with both pictures, whose ends are padding."""
    place = [PLACEHOLDER]
    rows = [[1, 2, 3, *place * 15, 4, *place * 8, 5, 6, 7, 0], [9, *place * 15, 3, 4, *place * 8, 8, 7, 6, 0, 0]]
    return np.array(rows, np.int32)


MASK = ids() > 0
PROCESSOR = transformers.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 1, "longest_edge": 10**6})


def tower(model, inputs):
    """The merged tokens of both pictures at once."""
    seen = PROCESSOR([inputs["picture_0"].numpy(), inputs["picture_1"].numpy()], return_tensors="pt")
    tokens = model(seen["pixel_values"], seen["image_grid_thw"]).pooler_output
    return {f"picture_{i}": part for i, part in enumerate(tokens.split(TOKENS))}


def whole(model, inputs):
    """States after every layer where the mask shows the text."""
    seen = PROCESSOR([inputs["picture_0"].numpy(), inputs["picture_1"].numpy()] * 2, return_tensors="pt")
    words, mask = inputs["ids"].long(), inputs["mask"]
    states = model(
        input_ids=words, attention_mask=mask.long(), mm_token_type_ids=(words == PLACEHOLDER).int(),
        output_hidden_states=True, **seen,
    ).hidden_states  # fmt: skip
    plain = model(input_ids=words % 40, attention_mask=mask.long()).last_hidden_state
    return {f"state_{i}": state * mask[..., None] for i, state in enumerate(states)} | {
        "plain": plain * mask[..., None]
    }


PICTURED = {f"picture_{i}": picture for i, picture in enumerate(PICTURES)}


def small() -> transformers.Qwen2_5_VLModel:
    config = transformers.Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, image_token_id=PLACEHOLDER)
    return transformers.Qwen2_5_VLModel(config)


def small_tower() -> torch.nn.Module:
    config = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(**VISION)
    return Qwen2_5_VisionTransformerPretrainedModel(config)


CASES = {
    "qwen_vl_vision": Case(small_tower, PICTURED, tower),
    "qwen_vl": Case(small, PICTURED | {"ids": ids(), "mask": MASK}, whole),
}
LISTINGS = {
    # Of Qwen2.5-VL-7B, Qwen-Image's text encoder.
    "qwen_vl_full": lambda: transformers.Qwen2_5_VLModel(
        transformers.Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
            },
            vision_config={"hidden_size": 1280},
        )
    )
}
