"""What editors and samples are where a command or a notebook says nothing."""

import inspect

import pytest

from diffusion.experiments.sampling import class_models, editors, representation_autoencoders, run_samples, watermarked
from diffusion.experiments.sampling.class_models import Kind
from diffusion.experiments.sampling.clip_coding import Coding

DEFAULTS = [
    (editors.ddim, {"iterations": 1, "t_0": 0.8}),
    (editors.edict, {"mix": 0.93, "t_0": 0.8}),  # Wallace et al. 2023, section 4: p = 0.93 and s_0 = 0.8
    (editors.bdia, {"gamma": 1.0, "t_0": 0.8}),
    (editors.sdedit, {"t_0": 0.6}),
    (editors.prompt_to_prompt, {"until": 0.6, "iterations": 1, "t_0": 0.8}),
    (run_samples.sample, {"weights": "ema", "quantised": ""}),
    (watermarked.build_run_maker, {"steps": 50}),
    (watermarked.build_model_maker, {"batch": 4, "steps": 50}),
    (Kind, {"solver": "", "latents": False, "consistency": False}),
    (Coding, {"step": 1}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_classes_are_left_out_as_often_as_in_the_training_of_dit():
    """Peebles and Xie 2023, the authors' code: class_dropout_prob = 0.1."""
    assert class_models.DROPOUT == 0.1


def test_the_statistics_of_features_are_of_ten_thousand_pictures():
    assert representation_autoencoders.MEASURED == 10_000  # the numbers between which a decoder's latents lie
