"""Writes trained parts as a text-to-image model: one folder with model_index.json.

    FOLDER/model_index.json     PixArtSigmaPipeline
    FOLDER/tokenizer            CLIP's kind of vocabulary
    FOLDER/text_encoder         CLIP's text tower
    FOLDER/transformer          PixArt's transformer, a flow that predicts x0
    FOLDER/vae                  the KL autoencoder, whose latents have mean 0 and variance 1 in each channel
    FOLDER/scheduler            the run's sampler: DPM-Solver++ on the times of a flow; Euler's method, which is its
                                first order; or the steps of a student that jumps to the data
    FOLDER/sampling.json        steps and guidance of the run's own samples

diffusers also opens such a folder, except that of a student that jumps to the data, whose scheduler is our own.
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion import text_to_image
from diffusion.data import captions
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.run.networks import network_of
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders, shipped_models
from diffusion.io import files, json_files
from diffusion.models import interchange
from diffusion.models.autoencoders import latent_space
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.interchange import schedulers
from diffusion.models.layers import conditions
from diffusion.models.text_encoders.clip import CLIPVisionProjection
from diffusion.objectives import Jumps
from diffusion.published.pipeline_kinds import Usual
from diffusion.published.pixart.network import PixArt
from diffusion.recipe import ConfigError, as_config_errors, data, null_condition
from diffusion.recipe.parts import Resolver
from diffusion.text_to_image import model_index
from diffusion.training.checkpointing import checkpoints

FLOW = {"num_train_timesteps": 1000, "prediction_type": "sample", "use_flow_sigmas": True}
PLUS = {
    "_class_name": "DPMSolverMultistepScheduler",
    **FLOW,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
}
FIRST_ORDER = ("ddim", "euler")  # both compute the same steps for a flow
X0 = {"name": "x0", "clock": {"name": "time", "scale": 1000.0}}
INDEX = {
    "_class_name": "PixArtSigmaPipeline",
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def load(folder: str | pathlib.Path) -> text_to_image.TextToImage:
    """The model of a folder, or of a name such as "drawings".

    Raises:
        ConfigError: if there is no such model.
    """
    try:
        return text_to_image.load(folder_of(folder))
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--model={folder}: {error}") from error


def folder_of(model: str | pathlib.Path) -> pathlib.Path:
    """The folder of a model, by its path or by the name of a model that ships with the project.

    Raises:
        ConfigError: if the model of this name cannot be loaded, or its files are not the shipped ones.
    """
    with as_config_errors():
        return shipped_models.folder_of_prompts(model)


def trained(run: str | pathlib.Path) -> tuple[Any, Any, Mapping[str, Any]]:
    """The network of a run, with its averaged parameters.

    Returns:
        (module, parameters, the run's config).

    Raises:
        WorkdirError, CheckpointError: if the folder holds no run, or no sound checkpoint.
    """
    config = workdir.read_config(run)
    resolver = Resolver(config)
    module = resolver.model(resolver.model_shape_of(workdir.example_shape(config)))
    params, _ = checkpoints.load_ema(run)
    return module, network_of(module).weights(params), config


def text_encoder(run: str | pathlib.Path, out: str | pathlib.Path) -> None:
    """Writes the text tower of a run that trained "clip"."""
    module, params, _ = trained(run)
    with files.whole_folder(out) as new:
        interchange.save(new, module.text, params["text"])
        model_card.write(new, model_card.build_run_card(run, "Text encoder"), out)


def image_encoder(run: str | pathlib.Path, out: str | pathlib.Path) -> None:
    """Writes the image tower of a run that trained "clip", with its projection, as an encoder for image prompts."""
    module, params, _ = trained(run)
    tower = CLIPVisionProjection(module.vision, module.features)
    with files.whole_folder(out) as new:
        interchange.save(new, tower, {"vision": params["vision"], "projection": params["image_projection"]})
        model_card.write(new, model_card.build_run_card(run, "Image encoder"), out)


def autoencoder(run: str | pathlib.Path, out: str | pathlib.Path, number: int) -> latent_space.Scaling:
    """Writes the autoencoder of a run, with latents of mean 0 and variance 1 in each channel.

    The mean and the variance are measured on `number` of its training pictures.

    Returns:
        The scale and the shift of each channel before.
    """
    module, params, scaling = measured(run, number)
    with files.whole_folder(out) as new:
        interchange.save(new, module.clone(scale=1.0, shift=0.0), standardised(module, params, scaling))
        model_card.write(new, model_card.build_run_card(run, "Autoencoder"), out)
    return scaling


def measured(run: str | pathlib.Path, number: int) -> tuple[Any, Any, latent_space.Scaling]:
    """The autoencoder of a run, its parameters, and each channel's scale and shift on `number` training examples."""
    module, params, config = trained(run)
    source = data.source(config, config["data"]["split"])
    encode = autoencoder_folders.encoder(autoencoder_folders.from_module(module, params))
    rows = np.linspace(0, len(source) - 1, min(number, len(source))).astype(int)
    batches = (np.stack([source[row]["image"] for row in rows[i : i + 64].tolist()]) for i in range(0, len(rows), 64))
    return module, params, latent_space.estimate((encode(batch)[:, 0] for batch in batches), per_channel=True)


def standardised(module: AutoencoderKL, params: Any, measured: latent_space.Scaling) -> Any:
    """Parameters of the same autoencoder with latents s (z - m), for the measured scale s and shift m.

    Pipelines of PixArt have one scale for all channels and no shift. The two convolutions of one pixel around the
    latents therefore take in the scale and the shift.

    Raises:
        ValueError: if the autoencoder has no such convolutions.
    """
    if not all(module.convs):
        raise ValueError(
            "the autoencoder has no convolutions around its latents that could take in their scale. Train one with "
            "both: config.model.quantization_convs = True."
        )
    s, m = (jnp.asarray(x, jnp.float32) for x in measured)
    into = params["moments_conv"]
    out = params["latents_conv"]
    scales = jnp.concatenate([s, jnp.ones_like(s)])
    shifts = jnp.pad(m, (0, m.size))  # shifts of the means, not of the log variances
    moments = {
        "kernel": into["kernel"] * scales,
        "bias": (into["bias"] - shifts) * scales + jnp.pad(2 * jnp.log(s), (s.size, 0)),
    }
    back = {"kernel": out["kernel"] / s[:, None], "bias": out["bias"] + m @ out["kernel"][0, 0]}
    return {**params, "moments_conv": moments, "latents_conv": back}


def pipeline(
    run: str | pathlib.Path, out: str | pathlib.Path, parts: Mapping[str, pathlib.Path], license: str = ""
) -> None:
    """Writes the folder of a text-to-image model of a run that trained "pixart".

    Args:
        run: the run folder.
        out: the folder to write; an existing one is replaced.
        parts: the folders of the text_encoder, the tokenizer and the vae.
        license: the license for the model card; "" for unknown.

    Raises:
        ConfigError: if the run trained another network, or no flow that the scheduler samples.
    """
    module, params, config = trained(run)
    try:
        scheduler = scheduler_of(config)
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from error
    sample = config["sample"]
    front = {"pipeline_tag": "text-to-image", "library_name": "diffusers"}
    card = model_card.build_run_card(run, "Text-to-image model", license or model_card.UNKNOWN, front)
    usual = Usual(int(sample["steps"]), float(sample["guidance"]["scale"]))
    write(out, module, params, scheduler, usual, parts, card)


def scheduler_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the scheduler that samples as a run does.

    Students that jump to the data use multistep consistency sampling. Runs with a first-order method use Euler's
    method. All others use second-order DPM-Solver++.

    Raises:
        ConfigError: if the run trains another network, or no flow that a scheduler samples.
    """
    said = dict(config["parameterization"])
    boundary = {}
    if said["name"] == "latent_consistency" and set(said) == {"name", "parameterization", "scaling"}:
        boundary = {"boundary_scaling": float(said["scaling"])}
        said = dict(said["parameterization"])
    said["clock"] = dict(said.get("clock", {}))
    if config["model"]["name"] != "pixart" or said != X0 or config["schedule"]["name"] != "rectified_flow":
        raise ConfigError(
            f"a run of {config['model']['name']!r} on {config['schedule']['name']!r} with config.parameterization = "
            f'{dict(config["parameterization"])} cannot become a text-to-image model. Valid: "pixart" on the '
            f"schedule rectified_flow, with {X0}, or a boundary around it."
        )
    shift = {"flow_shift": float(config["sample"]["shift"])}
    if isinstance(Resolver(config).objective.reads, Jumps):
        return {"_class_name": schedulers.OURS, **FLOW, **shift, **boundary}
    return {**PLUS, "solver_order": 1 if config["sample"]["sampler"]["name"] in FIRST_ORDER else 2, **shift}


def write(
    out: str | pathlib.Path,
    module: PixArt,
    params: Any,
    scheduler: Mapping[str, Any],
    usual: Usual,
    parts: Mapping[str, pathlib.Path],
    card: model_card.Card | None = None,
) -> None:
    """Writes the folder of a text-to-image model: its denoiser, scheduler, sampling.json, other parts and card."""
    library = "diffusion" if scheduler["_class_name"] == schedulers.OURS else "diffusers"
    contents = {
        "scheduler/scheduler_config.json": scheduler,
        model_index.SAMPLING: usual._asdict(),
        "model_index.json": INDEX | {"scheduler": [library, scheduler["_class_name"]]},
    }
    with files.whole_folder(out) as new:
        interchange.save(new / "transformer", module, params)
        for name, folder in parts.items():
            shutil.copytree(folder, new / name)
        (new / "scheduler").mkdir()
        for name, content in contents.items():
            json_files.write(new / name, content)
        if card is not None:
            model_card.write(new, card, out)


def write_model(run: str | pathlib.Path, license: str = "") -> pathlib.Path:
    """Writes RUN/model from a run on captions and the parts that made its data.

    Args:
        run: the run folder.
        license: the license for the model card; "" for unknown.

    Returns:
        The folder.

    Raises:
        ConfigError: as `pipeline`, and if a part is missing, or the run learned from another one.
    """
    run = pathlib.Path(run)
    config = workdir.read_config(run)
    if null_condition.text_inputs(config) != conditions.EMBEDDINGS or not config["data"]["text"]["dir"]:
        raise ConfigError(
            f"--workdir={run} trained {config['model']['name']!r}, which receives no captions. Valid: a run of the "
            "denoiser of a text-to-image model, or of its student."
        )
    read_by = pathlib.Path(config["data"]["text"]["dir"])
    parts = {
        "text_encoder": read_by.parent / "text_encoder",
        "tokenizer": read_by.parent / "tokenizer",
        "vae": pathlib.Path(config["data"]["latents"]["autoencoder"]),
    }
    for name, folder in parts.items():
        if not folder.is_dir():
            raise ConfigError(
                f"{run} learned from {read_by}, but {folder}, the {name} of the model, does not exist. Move the folder "
                "back there, or make it again with the same settings."
            )
    _, params = interchange.load(parts["text_encoder"])
    if captions.encoder_fingerprint(params) != captions.description_of(read_by)["encoder"]:
        raise ConfigError(
            f"{parts['text_encoder']} is not the text encoder that wrote {read_by}, from which {run} learned; it was "
            "written again since. Encode the captions again with it, and train the run anew."
        )
    pipeline(run, run / "model", parts, license)
    return run / "model"
