"""Qwen-Image of diffusers: its transformer, small and at the published size; its pipeline."""

import contextlib
import functools
import pathlib
import sys
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_output import QwenImagePipelineOutput
from PIL import Image

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import (
    GUIDANCE,
    NEGATIVE,
    PROMPTS,
    QWEN,
    STEPS,
    Pipeline,
    by_channel,
    bytes_of,
    changed,
    painted,
    parts_of,
    qwen_tokenizer,
)

INPUTS = {
    "x": drawn("qwen_image x", 2, 6, 10, 4),  # an odd number of patches on both sides
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("qwen_image text", 2, 5, 24),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
    "picture_0": drawn("qwen_image picture 0", 2, 4, 6, 4),
    "picture_1": drawn("qwen_image picture 1", 2, 14, 2, 4),
}


def small(**options) -> QwenImageTransformer2DModel:
    fields = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "axes_dims_rope": (4, 6, 6),
    }
    return QwenImageTransformer2DModel(**fields | options)


def run(module: QwenImageTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Also with two pictures that are edited, as the pipeline has their tokens."""
    batch, height, width, channels = a["x"].shape

    def call(*pictures: torch.Tensor) -> torch.Tensor:
        parts = [a["x"], *pictures]
        packed = [QwenImagePipeline._pack_latents(first(part), batch, channels, *part.shape[1:3]) for part in parts]
        shapes = [[(1, part.shape[1] // 2, part.shape[2] // 2) for part in parts]] * batch
        out = module(torch.cat(packed, dim=1), a["text"], a["text_mask"], a["t"], shapes).sample
        of_x = out[:, : packed[0].shape[1]]
        return last(QwenImagePipeline._unpack_latents(of_x, 8 * height, 8 * width, 8).squeeze(2))

    return {"output": call(), "edited": call(a["picture_0"], a["picture_1"])}


def run_layers(module: QwenImageTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of three layers and the picture that is taken apart, as the pipeline has their tokens."""
    batch, layers, height, width, channels = a["x"].shape
    pipe = diffusers.QwenImageLayeredPipeline
    parts = [a["x"], a["picture_0"][:, None]]
    packed = [
        pipe._pack_latents(part.movedim(-1, 2).contiguous(), batch, channels, *part.shape[2:4], part.shape[1])
        for part in parts
    ]
    shapes = [[(1, part.shape[2] // 2, part.shape[3] // 2) for part in parts for _ in range(part.shape[1])]] * batch

    def call(kind: torch.Tensor) -> torch.Tensor:
        how = {"img_shapes": shapes, "additional_t_cond": kind}
        out = module(torch.cat(packed, dim=1), a["text"], a["text_mask"], a["t"], **how).sample
        latents = pipe._unpack_latents(out[:, : packed[0].shape[1]], 8 * height, 8 * width, layers - 1, 8)
        return last(latents)

    return {"output": call(torch.zeros(batch, dtype=torch.long)), "of_kind": call(a["kind"])}


OF_LAYERS = {name: INPUTS[name] for name in ("t", "text", "text_mask", "picture_0")} | {
    "x": drawn("qwen_image layers", 2, 3, 6, 10, 4),
    "kind": np.array([1, 0]),
}
CASES = {
    "qwen_image_layered": Case(
        functools.partial(small, use_additional_t_cond=True, use_layer3d_rope=True), OF_LAYERS, run_layers
    ),
    "qwen_image": Case(small, INPUTS, run),
    "qwen_image_clean": Case(functools.partial(small, zero_cond_t=True), INPUTS, run),
}
LISTINGS = {
    "qwen_image_full": QwenImageTransformer2DModel,
    "qwen_image_layered_full": functools.partial(
        QwenImageTransformer2DModel, use_additional_t_cond=True, use_layer3d_rope=True
    ),
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


LAYERED_FLOW = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}  # with the numbers of the class


def reader(**vision) -> transformers.Qwen2_5_VLForConditionalGeneration:
    """Qwen 2.5 VL, with further fields of its tower."""
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
              "patch_size": 4} | vision  # fmt: skip
    turns = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {name: value for name, value in QWEN.items() if name != "head_dim"} | {"rope_parameters": turns}
    config = transformers.Qwen2_5_VLConfig(text_config=text | {"hidden_size": 32}, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
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
        text_encoder=reader(),
        transformer=small(joint_attention_dim=32),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(QWEN_FLOW),
    )


def arguments(pipe, usual: dict) -> dict:
    """It takes patches."""
    usual["true_cfg_scale"] = usual.pop("guidance_scale")
    return usual | {"latents": pipe._pack_latents(usual["latents"], 2, 4, 8, 8)}


def decode(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By the autoencoder of clips of one frame."""
    latents = pipe._unpack_latents(output, 16, 16, pipe.vae_scale_factor)
    mean, deviation = (by_channel(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
    picture = pipe.vae.decode(latents * deviation + mean).sample[:, :, 0]
    return latents[:, :, 0], picture


SEEING = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SMALLER = 128  # by which the pictures of the edits have fewer pixels here than the classes give them
PICTURES = tuple(bytes_of(drawn(f"qwen edited {i}", *sides, 3)) for i, sides in enumerate([(48, 90), (70, 64)]))


class OfPictures(transformers.Qwen2VLProcessor):
    """The processor without its part for clips, which needs torchvision."""

    def check_argument_for_proper_class(self, name, argument):
        return type(argument)

    def save_pretrained(self, folder, **_):
        self.image_processor.save_pretrained(folder)


def parts_for_edits(folder: pathlib.Path) -> dict:
    """The parts of a pipeline whose text encoder sees pictures, in windows of 4 tokens but for its second layer."""
    parts = parts_of(pipeline(folder))
    tokenizer = qwen_tokenizer(further=SEEING)
    processor = OfPictures(
        transformers.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 10**6}),
        tokenizer,
    )
    text = reader(depth=2, window_size=32, fullatt_block_indexes=[1])
    text.config.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return parts | {"tokenizer": tokenizer, "processor": processor, "text_encoder": text}


def placed(parts: dict) -> dict:
    """The parts, with a text encoder that is told which tokens are pictures, without which it counts all as words."""
    text = parts["text_encoder"]
    text.forward = functools.partial(types_told, text, text.forward)
    return parts


def types_told(text, forward, input_ids, **rest):
    return forward(input_ids, mm_token_type_ids=(input_ids == text.config.image_token_id).int(), **rest)


class OneByOne:
    """A pipeline that is called with one prompt at a time: one class takes no more, one scales no list of pictures."""

    def __call__(self, prompt, negative_prompt, latents, **rest):
        each = zip(prompt, negative_prompt, latents.split(1))
        calls = [super(OneByOne, self).__call__(prompt=p, negative_prompt=n, latents=x, **rest) for p, n, x in each]
        images = [call.images if torch.is_tensor(call.images) else torch.cat(list(call.images)) for call in calls]
        return type(calls[0])(images=torch.cat(images))


def one_by_one(published: type, parts: dict, way: type = OneByOne) -> diffusers.DiffusionPipeline:
    """A pipeline of a class, under its name, called in a way."""
    return type(published.__name__, (way, published), {"__module__": published.__module__})(**parts)


def edit(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return one_by_one(diffusers.QwenImageEditPipeline, placed(parts_for_edits(folder)))


def edit_plus(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    parts = placed(parts_for_edits(folder))
    parts["transformer"] = changed(parts["transformer"], zero_cond_t=True)
    return one_by_one(diffusers.QwenImageEditPlusPipeline, parts)


def edit_arguments(pipe, usual: dict) -> dict:
    """It takes one picture."""
    return arguments(pipe, usual | {"image": usual["image"][0]})


@contextlib.contextmanager
def smaller(pipe, latents: torch.Tensor | None = None, fewer: int = SMALLER):
    """The call of a pipeline that scales pictures to fewer pixels."""
    module = sys.modules[type(pipe).__module__]
    published = module.calculate_dimensions
    with mock.patch.object(module, "calculate_dimensions", lambda area, ratio: published(area / fewer, ratio)):
        yield


def at_their_means(encode):
    """The encoder of an autoencoder whose distributions are drawn at their means."""

    def call(picture):
        moments = encode(picture)
        moments.latent_dist.sample = lambda generator=None: moments.latent_dist.mode()
        return moments

    return call


PICTURE = bytes_of(drawn("qwen painted", 32, 64, 3))


def edit_painted(pipe) -> dict[str, torch.Tensor]:
    """By the class that repaints, which scales its picture to 32 x 64 pixels here, the picture's own."""
    paint = diffusers.QwenImageEditInpaintPipeline(**pipe.components)
    latents = lambda output: paint._unpack_latents(output, 32, 64, paint.vae_scale_factor).squeeze(2)
    how = {"negative_prompt": [NEGATIVE], "true_cfg_scale": GUIDANCE, "guidance_scale": None}
    with smaller(paint, fewer=4 * SMALLER), mock.patch.object(paint.vae, "encode", at_their_means(paint.vae.encode)):
        return {"painted/image": torch.from_numpy(PICTURE)} | painted(paint, (1.0, 0.6), PICTURE, latents, **how)


def as_called(pipe) -> dict[str, torch.Tensor]:
    """The latents of the pipeline without a change: its text encoder counts the picture's tokens as words."""
    arrays = edit_painted(pipe)
    del pipe.text_encoder.forward
    latents = torch.from_numpy(drawn("latents", 2, *OF_EDITS.latents)).movedim(-1, 1)
    usual = {"prompt": [*PROMPTS], "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": STEPS}
    usual |= {"guidance_scale": GUIDANCE, "image": [Image.fromarray(PICTURES[0])], "latents": latents, **OF_EDITS.size}
    with torch.no_grad(), smaller(pipe, latents):
        output = pipe(output_type="latent", **edit_arguments(pipe, usual))
    return arrays | {"as_called": last(decode(pipe, output.images)[0]).contiguous()}


# Latents of a picture of 32 x 64 pixels; the class takes what has as many channels as they for latents.
LAYERS, LAYER_SIDES, LAYER_CHANNELS = 2, (16, 32), 6


class ByItsSteps(OneByOne):
    """A pipeline whose last latents are those of its last step: the class returns none, whatever is requested."""

    def __call__(self, output_type, prompt, **rest):
        latents = []

        def step(pipe, i, t, values):
            latents.append(values["latents"])
            return {}

        super().__call__(prompt=prompt, output_type="pt", callback_on_step_end=step, **rest)
        number = len(latents) // len(prompt)
        return QwenImagePipelineOutput(images=torch.cat(latents[number - 1 :: number]))


def layered(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """The pipeline that takes a picture apart, by an autoencoder of pictures with alpha."""
    flow = diffusers.FlowMatchEulerDiscreteScheduler.from_config(LAYERED_FLOW)
    parts = parts_for_edits(folder) | {"text_encoder": reader(), "scheduler": flow}
    sizes = {"joint_attention_dim": 32, "in_channels": 4 * LAYER_CHANNELS, "out_channels": LAYER_CHANNELS}
    parts["transformer"] = small(**sizes, use_additional_t_cond=True, use_layer3d_rope=True)
    scales = {"latents_mean": [-0.7, 0.1, 0.9, -0.2, 0.3, 0.0], "latents_std": [2.8, 1.4, 0.7, 1.9, 1.0, 2.1]}
    parts["vae"] = changed(parts["vae"], input_channels=4, z_dim=LAYER_CHANNELS, **scales)
    return one_by_one(diffusers.QwenImageLayeredPipeline, parts, ByItsSteps)


def layered_arguments(pipe, usual: dict) -> dict:
    """It takes one picture, with alpha, and patches of all layers and of their whole."""
    latents = usual["latents"].transpose(1, 2)
    latents = pipe._pack_latents(latents.contiguous(), 2, LAYER_CHANNELS, *LAYER_SIDES, LAYERS + 1)
    scale = {"true_cfg_scale": usual.pop("guidance_scale"), "layers": LAYERS}
    return usual | scale | {"image": usual["image"][0].convert("RGBA"), "latents": latents}


def decode_layers(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole and the layers of two pictures, and the decoded layers, those of the first picture first."""
    latents = pipe._unpack_latents(output, 32, 64, LAYERS, pipe.vae_scale_factor)
    mean, deviation = (by_channel(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
    layers = (latents * deviation + mean)[:, :, 1:].transpose(1, 2).flatten(0, 1)
    return latents, pipe.vae.decode(layers[:, :, None]).sample[:, :, 0]


OF_EDITS = Pipeline(edit, QWEN_FLOW, arguments=edit_arguments, within=smaller, decoded=decode, images=PICTURES[:1])
PIPELINES = {
    "qwen_image": Pipeline(pipeline, QWEN_FLOW, arguments=arguments, decoded=decode),
    "qwen_image_layered": Pipeline(
        layered,
        LAYERED_FLOW,
        latents=(LAYERS + 1, *LAYER_SIDES, LAYER_CHANNELS),
        size={},
        steps=10,
        arguments=layered_arguments,
        within=smaller,
        decoded=decode_layers,
        images=PICTURES[:1],
    ),
    "qwen_image_edit": OF_EDITS._replace(further=as_called),
    "qwen_image_edit_plus": OF_EDITS._replace(build=edit_plus, arguments=arguments, images=PICTURES),
}
