"""The conditions of diffusers' pipelines for prompts: tiny made encoders over the vocabularies of tests/text.

    python -m tests.peers.text_conditions_reference tests/fixtures/text

writes conditions.safetensors: the outputs of `encode_prompt` of the pipelines of SD 1, SDXL, SD 3, Flux and PixArt,
and in its metadata the configs, names and shapes of the encoders, so that the test builds the same ones.
"""

import json
import pathlib
import sys
import tempfile

import diffusers
import torch
import transformers
from safetensors.numpy import save_file

from tests.peers.cases import fill
from tests.text.vocabularies import folder_of

PROMPTS = ["a cat, sitting on the mat!", "", "long " * 90]
CLIP = {"vocab_size": 668, "num_hidden_layers": 2, "max_position_embeddings": 77, "projection_dim": 6}
ENCODERS = {
    "clip": (
        transformers.CLIPTextModel,
        transformers.CLIPTextConfig(**CLIP, hidden_size=8, intermediate_size=10, num_attention_heads=2, eos_token_id=2),
    ),
    "clip_l": (
        transformers.CLIPTextModelWithProjection,
        transformers.CLIPTextConfig(
            **CLIP, hidden_size=8, intermediate_size=10, num_attention_heads=2, eos_token_id=667
        ),
    ),
    "clip_g": (
        transformers.CLIPTextModelWithProjection,
        transformers.CLIPTextConfig(
            **CLIP, hidden_size=4, intermediate_size=10, num_attention_heads=2, eos_token_id=667, hidden_act="gelu"
        ),
    ),
    "t5": (
        transformers.T5EncoderModel,
        transformers.T5Config(
            vocab_size=300, d_model=14, d_kv=4, d_ff=10, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        ),
    ),
}


def main(folder: str) -> None:
    """Writes the fixture."""
    fixtures = pathlib.Path(folder)
    torch.set_num_threads(1)
    conditions: dict[str, torch.Tensor] = {}
    about: dict[str, dict] = {}
    encoders = {}
    for name, (kind, config) in ENCODERS.items():
        encoders[name] = kind(config).eval()
        fill(encoders[name], {"encoder.embed_tokens.weight": "shared.weight"})
        kept = {key: list(t.shape) for key, t in encoders[name].state_dict().items() if "embed_tokens" not in key}
        about[name] = {"config": {**config.to_dict(), "architectures": [kind.__name__]}, "shapes": kept}
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        clip, padded, t5 = (
            library.from_pretrained(folder_of(pathlib.Path(place) / kind, kind, fixtures))
            for kind, library in (
                ("clip", transformers.CLIPTokenizer),
                ("clip, padded with !", transformers.CLIPTokenizer),
                ("t5", transformers.T5Tokenizer),
            )
        )
        none = {"vae": None, "scheduler": None}
        one = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        sd = diffusers.StableDiffusionPipeline(
            **none,
            text_encoder=encoders["clip"],
            tokenizer=clip,
            unet=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        conditions["sd/text"] = sd.encode_prompt(PROMPTS, **one)[0]
        xl = diffusers.StableDiffusionXLPipeline(
            **none,
            text_encoder=encoders["clip"],
            text_encoder_2=encoders["clip_g"],
            tokenizer=clip,
            tokenizer_2=padded,
            unet=None,
        )
        conditions["sdxl/text"], _, conditions["sdxl/pooled"], _ = xl.encode_prompt(PROMPTS, **one)
        sd3 = diffusers.StableDiffusion3Pipeline(
            **none,
            text_encoder=encoders["clip_l"],
            text_encoder_2=encoders["clip_g"],
            text_encoder_3=encoders["t5"],
            tokenizer=clip,
            tokenizer_2=padded,
            tokenizer_3=t5,
            transformer=None,
        )
        conditions["sd3/text"], _, conditions["sd3/pooled"], _ = sd3.encode_prompt(
            PROMPTS, None, None, max_sequence_length=32, **one
        )
        flux = diffusers.FluxPipeline(
            **none,
            text_encoder=encoders["clip"],
            tokenizer=clip,
            text_encoder_2=encoders["t5"],
            tokenizer_2=t5,
            transformer=None,
        )
        conditions["flux/text"], conditions["flux/pooled"], _ = flux.encode_prompt(
            PROMPTS, None, device="cpu", max_sequence_length=32
        )
        pixart = diffusers.PixArtSigmaPipeline(**none, text_encoder=encoders["t5"], tokenizer=t5, transformer=None)
        conditions["pixart/text"], conditions["pixart/text_mask"], _, _ = pixart.encode_prompt(
            ["A Cat ", *PROMPTS[1:]], do_classifier_free_guidance=False, device="cpu", max_sequence_length=32
        )
    arrays = {name: value.contiguous().numpy() for name, value in conditions.items()}
    save_file(arrays, fixtures / "conditions.safetensors", {"encoders": json.dumps(about)})


if __name__ == "__main__":
    main(*sys.argv[1:])
