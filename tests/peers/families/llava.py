"""Llava of transformers, small: its states of texts with a picture, and what its image tower sees."""

import numpy as np
import transformers

from tests.peers.cases import Case
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import bytes_of

PLACEHOLDER = 50
FIELDS = {
    "vision_config": {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
                      "image_size": 12, "patch_size": 4},
    "text_config": {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
                    "num_attention_heads": 4, "num_key_value_heads": 2},
    "image_token_index": PLACEHOLDER,
}  # fmt: skip
PICTURE = bytes_of(drawn("llava picture", 12, 12, 3))
IDS = np.array([[1, 2, 3, *[PLACEHOLDER] * 9, 4, 5, 6, 7, 0], [9, *[PLACEHOLDER] * 9, 3, 4, 8, 7, 6, 0, 0]], np.int32)
MASK = IDS > 0


def small() -> transformers.LlavaForConditionalGeneration:
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**FIELDS))


def run(model, inputs):
    """States after every layer where the mask shows the text; the picture's tokens as the text receives them."""
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    pixels = processor([inputs["picture"].numpy()] * 2, return_tensors="pt")["pixel_values"]
    words, mask = inputs["ids"].long(), inputs["mask"]
    states = model(
        input_ids=words, attention_mask=mask.long(), pixel_values=pixels, output_hidden_states=True
    ).hidden_states
    shown = mask[..., None]
    plain = model(input_ids=words % PLACEHOLDER, attention_mask=mask.long(), output_hidden_states=True).hidden_states[
        -1
    ]
    seen = model.get_image_features(pixels[:1]).pooler_output[0]
    return {f"state_{i}": state * shown for i, state in enumerate(states)} | {"plain": plain * shown, "seen": seen}


CASES = {"llava": Case(small, {"picture": PICTURE, "ids": IDS, "mask": MASK}, run, by_file=True)}
LISTINGS = {
    # Of HunyuanVideo from an image: Llama 3, 8 B, and CLIP ViT-L/14 at 336 pixels.
    "llava_full": lambda: transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                           "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
                           "vocab_size": 32000},
            text_config={"vocab_size": 128320, "intermediate_size": 14336, "num_key_value_heads": 8,
                         "rms_norm_eps": 1e-5, "rope_theta": 5e5},
            image_token_index=128257,
            pad_token_id=128258,
        )
    )
}  # fmt: skip
