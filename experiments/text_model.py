"""Trained parts as a text-to-image model: one folder with model_index.json, which diffusers opens too.

    FOLDER/model_index.json     PixArtSigmaPipeline
    FOLDER/tokenizer            CLIP's kind of vocabulary
    FOLDER/text_encoder         CLIP's text tower
    FOLDER/transformer          PixArt's transformer, a flow that predicts x0
    FOLDER/vae                  the KL autoencoder, whose latents have mean 0 and variance 1 in each channel
    FOLDER/scheduler            DPM-Solver++ on the times of a flow
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion import files
from diffusion.data import sources
from diffusion.models import interchange, latents
from diffusion.models.autoencoder_kl import AutoencoderKL
from diffusion.models.pixart import PixArt
from diffusion.training import checkpoints
from experiments import autoencoders, resolve, workdir
from experiments.config import ConfigError
from experiments.networks import network_of

SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "prediction_type": "sample",
    "use_flow_sigmas": True, "algorithm_type": "dpmsolver++", "solver_order": 2,
    "solver_type": "midpoint", "lower_order_final": True, "final_sigmas_type": "zero",
}  # fmt: skip
INDEX = {
    "_class_name": "PixArtSigmaPipeline", "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"], "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
}  # fmt: skip


def trained(run: str | pathlib.Path) -> tuple[Any, Any, Mapping[str, Any]]:
    """The network of a run, by its moving average: (module, its parameters, the run's config).

    Raises:
        WorkdirError, CheckpointError: if the folder holds no run, or no sound checkpoint.
    """
    config = workdir.read_config(run)
    module = resolve.model(config, workdir.example_shape(config))
    params, _ = checkpoints.load_ema(run)
    return module, network_of(module).weights(params), config


def text_encoder(run: str | pathlib.Path, out: str | pathlib.Path) -> None:
    """Writes the text tower of a run that trained "clip"."""
    module, params, _ = trained(run)
    with files.whole_folder(out) as place:
        interchange.save(place, module.text, params["text"])


def autoencoder(run: str | pathlib.Path, out: str | pathlib.Path, number: int) -> latents.Scaling:
    """Writes the autoencoder of a run, with latents of mean 0 and variance 1 in each channel.

    Args:
        run: that trained "autoencoder_kl".
        out: folder.
        number: of its training pictures by which mean and variance are measured.

    Returns:
        The scale and the shift of each channel before.
    """
    module, params, config = trained(run)
    data = config["data"]
    source, _ = sources.open_source(data["name"], data["split"], data["dir"])
    encode = autoencoders.encoder(autoencoders.of(module, params))
    rows = np.linspace(0, len(source) - 1, min(number, len(source))).astype(int)
    batches = (np.stack([source[row]["image"] for row in rows[i : i + 64].tolist()]) for i in range(0, len(rows), 64))
    measured = latents.estimate((encode(batch)[:, 0] for batch in batches), per_channel=True)
    with files.whole_folder(out) as place:
        interchange.save(place, module.clone(scale=1.0, shift=0.0), standardised(module, params, measured))
    return measured


def standardised(module: AutoencoderKL, params: Any, measured: latents.Scaling) -> Any:
    """Parameters of the same autoencoder with other latents, s (z - m), by its two convolutions of one pixel.

    Pipelines of PixArt know one scale for all channels and no shift, so that both go into the network.

    Args:
        module: with these convolutions.
        params: its parameters.
        measured: scale s and shift m of each channel.

    Raises:
        ValueError: for an autoencoder without these convolutions.
    """
    if not module.quantization_convs:
        raise ValueError("an autoencoder without convolutions around its latents keeps the scale that it has")
    s, m = (jnp.asarray(x, jnp.float32) for x in measured)
    into, out = params["moments_conv"], params["latents_conv"]
    scales, nothing = jnp.concatenate([s, jnp.ones_like(s)]), jnp.zeros_like(m)
    moments = {"kernel": into["kernel"] * scales,
               "bias": (into["bias"] - jnp.concatenate([m, nothing])) * scales
               + jnp.concatenate([nothing, 2 * jnp.log(s)])}  # fmt: skip
    back = {"kernel": out["kernel"] / s[:, None], "bias": out["bias"] + m @ out["kernel"][0, 0]}
    return {**params, "moments_conv": moments, "latents_conv": back}


def pipeline(
    run: str | pathlib.Path, out: str | pathlib.Path, *, text_encoder: pathlib.Path, tokenizer: pathlib.Path,
    vae: pathlib.Path,
) -> None:  # fmt: skip
    """Writes the folder of a text-to-image model.

    Args:
        run: that trained "pixart".
        out: folder; one that is there is replaced.
        text_encoder, tokenizer, vae: folders of the other parts.

    Raises:
        ConfigError: if the run trained another network, or no flow that the scheduler samples.
    """
    module, params, config = trained(run)
    told = dict(config["parameterization"])
    told["clock"] = dict(told.get("clock", {}))
    asked = {"name": "x0", "clock": {"name": "time", "scale": 1000.0}}
    if config["model"]["name"] != "pixart" or told != asked or config["schedule"]["name"] != "rectified_flow":
        raise ConfigError(f"{run} trained {config['model']['name']!r} with config.parameterization = {told}. A model "
                          f'is made of "pixart" on the schedule rectified_flow, with {asked}.')
    shift = float(config["sample"]["shift"])
    write(out, module, params, text_encoder=text_encoder, tokenizer=tokenizer, vae=vae, shift=shift)


def write(
    out: str | pathlib.Path, module: PixArt, params: Any, *, text_encoder: pathlib.Path, tokenizer: pathlib.Path,
    vae: pathlib.Path, shift: float,
) -> None:  # fmt: skip
    """Writes the folder of a text-to-image model from its denoiser, its parts' folders and its times' shift."""
    with files.whole_folder(out) as place:
        interchange.save(place / "transformer", module, params)
        for name, folder in (("text_encoder", text_encoder), ("tokenizer", tokenizer), ("vae", vae)):
            shutil.copytree(folder, place / name)
        (place / "scheduler").mkdir()
        _write_json(place / "scheduler" / "scheduler_config.json", SCHEDULER | {"flow_shift": shift})
        _write_json(place / "model_index.json", INDEX)


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    with files.whole(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
