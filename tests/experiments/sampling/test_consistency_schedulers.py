"""A consistency model's scheduler as the entries of a config, and a run's config as a scheduler: inverses."""

import pytest

from diffusion.experiments.sampling import class_model_folders, class_models
from diffusion.models.interchange.family import Refusal
from diffusion.recipe import ConfigError

PUBLISHED = {  # the scheduler of openai's cd_imagenet64, as diffusers has it by default
    "_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0,
    "sigma_data": 0.5, "s_noise": 1.0, "rho": 7.0, "clip_denoised": True,
}  # fmt: skip
OTHER = PUBLISHED | {"num_train_timesteps": 20, "sigma_min": 0.01, "sigma_max": 40.0, "sigma_data": 0.7, "rho": 5.0,
                     "clip_denoised": False}  # fmt: skip


def settings(scheduler):
    entries = class_models._consistency(scheduler)
    return entries | {"sample": {"grid": entries["grid"], "sampler": entries["sampler"]}}


@pytest.mark.parametrize("scheduler", [PUBLISHED, OTHER])
def test_both_ways_are_inverses(scheduler):
    entries = settings(scheduler)
    clips = entries["sampler"]["name"] == "clipped"
    again = class_model_folders._consistency_scheduler(entries, clips)
    assert {name: value for name, value in again.items() if name != "_diffusers_version"} == scheduler


def test_what_a_file_leaves_out_is_diffusers_default():
    short = {"_class_name": PUBLISHED["_class_name"]}
    assert class_models._consistency(short) == class_models._consistency(PUBLISHED)
    bare = {"parameterization": {"clock": {"name": "log_sigma", "scale": 250.0}}, "schedule": {"name": "edm"},
            "sample": {"grid": {}}}  # fmt: skip
    again = class_model_folders._consistency_scheduler(bare, True)
    assert {name: value for name, value in again.items() if name != "_diffusers_version"} == PUBLISHED


def test_the_network_s_time_is_250_ln_sigma():
    entries = class_models._consistency(PUBLISHED)
    assert entries["parameterization"]["clock"] == {"name": "log_sigma", "scale": 250.0}  # 1000 ln(sigma) / 4
    assert entries["sampler"]["sampler"] == {"name": "consistency", "sigma_min": 0.002}
    assert entries["grid"]["levels"] == 40 and entries["schedule"]["name"] == "edm"


def test_what_the_sampler_does_not_do_is_refused():
    for name, value in (("s_noise", 1.1), ("_class_name", "DDIMScheduler")):
        with pytest.raises(Refusal, match=name):
            class_models._consistency(PUBLISHED | {name: value})
    for low, high in ((80.0, 80.0), (81.0, 80.0)):
        with pytest.raises(Refusal, match="must be below sigma_max"):
            class_models._consistency(PUBLISHED | {"sigma_min": low, "sigma_max": high})
    for part, entry in (("schedule", {"name": "vp"}), ("parameterization", {"clock": {"name": "steps", "T": 40}})):
        with pytest.raises(ConfigError, match="is supported by no scheduler"):
            class_model_folders._consistency_scheduler(settings(PUBLISHED) | {part: entry}, True)
