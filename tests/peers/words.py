"""New words of a text-to-image model, by diffusers: what its text encoders put out with our file and with its own.

It runs in the peers' environment: python -m tests.peers.words FOLDER FILE PLACE, where FOLDER is a pipeline and FILE
the word "<new>" that we wrote. PLACE gets, for FILE ("ours") and for each way in which people save a word, KIND.npz
with the outputs, and the files themselves as KIND.safetensors.
"""

import pathlib
import sys

import numpy as np
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.peers.made_weights import drawn

WORD, PROMPTS = "<new>", ["a <new> on a mat", "a cat"]
WIDTH = 24
PARTS = {"clip_l": "", "clip_g": "_2"}  # of SDXL's files: the tokenizer and the text encoder of each
# As diffusers' training scripts save a word of one encoder and of two, and as AUTOMATIC1111 does.
SAVED = {
    "StableDiffusionPipeline": {
        "vectors": {WORD: (2, WIDTH)},
        "vector": {WORD: (WIDTH,)},
        "automatic": {"emb_params": (3, WIDTH)},
    },
    "StableDiffusionXLPipeline": {"vectors": {part: (2, WIDTH) for part in PARTS}},
}


def outputs(folder: str, file: pathlib.Path) -> dict[str, np.ndarray]:
    """The text embeddings of the prompts, and the pooled ones where there are some."""
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    tensors = load_file(file)
    if set(tensors) == set(PARTS):
        for part, which in PARTS.items():
            networks = {name: getattr(pipe, name + which) for name in ("tokenizer", "text_encoder")}
            pipe.load_textual_inversion(tensors[part], token=WORD, **networks)
    else:
        pipe.load_textual_inversion(str(file), token=WORD)
    with torch.no_grad():
        found = pipe.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    named = zip(("text", "negative", "pooled"), found)
    return {name: array.numpy() for name, array in named if array is not None}


def main(folder: str, file: str, place: str) -> None:
    """Opens our file, and makes and opens theirs."""
    torch.set_num_threads(1)
    to = pathlib.Path(place)
    np.savez(to / "ours.npz", **outputs(folder, pathlib.Path(file)))
    name = DiffusionPipeline.load_config(folder)["_class_name"]
    for kind, shapes in SAVED[name].items():
        path = to / f"{kind}.safetensors"
        save_file({part: torch.from_numpy(drawn(f"word {part}", *shape)) for part, shape in shapes.items()}, path)
        np.savez(to / f"{kind}.npz", **outputs(folder, path))


if __name__ == "__main__":
    main(*sys.argv[1:])
