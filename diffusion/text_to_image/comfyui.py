"""ComfyUI's workflows as requests, and requests as workflows.

    flow = comfyui.read(opener.read_json("flow.json"), "flow.json")
    model = text_to_image.load(folder, loras=flow.loras, attachments=flow.attachments)
    pictures = text_to_image.make(flow.stepped(model), flow.request)

A workflow is read whose nodes are in `comfyui_graph.FIELDS` and make one picture: a checkpoint, LoRA files with one
strength for both networks, texts, ControlNets, an empty latent or a picture's, one KSampler, and a saved picture.
ComfyUI draws other noise from a seed than this library.
"""

__all__ = ["Workflow", "read", "written"]

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.io import limits
from diffusion.models.interchange import schedulers
from diffusion.models.layers.choices import look_up
from diffusion.text_to_image import comfyui_steps
from diffusion.text_to_image.comfyui_graph import Link, Node, nodes
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import SEED, Request, settings

LORAS = 100
BRACKETS = re.compile(r"(?<!\\)[()]")
FOLDERS = {"loras": "models/loras", "controlnet": "models/controlnet", "input": "input"}  # of ComfyUI's own folder
USED = ("prompts", "negative", "steps", "guidance", "seeds", "sampler", "height", "width", "image", "strength",
        "batch_size", "emphasis", "windows", "controls")  # fmt: skip


class Workflow(NamedTuple):
    """What a workflow asks for.

    Attributes:
        checkpoint: the name of its checkpoint.
        loras: {LoRA file: strength}.
        attachments: {name in the request's controls: file of the ControlNet}.
        request: the request.
        scheduler: ComfyUI's name of the steps.
    """

    checkpoint: str
    loras: dict[str, float]
    attachments: dict[str, str]
    request: Request
    scheduler: str

    def stepped(self, model: TextToImage) -> TextToImage:
        """The model whose sampler takes the workflow's steps; errors as in `comfyui_steps.stepping`."""
        return dataclasses.replace(model, process=comfyui_steps.stepping(model.process, self.scheduler), _programs={})


class _Reader:
    """The nodes of a workflow, followed from the picture to its sources."""

    def __init__(self, table: Mapping[str, Node], what: str, path: Callable[[str, str], str]):
        self.table, self.what, self.path = table, what, path

    def wrong(self, name: str, why: str) -> ValueError:
        return ValueError(f"{self.what}: node {limits.short(name)}, a {self.table[name].kind}, {why}")

    def source(self, name: str, field: str, *kinds: str, output: int = 0) -> str:
        """The node that an input comes from, which must be of one of some classes."""
        link = self.table[name].inputs.get(field)
        if not isinstance(link, Link) or link.node not in self.table:
            raise self.wrong(name, f"has no link at {field}; connect a {' or a '.join(kinds)}")
        if self.table[link.node].kind not in kinds:
            raise self.wrong(name, f"has a {self.table[link.node].kind} at {field}. Valid: {', '.join(kinds)}")
        expected = {"LoraLoader": {"model": 0, "clip": 1}, "CheckpointLoaderSimple": {"model": 0, "clip": 1, "vae": 2}}
        if link.output != expected.get(self.table[link.node].kind, {}).get(field, output):
            raise self.wrong(
                name, f"uses output {link.output} of a {self.table[link.node].kind} at {field}, which does not exist"
            )
        return link.node

    def value(self, name: str, field: str, kind: type) -> Any:
        """A value of a node."""
        value: Any = self.table[name].inputs.get(field)
        good = isinstance(value, kind) or (kind is float and type(value) is int)
        if not good or isinstance(value, bool):
            raise self.wrong(name, f"has {field} = {limits.short(value)}. Valid: a value of type {kind.__name__}")
        return float(value) if kind is float else value

    def file(self, name: str, field: str, folder: str) -> str:
        """The path of a file that a node names in one of ComfyUI's folders."""
        file = self.value(name, field, str).replace("\\", "/")
        limits.inside(f"{self.what}: node {limits.short(name)}", [file])
        return self.path(folder, file)

    def loaded(self, name: str, field: str) -> tuple[str, list[str]]:
        """The checkpoint behind an input, and the LoRA nodes on the way, the first to act first."""
        chain: list[str] = []
        while self.table[name := self.source(name, field, "LoraLoader", "CheckpointLoaderSimple")].kind == "LoraLoader":
            if name in chain or len(chain) >= LORAS:
                raise self.wrong(name, "is part of a cycle, or behind too many other nodes")
            chain.append(name)
        return name, chain[::-1]

    def lora(self, name: str) -> tuple[str, float]:
        strength, text = (self.value(name, field, float) for field in ("strength_model", "strength_clip"))
        if strength != text:
            raise self.wrong(name, f"has two strengths, {strength:g} and {text:g}. Valid: one for both networks")
        return self.file(name, "lora_name", "loras"), strength

    def condition(self, name: str, field: str) -> tuple[str, list[str]]:
        """The text behind an input of conditions, and the nodes that apply ControlNets on the way."""
        applied: list[str] = []
        kinds = ("CLIPTextEncode", "ControlNetApply", "ControlNetApplyAdvanced")
        at, output = name, 0
        while True:
            link = self.table[at].inputs.get(field)
            source = link.node if isinstance(link, Link) else ""
            advanced = source in self.table and self.table[source].kind == "ControlNetApplyAdvanced"
            output = {"positive": 0, "negative": 1}.get(field, 0) if advanced else 0
            at = self.source(at, field, *kinds, output=output)
            if self.table[at].kind == "CLIPTextEncode":
                return at, applied[::-1]
            if at in applied or len(applied) >= LORAS:
                raise self.wrong(at, "is part of a cycle, or behind too many other nodes")
            applied.append(at)
            field = field if self.table[at].kind == "ControlNetApplyAdvanced" else "conditioning"


def read(graph: Any, what: str, path: Callable[[str, str], str] = lambda folder, name: name) -> Workflow:
    """Reads a workflow.

    Args:
        graph: the content of the file, in either format.
        what: the file, for messages.
        path: (a key of FOLDERS, a name that the file has) -> the path of that file.

    Raises:
        ValueError: for what no request has, with the node and, where there is one, the nearest valid value.
        limits.Refused: for a name that leads out of its folder.
    """
    reader = _Reader(nodes(graph, what), what, path)
    named_nodes = lambda *kinds: [name for name, node in reader.table.items() if node.kind in kinds]
    sampling, saved = named_nodes("KSampler"), named_nodes("SaveImage", "PreviewImage")
    if len(sampling) != 1 or not saved:
        raise ValueError(
            f"{what} has {len(sampling)} KSampler and {len(saved)} SaveImage or PreviewImage nodes. Valid: exactly "
            "one KSampler, and a picture that is saved"
        )
    (sampler,) = sampling
    decoded = {reader.source(name, "images", "VAEDecode") for name in saved}
    for name in decoded:
        reader.source(name, "samples", "KSampler")
    checkpoint, loras = reader.loaded(sampler, "model")
    positive, applied = reader.condition(sampler, "positive")
    negative, applied_negative = reader.condition(sampler, "negative")
    advanced = [name for name in applied if reader.table[name].kind == "ControlNetApplyAdvanced"]
    if applied_negative != advanced:
        raise reader.wrong(sampler, "has other ControlNets at negative than at positive. Valid: the same ones at both")
    for name in (positive, negative):
        if reader.loaded(name, "clip") != (checkpoint, loras):
            raise reader.wrong(
                name, "has other LoRA files than the KSampler. Valid: the clip output of the KSampler's last LoraLoader"
            )
    latent = reader.source(sampler, "latent_image", "EmptyLatentImage", "VAEEncode")
    for name in (*decoded, *([latent] if reader.table[latent].kind == "VAEEncode" else ())):
        if reader.source(name, "vae", "CheckpointLoaderSimple") != checkpoint:
            raise reader.wrong(name, "uses the VAE of another checkpoint")
    texts, emphasis = _texts(reader, positive, negative)
    fields = _steps(reader, sampler, latent)
    name_of = lambda name: f"controlnet_{name}"
    controls, attachments = [], {}
    for name in applied:
        loader = reader.source(name, "control_net", "ControlNetLoader")
        picture = reader.source(name, "image", "LoadImage")
        ends = ("start_percent", "end_percent") if name in advanced else ()
        start, end = (reader.value(name, field, float) for field in ends) if ends else (0.0, 1.0)
        attachments[name_of(loader)] = reader.file(loader, "control_net_name", "controlnet")
        shown, weight = reader.file(picture, "image", "input"), reader.value(name, "strength", float)
        controls.append(Control.read((name_of(loader), shown, weight, (1 - end, 1 - start))))
    files = [reader.lora(name) for name in loras]
    if len({file for file, _ in files}) < len(files):
        raise reader.wrong(
            loras[-1],
            "and another node load the same LoRA file. Valid: one node for a file, with the sum of the strengths",
        )
    request = Request(
        prompts=(texts[0],), negative=texts[1], emphasis=emphasis, windows=True, controls=tuple(controls), **fields
    )
    scheduler = reader.value(sampler, "scheduler", str)
    return Workflow(reader.value(checkpoint, "ckpt_name", str), dict(files), attachments, request, scheduler)


def _steps(reader: _Reader, sampler: str, latent: str) -> dict[str, Any]:
    """The settings of a KSampler and its latent."""
    name = reader.value(sampler, "sampler_name", str)
    look_up(comfyui_steps.SAMPLERS, name, "sampler")
    steps, denoise = reader.value(sampler, "steps", int), reader.value(sampler, "denoise", float)
    seed = reader.value(sampler, "seed", int) % (SEED + 1)  # ComfyUI's have 64 bits
    fields = {"sampler": name, "steps": steps, "guidance": reader.value(sampler, "cfg", float), "seeds": (seed,)}
    if not 0 < denoise <= 1:
        raise reader.wrong(sampler, f"has denoise = {denoise:g}. Valid: above 0 and at most 1")
    if reader.table[latent].kind == "EmptyLatentImage":
        if denoise < 1:
            raise reader.wrong(sampler, f"has denoise = {denoise:g} with an empty latent. Valid: 1")
        number = reader.value(latent, "batch_size", int)
        if not 1 <= number <= SEED + 1 - seed:
            raise reader.wrong(latent, f"has batch_size = {number}. Valid: at least 1")
        sizes = {side: reader.value(latent, side, int) for side in ("height", "width")}
        return fields | sizes | {"seeds": tuple(range(seed, seed + number))}
    if denoise == 1:
        raise reader.wrong(
            sampler,
            "has denoise = 1 with a picture, which it would then ignore. Valid: a smaller denoise, or an "
            "EmptyLatentImage",
        )
    image = reader.file(reader.source(latent, "pixels", "LoadImage"), "image", "input")
    total = int(steps / denoise)  # of which the last `steps` are taken
    return fields | {"steps": total, "strength": min((steps + 0.5) / total, 1.0), "image": image}


def _texts(reader: _Reader, *names: str) -> tuple[list[str], str]:
    """The texts of nodes as prompts, and the effect of their brackets.

    ComfyUI's (word:1.2) weighs as "from_empty". In nested brackets its inner weight alone counts, and square ones are
    text: such texts are refused where they would be read otherwise.
    """
    texts = [reader.value(name, "text", str) for name in names]
    weighs = any(map(BRACKETS.search, texts))
    for name, text in zip(names, texts):
        if "embedding:" in text:
            raise reader.wrong(name, "names an embedding. Load its file by --embedding, and write its word instead")
        depth = np.cumsum([1 if match[0] == "(" else -1 for match in BRACKETS.finditer(text)])
        if weighs and (set(depth) - {0, 1} or (depth.size and depth[-1]) or set("[]") & set(text)):
            raise reader.wrong(
                name, "has nested, open or square brackets together with weights. Valid: only the form (word:1.2)"
            )
    if weighs:
        return texts, "from_empty"
    return [re.sub(r"\\([()])", r"\1", text) for text in texts], "none"


def written(request: Request, source: Mapping[str, Any], process: schedulers.Process, size: tuple[int, int]) -> dict:
    """A request of one prompt as a workflow, in the format of ComfyUI's API.

    Args:
        request: a resolved request, with the model's own steps, guidance and sampler.
        source: the files, {"model": folder, "loras": {file: weight}, "attachments": {name: file}}; the workflow has
            their names without folders, as ComfyUI finds them in its own.
        process: the model's process, whose steps one of ComfyUI's schedulers must have.
        size: height and width of the pictures in pixels.

    Raises:
        ValueError: for a setting that no node has, or steps that no scheduler of ComfyUI lays so.
    """
    table = settings(type(request))
    for name, setting in table.items():
        neutral: tuple[Any, ...] = (
            (setting.default, None, 1.0) if name in ("image_guidance", "late_guidance") else (setting.default,)
        )
        if name not in USED and not any(np.array_equal(getattr(request, name), value) for value in neutral):
            raise ValueError(
                f"{name} = {limits.short(getattr(request, name))} cannot be exported: none of the supported nodes has "
                "this setting"
            )
    for name in ("embeddings", "quantised"):
        if source.get(name):
            raise ValueError(
                f"{name} = {limits.short(source[name])} cannot be exported: none of the supported nodes has this "
                "setting"
            )
    if len(request.prompts) > 1 or request.emphasis not in ("none", "from_empty"):
        raise ValueError("a workflow has one prompt, and the emphasis must be none or from_empty")
    last = lambda path: str(path).rstrip("/").rpartition("/")[2]
    first = request.first_step(request.steps or 1)
    steps = (request.steps or 1) - first
    # ComfyUI cuts steps / denoise to a whole number of all steps.
    denoise = 1.0 if request.image is None else steps / ((request.steps or 1) + 0.5)
    seeds: Any = request.seeds
    prompt: Any = next(iter(request.prompts))
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))) or (request.image is not None and len(seeds) > 1):
        raise ValueError(
            f"seeds = {limits.short(seeds)}: a workflow has one seed, and a batch uses the seeds that follow it"
        )
    graph: dict[str, Any] = {}

    def add(kind: str, **inputs: Any) -> str:
        name = str(len(graph) + 1)
        graph[name] = {"class_type": kind, "inputs": inputs}
        return name

    loader = add("CheckpointLoaderSimple", ckpt_name=f"{last(source['model'])}.safetensors")
    model, clip, vae = [loader, 0], [loader, 1], [loader, 2]
    for file, weight in source.get("loras", {}).items():
        if not isinstance(weight, (int, float)):
            raise ValueError(f"loras: {file} acts in an interval of t, which none of the supported nodes can express")
        both = {"strength_model": weight, "strength_clip": weight}
        lora = add("LoraLoader", model=model, clip=clip, lora_name=last(file), **both)
        model, clip = [lora, 0], [lora, 1]
    escape = lambda text: text if request.emphasis == "from_empty" else re.sub(r"[()]", r"\\\g<0>", text)
    conditions = [[add("CLIPTextEncode", clip=clip, text=escape(text or "")), 0] for text in (
        prompt, request.negative)]  # fmt: skip
    for control in request.controls:
        if control.mask is not None or control.mode is not None:
            raise ValueError("controls: a control has a mask or a mode, which none of the supported nodes can express")
        net = add("ControlNetLoader", control_net_name=last(source["attachments"][control.attachment]))
        shown = add("LoadImage", image=last(control.picture))
        name = add("ControlNetApplyAdvanced", positive=conditions[0], negative=conditions[1], control_net=[net, 0],
                   image=[shown, 0], strength=control.weight, start_percent=1 - control.times[1],
                   end_percent=1 - control.times[0])  # fmt: skip
        conditions = [[name, 0], [name, 1]]
    if request.image is None:
        latent = add("EmptyLatentImage", height=size[0], width=size[1], batch_size=len(seeds))
    else:
        latent = add("VAEEncode", pixels=[add("LoadImage", image=last(request.image)), 0], vae=vae)
    sampler, scheduler = _named_steps(request, process)
    latents = add("KSampler", model=model, positive=conditions[0], negative=conditions[1], latent_image=[latent, 0],
               seed=seeds[0], steps=steps, cfg=request.guidance, sampler_name=sampler, scheduler=scheduler,
               denoise=denoise)  # fmt: skip
    add("SaveImage", images=[add("VAEDecode", samples=[latents, 0], vae=vae), 0], filename_prefix="diffusion")
    return graph


def _named_steps(request: Request, process: schedulers.Process) -> tuple[str, str]:
    """ComfyUI's sampler and scheduler that take a process's own steps."""
    sampler, steps = request.sampler, request.steps or 1
    look_up(comfyui_steps.SAMPLERS, sampler, "sampler")
    plan = schedulers.trajectory(process, sampler, steps).plan
    table = comfyui_steps.levels(process)
    starts = np.exp(-np.asarray(process.schedule.log_snr(np.asarray(plan.t)), np.float64) / 2)
    for name, spread in comfyui_steps.SCHEDULERS.items():
        levels = spread(table, steps)
        if plan.s[-1] == 0 and len(levels) == len(starts) and np.allclose(levels, starts, rtol=1e-3):
            return sampler, name
    raise ValueError(
        f"the {steps} steps of {sampler} in this model's folder match none of the ComfyUI schedulers that can be "
        f"written ({', '.join(comfyui_steps.SCHEDULERS)})"
    )
