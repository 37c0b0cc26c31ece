"""The steps of a request that changes an image."""

import types

import numpy as np
import pytest

from diffusion.models.interchange import schedulers
from diffusion.text_to_image.pipelines import KINDS
from diffusion.text_to_image.planned_steps import planned_steps
from diffusion.text_to_image.requests import Request

PROCESS = schedulers.read({"_class_name": "LCMScheduler", "original_inference_steps": 50})
IMAGE = np.zeros((16, 16, 3), np.uint8)


def indices(name="LatentConsistencyModelImg2ImgPipeline", *, sampler="lcm", process=PROCESS, **settings):
    """The steps of the training process at which the trajectory evaluates its network, and whether it has an image."""
    model = types.SimpleNamespace(process=process, multiple=8, sees_picture=False, kind=KINDS[name])
    planned = planned_steps(model, Request(sampler=sampler, **settings), (16, 16), 0)
    return np.round(np.asarray(planned.trajectory.plan.t) * 1000 - 1).astype(int).tolist(), planned.noised


@pytest.mark.parametrize("steps, strength, expected", [
    (4, 0.8, [799, 599, 399, 199]),
    (4, None, [799, 599, 399, 199]),
    (8, 0.5, [499, 439, 379, 319, 259, 199, 139, 79]),
    (4, 0.1, [99, 79, 59, 39]),  # less than one of four steps
    (4, 1.0, [999, 759, 499, 259]),
])  # fmt: skip
def test_a_latent_consistency_model_runs_all_steps_over_the_times_that_the_strength_leaves(steps, strength, expected):
    """diffusers 0.42.1: `LCMScheduler.set_timesteps(steps, strength=strength)`, as its Img2Img class calls it."""
    assert indices(steps=steps, strength=strength, image=IMAGE) == (expected, True)


def test_it_runs_a_part_of_the_steps_elsewhere():
    """Of a Stable Diffusion with this scheduler, of another sampler, and of a flow; a kept part begins at noise."""
    whole = [999, 759, 499, 259]
    assert indices(steps=4) == (whole, False)
    assert indices("StableDiffusionImg2ImgPipeline", steps=4, image=IMAGE) == (whole[1:], True)
    assert len(indices(sampler="ddim", steps=4, image=IMAGE)[0]) == 3
    flow = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True})
    assert len(indices(process=flow, steps=4, strength=0.5, image=IMAGE)[0]) == 2
    assert indices(steps=4, image=IMAGE, mask=np.ones((16, 16), bool)) == (whole, False)


def test_more_steps_than_the_strength_leaves_are_refused():
    message = r"steps = 8: strength = 0\.1 leaves 5 of the 50 steps in the distillation\. Valid: .* at least 0\.16"
    with pytest.raises(ValueError, match=message):
        indices(steps=8, strength=0.1, image=IMAGE)


def test_a_clip_has_the_steps_of_a_picture_with_as_many_tokens_and_none_is_left_out_for_an_image():
    """Nine frames are three of the latent, in a model whose shift of the times grows with the tokens."""
    process = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True})
    parts = {"modules": {"vae": types.SimpleNamespace(time_factor=4)}, "denoiser": None}
    kind = KINDS["WanImageToVideoPipeline"]
    model = types.SimpleNamespace(process=process, multiple=8, sees_picture=False, kind=kind, **parts)
    steps = lambda size, frames, **image: planned_steps(model, Request(sampler="euler", steps=4, **image), size, frames)
    clip, picture, small = steps((64, 64), 9), steps((64, 192), 0), steps((64, 64), 0)
    np.testing.assert_array_equal(clip.trajectory.plan.t, picture.trajectory.plan.t)
    assert (clip.trajectory.plan.t != small.trajectory.plan.t).any()
    begun = steps((64, 64), 9, image=IMAGE)
    np.testing.assert_array_equal(begun.trajectory.plan.t, clip.trajectory.plan.t)
    assert not begun.noised
