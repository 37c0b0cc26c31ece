"""The folders of tiny text-to-image pipelines that diffusers saved, made again from names, shapes and configs."""

import functools
import gzip
import json
import os
import pathlib

from safetensors.numpy import load_file, save_file

from tests.peers.made_weights import made_in

RECORDED = pathlib.Path(__file__).parents[1] / "fixtures"
FIXTURES = pathlib.Path(os.environ.get("PEERS_FIXTURES") or RECORDED) / "text_to_image"  # make test-peers names others


@functools.cache
def fixture(name):
    """(description of the folder and the trajectories, arrays)."""
    arrays = load_file(FIXTURES / f"{name}.safetensors")
    return json.loads(gzip.decompress(arrays.pop("about").tobytes())), arrays


def folder(name, place, changed=None):
    """The folder that `save_pretrained` wrote, with the made weights; `changed` has "files" and "shapes" instead."""
    about, arrays = fixture(name)
    about = about | {entry: about[entry] | files for entry, files in (changed or {}).items()}
    for file, text in about["files"].items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(text)
    for file in about.get("sentencepiece", ()):
        (place / file).write_bytes((RECORDED / "text" / "spiece.model").read_bytes())
    for file, shapes in about["shapes"].items():
        component = file.split("/")[0]
        tensors = {key: made_in(component, key, tuple(shape)) for key, shape in shapes.items()}
        tensors |= {key: arrays[f"kept/{component}/{key}"] for key in shapes if f"kept/{component}/{key}" in arrays}
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place / file)
    return place


def attentive(place):
    """The folder of "sd" with attention in its first level too, as all published ones, which T2I-Adapters need."""
    about = fixture("sd")[0]
    config = json.loads(about["files"]["unet/config.json"])
    config |= {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}
    file, theirs = next(entry for entry in about["shapes"].items() if entry[0].startswith("unet"))
    text = config["cross_attention_dim"]
    half = lambda shape: [side if side in (1, text) else side // 2 for side in shape]
    wide = {
        "down_blocks.1.attentions.": "down_blocks.0.attentions.",
        "up_blocks.0.attentions.": "up_blocks.1.attentions.",
    }
    fine = {
        name.replace(start, to): half(shape)
        for start, to in wide.items()
        for name, shape in theirs.items()
        if name.startswith(start)
    }
    changed = {"files": {"unet/config.json": json.dumps(config)}, "shapes": {file: theirs | fine}}
    return folder("sd", place, changed)
