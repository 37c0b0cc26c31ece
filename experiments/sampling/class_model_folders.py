"""Published class-conditional models as run folders, and trained runs as folders that diffusers opens.

diffusion convert --source=DiT-XL-2-256 --out=runs/dit          # a teacher, a run to evaluate or to start from
diffusion convert --source=runs/dit --pipeline --out=tuned      # DiTPipeline.from_pretrained("tuned")
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import class_models
from diffusion.io import files, json_files
from diffusion.models import interchange
from diffusion.models.dit import DiT
from diffusion.models.unet import UNet
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.class_folders import INDEX
from diffusion.recipe.values import config_hash, plain
from diffusion.text_to_image import model_index
from diffusion.training.checkpointing.checkpoint_writer import Checkpoints
from diffusion.training.state import HEALTHY, TrainState

STEP = 1  # the step of the checkpoint, since the training of a published model is not known
BETAS = {"linear_beta": "linear", "scaled_linear": "scaled_linear"}
PREDICTIONS = {ours: theirs for theirs, ours in class_models.PARAMETERIZATIONS.items()}
VERSION = {"_diffusers_version": "0.42.1"}  # diffusers writes its version into its files; this is the one followed here
VARIANCES = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}


def as_run(source: str | pathlib.Path, out: str | pathlib.Path) -> None:
    """Writes a published model as a run folder with one checkpoint, whose moving average is the model.

    Args:
        source: the folder with model_index.json; an autoencoder stays there, and the run's config names it.
        out: the run folder.

    Raises:
        FileExistsError: if `out` holds a run.
        FileNotFoundError, Refusal, Mismatch, limits.Refused: as `class_models.load`.
    """
    out = pathlib.Path(out)
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} holds a run already; choose another folder, or remove it first.")
    model = class_models.load(source)
    config = model.config
    config.train.steps = STEP
    with workdir.lock(out, "--out"):
        workdir.settle_config(out, config)
        healthy = jnp.full([], HEALTHY, jnp.int32)
        state = TrainState(jnp.asarray(STEP, jnp.int32), model.params, (), model.params, (), healthy)
        description = {"published": {"model": model.name, "sha256": model.sha256}, "config_hash": config_hash(config)}
        saving = Checkpoints(out)
        saving.save(jax.tree.map(jnp.asarray, state), description)
        saving.close()


def write(config: ConfigDict, params: Any, out: str | pathlib.Path) -> str:
    """Writes the network of a run, its process and its autoencoder as a pipeline that diffusers can open.

    Args:
        config: the config of the run.
        params: the parameters of its network, as in `recipe.network.apply`.
        out: the folder; it must be empty, or not exist yet.

    Returns:
        The class of the pipeline.

    Raises:
        FileExistsError: if `out` holds files.
        ConfigError: for a run that no pipeline of `class_models.KINDS` describes; it names the field and what is valid.
        Refusal: for a network that diffusers does not have.
    """
    out = pathlib.Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds files already; choose another folder, or remove it first.")
    recipe = checks.on_its_data(checks.validate(config))
    module = recipe.network
    if not isinstance(module, (DiT, UNet)):
        raise ConfigError(
            f"config.model.name = {config.model.name!r} belongs to no pipeline of diffusers. Valid: dit, unet."
        )
    settings = plain(config)
    name, scheduler = _scheduler(settings, isinstance(module, DiT))
    kind = class_models.KINDS[name]
    vae = settings["data"]["latents"]["autoencoder"]
    if kind.latents != bool(vae):
        valid = "the folder of the autoencoder" if kind.latents else "'': this pipeline has none"
        raise ConfigError(f"config.data.latents.autoencoder = {vae!r}. Valid for a {name}: {valid}.")
    with files.whole_folder(out) as new:
        interchange.save(new / kind.part, module, params["params"])
        if vae:
            shutil.copytree(pathlib.Path(vae).expanduser(), new / "vae")
        (new / "scheduler").mkdir()
        json_files.write(new / "scheduler" / "scheduler_config.json", scheduler)
        usual = {"steps": config.sample.steps, "guidance": float(config.sample.guidance.get("scale", 1.0))}
        json_files.write(new / model_index.SAMPLING, usual)
        network = {"unet": "UNet2DModel", "transformer": "DiTTransformer2DModel"}[kind.part]
        index = {"_class_name": name, **VERSION, kind.part: ["diffusers", network]}
        index |= {"scheduler": ["diffusers", scheduler["_class_name"]]}
        index |= {"vae": ["diffusers", "AutoencoderKL"]} if vae else {}
        json_files.write(new / INDEX, index)
    return name


def _scheduler(settings: Mapping[str, Any], by_transformer: bool) -> tuple[str, dict[str, Any]]:
    """(class of the pipeline, scheduler_config.json) of a run's config."""
    sampler = settings["sample"]["sampler"]
    clip = sampler["name"] == "clipped"
    largest = sampler.get("largest", 1.0)
    sampler = sampler["sampler"] if clip else sampler
    predicts = settings["parameterization"]
    if predicts["name"] == "consistency_boundary":
        return "ConsistencyModelPipeline", _consistency_scheduler(settings, clip)
    learned = predicts["name"] == "learned_variance"
    predicts = predicts["parameterization"] if learned else predicts
    if predicts["name"] not in PREDICTIONS:
        raise ConfigError(
            f"config.parameterization.name = {predicts['name']!r} is supported by no scheduler of diffusers. Valid: "
            f"{', '.join(PREDICTIONS)}, learned_variance, consistency_boundary."
        )
    table = settings["schedule"]
    rescaled = table["name"] == "zero_terminal_snr"
    table = table["schedule"] if rescaled else table
    if table["name"] in BETAS:
        ends = {"linear_beta": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}[table["name"]]
        T = table.get("T", 1000)
        betas = {"beta_schedule": BETAS[table["name"]], "beta_start": table.get("beta_start", ends[0])}
        betas |= {"beta_end": table.get("beta_end", ends[1]), "trained_betas": None}
    elif table["name"] == "from_betas":
        betas = {"trained_betas": list(table["betas"])}
        T = len(table["betas"])
    else:
        valid = "linear_beta, scaled_linear, from_betas, or zero_terminal_snr of one of these"
        raise ConfigError(f"config.schedule.name = {table['name']!r} is not a table of betas. Valid: {valid}.")
    if predicts.get("clock") != {"name": "steps", "T": T}:
        raise ConfigError(
            f"config.parameterization.clock = {predicts.get('clock')!r}: schedulers of diffusers pass integer steps. "
            f"Valid: {{'name': 'steps', 'T': {T}}}."
        )
    grid = settings["sample"]["grid"]
    known = grid["name"] in ("leading", "trailing", "linspace")
    fields = {
        **betas,
        "num_train_timesteps": T,
        "prediction_type": PREDICTIONS[predicts["name"]],
        "clip_sample": clip,
        "clip_sample_range": largest,
        "timestep_spacing": grid["name"] if known else "leading",
        "steps_offset": grid.get("offset", 0),
        "rescale_betas_zero_snr": rescaled,
    }
    # A learned variance is read by DDPMScheduler alone; DiTPipeline leaves it out before the scheduler.
    ancestral = (learned or sampler["name"] == "ddpm") and not by_transformer
    if ancestral:
        variance = "learned" if learned else sampler.get("variance", "small")
        scheduler = {"_class_name": "DDPMScheduler", "variance_type": VARIANCES[variance]}
    else:  # diffusers has few of the samplers; whoever samples may choose another, so any other becomes DDIM
        scheduler = {"_class_name": "DDIMScheduler", "set_alpha_to_one": True}
    name = "DiTPipeline" if by_transformer else "DDPMPipeline" if ancestral else "DDIMPipeline"
    return name, scheduler | VERSION | fields


def _consistency_scheduler(settings: Mapping[str, Any], clip: bool) -> dict[str, Any]:
    """scheduler_config.json of a consistency model's run."""
    predicts, ends = settings["parameterization"], settings["schedule"]
    if ends["name"] != "edm" or predicts.get("clock") != {"name": "log_sigma", "scale": 250.0}:
        raise ConfigError(
            f"config.schedule.name = {ends['name']!r} with the clock {predicts.get('clock')!r} is supported by no "
            "scheduler of diffusers. Valid: edm, with {'name': 'log_sigma', 'scale': 250.0}, for consistency_boundary."
        )
    grid = settings["sample"]["grid"]
    return {
        "_class_name": class_models.CONSISTENCY,
        **VERSION,
        "num_train_timesteps": grid.get("levels", 40),
        "sigma_min": ends.get("sigma_min", 0.002),
        "sigma_max": ends.get("sigma_max", 80.0),
        "sigma_data": predicts.get("sigma_data", 0.5),
        "s_noise": 1.0,
        "rho": grid.get("rho", 7.0),
        "clip_denoised": clip,
    }
