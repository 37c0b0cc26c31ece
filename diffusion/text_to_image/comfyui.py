"""Reads ComfyUI's workflows as requests; `comfyui_export` writes them.

    flow = comfyui.read(opener.read_json("flow.json"), "flow.json")
    model = text_to_image.load(folder, loras=flow.loras, attachments=flow.attachments)
    pictures = text_to_image.make(flow.stepped(model), flow.requested(model))

A workflow is supported if its nodes are in `comfyui_graph.FIELDS` and generate one picture: a checkpoint or its
networks, LoRA files with the same strength for both networks, texts, ControlNets, an empty latent or a picture's,
one KSampler or SamplerCustomAdvanced, and a saved picture. For the same seed, ComfyUI draws different noise than this
library.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.adapters import lora_names
from diffusion.io import limits
from diffusion.models.interchange import schedulers, tensor_files
from diffusion.models.layers.choices import look_up
from diffusion.text.long_prompts import BREAK
from diffusion.text_to_image import comfyui_mask, comfyui_steps
from diffusion.text_to_image.comfyui_graph import Link, Node, nodes
from diffusion.text_to_image.comfyui_mask import Mask
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import SEED, Request

LORAS = 100
BRACKETS = re.compile(r"(?<!\\)[()]")
ENCODING = ("VAEEncode", "SetLatentNoiseMask", "InpaintModelConditioning")
EMPTY = ("EmptyLatentImage", "EmptySD3LatentImage")
TWO_SIDED = ("ControlNetApplyAdvanced", "InpaintModelConditioning")  # of both conditions
CONDITIONS = ("CLIPTextEncode", "ControlNetApply", "FluxGuidance", *TWO_SIDED)
SAMPLING, SAVING = ("KSampler", "SamplerCustomAdvanced"), ("SaveImage", "PreviewImage")
FOLDERS = {"loras": "models/loras", "controlnet": "models/controlnet", "input": "input"}  # of ComfyUI's own folder
PERTURBED = "PerturbedAttentionGuidance"
PASSING = {"LoraLoader", "DifferentialDiffusion", PERTURBED, *comfyui_steps.FLOWS.values()}  # a model passes them
PICTURES = 4096  # the largest batch_size of ComfyUI
STRENGTH = 3.5  # of distilled guidance, where no node sets one


class Workflow(NamedTuple):
    """The model, the request and the steps of a workflow.

    Attributes:
        checkpoint: the name of its checkpoint.
        loras: {LoRA file: strength}.
        attachments: {name in the request's controls: file of the ControlNet}.
        request: the request, as far as it depends on no model and no mask.
        scheduler: ComfyUI's name of the steps.
        strength: the strength of distilled guidance that a node sets; None without one.
        shift: the shift of a flow's levels by a node; None without one.
        mask: the mask of the painted part; None without one.
    """

    checkpoint: str
    loras: dict[str, float]
    attachments: dict[str, str]
    request: Request
    scheduler: str
    strength: float | None = None
    shift: comfyui_steps.Shift | None = None
    mask: Mask | None = None

    def stepped(self, model: TextToImage) -> TextToImage:
        """The model whose sampler takes the workflow's steps.

        Raises:
            ValueError: for a model, scheduler, sampler or number of steps whose levels are not ComfyUI's.
        """
        flow = None
        if "shift" in model.process.fields:
            flow = comfyui_steps.levels_of_flow(model.name, model.distilled, self.shift)
        elif self.shift:
            raise ValueError(f"a {self.shift.node} does not apply to a {model.name}; delete it")
        process = comfyui_steps.stepping(model.process, self.scheduler, flow)
        steps = self.request.steps or 1
        trajectory = schedulers.trajectory(process, self.request.sampler, steps)  # raises before a network runs
        if self.mask and self.mask.keeps and flow and trajectory.start < 1 and not self.request.first_step(steps):
            raise ValueError(
                f"the scheduler {self.scheduler} starts below pure noise, which cannot be combined with a mask"
            )
        return model.replaced(process=process)

    def requested(self, model: TextToImage) -> Request:
        """The request to a model, which may read the strength of the guidance, with the mask that is read here.

        Raises:
            FileNotFoundError: if there is no such mask.
            ValueError: for what the model reads otherwise than in ComfyUI, or a mask that paints nothing.
        """
        check_loras(self.loras)
        request = self.request
        if self.mask and self.mask.keeps == model.sees_mask:
            valid = "InpaintModelConditioning with noise_mask = False" if model.sees_mask else "SetLatentNoiseMask"
            raise ValueError(f"the workflow's nodes do not pass the mask to a {model.name}. Valid: a {valid}")
        if self.mask:
            mask, colours = self.mask.read()
            in_alpha = self.mask.channel == "alpha" and self.mask.file == request.image
            image = colours if in_alpha else request.image
            noise = "one" if self.mask.keeps else request.kept_noise
            request = dataclasses.replace(request, image=image, mask=mask, kept_noise=noise)
        check_reading(request, model)
        if "shift" in model.process.fields and (first := request.first_step(request.steps or 1)):
            total = request.steps or 1  # a flow also runs the step of which the strength leaves a half
            request = dataclasses.replace(request, strength=(total - first - 0.5) / total)
        if not model.distilled:
            return request
        if request.guidance != 1:
            raise ValueError(
                f"the workflow has cfg = {request.guidance:g}, but the model has its guidance distilled in. Valid: 1, "
                "and a FluxGuidance"
            )
        return dataclasses.replace(request, guidance=STRENGTH if self.strength is None else self.strength)


def check_loras(files: Iterable[str | pathlib.Path]) -> None:
    """Refuses DoRAs. Their strength scales the change of a kernel in ComfyUI, and here it acts inside the norm.

    Args:
        files: LoRA files; one that does not exist is left to the loading of the model.

    Raises:
        ValueError: naming the file.
    """
    for file in files:
        path = pathlib.Path(file).expanduser()
        if path.exists() and lora_names.has_magnitudes(tensor_files.open_only(path).shapes):
            raise ValueError(
                f"{file} is a DoRA, whose magnitudes ComfyUI applies otherwise. Valid: a LoRA without magnitudes"
            )


def check_reading(request: Request, model: TextToImage) -> None:
    """Refuses masks, weights of words and ControlNets where ComfyUI's act otherwise than the model's.

    Raises:
        ValueError: naming what is refused.
    """
    comfyui_mask.check(request, model)
    if "shift" not in model.process.fields:
        return
    if request.perturbed_guidance:
        raise ValueError(
            f"a {PERTURBED} does not perturb a {model.name}; it is supported for Stable Diffusion 1 and 2 and SDXL"
        )
    if request.controls:
        raise ValueError(
            f"a ControlNet of a {model.name} acts in an interval of other times in ComfyUI; it is supported for Stable "
            "Diffusion 1 and 2 and SDXL"
        )
    if request.emphasis != "none" and comfyui_steps.is_flux(model.name):
        raise ValueError(
            f"a {model.name} does not support weights such as (word:1.2). Valid: brackets with a \\ before each"
        )


class _Sampling(NamedTuple):
    """The nodes that hold the values of the sampling: four of a SamplerCustomAdvanced, or one KSampler four times."""

    noise: str
    guider: str
    solver: str
    steps: str


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
        expected = {"LoraLoader": {"model": 0, "clip": 1}, "CheckpointLoaderSimple": {"model": 0, "clip": 1, "vae": 2},
                    "LoadImage": {"mask": 1}, "InpaintModelConditioning": {"latent_image": 2}}  # fmt: skip
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

    def loaded(self, name: str, field: str) -> "_Loaded":
        """The loader behind an input, and what lies on the way."""
        loaders = {"model": ("UNETLoader",), "clip": ("DualCLIPLoader", "TripleCLIPLoader")}[field]
        shifts = tuple(sorted(set(comfyui_steps.FLOWS.values()))) if field == "model" else ()
        kinds = ("LoraLoader", "CheckpointLoaderSimple", *loaders, *shifts)
        kinds += ("DifferentialDiffusion", PERTURBED) if field == "model" else ()
        passed: list[str] = []
        shift = None
        while self.table[name := self.source(name, field, *kinds)].kind in PASSING:
            if name in passed or len(passed) >= LORAS:
                raise self.wrong(name, "is part of a cycle, or follows too many other nodes")
            if self.table[name].kind in shifts:
                shift = shift or self.shift(name)  # the node that acts last counts
            passed.append(name)
        if self.table[name].kind == "DualCLIPLoader" and self.value(name, "type", str) != "flux":
            raise self.wrong(name, f"has type = {limits.short(self.value(name, 'type', str))}. Valid: flux")
        nodes = lambda kind: [one for one in passed[::-1] if self.table[one].kind == kind]
        return _Loaded(name, nodes("LoraLoader"), shift, self.perturbed(nodes(PERTURBED)))

    def perturbed(self, names: list[str]) -> float:
        """The scale of perturbed-attention guidance of at most one node; 0 without one."""
        if len(names) > 1:
            raise self.wrong(names[-1], "follows another one. Valid: one, with the sum of the scales")
        scale = self.value(names[0], "scale", float) if names else 0.0
        if not 0 <= scale <= 1000:
            raise self.wrong(names[0], f"has scale = {scale:g}. Valid: 0 to 1000")
        return scale

    def shift(self, name: str) -> comfyui_steps.Shift:
        """What a node does to the levels of a flow; Flux's log r is linear in the number of its tokens."""
        kind = self.table[name].kind
        if kind == "ModelSamplingSD3":
            ratio = self.value(name, "shift", float)
        else:
            most, base = (self.value(name, field, float) for field in ("max_shift", "base_shift"))
            width, height = (self.value(name, field, int) for field in ("width", "height"))
            log_ratio = base + (most - base) * (width * height / 256 - 256) / (4096 - 256)
            ratio = math.exp(log_ratio) if 0 <= log_ratio <= 100 else math.nan
        if not 0.01 <= ratio < math.inf:
            raise self.wrong(name, "shifts the levels too far, or towards the picture. Valid: a shift as published")
        return comfyui_steps.Shift(kind, ratio)

    def sampling(self) -> tuple[str, _Sampling]:
        """The node that samples, and those with its values."""
        samplers = [name for name, node in self.table.items() if node.kind in SAMPLING]
        saved = [node for node in self.table.values() if node.kind in SAVING]
        if len(samplers) != 1 or not saved:
            raise ValueError(
                f"{self.what} has {len(samplers)} {' or '.join(SAMPLING)} and {len(saved)} {' or '.join(SAVING)} "
                "nodes. Valid: exactly one that samples, and a picture that is saved"
            )
        (name,) = samplers
        if self.table[name].kind == "KSampler":
            return name, _Sampling(name, name, name, name)
        sources = {"noise": "RandomNoise", "guider": "BasicGuider", "sampler": "KSamplerSelect",
                   "sigmas": "BasicScheduler"}  # fmt: skip
        return name, _Sampling(*(self.source(name, field, kind) for field, kind in sources.items()))

    def is_whole(self, loader: str) -> bool:
        """Whether a loader's file has all networks."""
        return self.table[loader].kind == "CheckpointLoaderSimple"

    def same_checkpoint(self, name: str, loader: str, checkpoint: str) -> None:
        """Refuses a network out of another checkpoint than the denoiser's; a file of one network is taken to fit."""
        if self.is_whole(loader) and loader != checkpoint:
            raise self.wrong(name, f"uses node {limits.short(loader)}, which is not the checkpoint of the denoiser")

    def lora(self, name: str) -> tuple[str, float]:
        strength, text = (self.value(name, field, float) for field in ("strength_model", "strength_clip"))
        if strength != text:
            raise self.wrong(name, f"has two strengths, {strength:g} and {text:g}. Valid: one for both networks")
        return self.file(name, "lora_name", "loras"), strength

    def condition(self, name: str, field: str) -> "_Condition":
        """What lies on the way to the text behind an input of conditions."""
        passed: list[str] = []
        side = "negative" if field == "negative" else "positive"
        at, strength = name, None
        while True:
            link = self.table[at].inputs.get(field)
            source = link.node if isinstance(link, Link) else ""
            two_sided = source in self.table and self.table[source].kind in TWO_SIDED
            at = self.source(at, field, *CONDITIONS, output=1 if two_sided and side == "negative" else 0)
            kind = self.table[at].kind
            if kind == "CLIPTextEncode":
                select = lambda *kinds: [one for one in passed[::-1] if self.table[one].kind in kinds]
                controls = select("ControlNetApply", "ControlNetApplyAdvanced")
                return _Condition(at, controls, select("InpaintModelConditioning"), strength)
            if at in passed or len(passed) >= LORAS:
                raise self.wrong(at, "is part of a cycle, or follows too many other nodes")
            if kind == "FluxGuidance" and strength is None:  # the node that acts last counts
                strength = self.value(at, "guidance", float)
            passed.append(at)
            field = side if kind in TWO_SIDED else "conditioning"

    def mask(self, name: str, keeps: bool) -> Mask:
        """The mask behind a node's input."""
        source = self.source(name, "mask", "LoadImage", "LoadImageMask")
        loads_mask = self.table[source].kind == "LoadImageMask"
        channel = self.value(source, "channel", str) if loads_mask else "alpha"
        look_up({name: name for name in comfyui_mask.CHANNELS}, channel, "channel")
        return Mask(self.file(source, "image", "input"), channel, keeps)


class _Loaded(NamedTuple):
    """What lies behind the input of a network.

    Attributes:
        loader: the node that loads it.
        loras: the LoRA nodes, the first to act first.
        shift: the shift of a flow's levels; None without one.
        perturbed: the scale of perturbed-attention guidance; 0 without any.
    """

    loader: str
    loras: list[str]
    shift: comfyui_steps.Shift | None
    perturbed: float


class _Condition(NamedTuple):
    """A node of text, the nodes that apply ControlNets and masks to it, and the strength of distilled guidance."""

    text: str
    controls: list[str]
    inpainting: list[str]
    strength: float | None


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
    sampler, sampling = reader.sampling()
    decoded = {reader.source(name, "images", "VAEDecode") for name, node in reader.table.items() if node.kind in SAVING}
    for name in decoded:
        reader.source(name, "samples", *SAMPLING)
    checkpoint, loras, shift, perturbed = reader.loaded(sampling.guider, "model")
    if sampling.steps != sampling.guider and reader.loaded(sampling.steps, "model")[:3] != (checkpoint, loras, shift):
        raise reader.wrong(sampling.steps, "has another model than the BasicGuider. Valid: the same model at both")
    simple = reader.table[sampler].kind == "KSampler"
    guidance = reader.value(sampler, "cfg", float) if simple else 1.0
    if guidance < 1:
        raise reader.wrong(sampler, f"has cfg = {guidance:g}. Valid: at least 1")
    positive = reader.condition(sampling.guider, "positive" if simple else "conditioning")
    advanced = [name for name in positive.controls if reader.table[name].kind == "ControlNetApplyAdvanced"]
    read_texts = [positive.text]
    if guidance != 1:  # otherwise ComfyUI does not evaluate the network there
        negative = reader.condition(sampler, "negative")
        read_texts.append(negative.text)
        if negative.inpainting != positive.inpainting:
            raise reader.wrong(sampler, "has another InpaintModelConditioning at negative. Valid: one for both")
        if negative.controls != advanced:
            raise reader.wrong(
                sampler, "has other ControlNets at negative than at positive. Valid: the same ones at both"
            )
    for name in read_texts:
        loader, files_of_text, *_ = reader.loaded(name, "clip")
        if files_of_text != loras:
            raise reader.wrong(
                name, "has other LoRA files than the KSampler. Valid: the clip output of the KSampler's last LoraLoader"
            )
        reader.same_checkpoint(name, loader, checkpoint)
    latent = reader.source(sampler, "latent_image", *EMPTY, *ENCODING)
    masks = reader.table[latent].kind == "InpaintModelConditioning"
    if positive.inpainting != ([latent] if masks else []):
        raise reader.wrong(sampler, "has other masks at positive than at latent_image. Valid: one mask for both")
    mask, latent = _mask(reader, latent)
    for name in (*decoded, *(() if reader.table[latent].kind in EMPTY else (latent,))):
        reader.same_checkpoint(name, reader.source(name, "vae", "CheckpointLoaderSimple", "VAELoader"), checkpoint)
    texts, emphasis = _texts(reader, *read_texts)
    fields = _steps(reader, sampling, latent, mask is not None)
    fields["guidance"] = guidance
    controls, attachments = _controls(reader, positive.controls, advanced)
    files = [reader.lora(name) for name in loras]
    if len({file for file, _ in files}) < len(files):
        raise reader.wrong(
            loras[-1],
            "and another node load the same LoRA file. Valid: one node for a file, with the sum of the strengths",
        )
    request = Request(
        prompts=(texts[0],), negative=texts[1] if texts[1:] else None, emphasis=emphasis, windows=True,
        controls=controls, perturbed_guidance=perturbed, **fields,
    )  # fmt: skip
    name = reader.value(checkpoint, "ckpt_name" if reader.is_whole(checkpoint) else "unet_name", str)
    scheduler = reader.value(sampling.steps, "scheduler", str)
    return Workflow(name, dict(files), attachments, request, scheduler, positive.strength, shift, mask)


def _mask(reader: _Reader, latent: str) -> tuple[Mask | None, str]:
    """The mask of a sampler's latents, None without one; and the node that makes or encodes these latents."""
    if reader.table[latent].kind == "InpaintModelConditioning":
        if reader.table[latent].inputs.get("noise_mask", True) is not False:
            raise reader.wrong(latent, "has noise_mask = True, which replaces the kept latents too. Valid: False")
        return reader.mask(latent, False), latent
    if reader.table[latent].kind == "SetLatentNoiseMask":
        mask = reader.mask(latent, True)
        latent = reader.source(latent, "samples", "VAEEncode")
        if blends := [name for name, node in reader.table.items() if node.kind == "DifferentialDiffusion"]:
            raise reader.wrong(blends[0], "changes the mask from step to step; delete it")
        return mask, latent
    return None, latent


def _controls(
    reader: _Reader, names: Sequence[str], advanced: Sequence[str]
) -> tuple[tuple[Control, ...], dict[str, str]]:
    """The controls of nodes, of which the `advanced` ones have an interval, and {attachment: its ControlNet's file}."""
    name_of = lambda loader: f"controlnet_{loader}"
    controls, attachments = [], {}
    for name in names:
        loader = reader.source(name, "control_net", "ControlNetLoader")
        picture = reader.source(name, "image", "LoadImage")
        ends = ("start_percent", "end_percent") if name in advanced else ()
        start, end = (reader.value(name, field, float) for field in ends) if ends else (0.0, 1.0)
        attachments[name_of(loader)] = reader.file(loader, "control_net_name", "controlnet")
        shown, weight = reader.file(picture, "image", "input"), reader.value(name, "strength", float)
        controls.append(Control.read((name_of(loader), shown, weight, (1 - end, 1 - start))))
    return tuple(controls), attachments


def _steps(reader: _Reader, sampling: _Sampling, latent: str, masked: bool) -> dict[str, Any]:
    """The settings of the sampling and its latent."""
    name = reader.value(sampling.solver, "sampler_name", str)
    look_up(comfyui_steps.SAMPLERS, name, "sampler")
    steps, denoise = reader.value(sampling.steps, "steps", int), reader.value(sampling.steps, "denoise", float)
    seed = reader.value(sampling.noise, "seed" if sampling.noise == sampling.guider else "noise_seed", int)
    seed %= SEED + 1  # ComfyUI's have 64 bits
    fields = {"sampler": name, "steps": steps, "seeds": (seed,)}
    if steps < 1:
        raise reader.wrong(sampling.steps, f"has steps = {steps}. Valid: at least 1")
    if not 0 < denoise <= 1:
        raise reader.wrong(sampling.steps, f"has denoise = {denoise:g}. Valid: above 0 and at most 1")
    if reader.table[latent].kind in EMPTY:
        if denoise < 1:
            raise reader.wrong(sampling.steps, f"has denoise = {denoise:g} with an empty latent. Valid: 1")
        number = reader.value(latent, "batch_size", int)
        most = min(PICTURES, SEED + 1 - seed)
        if not 1 <= number <= most:
            raise reader.wrong(latent, f"has batch_size = {number}. Valid: 1 to {most}")
        sizes = {side: reader.value(latent, side, int) for side in ("height", "width")}
        return fields | sizes | {"seeds": tuple(range(seed, seed + number))}
    total = int(steps / denoise)  # of which the last `steps` are taken
    if total == steps and not masked:
        raise reader.wrong(
            sampling.steps,
            f"has denoise = {denoise:g} with a picture, which it would then ignore. Valid: a smaller denoise, or an "
            "EmptyLatentImage",
        )
    image = reader.file(reader.source(latent, "pixels", "LoadImage"), "image", "input")
    return fields | {"steps": total, "strength": min((steps + 0.5) / total, 1.0), "image": image}


def _texts(reader: _Reader, *names: str) -> tuple[list[str], str]:
    """The texts of nodes as prompts, and the effect of their brackets.

    ComfyUI's (word:1.2) weighs as "from_empty". In nested brackets only its inner weight counts, and square ones are
    text: such texts are refused where they would be read otherwise.
    """
    texts = [reader.value(name, "text", str) for name in names]
    weighs = any(map(BRACKETS.search, texts))
    for name, text in zip(names, texts):
        if "embedding:" in text:
            raise reader.wrong(name, "names an embedding. Load its file by --embedding, and write its word instead")
        if BREAK.search(text):
            raise reader.wrong(
                name, "has the word BREAK, which is text in ComfyUI and ends a window here. Valid: small letters"
            )
        depth = np.cumsum([1 if match[0] == "(" else -1 for match in BRACKETS.finditer(text)])
        if weighs and (set(depth) - {0, 1} or (depth.size and depth[-1]) or set("[]") & set(text)):
            raise reader.wrong(
                name, "has nested, open or square brackets together with weights. Valid: only the form (word:1.2)"
            )
    if weighs:
        return texts, "from_empty"
    return [re.sub(r"\\([()])", r"\1", text) for text in texts], "none"
