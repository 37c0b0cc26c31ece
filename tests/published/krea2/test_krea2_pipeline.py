"""Krea 2's folder: its student, and what of its model_index.json is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, text_to_image
from diffusion.models.interchange import Refusal
from diffusion.text_to_image import programs
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

TAPS = [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35]
PROMPTS = ["a cat", "the red car on a hill"]


def folder_with(place, **fields):
    """The folder, with other fields of its model_index.json."""
    folder = made_pipelines.folder("krea2", place)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | fields))
    return folder


@pytest.mark.slow
def test_a_student_has_its_own_shift_and_takes_eight_steps_without_guidance(tmp_path):
    """It ends where diffusers' does, from the same noise."""
    model = text_to_image.load(folder_with(tmp_path, is_distilled=True))
    assert model.usual == (8, 1.0)
    job = Job.prepare(model, Request(prompts=PROMPTS, height=16, width=16))
    conditional, _ = job.conditions(model, 2)
    x = jnp.asarray(drawn("latents", 2, 8, 8, 4))
    evaluated = lambda params, condition: programs._guided(
        model, job.course, params, programs.Start(x, job.keys()), condition, {}, job.scale(model)
    )[0]
    trajectory = job.course.trajectory
    run = lambda params, condition, x: samplers.sample(
        trajectory.sampler, evaluated(params, condition), model.process.schedule, x, trajectory.plan, job.keys()
    )
    ours = jax.jit(run)(model.weights, conditional, x)
    theirs = made_pipelines.fixture("krea2")[1]["distilled"]
    print(np.abs(ours - theirs).max() / np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("fields", [{"patch_size": 1}, {"text_encoder_select_layers": TAPS[1:]}])
def test_another_patch_or_other_states_are_refused(tmp_path, fields):
    (name,) = fields
    with pytest.raises(Refusal, match=rf"model_index\.json: {name} = .* is not supported\. Valid: "):
        text_to_image.described(folder_with(tmp_path, **fields))


@pytest.mark.extended
def test_null_stands_for_the_published_states(tmp_path):
    kind = text_to_image.described(folder_with(tmp_path, text_encoder_select_layers=None, patch_size=2)).kind
    assert kind.files.stated["text_encoder_select_layers"] == TAPS
