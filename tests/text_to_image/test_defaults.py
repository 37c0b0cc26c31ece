"""What requests and models are where nothing is said: pictures of every version name the rest."""

import inspect

import pytest

from diffusion import text_to_image
from diffusion.text_to_image import guided_denoiser, lora_weights, model_folder, png, programs, regions
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.settings import settings

REQUEST = {
    "prompts": ("",), "negative": None, "steps": None, "guidance": None, "late_guidance": None,
    "dynamic_guidance": False, "image_guidance": None, "perturbed_guidance": None, "sound_guidance": None,
    "modality_guidance": None, "seeds": (0,),
    "sampler": "", "height": 0, "width": 0, "frames": 0, "frame_rate": 0.0, "layers": 0, "image": None,
    "images": (), "mask": None, "margins": (0, 0, 0, 0), "strength": None, "resamplings": 1, "kept_noise": "fresh",
    "batch_size": 1, "tile": 0, "windows": False, "watermark": "", "cache": "", "merge": 0.0, "emphasis": "none",
    "controls": (), "regions": (), "words": (), "attention": 1.0, "reference": None,
}  # fmt: skip
DEFAULTS = [
    (text_to_image.load, {"dtype": "float32", "prediction": "", "quantised": False, "drop_text": False}),
    (text_to_image.TextToImage, {"dtype": "float32", "words": (), "timed": ()}),
    (Control, {"weight": 1.0, "times": (0.0, 1.0), "mask": None, "mode": None}),
    (lora_weights.LoraWeight, {"times": (0.0, 1.0)}),
    (regions.Places, {"masks": (), "boxes": (), "attention": 1.0, "first": 0, "ends": (0.5, 0.8)}),
    (programs.Course, {"frames": 0, "layers": 0, "one_noise": False, "rate": 0.0}),
    (guided_denoiser.Evaluation, {"merge": 0.0, "perturbed": False, "apart": False}),
    (model_folder.complete, {"pipeline": ""}),
    (png.model, {"quantised": ""}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_a_request_without_settings():
    assert {name: one.default for name, one in settings(Request).items()} == REQUEST
    assert png.FORMAT == 1
