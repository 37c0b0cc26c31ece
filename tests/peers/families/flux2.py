"""FLUX.2 of diffusers: its transformer and autoencoder, small and at published sizes; its pipelines."""

import functools
import pathlib

import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import DYNAMIC, QWEN, VAE, Pipeline, bytes_of, changed, painted, qwen_tokenizer

INPUTS = {
    "x": drawn("flux2 x", 2, 4, 6, 12),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("flux2 text", 2, 5, 24),
    "picture_0": drawn("flux2 picture 0", 2, 3, 4, 12),
    "picture_1": drawn("flux2 picture 1", 2, 2, 5, 12),
}
KLEIN = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}


def small(strength: bool) -> diffusers.Flux2Transformer2DModel:
    return diffusers.Flux2Transformer2DModel(
        in_channels=12,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(2, 4, 6, 4),
        guidance_embeds=strength,
    )


def run(module: diffusers.Flux2Transformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Also with two pictures that are edited, as the pipeline has their tokens and positions."""
    pipeline = diffusers.Flux2KleinPipeline
    latents = first(a["x"])
    places, words = pipeline._prepare_latent_ids(latents), pipeline._prepare_text_ids(a["text"])
    tokens = pipeline._pack_latents(latents)
    call = lambda tokens, places: module(tokens, a["text"], a["t"], places, words, a.get("strength")).sample
    edited = [first(a[f"picture_{i}"]) for i in range(2)]
    of_edited = pipeline._prepare_image_ids([picture[:1] for picture in edited]).expand(len(latents), -1, -1)
    more = call(torch.cat([tokens, *map(pipeline._pack_latents, edited)], dim=1), torch.cat([places, of_edited], dim=1))
    of_x = lambda out: out[:, : tokens.shape[1]].reshape(a["x"].shape)
    return {"output": of_x(call(tokens, places)), "edited": of_x(more)}


def autoencoder() -> diffusers.AutoencoderKLFlux2:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=2,
    )


def coded(module: diffusers.AutoencoderKLFlux2, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moments of patches, and the picture of a latent of patches."""
    pipeline = diffusers.Flux2KleinPipeline
    posterior = module.encode(first(a["x"])).latent_dist
    packed = lambda part: last(pipeline._patchify_latents(part))
    decoded = last(module.decode(pipeline._unpatchify_latents(first(a["z"]))).sample)
    return {"mean": packed(posterior.mean), "log_variance": packed(posterior.logvar), "decoded": decoded}


CASES = {
    "flux2_klein": Case(functools.partial(small, False), INPUTS, run),
    "flux2_dev": Case(functools.partial(small, True), INPUTS | {"strength": np.array([3.5, 1.0], np.float32)}, run),
    "flux2_autoencoder": Case(
        autoencoder,
        {"x": drawn("flux2_autoencoder x", 2, 8, 12, 3), "z": drawn("flux2_autoencoder z", 2, 2, 3, 8)},
        coded,
        kept=("bn.num_batches_tracked",),
    ),
}
LISTINGS = {
    "flux2_full_klein": lambda: diffusers.Flux2Transformer2DModel(**KLEIN),
    "flux2_autoencoder_full": diffusers.AutoencoderKLFlux2,
}


def klein(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
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
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(DYNAMIC),
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


def dev(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """FLUX.2 dev, which reads the guidance; of its language model layers 10, 20 and 30 are read."""
    base = klein(folder)
    tokenizer = mistral_tokenizer()
    text = QWEN | {"vocab_size": len(tokenizer), "num_hidden_layers": 31, "sliding_window": None}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Mistral3Config(text_config=text | {"model_type": "mistral"}, vision_config=vision)
    return diffusers.Flux2Pipeline(
        scheduler=base.scheduler,
        vae=base.vae,
        text_encoder=transformers.Mistral3ForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=changed(base.transformer, guidance_embeds=True),
    )


def arguments(pipe, usual: dict) -> dict:
    """Its guidance is distilled in."""
    del usual["negative_prompt"]
    return usual


def klein_arguments(pipe, usual: dict) -> dict:
    embeds, _ = pipe.encode_prompt(usual.pop("negative_prompt"), device="cpu")
    return usual | {"negative_prompt_embeds": embeds}


def moments(pipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the channels of patches."""
    of_channels = lambda numbers: numbers.view(1, -1, 1, 1)
    return of_channels(pipe.vae.bn.running_mean), torch.sqrt(of_channels(pipe.vae.bn.running_var) + 1e-4)


def decode_patches(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latents = output.reshape(2, 8, 8, 4).movedim(-1, 1)
    mean, deviation = moments(pipe)
    return latents, pipe.vae.decode(pipe._unpatchify_latents(latents * deviation + mean)).sample


def decode_klein(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What it returns is decoded as it is."""
    mean, deviation = moments(pipe)
    return (pipe._patchify_latents(output) - mean) / deviation, pipe.vae.decode(output).sample


DEV = Pipeline(dev, DYNAMIC, size={"height": 32, "width": 32}, arguments=arguments, decoded=decode_patches)
KLEIN_BASE = DEV._replace(build=klein, arguments=klein_arguments, decoded=decode_klein)
# Pictures have at least 64 pixels; the sides of one are not divided by its factor.
PICTURES = tuple(bytes_of(drawn(f"edited {i}", *sides, 3)) for i, sides in enumerate([(64, 64), (66, 75)]))


def klein_painted(pipe) -> dict[str, torch.Tensor]:
    """By the class that repaints, whose negative prompt is the empty one."""
    paint = diffusers.Flux2KleinInpaintPipeline(**pipe.components)
    latents = lambda output: decode_klein(paint, output)[0]
    return painted(paint, (1.0, 0.6), PICTURES[0], latents)


PIPELINES = {
    "flux2": DEV,
    "klein": KLEIN_BASE,
    "flux2_edits": DEV._replace(images=PICTURES),
    "klein_edits": KLEIN_BASE._replace(images=PICTURES, further=klein_painted),
}
