"""ComfyUI's workflows: what they ask for, the steps of its samplers, and what no request has."""

import copy
import dataclasses
import json
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import save_file

from diffusion import samplers
from diffusion.io import limits
from diffusion.models.interchange import schedulers
from diffusion.parameterizations import Prediction
from diffusion.text_to_image import comfyui, comfyui_export, comfyui_graph, comfyui_steps
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import Request

SD = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
      "beta_end": 0.012, "num_train_timesteps": 1000}  # fmt: skip
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
BAR = np.cumprod(1 - BETAS)
TABLE = np.sqrt((1 - BAR) / BAR)  # ComfyUI's sigmas
# The graph of ComfyUI's script_examples/basic_api_example.py.
BASIC = {
    "3": {"class_type": "KSampler", "inputs": {
        "cfg": 8, "denoise": 1, "latent_image": ["5", 0], "model": ["4", 0], "negative": ["7", 0],
        "positive": ["6", 0], "sampler_name": "euler", "scheduler": "normal", "seed": 8566257, "steps": 20}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": 512, "width": 768}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "masterpiece best quality girl"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "bad hands"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
}  # fmt: skip


def changed(changes, more=None):
    """The basic graph with other inputs of its nodes, {(node, input): value}, and more nodes."""
    graph = copy.deepcopy(BASIC) | copy.deepcopy(more or {})
    for (node, field), value in changes.items():
        graph[node]["inputs"][field] = value
    return graph


def test_the_basic_example_is_a_request():
    flow = comfyui.read(BASIC, "flow.json")
    expected = Request(
        prompts=("masterpiece best quality girl",), negative="bad hands", seeds=(8566257,), steps=20, guidance=8.0,
        sampler="euler", height=512, width=768, windows=True, perturbed_guidance=0.0,
    )  # fmt: skip
    assert flow == comfyui.Workflow("v1-5-pruned-emaonly.safetensors", {}, {}, expected, "normal")
    several = comfyui.read(changed({("5", "batch_size"): 3, ("3", "seed"): 2**32 + 7}), "flow.json").request
    assert several.seeds == (7, 8, 9)
    last = comfyui.read(changed({("5", "batch_size"): 2, ("3", "seed"): 2**32 - 2}), "flow.json").request
    assert last.seeds == (2**32 - 2, 2**32 - 1)


def saved(graph):
    """A graph of the API as ComfyUI's page saves it."""
    links, entries = [], []
    for name, node in graph.items():
        slots = []
        for field, value in node["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(name), len(slots), "ANY"])
                slots.append({"name": field, "type": "ANY", "link": len(links)})
        fields = comfyui_graph.FIELDS[node["class_type"]]
        defaults = {"control_after_generate": "randomize", "upload": "image"}
        values = [node["inputs"].get(field, defaults.get(field)) for field in fields]
        entry = {"id": int(name), "type": node["class_type"], "mode": 0, "inputs": slots, "widgets_values": values}
        entries.append({"pos": [0, 0], **entry})
    notes = {"id": 99, "type": "Note", "widgets_values": ["a text"]}
    return {"last_node_id": 9, "nodes": [*entries, notes], "links": links, "version": 0.4}


LORA = {
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "style/a.safetensors", "strength_model": 0.8,
           "strength_clip": 0.8, "model": ["4", 0], "clip": ["4", 1]}},
    "11": {"class_type": "LoraLoader", "inputs": {"lora_name": "b.safetensors", "strength_model": 1, "strength_clip": 1,
           "model": ["10", 0], "clip": ["10", 1]}},
    "12": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "edges.safetensors"}},
    "13": {"class_type": "LoadImage", "inputs": {"image": "house.png"}},
    "14": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0],
           "control_net": ["12", 0], "image": ["13", 0], "strength": 0.7, "start_percent": 0.1, "end_percent": 0.75}},
    "15": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    "16": {"class_type": "VAEEncode", "inputs": {"pixels": ["15", 0], "vae": ["4", 2]}},
}  # fmt: skip
WIRED = {("3", "model"): ["11", 0], ("6", "clip"): ["11", 1], ("7", "clip"): ["11", 1], ("3", "positive"): ["14", 0],
         ("3", "negative"): ["14", 1], ("3", "latent_image"): ["16", 0], ("3", "denoise"): 0.6,
         ("6", "text"): "a (red:1.2) cat", ("3", "sampler_name"): "dpmpp_2m", ("3", "scheduler"): "karras"}  # fmt: skip


@pytest.mark.parametrize("form", [lambda graph: graph, saved])
def test_files_controls_and_a_picture_are_parts_of_the_request(form):
    graph = form(changed(WIRED, LORA))
    flow = comfyui.read(graph, "flow.json", lambda folder, name: f"/comfy/{comfyui.FOLDERS[folder]}/{name}")
    assert list(flow.loras.items()) == [("/comfy/models/loras/style/a.safetensors", 0.8),
                                        ("/comfy/models/loras/b.safetensors", 1.0)]  # fmt: skip
    assert flow.attachments == {"controlnet_12": "/comfy/models/controlnet/edges.safetensors"}
    request = flow.request
    assert request.controls == (Control("controlnet_12", "/comfy/input/house.png", 0.7, (0.25, 0.9)),)
    assert (request.emphasis, request.prompts) == ("from_empty", ("a (red:1.2) cat",))
    # ComfyUI makes int(20 / 0.6) = 33 steps, and takes the last 20.
    assert (request.image, request.steps, 33 - request.first_step(33)) == ("/comfy/input/cat.png", 33, 20)
    assert (flow.scheduler, request.sampler) == ("karras", "dpmpp_2m")


PAG = {"20": {"class_type": "PerturbedAttentionGuidance", "inputs": {"scale": 2.5, "model": ["11", 0]}}}


@pytest.mark.parametrize("form", [lambda graph: graph, saved])
def test_perturbed_attention_is_a_guidance_of_the_request(form):
    flow = comfyui.read(form(changed(WIRED | {("3", "model"): ["20", 0]}, LORA | PAG)), "flow.json")
    assert flow.request.perturbed_guidance == 2.5 and list(flow.loras) == ["style/a.safetensors", "b.safetensors"]
    with pytest.raises(ValueError, match="PerturbedAttentionGuidance does not perturb a StableDiffusion3PAGPipeline"):
        flow_process = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
        comfyui.check_reading(flow.request, model_of(flow_process, "StableDiffusion3PAGPipeline"))
    twice = {"21": {"class_type": "PerturbedAttentionGuidance", "inputs": {"scale": 1.0, "model": ["20", 0]}}}
    with pytest.raises(ValueError, match=r"node '21', a PerturbedAttentionGuidance, follows another one\. Valid: one"):
        comfyui.read(changed({("3", "model"): ["21", 0], ("20", "model"): ["4", 0]}, PAG | twice), "flow.json")
    with pytest.raises(ValueError, match=r"has scale = -1\. Valid: 0 to 1000"):
        wrong = {("3", "model"): ["20", 0], ("20", "model"): ["4", 0], ("20", "scale"): -1.0}
        comfyui.read(changed(wrong, PAG), "flow.json")


def test_both_formats_of_a_workflow_are_one():
    assert comfyui_graph.nodes(saved(changed(WIRED, LORA)), "a").keys() == changed(WIRED, LORA).keys()
    assert comfyui.read(saved(BASIC), "a") == comfyui.read(BASIC, "a")


@pytest.mark.parametrize("text, prompt, emphasis", [
    ("a cat", "a cat", "none"), (r"a \(red\) cat", "a (red) cat", "none"), ("a [red] cat", "a [red] cat", "none"),
    ("a (red) cat", "a (red) cat", "from_empty"), (r"(a:0.5) \(b\)", r"(a:0.5) \(b\)", "from_empty"),
])  # fmt: skip
def test_brackets_weigh_as_in_comfyui(text, prompt, emphasis):
    request = comfyui.read(changed({("6", "text"): text}), "a").request
    assert (request.prompts, request.emphasis) == ((prompt,), emphasis)


@pytest.mark.parametrize("graph, match", [
    ([], r"flow\.json is not a workflow of ComfyUI"),
    ({"a": 1}, r"flow\.json is not a workflow of ComfyUI"),
    (changed({}, {"20": {"class_type": "SaveLatent", "inputs": {}}}), r"node '20' is a 'SaveLatent', which is not"),
    (changed({}, {"20": BASIC["3"]}), "has 2 KSampler or SamplerCustomAdvanced and 1 SaveImage"),
    (changed({("3", "sampler_name"): "eulr"}), "sampler='eulr' is not known. Valid: 'euler', .* did you mean 'euler'"),
    (changed({("3", "sampler_name"): "uni_pc"}), "sampler='uni_pc' is not known"),
    (changed({("3", "model"): ["6", 0]}), "node '3', a KSampler, has a CLIPTextEncode at model. Valid: LoraLoader"),
    (changed({("3", "model"): ["4", 1]}), "output 1 of a CheckpointLoaderSimple at model,"),
    (changed({("3", "model"): 3}), "node '3', a KSampler, has no link at model"),
    (changed({("3", "steps"): 2.5}), r"has steps = 2\.5. Valid: a value of type int"),
    (changed({("3", "steps"): True}), "has steps = True. Valid"),
    (changed({("3", "denoise"): 0.5}), r"has denoise = 0\.5 with an empty latent\. Valid: 1"),
    (changed({("3", "denoise"): 0}), "has denoise = 0. Valid: above 0"),
    (changed(WIRED | {("3", "denoise"): 1}, LORA), "has denoise = 1 with a picture,"),
    (changed({("5", "batch_size"): 0}), "has batch_size = 0"),
    (changed({("5", "batch_size"): 4097}), "has batch_size = 4097. Valid: 1 to 4096"),
    (changed({("5", "batch_size"): 3, ("3", "seed"): 2**32 - 2}), "has batch_size = 3"),
    (changed({("6", "text"): "((a))"}), "has nested, open or square brackets"),
    (changed({("6", "text"): "(a"}), "has nested, open or square brackets"),
    (changed({("6", "text"): "(a) [b]"}), "has nested, open or square brackets"),
    (changed({("6", "text"): "a BREAK b"}), "node '6', a CLIPTextEncode, has the word BREAK,"),
    (changed({("7", "text"): "BREAK"}), "node '7', a CLIPTextEncode, has the word BREAK,"),
    (changed({("7", "text"): "embedding:bad"}), "node '7', a CLIPTextEncode, names an embedding"),
    (changed(WIRED | {("10", "strength_clip"): 0.5}, LORA), r"node '10', .* has two strengths, 0\.8 and 0\.5"),
    (changed(WIRED | {("6", "clip"): ["4", 1]}, LORA), "node '6', .* has other LoRA files than the KSampler"),
    (changed(WIRED | {("3", "negative"): ["7", 0]}, LORA), "has other ControlNets at negative"),
    (changed(WIRED | {("3", "negative"): ["14", 0]}, LORA), "output 0 of a ControlNetApplyAdvanced at negative,"),
    (changed(WIRED | {("11", "lora_name"): "style/a.safetensors"}, LORA), "load the same LoRA file"),
    (changed(WIRED | {("10", "model"): ["11", 0]}, LORA), "is part of a cycle"),
    ({str(i): BASIC["5"] for i in range(1001)}, "has 1,001 nodes"),
    (saved(BASIC) | {"links": [[1]]}, r"the link \[1\] must have the form \[number, node, output"),
    (saved(BASIC) | {"links": []}, "has the link 1, which does not exist"),
])  # fmt: skip
def test_what_no_request_has_is_refused_by_its_node(graph, match):
    with pytest.raises(ValueError, match=match):
        comfyui.read(graph, "flow.json")


def test_a_file_has_as_many_nodes_as_it_may_and_no_more(monkeypatch):
    for graph, number in ((BASIC, len(BASIC)), (saved(BASIC), len(saved(BASIC)["nodes"]))):
        monkeypatch.setattr(comfyui_graph, "NODES", number)
        assert len(comfyui_graph.nodes(graph, "a")) == len(BASIC)
        monkeypatch.setattr(comfyui_graph, "NODES", number - 1)
        with pytest.raises(ValueError, match=rf"a has {number} nodes\. Valid: at most {number - 1}"):
            comfyui_graph.nodes(graph, "a")


@pytest.mark.parametrize("kind", ["Note", "MarkdownNote"])
def test_notes_are_left_out(kind):
    graph = saved(BASIC)
    graph["nodes"].append({"id": 70, "type": kind, "widgets_values": ["a text"]})
    assert comfyui.read(graph, "a") == comfyui.read(BASIC, "a")


def test_a_muted_node_and_values_of_another_version_are_refused():
    muted = saved(BASIC)
    muted["nodes"][0]["mode"] = 4
    with pytest.raises(ValueError, match="node '3', a 'KSampler', is muted or bypassed"):
        comfyui.read(muted, "a")
    unlinked = saved(BASIC)
    unlinked["nodes"][0]["inputs"][0]["link"] = 0
    with pytest.raises(ValueError, match="node '3' has the link 0, which does not exist"):
        comfyui.read(unlinked, "a")
    for values in (range(8), "euler", {"seed": 1}):
        other = saved(BASIC)
        other["nodes"][0]["widgets_values"] = values
        with pytest.raises(ValueError, match="node '3', a KSampler, has the values"):
            comfyui.read(other, "a")


def test_a_name_that_leads_out_of_its_folder_is_refused():
    with pytest.raises(limits.Refused, match="leads out of its folder"):
        comfyui.read(changed(WIRED | {("10", "lora_name"): "../a.safetensors"}, LORA), "flow.json")


def theirs(scheduler, steps, table=TABLE, sigma=None, ends=(999, 0)):
    """ComfyUI's sigmas of a scheduler, as its loops make them, with the 0 at their end."""
    log_table, T = np.log(table), len(table)
    between = lambda t: math.exp((1 - t % 1) * log_table[int(t)] + (t % 1) * log_table[min(int(t) + 1, T - 1)])
    sigma = sigma or (lambda t: between(max(t, 0.0)))
    if scheduler in ("normal", "sgm_uniform"):
        number = steps + (scheduler == "sgm_uniform")
        times = [ends[0] + k * (ends[1] - ends[0]) / (number - 1) for k in range(number)]
        return [sigma(t) for t in times[:steps]] + [0.0]
    if scheduler == "karras":
        low, high = table[0] ** (1 / 7), table[-1] ** (1 / 7)
        return [(high + k / (steps - 1) * (low - high)) ** 7 for k in range(steps)] + [0.0]
    if scheduler == "exponential":
        low, high = math.log(table[0]), math.log(table[-1])
        return [math.exp(high + k / (steps - 1) * (low - high)) for k in range(steps)] + [0.0]
    if scheduler == "simple":
        return [table[-(1 + int(k * (T / steps)))] for k in range(steps)] + [0.0]
    if scheduler == "beta":
        times = np.rint(scipy.stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6) * (T - 1))
        return [table[int(t)] for t in dict.fromkeys(times)] + [0.0]
    sigmas, at = [0.0], 1
    while at < T:
        sigmas.append(table[at])
        at += T // steps
    return sigmas[::-1]


@pytest.mark.extended
@pytest.mark.parametrize("scheduler", comfyui_steps.SCHEDULERS)
def test_steps_are_those_of_comfyui(scheduler):
    process = comfyui_steps.stepping(schedulers.read(SD), scheduler)
    steps = 40 if scheduler == "normal" else 25  # no level lies halfway between two whole steps
    trajectory = schedulers.trajectory(process, "euler", steps)
    expected = theirs(scheduler, steps)
    assert len(expected) == steps + 1 and trajectory.start == 1.0 and trajectory.network_times is not None
    ratio = lambda t: np.exp(-np.asarray(process.schedule.log_snr(np.asarray(t)), np.float64) / 2)
    np.testing.assert_allclose(ratio(trajectory.plan.t), expected[:-1], rtol=2e-5)
    np.testing.assert_allclose(trajectory.plan.s, [*trajectory.plan.t[1:], 0.0])
    nearest = [np.abs(np.log(sigma) - np.log(TABLE)).argmin() for sigma in expected[:-1]]
    np.testing.assert_allclose(trajectory.network_times[:, 1] * 1000 - 1, nearest, atol=1e-9)


def k_diffusion(name, denoised, x, sigmas):
    """Its deterministic samplers, for a function (x, sigma) -> the denoised x."""
    old = None
    for i in range(len(sigmas) - 1):
        sigma, following = sigmas[i], sigmas[i + 1]
        clean = denoised(x, sigma)
        slope = (x - clean) / sigma
        if name in ("euler", "ddim") or (name == "heun" and following == 0):
            x = x + (following - sigma) * slope
        elif name == "heun":
            guess = x + (following - sigma) * slope
            x = x + (following - sigma) * (slope + (guess - denoised(guess, following)) / following) / 2
        elif old is None or following == 0:
            x = following / sigma * x + (1 - following / sigma) * clean
        else:
            h, last = math.log(sigma / following), math.log(sigmas[i - 1] / sigma)
            blend = clean + h / last / 2 * (clean - old)
            x = following / sigma * x - math.expm1(-h) * blend
        old = clean
    return x


@pytest.mark.extended
@pytest.mark.parametrize("name", ["euler", "ddim", "heun", "dpmpp_2m"])
def test_samplers_are_those_of_k_diffusion(name):
    """On data N(1, 0.25): D = (0.25 x + sigma^2) / (0.25 + sigma^2) in x / alpha."""
    process = comfyui_steps.stepping(schedulers.read(SD), "karras")
    trajectory = schedulers.trajectory(process, name, 7)
    schedule = process.schedule

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        ratio = (sigma / alpha) ** 2
        x0 = (0.25 * x / alpha + ratio) / (0.25 + ratio)
        return Prediction(x0, (x - alpha * x0) / sigma)

    with jax.enable_x64(True):
        x = jnp.asarray([0.3, -1.2], jnp.float64)
        keys = jax.random.split(jax.random.key(0), 2)
        found = samplers.sample(trajectory.sampler, denoise, schedule, x, trajectory.plan, keys)
    sigmas = theirs("karras", 7)
    start = np.asarray(x) * math.sqrt(1 + sigmas[0] ** 2)  # noise of variance 1 in x, over alpha
    exact = k_diffusion(name, lambda y, s: (0.25 * y + s**2) / (0.25 + s**2), start, sigmas)
    np.testing.assert_allclose(found, exact, rtol=2e-5)


@pytest.mark.extended
def test_a_scheduler_that_is_not_read_is_refused_with_those_that_are():
    process = schedulers.read(SD)
    with pytest.raises(ValueError, match=r"scheduler='kl_optimal' is not known\. Valid: 'normal', 'karras'"):
        comfyui_steps.stepping(process, "kl_optimal")
    flow = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(ValueError, match=r"this model has.*\. Valid: the steps of the model's own folder \("):
        comfyui_steps.stepping(flow, "normal")
    zero = schedulers.read(SD | {"rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="ends at pure noise"):
        comfyui_steps.stepping(zero, "normal")
    with pytest.raises(ValueError, match=r"31 steps instead of steps = 30\. Valid: a number that divides 1000"):
        schedulers.trajectory(comfyui_steps.stepping(process, "ddim_uniform"), "euler", 30)
    with pytest.raises(ValueError, match="999 steps instead of steps = 1001"):
        schedulers.trajectory(comfyui_steps.stepping(process, "ddim_uniform"), "euler", 1001)
    with pytest.raises(ValueError, match="sampler='pndm' is not known"):
        schedulers.trajectory(comfyui_steps.stepping(process, "normal"), "pndm", 30)


@dataclasses.dataclass
class ReadModel:
    """What is read of a model whose latents, or tokens, have sides of 16 pixels."""

    process: schedulers.Process
    name: str
    distilled: bool
    sees_mask: bool
    multiple: int = 16
    _programs: dict = dataclasses.field(default_factory=lambda: {"of": "the model's own steps"})

    def replaced(self, **fields):
        return dataclasses.replace(self, **fields, _programs={})


def model_of(process, name="StableDiffusionPipeline", distilled=False, sees_mask=False) -> Any:
    return ReadModel(process, name, distilled, sees_mask)


@pytest.mark.extended
def test_a_request_is_written_as_the_workflow_that_is_read_as_it():
    process = schedulers.read(SD | {"use_karras_sigmas": True})
    request = Request(
        prompts=("a (red) cat",), negative="bad", seeds=(5,), steps=30, guidance=7.0, sampler="euler", image="cat.png",
        strength=0.6, windows=True, perturbed_guidance=3.0, controls=(Control("edges", "house.png", 0.7, (0.25, 0.9)),),
    )  # fmt: skip
    source = {"model": "models/sd15/", "loras": {"a/b.safetensors": 0.8}, "attachments": {"edges": "nets/edges"}}
    graph = json.loads(json.dumps(comfyui_export.written(request, source, model_of(process), (512, 768))))
    flow = comfyui.read(graph, "flow.json")
    assert flow.checkpoint == "sd15.safetensors" and flow.loras == {"b.safetensors": 0.8}
    assert flow.scheduler == "karras" and flow.request.prompts == request.prompts
    for name in ("negative", "seeds", "steps", "guidance", "sampler", "image", "emphasis", "perturbed_guidance"):
        assert getattr(flow.request, name) == getattr(request, name), name
    assert flow.request.first_step(30) == request.first_step(30) == 12
    (control,) = flow.request.controls
    assert (control.picture, control.weight) == ("house.png", 0.7)
    own = comfyui_export.written(request, {"model": "models/controlled"}, model_of(process), (512, 768))
    assert [node["inputs"] for node in own.values() if node["class_type"] == "ControlNetLoader"] == [
        {"control_net_name": "edges"}
    ]
    np.testing.assert_allclose(control.times, (0.25, 0.9))
    plain = comfyui_export.written(Request(prompts=("a",), steps=20, guidance=7.0, sampler="euler"), source,
                            model_of(schedulers.read(SD | {"timestep_spacing": "linspace"})), (512, 768))  # fmt: skip
    again = comfyui.read(plain, "flow.json")
    assert (again.scheduler, again.request.height, again.request.width) == ("normal", 512, 768)


@pytest.mark.extended
@pytest.mark.parametrize("steps, total", [(9, 14), (15, 22)])
def test_the_steps_that_are_left_are_as_many_in_comfyui(steps, total):
    """It takes the last of int(steps / denoise); 9 / (9 / 14) is below 14, and 22 * (15 / 22) below 15."""
    request = Request(prompts=("a",), steps=total, guidance=7.0, sampler="euler", image="cat.png",
                      strength=(steps + 0.5) / total)  # fmt: skip
    karras = model_of(schedulers.read(SD | {"use_karras_sigmas": True}))
    graph = comfyui_export.written(request, {"model": "a"}, karras, (512, 512))
    (sampling,) = [node["inputs"] for node in graph.values() if node["class_type"] == "KSampler"]
    assert (sampling["steps"], int(sampling["steps"] / sampling["denoise"])) == (steps, total)
    assert comfyui.read(graph, "a").request.first_step(total) == total - steps


@pytest.mark.parametrize("change, match", [
    ({"tile": 512}, "tile = 512 cannot be exported"), ({"merge": 0.5}, r"merge = 0\.5 cannot be exported"),
    ({"sampler": "unipc"}, "sampler='unipc' is not known"), ({"emphasis": "scale"}, "must be none or from_empty"),
    ({"prompts": ("a BREAK b",), "windows": True}, "the word BREAK ends a window"),
    ({"negative": "a BREAK b", "windows": True}, "the word BREAK ends a window"),
    ({"seeds": (1, 3)}, "a workflow has one seed"), ({"prompts": ("a", "b")}, "a workflow has one prompt"),
    ({"controls": (Control("edges", "house.png", mask="left.png"),)}, "a control has a mask or a mode, which none"),
    ({"controls": (Control("edges", "house.png", mode=0),)}, "a control has a mask or a mode, which none"),
])  # fmt: skip
def test_a_setting_that_no_node_has_is_not_written(change, match):
    request = Request(**{"prompts": ("a",), "steps": 20, "guidance": 7.0, "sampler": "euler"} | change)
    with pytest.raises(ValueError, match=match):
        comfyui_export.written(request, {"model": "a"}, model_of(schedulers.read(SD)), (512, 512))


def test_guidance_below_1_is_none():
    request = Request(prompts=("a",), steps=20, guidance=0.5, sampler="euler")
    model = model_of(schedulers.read(SD | {"use_karras_sigmas": True}))
    graph = comfyui_export.written(request, {"model": "a"}, model, (512, 512))
    assert [node["inputs"]["cfg"] for node in graph.values() if node["class_type"] == "KSampler"] == [1.0]


@pytest.mark.extended
def test_steps_of_no_scheduler_are_not_written():
    request = Request(prompts=("a",), steps=30, guidance=7.0, sampler="euler")
    with pytest.raises(
        ValueError, match="the 30 steps of euler in this model's folder match none of the ComfyUI schedulers"
    ):
        trailing = model_of(schedulers.read(SD | {"timestep_spacing": "trailing"}))
        comfyui_export.written(request, {"model": "a"}, trailing, (512, 512))


@pytest.mark.parametrize("end", ["dora_scale", "lora_magnitude_vector.weight"])
def test_a_dora_is_refused_both_ways(end, tmp_path):
    """ComfyUI's strength multiplies the change of the kernel; here, as in peft, it acts inside the norm."""
    zeros = np.zeros((1, 2), np.float32)
    for name, ends in (("plain", ()), ("dora", (end,))):
        tensors = {f"lora_unet_a.{one}": zeros for one in ("lora_down.weight", "lora_up.weight", *ends)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    comfyui.check_loras([tmp_path / "plain.safetensors", tmp_path / "not there.safetensors"])
    with pytest.raises(ValueError, match=r"dora\.safetensors is a DoRA, .* Valid: a LoRA without magnitudes"):
        comfyui.check_loras([tmp_path / "plain.safetensors", tmp_path / "dora.safetensors"])
    source = {"model": "models/sd15", "loras": {str(tmp_path / "dora.safetensors"): 1.0}}
    with pytest.raises(ValueError, match=r"dora\.safetensors is a DoRA"):
        comfyui_export._loaded(comfyui_export.Graph(), source)
    flow = comfyui.read(changed(WIRED, LORA), "flow.json")._replace(loras=source["loras"])
    with pytest.raises(ValueError, match=r"dora\.safetensors is a DoRA"):
        flow.requested(types.SimpleNamespace())


def test_controls_are_nodes_that_follow_each_other():
    """ComfyUI's percents run from noise to the picture, 1 - t, and each node follows the one before."""
    request = Request(prompts=("a",), controls=(
        Control("edges", "shown/house.png", 0.7, (0.25, 0.9)), Control("depth", "far.png", 0.5)))  # fmt: skip
    graph = comfyui_export.Graph()
    conditions = comfyui_export._controlled(
        graph, request, {"attachments": {"edges": "nets/canny/"}}, [["7", 0], ["8", 0]]
    )
    first, second = [name for name, node in graph.items() if node["class_type"] == "ControlNetApplyAdvanced"]
    assert conditions == [[second, 0], [second, 1]]
    net, shown = (graph[first]["inputs"][name][0] for name in ("control_net", "image"))
    assert graph[first]["inputs"] == {
        "positive": ["7", 0], "negative": ["8", 0], "control_net": [net, 0], "image": [shown, 0], "strength": 0.7,
        "start_percent": pytest.approx(0.1), "end_percent": 0.75,
    }  # fmt: skip
    assert graph[net] == {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "canny"}}
    assert graph[shown] == {"class_type": "LoadImage", "inputs": {"image": "house.png"}}
    after = graph[second]["inputs"]
    assert (after["positive"], after["negative"], after["strength"]) == ([first, 0], [first, 1], 0.5)
    assert (after["start_percent"], after["end_percent"]) == (0, 1)
    assert graph[after["control_net"][0]]["inputs"] == {"control_net_name": "depth"}
    for wrong in (Control("edges", "a.png", mask="b.png"), Control("edges", "a.png", mode=1)):
        with pytest.raises(ValueError, match="a control has a mask or a mode"):
            comfyui_export._controlled(graph, Request(controls=(wrong,)), {}, conditions)


def test_a_mask_keeps_latents_or_is_seen_by_a_network_that_inpaints():
    request = Request(prompts=("a",), image="in/cat.png", mask="in/mask.png")
    kept, seen = comfyui_export.Graph(), comfyui_export.Graph()
    conditions = [["7", 0], ["8", 0]]
    same, (latent, output) = comfyui_export._encoded(kept, request, False, conditions, ["4", 2])
    assert same == conditions and output == 0 and kept[latent]["class_type"] == "SetLatentNoiseMask"
    encoded, mask = (kept[kept[latent]["inputs"][name][0]] for name in ("samples", "mask"))
    assert encoded["class_type"] == "VAEEncode" and encoded["inputs"]["vae"] == ["4", 2]
    assert kept[encoded["inputs"]["pixels"][0]] == {"class_type": "LoadImage", "inputs": {"image": "cat.png"}}
    expected = {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}}
    assert mask == expected
    (positive, negative), latent = comfyui_export._encoded(seen, request, True, conditions, ["4", 2])
    name = latent[0]
    assert (positive, negative, latent) == ([name, 0], [name, 1], [name, 2])
    inputs = seen[name]["inputs"]
    assert seen[name]["class_type"] == "InpaintModelConditioning" and inputs["noise_mask"] is False
    assert (inputs["positive"], inputs["negative"], inputs["vae"]) == (["7", 0], ["8", 0], ["4", 2])
    assert seen[inputs["mask"][0]] == expected and seen[inputs["pixels"][0]]["class_type"] == "LoadImage"


def test_the_network_receives_the_whole_step_of_the_nearest_level():
    """A table of ten levels sigma / alpha = 1, 2, .. 10, of which t = 0.1, 0.2, .. 1."""
    schedule = types.SimpleNamespace(
        log_snr=lambda t: -2 * np.log(10 * np.asarray(t)), inverse_log_snr=lambda value: np.exp(-value / 2) / 10
    )
    process = schedulers.Process(schedule, None, "epsilon", "", 10, {}, {"name": "made"})
    step = lambda name, steps: (stepping := comfyui_steps.stepping(process, name)).planned(stepping, "euler", steps)
    simple = step("simple", 5)  # every second level from the last
    np.testing.assert_allclose(simple.plan.t, [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(simple.plan.s, [0.8, 0.6, 0.4, 0.2, 0], rtol=1e-6)
    np.testing.assert_allclose(simple.network_times, np.array([[10, 8, 6, 4, 2]] * 2).T / 10, rtol=1e-6)
    assert simple.start == 1.0
    karras = step("karras", 3)
    middle = ((10 ** (1 / 7) + 1) / 2) ** 7  # 3.47, whose logarithm is nearer to that of 4 than to that of 3
    np.testing.assert_allclose(karras.network_times, [[1, 1], [middle / 10, 0.4], [0.1, 0.1]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"makes 5 steps instead of steps = 4\. Valid: a number that divides 10, or"):
        step("ddim_uniform", 4)


def test_levels_of_a_table_are_noise_over_signal_and_geometric_between_steps():
    """sqrt((1 - a) / a) of the products a of 1 - beta, the betas' roots growing linearly."""
    config = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    levels = comfyui_steps.levels(schedulers.read(config | {"num_train_timesteps": 100}))
    products = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 100) ** 2)
    table = np.sqrt((1 - products) / products)
    np.testing.assert_allclose(levels.table, table, rtol=1e-3)
    assert tuple(levels.ends) == (99, 0)
    np.testing.assert_allclose(levels.at(np.array([99, 0, 7])), table[[99, 0, 7]], rtol=1e-3)
    np.testing.assert_allclose(levels.at(np.array([7.5])), np.sqrt(table[7] * table[8]), rtol=1e-3)
