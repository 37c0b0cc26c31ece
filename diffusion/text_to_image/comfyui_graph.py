"""Reads the nodes of ComfyUI's workflow files, in the format of ComfyUI's API and in the format that its page saves.

    nodes = comfyui_graph.nodes(opener.read_json("flow.json"), "flow.json")
    nodes["3"].kind, nodes["3"].inputs                     # "KSampler", {"seed": 5, "model": Link("4", 0), ...}

The API has {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "model": ["4", 0], ...}}}. The page saves a list of
nodes, whose connections are indices into a list of links, and whose values are in the order of the node's fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.io import limits

NODES = 1000  # the most nodes of a file
FIELDS: Mapping[str, tuple[str, ...]] = {
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CLIPTextEncode": ("text",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "KSampler": ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "DualCLIPLoader": ("clip_name1", "clip_name2", "type", "device"),
    "TripleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3"),
    "VAELoader": ("vae_name",),
    "FluxGuidance": ("guidance",),
    "ConditioningZeroOut": (),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "ModelSamplingFlux": ("max_shift", "base_shift", "width", "height"),
    "ModelSamplingSD3": ("shift",),
    "BasicGuider": (),
    "RandomNoise": ("noise_seed", "control_after_generate"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "SamplerCustomAdvanced": (),
    "PerturbedAttentionGuidance": ("scale",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "ControlNetLoader": ("control_net_name",),
    "ControlNetApply": ("strength",),
    "ControlNetApplyAdvanced": ("strength", "start_percent", "end_percent"),
    "LoadImage": ("image", "upload"),
    "VAEDecode": (),
    "VAEEncode": (),
    "LoadImageMask": ("image", "channel", "upload"),
    "SetLatentNoiseMask": (),
    "InpaintModelConditioning": ("noise_mask",),
    "DifferentialDiffusion": ("strength",),
    "SaveImage": ("filename_prefix",),
    "PreviewImage": (),
}
"""The supported classes of nodes: {class: the names of its values, in the order in which the page saves them}."""
INSTEAD = {
    "VAEEncodeForInpaint": "it hides the masked part from the autoencoder too. Valid: a VAEEncode with a "
    "SetLatentNoiseMask, or, for a model that was trained to inpaint, an InpaintModelConditioning",
    "LoraLoaderModelOnly": "a file of this library acts on both networks. Valid: LoraLoader",
}
"""Common classes of nodes that are not supported: {class: the reason, and what to use instead}."""
NOTES = ("Note", "MarkdownNote")  # nodes that hold only a text for people
VALUES = "PrimitiveNode"  # a node that holds one value, which several nodes share
RUNS = (None, 0)  # the modes of a node that runs; a node in another mode is muted or bypassed


class Link(NamedTuple):
    """A connection to an output of another node.

    Attributes:
        node: the number of the other node, as a text.
        output: the index of its output.
    """

    node: str
    output: int


class Node(NamedTuple):
    """A node of a workflow.

    Attributes:
        kind: the class of the node, such as "KSampler".
        inputs: the inputs by name; each is a value or a `Link`.
    """

    kind: str
    inputs: dict[str, Any]


def nodes(graph: Any, what: str) -> dict[str, Node]:
    """The nodes of a workflow by their numbers, without the notes.

    Args:
        graph: the content of the file, as parsed JSON.
        what: the name of the file, for messages.

    Raises:
        ValueError: if the content is not a workflow, or a node's class is not in `FIELDS`; the message names the node.
    """
    if isinstance(graph, Mapping) and isinstance(graph.get("nodes"), list):
        table = _saved(graph, what)
    elif isinstance(graph, Mapping) and graph and all(_is_of_api(entry) for entry in graph.values()):
        _check_number(graph, what)
        table = {str(name): _of_api(entry) for name, entry in graph.items()}
    else:
        raise ValueError(f"{what} is not a workflow of ComfyUI: it has neither nodes nor entries with a class_type")
    table = {name: node for name, node in table.items() if node.kind not in NOTES}
    for name, node in table.items():
        if node.kind in INSTEAD:
            raise ValueError(f"{what}: node {limits.short(name)} is a {node.kind}; {INSTEAD[node.kind]}")
        if node.kind not in FIELDS:
            raise ValueError(
                f"{what}: node {limits.short(name)} is a {limits.short(node.kind)}, which is not supported. Valid: "
                f"{', '.join(FIELDS)}"
            )
    return table


def _check_number(entries: Any, what: str) -> None:
    if len(entries) > NODES:
        raise ValueError(f"{what} has {len(entries):,} nodes. Valid: at most {NODES:,}")


def _is_of_api(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and isinstance(entry.get("class_type"), str)
        and isinstance(entry.get("inputs", {}), Mapping)
    )


def _of_api(entry: Mapping[str, Any]) -> Node:
    def value(one: Any) -> Any:
        linked = isinstance(one, list) and len(one) == 2 and isinstance(one[0], (str, int)) and type(one[1]) is int
        return Link(str(one[0]), one[1]) if linked else one

    return Node(entry["class_type"], {str(name): value(one) for name, one in entry.get("inputs", {}).items()})


def _saved(graph: Mapping[str, Any], what: str) -> dict[str, Node]:
    """The nodes of the format that the page saves."""
    _check_number(graph["nodes"], what)
    links = {}
    for link in graph.get("links") or ():
        match link:
            case [int(number), int() | str() as source, int(output), *_]:
                links[number] = Link(str(source), output)
            case _:
                raise ValueError(f"{what}: the link {limits.short(link)} must have the form [number, node, output, ..]")
    table = {}
    for entry in graph["nodes"]:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str) or "id" not in entry:
            raise ValueError(f"{what}: the node {limits.short(entry)} must have an id and a type")
        name, kind = str(entry["id"]), entry["type"]
        if kind not in NOTES and entry.get("mode") not in RUNS:
            raise ValueError(
                f"{what}: node {limits.short(name)}, a {limits.short(kind)}, is muted or bypassed, which is not "
                "supported; delete it"
            )
        inputs: dict[str, Any] = {}
        for slot in entry.get("inputs") or ():
            number = slot.get("link") if isinstance(slot, Mapping) else None
            if number is not None and number not in links:
                raise ValueError(
                    f"{what}: node {limits.short(name)} has the link {limits.short(number)}, which does not exist"
                )
            if number is not None:
                inputs[str(slot.get("name"))] = links[number]
        values = entry.get("widgets_values") or ()
        fields = FIELDS.get(kind, ())
        if kind in FIELDS and (
            not isinstance(values, Sequence) or isinstance(values, str) or len(values) > len(fields)
        ):
            raise ValueError(
                f"{what}: node {limits.short(name)}, a {kind}, has the values {limits.short(values)}. Valid: a list of "
                f"{', '.join(fields) or 'none'}"
            )
        values = values if isinstance(values, list) else ()
        inputs |= {field: value for field, value in zip(fields, values) if field not in inputs}
        table[name] = Node(kind, inputs if kind != VALUES else {"value": next(iter(values), None)})
    shared = {name: node.inputs["value"] for name, node in table.items() if node.kind == VALUES}
    for node in table.values():
        sources = {field: link.node for field, link in node.inputs.items() if isinstance(link, Link)}
        node.inputs.update({field: shared[source] for field, source in sources.items() if source in shared})
    return {name: node for name, node in table.items() if name not in shared}
