"""ComfyUI's workflows of FLUX.1 and Stable Diffusion 3.5: their nodes, and the levels of its schedulers."""

import copy
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers
from diffusion.models.interchange import schedulers
from diffusion.parameterizations import Prediction
from diffusion.text_to_image import comfyui, comfyui_export, comfyui_graph, comfyui_steps, pipelines
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import Request
from tests.text_to_image.test_comfyui import k_diffusion, model_of, saved, theirs

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
DEV = model_of(schedulers.read(FLOW | {"shift": 3.0, "use_dynamic_shifting": True}, even=True), "FluxPipeline", True)
SCHNELL = model_of(schedulers.read(FLOW | {"shift": 1.0}, even=True), "FluxPipeline")
SD3 = model_of(schedulers.read(FLOW | {"shift": 3.0}), "StableDiffusion3Pipeline")
# The graph of ComfyUI's example of FLUX.1-dev as one file of 8 bits.
SIMPLE = {
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["30", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["31", 0], "vae": ["30", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
    "30": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "flux1-dev-fp8.safetensors"}},
    "31": {"class_type": "KSampler", "inputs": {
        "seed": 972, "steps": 20, "cfg": 1, "sampler_name": "euler", "scheduler": "simple", "denoise": 1,
        "model": ["30", 0], "positive": ["35", 0], "negative": ["33", 0], "latent_image": ["27", 0]}},
    "33": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["30", 1]}},
    "35": {"class_type": "FluxGuidance", "inputs": {"guidance": 2.5, "conditioning": ["6", 0]}},
}  # fmt: skip
# The graph of its example with the networks in files of their own.
CUSTOM = {
    "5": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["13", 0], "vae": ["10", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    "10": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
    "11": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "t5xxl_fp16.safetensors",
           "clip_name2": "clip_l.safetensors", "type": "flux"}},
    "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}},
    "13": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["25", 0], "guider": ["22", 0],
           "sampler": ["16", 0], "sigmas": ["17", 0], "latent_image": ["5", 0]}},
    "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "17": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1,
           "model": ["30", 0]}},
    "22": {"class_type": "BasicGuider", "inputs": {"model": ["30", 0], "conditioning": ["26", 0]}},
    "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 972}},
    "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 2.5, "conditioning": ["6", 0]}},
    "30": {"class_type": "ModelSamplingFlux", "inputs": {"max_shift": 1.15, "base_shift": 0.5, "width": 1024,
           "height": 768, "model": ["12", 0]}},
}  # fmt: skip


def changed(graph, changes, more=None):
    """A graph with other inputs of its nodes, {(node, input): value}, and more nodes."""
    graph = copy.deepcopy(graph) | copy.deepcopy(more or {})
    for (node, field), value in changes.items():
        graph[node]["inputs"][field] = value
    return graph


@pytest.mark.parametrize("form", [lambda graph: graph, saved])
@pytest.mark.parametrize("graph", [SIMPLE, CUSTOM])
def test_the_published_workflows_of_flux_are_requests(graph, form):
    flow = comfyui.read(form(graph), "flow.json")
    request = Request(prompts=("a fox",), seeds=(972,), steps=20, guidance=1.0, sampler="euler", height=768, width=1024,
                      windows=True, perturbed_guidance=0.0)  # fmt: skip
    assert flow.request == request and (flow.scheduler, flow.strength) == ("simple", 2.5)
    assert flow.checkpoint == ("flux1-dev-fp8.safetensors" if graph is SIMPLE else "flux1-dev.safetensors")
    assert flow.requested(DEV) == dataclasses.replace(request, guidance=2.5)
    assert flow.requested(SCHNELL) == request  # reads no strength
    # mm = (1.15 - 0.5) / (4096 - 256), shift = 1024 * 768 / (8 * 8 * 2 * 2) * mm + 0.5 - 256 * mm
    mm = (1.15 - 0.5) / (4096 - 256)
    expected = None if graph is SIMPLE else math.exp(1024 * 768 / (8 * 8 * 2 * 2) * mm + 0.5 - mm * 256)
    assert (flow.shift and flow.shift.ratio) == (expected and pytest.approx(expected, rel=1e-12))


def test_without_a_node_the_strength_is_comfyui_s_and_cfg_does_not_read_the_negative_text():
    flow = comfyui.read(changed(SIMPLE, {("31", "positive"): ["6", 0], ("33", "text"): "bad"}), "a")
    assert flow.requested(DEV).guidance == 3.5 and flow.request.negative is None
    zeros = {"40": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}}
    zeroed = changed(SIMPLE, {("31", "negative"): ["40", 0]}, zeros)
    assert comfyui.read(zeroed, "a").requested(DEV).guidance == 2.5
    twice = {"40": {"class_type": "FluxGuidance", "inputs": {"guidance": 9, "conditioning": ["6", 0]}}}
    nearer = changed(SIMPLE, {("35", "conditioning"): ["40", 0]}, twice)
    assert comfyui.read(nearer, "a").strength == 2.5


def test_a_workflow_of_stable_diffusion_3_5_is_a_request():
    more = {
        "40": {"class_type": "TripleCLIPLoader", "inputs": {"clip_name1": "l", "clip_name2": "g", "clip_name3": "t5"}},
        "41": {"class_type": "ModelSamplingSD3", "inputs": {"shift": 5, "model": ["42", 0]}},
        "42": {"class_type": "ModelSamplingSD3", "inputs": {"shift": 9, "model": ["30", 0]}},  # the last one counts
    }
    wires = {("6", "clip"): ["40", 0], ("33", "clip"): ["40", 0], ("31", "model"): ["41", 0], ("31", "cfg"): 5.5,
             ("31", "positive"): ["6", 0], ("31", "scheduler"): "sgm_uniform", ("33", "text"): "bad"}  # fmt: skip
    flow = comfyui.read(changed(SIMPLE, wires, more), "a")
    assert flow.shift == comfyui_steps.Shift("ModelSamplingSD3", 5.0)
    request = flow.requested(SD3)
    assert (request.guidance, request.negative, request.prompts) == (5.5, "bad", ("a fox",))


def test_a_value_of_the_page_that_nodes_share_is_read():
    graph = saved(SIMPLE)
    (latent,) = [node for node in graph["nodes"] if node["type"] == "EmptySD3LatentImage"]
    latent["inputs"].append({"name": "width", "type": "INT", "link": 90, "widget": {"name": "width"}})
    graph["links"].append([90, 70, 0, 27, 0, "INT"])
    graph["nodes"].append({"id": 70, "type": "PrimitiveNode", "mode": 0, "widgets_values": [512, "fixed"]})
    assert comfyui.read(graph, "a").request.width == 512


@pytest.mark.parametrize("graph, match", [
    (changed(SIMPLE, {("31", "cfg"): 0.5}), r"node '31', a KSampler, has cfg = 0\.5\. Valid: at least 1"),
    (changed(SIMPLE, {("31", "cfg"): 2}, {"33": {"class_type": "ConditioningZeroOut", "inputs": {}}}),
     "has a ConditioningZeroOut at negative. Valid: CLIPTextEncode"),
    (changed(CUSTOM, {("11", "type"): "sdxl"}), "node '11', a DualCLIPLoader, has type = 'sdxl'. Valid: flux"),
    (changed(CUSTOM, {("17", "model"): ["12", 0]}), "node '17', a BasicScheduler, has another model than the"),
    (changed(CUSTOM, {("30", "max_shift"): 0, ("30", "base_shift"): 0.3, ("30", "width"): 4096}), "shifts the levels"),
    (changed(SIMPLE, {("31", "model"): ["41", 0]}, {"41": {
        "class_type": "ModelSamplingSD3", "inputs": {"shift": 0.005, "model": ["30", 0]}}}), "node '41', a ModelSam"),
    (changed(CUSTOM, {("30", "max_shift"): 1e9}), "node '30', a ModelSamplingFlux, shifts the levels too far"),
    (changed(CUSTOM, {("30", "model"): ["30", 0]}), "is part of a cycle"),
    (changed(CUSTOM, {("17", "denoise"): 0.5}), "node '17', a BasicScheduler, has denoise = 0.5 with an empty latent"),
    (changed(CUSTOM, {("8", "samples"): ["13", 1]}), "uses output 1 of a SamplerCustomAdvanced at samples"),
    (changed(CUSTOM, {("8", "vae"): ["40", 2]}, {"40": SIMPLE["30"]}), "uses node '40', which is not the checkpoint"),
    (changed(CUSTOM, {("13", "guider"): ["16", 0]}), "has a KSamplerSelect at guider. Valid: BasicGuider"),
])  # fmt: skip
def test_what_no_request_has_is_refused_by_its_node(graph, match):
    with pytest.raises(ValueError, match=match):
        comfyui.read(graph, "flow.json")


@pytest.mark.parametrize(
    "changes, model, match",
    [
        ({("31", "cfg"): 2}, DEV, "has cfg = 2, but the model has its guidance distilled in. Valid: 1"),
        ({("6", "text"): "a (red:1.2) fox"}, DEV, r"a FluxPipeline does not support weights such as \(word:1\.2\)"),
    ],
)
def test_what_a_model_reads_otherwise_is_refused(changes, model, match):
    with pytest.raises(ValueError, match=match):
        comfyui.read(changed(SIMPLE, changes), "flow.json").requested(model)


def flux_time_shift(mu, t):
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))


def time_snr_shift(alpha, t):
    return alpha * t / (1 + (alpha - 1) * t)


FLUX_SHIFT = comfyui_steps.Shift("ModelSamplingFlux", math.exp(0.7))
MODELS = {  # ComfyUI's sigma(t) and number of levels
    "dev": (DEV, None, lambda t: flux_time_shift(1.15, t), 10_000),
    "dev with a node": (DEV, FLUX_SHIFT, lambda t: flux_time_shift(0.7, t), 10_000),
    "schnell": (SCHNELL, None, lambda t: t, 1000),
    "schnell with a node": (SCHNELL, FLUX_SHIFT, lambda t: flux_time_shift(0.7, t), 10_000),
    "sd3": (SD3, None, lambda t: time_snr_shift(3.0, t), 1000),
    "sd3 with a node": (
        SD3, comfyui_steps.Shift("ModelSamplingSD3", 5.0), lambda t: time_snr_shift(5.0, t), 1000
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheduler", comfyui_steps.SCHEDULERS)
@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_comfyui(name, scheduler):
    """`timestep(sigma)` is sigma, times a factor that `sigma(timestep)` divides by."""
    model, shift, sigma, T = MODELS[name]
    table = np.array([sigma(k / T) for k in range(1, T + 1)])
    expected = theirs(scheduler, 25, table, sigma, (table[-1], table[0]))
    levels = comfyui_steps.levels_of_flow(model.name, model.distilled, shift)
    trajectory = schedulers.trajectory(comfyui_steps.stepping(model.process, scheduler, levels), "euler", 25)
    assert trajectory.network_times is None and trajectory.start == pytest.approx(expected[0])
    np.testing.assert_allclose(trajectory.plan.t, expected[:-1], rtol=1e-6)
    np.testing.assert_allclose(trajectory.plan.s, expected[1:], rtol=1e-6)


@pytest.mark.parametrize("name", comfyui_steps.FLOW_SAMPLERS)
def test_samplers_are_those_of_k_diffusion(name):
    """On data N(1, 0.25), of which x_t = (1 - sigma) x_0 + sigma eps."""
    levels = comfyui_steps.levels_of_flow("FluxPipeline", True)
    trajectory = schedulers.trajectory(comfyui_steps.stepping(DEV.process, "simple", levels), name, 7)

    def clean(x, sigma):
        alpha = 1 - sigma
        return (0.25 * alpha * x + sigma**2) / (0.25 * alpha**2 + sigma**2)

    def denoise(x, t):
        return Prediction(clean(x, t), (x - (1 - t) * clean(x, t)) / t)

    with jax.enable_x64(True):
        x = jnp.asarray([0.3, -1.2], jnp.float64)
        keys = jax.random.split(jax.random.key(0), 2)
        found = samplers.sample(trajectory.sampler, denoise, DEV.process.schedule, x, trajectory.plan, keys)
    sigmas = [*trajectory.plan.t, 0.0]
    np.testing.assert_allclose(found, k_diffusion(name, clean, np.asarray(x), sigmas), rtol=2e-5)


def test_another_pipeline_node_or_sampler_of_a_flow_is_refused():
    with pytest.raises(ValueError, match=r"ComfyUI's schedulers are not supported for a SanaPipeline\. Valid: Flux"):
        comfyui_steps.levels_of_flow("SanaPipeline", False)
    of_class = {name: name.startswith("Flux") for name in pipelines.KINDS if name in comfyui_steps.FLOWS}
    sees_picture = lambda kind: kind.pictures.appends or kind.pictures.controlled
    same_levels = {name: kind.family in ("Flux", "StableDiffusion3") and not sees_picture(kind)
                   for name, kind in pipelines.KINDS.items()}  # fmt: skip
    assert of_class == {name: comfyui_steps.is_flux(name) for name, same in same_levels.items() if same}
    with pytest.raises(ValueError, match="a ModelSamplingFlux does not apply to a StableDiffusion3Pipeline"):
        comfyui_steps.levels_of_flow("StableDiffusion3Pipeline", False, FLUX_SHIFT)
    stepping = comfyui_steps.stepping(SD3.process, "normal", comfyui_steps.levels_of_flow(SD3.name, False))
    with pytest.raises(ValueError, match=r"sampler='dpmpp_2m' is not known\. Valid: 'euler', 'ddim', 'heun'"):
        schedulers.trajectory(stepping, "dpmpp_2m", 20)


@pytest.mark.parametrize("model, guidance, steps, scheduler, kinds", [
    (DEV, 2.5, 28, "simple", {"FluxGuidance", "ModelSamplingFlux", "EmptySD3LatentImage"}),
    (SCHNELL, 1.0, 4, "simple", {"EmptySD3LatentImage"}),
    (SD3, 4.5, 28, "normal", {"ModelSamplingSD3", "EmptySD3LatentImage"}),
])  # fmt: skip
def test_a_request_is_written_as_the_workflow_that_is_read_as_it(model, guidance, steps, scheduler, kinds):
    request = Request(prompts=("a (red) fox",), negative="", seeds=(5, 6), steps=steps, guidance=guidance,
                      sampler="euler", height=768, width=1024, windows=True, perturbed_guidance=0.0)  # fmt: skip
    source = {"model": "models/flow", "loras": {"b.safetensors": 0.8}}
    graph = json.loads(json.dumps(comfyui_export.written(request, source, model, (768, 1024))))
    flow = comfyui.read(graph, "flow.json")
    assert flow.checkpoint == "flow.safetensors" and flow.loras == {"b.safetensors": 0.8}
    again = flow.requested(model)
    assert (again.negative or "") == "" and dataclasses.replace(again, negative="") == request
    assert {node["class_type"] for node in graph.values()} >= kinds and flow.scheduler == scheduler
    levels = comfyui_steps.levels_of_flow(model.name, model.distilled, flow.shift)
    stepped = schedulers.trajectory(comfyui_steps.stepping(model.process, scheduler, levels), "euler", steps)
    own = schedulers.trajectory(model.process, "euler", steps, tokens=48 * 64)
    np.testing.assert_allclose(stepped.plan.t, own.plan.t, atol=3.2e-4 if model is DEV else 1e-6)
    assert set(graph[name]["class_type"] for name in graph) <= set(comfyui_graph.FIELDS)


@pytest.mark.parametrize("strength, left", [(0.6, 17), (0.8, 23), (0.5, 14)])
def test_as_many_steps_of_a_flow_are_left_from_a_picture_as_in_comfyui(strength, left):
    """28 * 0.6 = 16.8 of which the begun step is run, as diffusers does."""
    request = Request(prompts=("a",), steps=28, guidance=4.5, sampler="euler", image="cat.png", strength=strength)
    graph = comfyui_export.written(request, {"model": "a"}, SD3, (512, 512))
    (sampling,) = [node["inputs"] for node in graph.values() if node["class_type"] == "KSampler"]
    assert (sampling["steps"], int(sampling["steps"] / sampling["denoise"])) == (left, 28)
    again = comfyui.read(graph, "a").requested(SD3)
    assert 28 - again.first_step(28, begun=True) == left


@pytest.mark.parametrize("total, left", [(25, 14), (29, 15), (35, 29)])
def test_steps_of_a_flow_from_a_picture_are_counted_whatever_is_rounded(total, left):
    """25 (14 / 25) is 14.000000000000002."""
    request = Request(
        prompts=("a",), steps=total, guidance=4.5, sampler="euler", image="cat.png", strength=left / total
    )
    flow = comfyui.Workflow("a", {}, {}, request, "normal")
    again = flow.requested(SD3)
    assert again.first_step(total, begun=True) == request.first_step(total)


def test_the_node_that_shifts_levels_counts_tokens_of_16_pixels():
    small = copy.copy(DEV)
    small.multiple = 4
    request = Request(prompts=("a",), steps=20, guidance=2.5, sampler="euler")
    graph = comfyui_export.written(request, {"model": "a"}, small, (64, 128))
    (shift,) = [node["inputs"] for node in graph.values() if node["class_type"] == "ModelSamplingFlux"]
    assert (shift["height"], shift["width"]) == (256, 512)  # as many tokens of 16 pixels


def test_steps_and_controls_of_a_flow_that_comfyui_does_not_have_are_not_written():
    request = Request(prompts=("a",), steps=20, guidance=1.0, sampler="euler")
    bent = model_of(schedulers.read(FLOW | {"shift": 3.0, "shift_terminal": 0.1}), "StableDiffusion3Pipeline")
    with pytest.raises(ValueError, match="the 20 steps of euler in this model's folder match none"):
        comfyui_export.written(request, {"model": "a"}, bent, (512, 512))
    with pytest.raises(ValueError, match="a ControlNet of a FluxPipeline acts in an interval of other times"):
        controlled = dataclasses.replace(request, controls=(Control("edges", "house.png"),))
        comfyui_export.written(controlled, {"model": "a", "attachments": {"edges": "e"}}, DEV, (512, 512))


def test_a_shift_of_none_leaves_the_levels_and_a_model_passes_as_many_nodes_as_it_may(monkeypatch):
    """log r = 0 is r = 1; a ModelSamplingFlux is one node on the way."""
    none = changed(CUSTOM, {("30", "max_shift"): 0, ("30", "base_shift"): 0})
    assert comfyui.read(none, "a").shift.ratio == 1
    monkeypatch.setattr(comfyui, "LORAS", 1)
    assert comfyui.read(none, "a").shift.ratio == 1
    wires = {("30", "model"): ["41", 0]}
    two = changed(none, wires, {"41": {**none["30"], "inputs": {**none["30"]["inputs"], "model": ["12", 0]}}})
    with pytest.raises(ValueError, match="node '41', a ModelSamplingFlux, is part of a cycle, or follows too"):
        comfyui.read(two, "a")
