"""Published class-conditional and unconditional models in diffusers' format: their config and parameters as a run's.

| class in model_index.json | network                 | scheduler                      | steps | guidance |
|---------------------------|-------------------------|--------------------------------|-------|----------|
| DDPMPipeline              | UNet2DModel             | DDPMScheduler, DDIMScheduler   | 1000  | none     |
| DDIMPipeline              | UNet2DModel             | the same                       | 50    | none     |
| ConsistencyModelPipeline  | UNet2DModel             | CMStochasticIterativeScheduler | 1     | none     |
| DiTPipeline               | DiTTransformer2DModel   | DDPMScheduler, DDIMScheduler   | 50    | 4        |

    model = class_models.load("DiT-XL-2-256")
    model.config.sample.steps                   # 50
    run = trained_run.load("DiT-XL-2-256")      # samples, edits ... as any trained run

The steps and the guidance come from the class in diffusers 0.42, or from sampling.json beside model_index.json. Two
things differ from diffusers: the null class of a DiT is its number of classes, which diffusers fixes to 1000; and the
steps differ as described in `interchange.schedulers`.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from diffusion.experiments.sampling import shipped_models
from diffusion.io import limits, opener, schema
from diffusion.models import MODELS
from diffusion.models.dit import DiT
from diffusion.models.interchange import folders, schedulers
from diffusion.models.interchange.family import SIDES, Fields, Refusal, naming
from diffusion.models.interchange.schedulers.process import KINDS as VALID
from diffusion.models.unet import UNet
from diffusion.published.pipeline_kinds import Usual
from diffusion.recipe import checks, class_folders, values
from diffusion.recipe.class_folders import INDEX
from diffusion.recipe.defaults import defaults
from diffusion.text_to_image import model_index

CONSISTENCY = "CMStochasticIterativeScheduler"
PARAMETERIZATIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
DROPOUT = 0.1  # dropout of the class in the training of DiT


class Kind(NamedTuple):
    """A class of pipelines.

    Attributes:
        part: the folder of its network.
        network: the class of the network.
        usual: the default steps and guidance of the pipeline in diffusers.
        solver: the sampler that the pipeline always uses; "" for the sampler of its scheduler.
        latents: whether the folder has an autoencoder, "vae", that decodes the samples.
        consistency: whether the network is a consistency model, which jumps to the data.
    """

    part: str
    network: type[nn.Module]
    usual: Usual
    solver: str = ""
    latents: bool = False
    consistency: bool = False


KINDS = {
    "DDPMPipeline": Kind("unet", UNet, Usual(1000, 1.0)),
    "DDIMPipeline": Kind("unet", UNet, Usual(50, 1.0), solver="ddim"),
    "ConsistencyModelPipeline": Kind("unet", UNet, Usual(1, 1.0), consistency=True),
    "DiTPipeline": Kind("transformer", DiT, Usual(50, 4.0), latents=True),
}
SUPPLIED = {"shape", "resolution", "in_channels", "out_channels", "learn_sigma", "times", "strength", "interval",
            "dtype", "parent", "name"}  # fmt: skip
"""Fields of networks that the rest of a config determines."""


class ClassModel(NamedTuple):
    """A published model of classes.

    Attributes:
        name: the name of its folder.
        config: the config of a run with this network and the sampling of the folder.
        params: the parameters, as in `recipe.network.apply`.
        classes: {word: number of its class}; {} if the folder does not name the classes.
        sha256: the digest of the folder's files.
    """

    name: str
    config: ConfigDict
    params: Any
    classes: Mapping[str, int]
    sha256: str


def kind_of(folder: pathlib.Path) -> Kind:
    """The kind of the pipeline in a folder.

    Raises:
        Refusal: for a class that is not supported; it names the valid ones.
        limits.Refused: for a damaged model_index.json.
    """
    index = opener.read_table(folder / INDEX)
    schema.check({"_class_name": schema.text()}, index, str(folder / INDEX))
    name = index.get("_class_name", "")
    if name not in KINDS:
        raise Refusal(
            f"{folder} is {f'a {name}' if name else 'of no class'}, which is not supported. Supported without a text "
            f"encoder: {', '.join(KINDS)}."
        )
    return KINDS[name]


def jumps(folder: str | pathlib.Path) -> bool:
    """Whether the network of a folder is a flow map instead of a denoiser; errors as `kind_of`."""
    return not class_folders.is_shipped(folder) and kind_of(pathlib.Path(folder)).consistency


def load(folder: str | pathlib.Path) -> ClassModel:
    """Loads a published model; the parameters are float32.

    Raises:
        FileNotFoundError: if the folder lacks a part.
        Refusal, Mismatch, limits.Refused: for a model that is not supported, tensors that do not fit the network, or a
            damaged file.
    """
    folder = class_folders.folder_of(folder).absolute()
    if class_folders.is_shipped(folder):
        params, digest = shipped_models.read_params(folder)
        return ClassModel(folder.name, shipped_models.read_config(folder), params, {}, digest)
    entry = folders.find(folder / kind_of(folder).part)
    config = _config(folder, entry.module)
    params = {"params": folders.read(entry)}
    return ClassModel(folder.name, config, params, classes_of(folder), model_index.fingerprint(folder))


def config_of(folder: str | pathlib.Path) -> ConfigDict:
    """The config of a published model's folder; the weights are not read.

    Raises:
        as `load`.
    """
    folder = class_folders.folder_of(folder).absolute()
    if class_folders.is_shipped(folder):
        return shipped_models.read_config(folder)
    return _config(folder, folders.find(folder / kind_of(folder).part).module)


def _config(folder: pathlib.Path, module: Any) -> ConfigDict:
    """The config of a run that has this network, and samples as the folder's scheduler says."""
    kind = kind_of(folder)
    if not isinstance(module, kind.network):
        raise Refusal(
            f"{folder}: a pipeline of this class needs a network of the class {kind.network.__name__}, but this one "
            f"is a {type(module).__name__}."
        )
    config = defaults()
    config.model = entry_of(module)
    config.data.shape = shape = _shape(folder / kind.part, module)
    config.data.name = folder.name
    if kind.latents:
        if not (folder / "vae").is_dir():
            raise FileNotFoundError(f"{folder / 'vae'} does not exist, but the autoencoder in it decodes the samples.")
        config.data.latents.update({"dir": str(folder / "latents"), "autoencoder": str(folder / "vae")})
    usual = model_index.read_usual(folder, kind.usual)
    config.sample.update({"steps": usual.steps, "number": 8, "batch_size": 8})
    config.sample.guidance.scale = float(usual.guidance)
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = opener.read_table(path)
    with naming(path):
        entries = _consistency(scheduler) if kind.consistency else _tabulated(scheduler, kind, module, shape)
    for name in ("schedule", "parameterization", "objective"):
        config[name] = entries[name]
    config.sample.sampler, config.sample.grid = entries["sampler"], entries["grid"]
    if (described := checks.validate(config).network) != module:
        raise Refusal(f"{folder}: its network, {module}, cannot be described by a config of this library: {described}.")
    return values.from_json(values.to_json(config))  # without references, like the config in a run folder


def entry_of(module: nn.Module) -> dict[str, Any]:
    """The entry of a network in a config: its name, and the fields that differ from their defaults."""
    names = {network: name for name, network in MODELS.items()}
    fields = type(module).__dataclass_fields__.values()
    stated = {field.name: getattr(module, field.name) for field in fields if field.name not in SUPPLIED}
    differ = {field.name for field in fields if stated.get(field.name) != field.default}
    return {"name": names[type(module)], **{name: value for name, value in stated.items() if name in differ}}


def classes_of(folder: str | pathlib.Path) -> dict[str, int]:
    """{word: number of its class}, from id2label in model_index.json, such as {"207": "golden retriever, goldie"}."""
    if class_folders.is_shipped(folder):
        return {}
    path = pathlib.Path(folder).expanduser() / INDEX
    stated = opener.read_table(path).get("id2label") or {}
    if not isinstance(stated, Mapping) or not all(
        re.fullmatch("[0-9]{1,9}", key) and isinstance(words, str) for key, words in stated.items()
    ):
        raise Refusal(
            f"{path}: id2label = {limits.short(stated)}. Valid: the words of each class by its number, such as "
            '{"207": "golden retriever, goldie"}.'
        )
    return {word.strip(): int(key) for key, words in stated.items() for word in words.split(",")}


def _shape(folder: pathlib.Path, module: Any) -> tuple[int, ...]:
    """The shape of an example, from the network or from sample_size in its config.json."""
    if isinstance(module, DiT) and module.shape is not None:
        return module.shape
    table = opener.read_table(folder / "config.json")
    schema.check({"sample_size": SIDES}, table, str(folder / "config.json"))
    stated = table.get("sample_size")
    if stated is None:
        raise Refusal(f"{folder / 'config.json'}: sample_size, the side of the pictures, is missing.")
    sides = (stated, stated) if isinstance(stated, int) else tuple(stated)
    return (*sides, module.in_channels)


def _tabulated(scheduler: Mapping[str, Any], kind: Kind, module: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """The entries of a run's config for a process that is a table of betas."""
    fields = Fields("scheduler", {"_class_name": scheduler.get("_class_name", "")})
    fields.only("_class_name", "DDPMScheduler", "DDIMScheduler")
    process = schedulers.read(scheduler)
    options, T = process.fields, process.T
    solver = kind.solver or process.sampler
    if solver == "ddim" and options["set_alpha_to_one"] is False:
        raise Refusal("DDIMScheduler: set_alpha_to_one = False is not supported here; supported: True.")
    grid = {"name": options["timestep_spacing"] or "leading", "T": T}
    if grid["name"] == "leading":
        grid["offset"] = options["steps_offset"]
    variance = options["variance_type"] or "fixed_small"
    sampler: dict[str, Any] = {"name": solver}
    if solver == "ddpm":
        variances = {"fixed_small_log": "small", "learned_range": "learned"}
        sampler["variance"] = variances.get(variance, variance.removeprefix("fixed_"))
    if options["clip_sample"] is not False:  # both have it by default
        sampler = {"name": "clipped", "sampler": sampler, "largest": options["clip_sample_range"]}
    predicts = {"name": PARAMETERIZATIONS[process.prediction], "clock": {"name": "steps", "T": T}}
    objective: dict[str, Any] = {"name": "denoising", "density": {"name": "discrete_density", "T": T}}
    outputs = 2 * shape[-1] if getattr(module, "learn_sigma", False) else getattr(module, "out_channels", shape[-1])
    if outputs == 2 * shape[-1]:
        predicts = {"name": "learned_variance", "parameterization": predicts}
        objective |= {"name": "hybrid", "T": T}
    elif process.prediction == "epsilon":
        objective["weighting"] = {"name": "snr"}  # on x0; it equals a constant weight on eps
    if isinstance(module, DiT):
        objective["wrappers"] = ({"name": "condition_dropout", "rate": DROPOUT},)
    entries = {"schedule": process.named, "parameterization": predicts, "objective": objective}
    return entries | {"sampler": sampler, "grid": grid}


def _consistency(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a run's config for a consistency model, as in its authors' code (Song et al. 2023)."""
    fields = Fields(CONSISTENCY, scheduler, kinds=VALID)
    fields.only("_class_name", CONSISTENCY)
    levels = fields.take("num_train_timesteps", 40)
    ends = {"sigma_min": fields.take("sigma_min", 0.002), "sigma_max": fields.take("sigma_max", 80.0)}
    if not ends["sigma_min"] < ends["sigma_max"]:
        raise Refusal(f"{CONSISTENCY}: sigma_min = {ends['sigma_min']} must be below sigma_max = {ends['sigma_max']}.")
    low = ends["sigma_min"]
    fields.only("s_noise", 1.0)
    sampler: dict[str, Any] = {"name": "consistency", "sigma_min": low}
    if fields.take("clip_denoised", True):
        sampler = {"name": "clipped", "sampler": sampler}
    predicts = {"name": "consistency_boundary", "sigma_data": fields.take("sigma_data", 0.5), "sigma_min": low}
    grid = {"name": "karras_levels", **ends, "rho": fields.take("rho", 7.0), "levels": levels}
    fields.end()
    return {
        "schedule": {"name": "edm", **ends},
        # The network receives 1000 ln(sigma) / 4.
        "parameterization": {**predicts, "clock": {"name": "log_sigma", "scale": 250.0}},
        "objective": {"name": "ct"},
        "sampler": sampler,
        "grid": grid,
    }
