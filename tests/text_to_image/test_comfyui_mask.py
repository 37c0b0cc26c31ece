"""ComfyUI's workflows that paint a part of a picture: their masks, and what happens to the part that is kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import editing, samplers
from diffusion.io import pictures
from diffusion.models.interchange import schedulers
from diffusion.parameterizations import Prediction
from diffusion.text_to_image import comfyui, comfyui_export, comfyui_steps
from diffusion.text_to_image.comfyui_mask import Mask
from diffusion.text_to_image.requests import Request
from diffusion.timesteps import Plan
from tests.text_to_image.test_comfyui import SD, changed, k_diffusion, model_of, saved
from tests.text_to_image.test_comfyui_flows import DEV, SCHNELL

SD_MODEL = model_of(schedulers.read(SD | {"use_karras_sigmas": True}))
INPAINTS = model_of(SD_MODEL.process, sees_mask=True)
PICTURE = {
    "15": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    "16": {"class_type": "VAEEncode", "inputs": {"pixels": ["15", 0], "vae": ["4", 2]}},
    "17": {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["16", 0], "mask": ["15", 1]}},
    "18": {"class_type": "InpaintModelConditioning", "inputs": {"positive": ["6", 0], "negative": ["7", 0],
           "vae": ["4", 2], "pixels": ["15", 0], "mask": ["15", 1], "noise_mask": False}},
    "19": {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}},
}  # fmt: skip
KEEPS = {("3", "latent_image"): ["17", 0], ("3", "denoise"): 0.5}
SEES = {("3", "latent_image"): ["18", 2], ("3", "positive"): ["18", 0], ("3", "negative"): ["18", 1]}


@pytest.fixture
def place(tmp_path):
    """A folder with a picture painted on its right and a mask on its left, each by 1/255 beyond the middle."""
    colours = np.full((16, 32, 4), (10, 20, 30, 128), np.uint8)
    colours[:, 16:, 3] = 127
    Image.fromarray(colours).save(tmp_path / "cat.png")
    mask = np.full((16, 32, 3), (127, 0, 0), np.uint8)
    mask[:, :8, 0] = 128
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def read(changes, place, more=None):
    return comfyui.read(changed(changes, PICTURE | (more or {})), "flow.json", lambda _, name: str(place / name))


@pytest.mark.parametrize("form", [lambda graph: graph, saved])
def test_the_mask_of_a_picture_is_where_it_is_transparent(place, form):
    flow = comfyui.read(form(changed(KEEPS, PICTURE)), "a", lambda _, name: str(place / name))
    assert flow.mask == Mask(str(place / "cat.png"), "alpha", True) and flow.request.mask is None
    request = flow.requested(SD_MODEL)
    np.testing.assert_array_equal(request.mask, np.arange(32) >= np.full((16, 1), 16))
    np.testing.assert_array_equal(request.image, np.full((16, 32, 3), (10, 20, 30), np.uint8))  # not made white
    assert request.kept_noise == "one"
    assert (request.steps, request.first_step(40)) == (40, 20)  # the last 20 of int(20 / 0.5)


def test_the_file_of_a_mask_and_its_picture_is_read_once(place, monkeypatch):
    read_files, with_alpha = [], pictures.read_with_alpha
    monkeypatch.setattr(pictures, "read_with_alpha", lambda path: read_files.append(path) or with_alpha(path))
    read(KEEPS, place).requested(SD_MODEL)
    assert read_files == [str(place / "cat.png")]


def test_a_mask_of_its_own_is_white_where_it_is_painted(place):
    request = read(SEES | {("18", "mask"): ["19", 0]}, place).requested(INPAINTS)
    np.testing.assert_array_equal(request.mask, np.arange(32) < np.full((16, 1), 8))
    assert (request.image, request.kept_noise) == (str(place / "cat.png"), "fresh")
    assert (request.steps, request.first_step(20)) == (20, 0)
    assert (request.prompts, request.negative) == (("masterpiece best quality girl",), "bad hands")


def test_the_transparent_part_of_another_picture_is_a_mask_alone(place):
    other = {"20": {"class_type": "LoadImage", "inputs": {"image": "mask.png"}}}
    request = read(KEEPS | {("16", "pixels"): ["20", 0]}, place, other).requested(SD_MODEL)
    np.testing.assert_array_equal(request.mask, np.arange(32) >= np.full((16, 1), 16))
    assert request.image == str(place / "mask.png")


def test_a_mask_reaches_flux_fill_behind_its_guidance(place):
    more = {"20": {"class_type": "FluxGuidance", "inputs": {"guidance": 30, "conditioning": ["6", 0]}},
            "21": {"class_type": "DifferentialDiffusion", "inputs": {"model": ["4", 0]}}}  # fmt: skip
    wires = SEES | {("18", "positive"): ["20", 0], ("3", "cfg"): 1, ("3", "model"): ["21", 0]}
    flow = read(wires, place, more)
    fill = model_of(DEV.process, "FluxFillPipeline", True, sees_mask=True)
    assert flow.requested(fill).guidance == 30 and flow.mask == Mask(str(place / "cat.png"), "alpha", False)


@pytest.mark.parametrize("changes, match", [
    (SEES | {("18", "noise_mask"): True}, "node '18', .* has noise_mask = True, which replaces the kept latents too"),
    (SEES | {("3", "latent_image"): ["16", 0]}, "has other masks at positive than at latent_image"),
    (SEES | {("3", "negative"): ["7", 0]}, "has another InpaintModelConditioning at negative"),
    (SEES | {("3", "negative"): ["18", 0]}, "uses output 0 of a InpaintModelConditioning at negative"),
    (SEES | {("18", "mask"): ["15", 0]}, "uses output 0 of a LoadImage at mask"),
    (SEES | {("18", "mask"): ["19", 0], ("19", "channel"): "redd"}, "channel='redd' is not known"),
    (KEEPS | {("3", "steps"): 0}, r"has steps = 0\. Valid: at least 1"),
    (KEEPS | {("3", "latent_image"): ["16", 0], ("3", "denoise"): 0.96}, r"has denoise = 0\.96 with a picture, which"),
])  # fmt: skip
def test_masks_that_no_request_has_are_refused_by_their_node(place, changes, match):
    with pytest.raises(ValueError, match=match):
        read(changes, place)


def test_nodes_that_mask_otherwise_are_refused_by_name(place):
    more = {"20": {"class_type": "VAEEncodeForInpaint", "inputs": {}}}
    with pytest.raises(
        ValueError, match=r"node '20' is a VAEEncodeForInpaint; it hides .* Valid: a VAEEncode with a Set"
    ):
        read(KEEPS, place, more)
    more = {"20": {"class_type": "DifferentialDiffusion", "inputs": {"model": ["4", 0]}}}
    with pytest.raises(ValueError, match="node '20', a DifferentialDiffusion, changes the mask from step to step"):
        read(KEEPS, place, more)


@pytest.mark.parametrize("changes, model, match", [
    (KEEPS, INPAINTS, "workflow's nodes do not pass the mask to a .*Valid: a InpaintModelConditioning with noise_mask"),
    (SEES, SD_MODEL, "workflow's nodes do not pass the mask to a .*Valid: a SetLatentNoiseMask"),
    (KEEPS | {("3", "sampler_name"): "heun"}, SD_MODEL, "ComfyUI's heun keeps latents within its steps too"),
    (KEEPS | {("3", "denoise"): 1}, SD_MODEL, "ComfyUI starts the kept part from the noised picture"),
    (KEEPS | {("17", "mask"): ["19", 0], ("19", "channel"): "blue"}, SD_MODEL, "mask.png paints nothing by"),
])  # fmt: skip
def test_what_a_model_does_otherwise_is_refused(place, changes, model, match):
    with pytest.raises(ValueError, match=match):
        read(changes, place).requested(model)


def test_a_flow_takes_a_mask_at_all_steps(place):
    flow = read(KEEPS | {("3", "denoise"): 1, ("3", "cfg"): 1}, place)
    assert flow.requested(SCHNELL).first_step(20) == 0  # at t = 1 nothing is seen of the picture
    words = "the scheduler ddim_uniform starts below pure noise, which cannot be combined with"
    with pytest.raises(ValueError, match=words):
        flow._replace(scheduler="ddim_uniform").stepped(SCHNELL)


@pytest.mark.parametrize("changes", [
    KEEPS, SEES, {("3", "latent_image"): ["16", 0], ("3", "denoise"): 0.5}, {("3", "latent_image"): ["5", 0]}
])  # fmt: skip
def test_steps_from_below_pure_noise_go_with_all_but_a_kept_part_at_all_steps(place, changes):
    """With a mask in the last half of the steps, one that the network sees, a picture alone, and neither."""
    flow = read(changes | {("3", "cfg"): 1}, place)._replace(scheduler="ddim_uniform")
    model = flow.stepped(SCHNELL)
    assert schedulers.trajectory(model.process, "euler", 20).start < 1
    assert SCHNELL._programs and not model._programs  # those are for other steps


@pytest.mark.extended
@pytest.mark.parametrize("model, name", [
    ("table", "euler"), ("table", "dpmpp_2m"), ("table", "heun"), ("flow", "euler"), ("flow", "heun"),
])  # fmt: skip
def test_what_is_kept_moves_as_in_comfyui(model, name):
    """On correlated data N(m, C), whose first value is kept.

    ComfyUI's `KSamplerX0Inpaint` replaces x before each evaluation of the network, and the denoised x after it.
    """
    if model == "table":
        process = comfyui_steps.stepping(schedulers.read(SD), "karras")
    else:
        process = comfyui_steps.stepping(DEV.process, "simple", comfyui_steps.levels_of_flow("FluxPipeline", True))
    covariance, mean = np.array([[1.0, 0.8], [0.8, 1.5]]), np.array([0.3, -0.5])
    known, noise, painted = np.array([[0.9, 0.2]]), np.array([[0.4, -1.1]]), np.array([False, True])

    def clean(x, alpha, sigma):  # E[x_0 | alpha x_0 + sigma eps = x]
        gain = alpha * covariance @ jnp.linalg.inv(alpha**2 * covariance + sigma**2 * jnp.eye(2))
        return mean + (x - alpha * mean) @ gain.T

    levels = {"table": lambda s: (1.0, s), "flow": lambda s: (1 - s, s)}[model]

    def in_comfyui(x, s):
        alpha, sigma = levels(s)
        x = np.where(painted, x, alpha * known + sigma * noise)
        return np.where(painted, clean(x, alpha, sigma), known)

    trajectory = schedulers.trajectory(process, name, 7)
    plan = Plan(*(np.asarray(part)[2:] for part in trajectory.plan))
    schedule = process.schedule

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0 = clean(x, alpha, sigma)
        return Prediction(x0, (x - alpha * x0) / sigma)

    with jax.enable_x64(True):
        t = plan.t[0]
        x = jnp.asarray(schedule.alpha(t) * known + schedule.sigma(t) * noise)
        hook = editing.replacement_along(schedule, plan, jnp.asarray(known), jnp.asarray(~painted), jnp.asarray(noise))
        keys = jax.random.split(jax.random.key(0), 1)
        found = samplers.sample(trajectory.sampler, denoise, schedule, x, plan, keys, after_step=hook)
        ratio = lambda t: np.exp(-np.asarray(schedule.log_snr(np.asarray(t)), np.float64) / 2)
        sigmas = [*(ratio(plan.t) if model == "table" else plan.t), 0.0]
        alpha, sigma = levels(sigmas[0])
        exact = k_diffusion(name, in_comfyui, alpha * known + sigma * noise, sigmas)
    if name == "heun":  # so it is refused
        assert np.abs(np.asarray(found) - exact).max() > 1e-3
    else:
        np.testing.assert_allclose(found, exact, rtol=2e-5)
        assert found[0, 0] == pytest.approx(0.9)


@pytest.mark.extended
@pytest.mark.parametrize("model, noise, strength", [(SD_MODEL, "one", 0.6), (INPAINTS, "fresh", None)])
def test_a_request_with_a_mask_is_written_as_the_workflow_that_is_read_as_it(place, model, noise, strength):
    request = Request(prompts=("a cat",), negative="bad", seeds=(5,), steps=30, guidance=7.0, sampler="euler",
                      image="cat.png", mask="mask.png", strength=strength, kept_noise=noise, windows=True)  # fmt: skip
    graph = json.loads(json.dumps(comfyui_export.written(request, {"model": "sd"}, model, (16, 32))))
    flow = comfyui.read(graph, "flow.json", lambda _, name: str(place / name))
    again = flow.requested(model)
    np.testing.assert_array_equal(again.mask, np.arange(32) < np.full((16, 1), 8))
    assert (flow.scheduler, again.image) == ("karras", str(place / "cat.png"))
    assert again.first_step(30) == request.first_step(30) == (12 if strength else 0)
    for name in ("prompts", "negative", "seeds", "steps", "guidance", "sampler", "kept_noise"):
        assert getattr(again, name) == getattr(request, name), name


@pytest.mark.parametrize("change, match", [
    ({"kept_noise": "fresh"}, r"kept_noise = 'fresh': ComfyUI uses one noise in all steps\. Valid: one"),
    ({"strength": 1.0}, "with a mask and all steps, ComfyUI starts the kept part from the noised picture"),
    ({"mask": None, "kept_noise": "fresh", "strength": 1.0}, "strength: with all steps ComfyUI would begin at noise"),
    ({"margins": (8, 0, 0, 0)}, r"margins = .* cannot be exported"),
])  # fmt: skip
def test_a_mask_that_no_node_has_is_not_written(change, match):
    request = Request(prompts=("a",), steps=30, guidance=7.0, sampler="euler", image="cat.png", mask="mask.png",
                      strength=0.6, kept_noise="one")  # fmt: skip
    with pytest.raises(ValueError, match=match):
        comfyui_export.written(dataclasses.replace(request, **change), {"model": "a"}, SD_MODEL, (16, 32))
