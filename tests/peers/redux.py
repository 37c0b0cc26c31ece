"""FLUX.1 with Redux, by diffusers: the folder of FluxPriorReduxPipeline, and the latents of both pipelines.

It runs in the peers' environment, without this library:

    python -m tests.peers.redux tests/fixtures/text_to_image
    python -m tests.peers.redux opened FOLDER OUT

The first writes a fixture in the form of pipelines.py, whose base is the pipeline "flux". The second writes the latents
with the Redux in FOLDER. Redux has its own text encoders there, here those of the base.
"""

import gzip
import json
import pathlib
import sys
import tempfile

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from safetensors.torch import save_file

from tests.peers import pipelines
from tests.peers.cases import last
from tests.peers.families import flux
from tests.peers.families.image_encoders import SMALL
from tests.peers.ip_adapters import picture
from tests.peers.made_weights import drawn

STEPS, GUIDANCE = 4, 3.5
TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def prior() -> diffusers.FluxPriorReduxPipeline:
    pipe = diffusers.FluxPriorReduxPipeline(
        image_encoder=transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL)),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 28, "width": 28}),
        image_embedder=ReduxImageEncoder(redux_dim=32, txt_in_features=32),
    )
    pipelines.fill(pipe)
    return pipe


def run(pipe: diffusers.FluxPriorReduxPipeline) -> dict[str, torch.Tensor]:
    """The tokens of the text and the picture, and the latents that follow from them."""
    with tempfile.TemporaryDirectory() as place:
        base = flux.pipeline(pathlib.Path(place))
        pipelines.fill(base)
    base.set_progress_bar_config(disable=True)
    parts = {name: pipe.components[name] for name in ("image_encoder", "feature_extractor", "image_embedder")}
    pipe = diffusers.FluxPriorReduxPipeline(**parts, **{name: base.components[name] for name in TEXT})
    with torch.no_grad():
        seen = pipe(Image.fromarray(picture("first", 42, 63)), prompt="a cat")
        latents = torch.from_numpy(drawn("latents", 1, 8, 8, 4)).movedim(-1, 1)
        found = base(
            **seen,
            guidance_scale=GUIDANCE,
            num_inference_steps=STEPS,
            latents=base._pack_latents(latents, 1, 4, 8, 8),
            height=16,
            width=16,
            output_type="latent",
        ).images
    found = base._unpack_latents(found, 16, 16, base.vae_scale_factor)
    return {"latents": last(found).contiguous(), "text": seen.prompt_embeds.contiguous()}


def main(folder: pathlib.Path) -> None:
    """Writes the fixture."""
    torch.set_num_threads(1)
    pipe = prior()
    with tempfile.TemporaryDirectory() as place:
        about = pipelines.saved(pipe, pathlib.Path(place))
    assert not about.pop("kept")
    arrays = run(pipe)
    print(f"latents up to {arrays['latents'].abs().max():.2f}")
    packed = np.frombuffer(gzip.compress(json.dumps(about).encode(), mtime=0), np.uint8)
    save_file({**arrays, "about": torch.from_numpy(packed.copy())}, folder / "redux.safetensors")
    (folder / "redux.safetensors").chmod(0o644)


def opened(folder: pathlib.Path, to: pathlib.Path) -> None:
    save_file(run(diffusers.FluxPriorReduxPipeline.from_pretrained(folder)), to)


if __name__ == "__main__":
    if sys.argv[1] == "opened":
        opened(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    else:
        main(pathlib.Path(sys.argv[1]))
