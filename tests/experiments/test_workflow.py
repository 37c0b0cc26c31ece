"""diffusion workflow: a workflow of ComfyUI is run on a folder, and a picture's settings become one."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion import text_to_image
from diffusion.experiments import workflow
from diffusion.io import pictures
from diffusion.models.interchange import schedulers
from diffusion.recipe import ConfigError
from diffusion.text_to_image import comfyui, png
from diffusion.text_to_image.requests import Request
from tests.text_to_image import made_pipelines
from tests.text_to_image.test_comfyui import changed
from tests.text_to_image.test_comfyui_flows import CUSTOM
from tests.text_to_image.test_comfyui_mask import KEEPS, PICTURE

SIZES = {("5", "height"): 16, ("5", "width"): 32, ("3", "steps"): 4, ("3", "seed"): 7}


@pytest.mark.extended
def test_a_picture_s_settings_become_a_workflow(tmp_path):
    folder = made_pipelines.folder("sd", tmp_path / "sd15")
    request = Request(prompts=("a cat",), negative="bad", seeds=(7, 8), steps=20, guidance=6.0, sampler="euler")
    second = png.records(request, png.model(str(folder), "float32", {}))[1]
    pictures.write(tmp_path / "8.png", np.zeros((16, 16, 3), np.uint8), second)
    workflow.write(tmp_path / "8.png", tmp_path / "flow.json")
    flow = comfyui.read(json.loads((tmp_path / "flow.json").read_text()), "flow.json")
    model = text_to_image.described(folder)
    assert flow.checkpoint == "sd15.safetensors"
    assert (flow.request.seeds, flow.request.steps, flow.request.sampler) == ((8,), 20, "euler")
    assert (flow.request.prompts, flow.request.negative, flow.request.guidance) == (("a cat",), "bad", 6.0)
    assert (flow.request.height, flow.request.width) == model.sides
    pictures.write(tmp_path / "none.png", np.zeros((16, 16, 3), np.uint8), {"workflow": "flow.json"})
    with pytest.raises(ConfigError, match=r"none\.png carries no settings of a published model"):
        workflow.write(tmp_path / "none.png", tmp_path / "other.json")


def test_steps_that_the_model_cannot_take_are_refused_before_its_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(text_to_image, "load", lambda *_, **__: pytest.fail("the weights were read"))
    (tmp_path / "flow.json").write_text(json.dumps(changed(SIZES | {("3", "scheduler"): "karas"})))
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    with pytest.raises(ValueError, match=r"scheduler='karas' is not known. .* did you mean 'karras'"):
        workflow.run(tmp_path / "flow.json", str(folder), tmp_path, tmp_path / "out", False)


def test_flux_takes_the_steps_and_the_strength_of_its_workflow(tmp_path):
    model = text_to_image.described(made_pipelines.folder("flux", tmp_path / "flux"))
    flow = comfyui.read(CUSTOM, "flow.json")
    stepped = flow.stepped(model)
    assert stepped._programs is not model._programs  # which have the steps of the folder
    plan = schedulers.trajectory(stepped.process, "euler", 20).plan
    ratio = np.exp(0.5 + 0.65 * (1024 * 768 / 256 - 256) / 3840)  # at 1024 x 768 pixels
    np.testing.assert_allclose(plan.t, [ratio * t / (1 + (ratio - 1) * t) for t in 1 - np.arange(20) / 20], rtol=1e-6)
    assert flow.requested(model).resolved(model).guidance == 2.5
    with pytest.raises(ValueError, match="a ModelSamplingFlux does not apply to a StableDiffusionPipeline; delete it"):
        flow.stepped(text_to_image.described(made_pipelines.folder("sd", tmp_path / "sd")))


@pytest.mark.slow
def test_a_workflow_makes_the_pictures_of_its_request(tmp_path):
    (tmp_path / "flow.json").write_text(json.dumps(changed(SIZES)))
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    model = text_to_image.load(folder)
    flow = comfyui.read(changed(SIZES), "flow.json")
    made = {}
    for own in (False, True):
        (path,) = workflow.run(tmp_path / "flow.json", str(folder), tmp_path, tmp_path / f"out{own}", own)
        assert path.name == "7.png"
        made[own] = pictures.read(path)
        expected = text_to_image.make(model if own else flow.stepped(model), flow.request.resolved(model))
        np.testing.assert_array_equal(made[own], expected[0])
        assert made[own].shape == (16, 32, 3)
        assert png.is_complete(png.read(path)) == own
    assert (made[False] != made[True]).any()


@pytest.mark.slow
def test_a_workflow_paints_the_masked_part_of_a_picture(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (16, 32, 4), np.uint8)
    picture[..., 3] = np.where(np.arange(32) < 16, 255, 0)
    (tmp_path / "input").mkdir()
    Image.fromarray(picture).save(tmp_path / "input" / "cat.png")
    (tmp_path / "flow.json").write_text(json.dumps(changed({("3", "steps"): 4} | KEEPS, PICTURE)))
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    for own in (False, True):
        (path,) = workflow.run(tmp_path / "flow.json", str(folder), tmp_path, tmp_path / f"out{own}", own)
        painted = pictures.read(path)
        np.testing.assert_array_equal(painted[:, :16], picture[:, :16, :3])
        assert (painted[:, 16:] != picture[:, 16:, :3]).mean() > 0.5
