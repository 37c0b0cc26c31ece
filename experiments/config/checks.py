"""What the parts of a config must fit: with each other, with the data, with the files that they name."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion import parameterizations
from diffusion.guidance import Unpaired
from diffusion.metrics import features
from diffusion.training import sharding
from experiments.config import ConfigError, fields, names, plain, resolve, unknown


def validate(config: Mapping, spec: Any = None) -> None:
    """Refuses a config that cannot run, before anything is read or compiled.

    Checks every field by itself, resolves every name, and checks what must fit together.

    Args:
        config: the config.
        spec: of the dataset, once it is known: `shape` (H, W, C) and `num_classes` (0 for none).

    Raises:
        ConfigError: naming the first field at fault, its value and what is valid.
    """
    fields.check(config)
    process = resolve.schedule(config)
    read = resolve.parameterization(config)
    times = resolve.plan(config).t
    resolve.objective(config), resolve.optimizer(config), resolve.augmentations(config), resolve.model(config)
    _check_training(config)
    _check_teacher(config)
    _check_rival(config)
    _check_sampling(config)
    try:
        parameterizations.check(read, process, np.append(times, process.t_max))
    except ValueError as error:
        raise ConfigError(f"config.parameterization, on the times of config.sample: {error}") from error
    shape = config["data"]["shape"] if spec is None else spec.shape
    if shape is not None:
        resolve.check_shape(config, tuple(shape))
    for i, name in enumerate(config["evaluate"]["features"]):
        if name not in features.names():
            raise unknown(f"config.evaluate.features[{i}]", name, features.names(), "features")
    _check_evaluation(config)
    _check_text(config)
    _check_latents(config)
    _check_buckets(config)
    if spec is not None:
        _check_dataset(config, spec)


def _check_training(config: Mapping) -> None:
    train = config["train"]
    devices = math.prod(max(config["mesh"][axis], 1) for axis in sharding.BATCH_AXES)
    parts = max(train["accumulate"], 1) * devices
    if train["batch_size"] % parts:
        raise ConfigError(
            f"config.train.batch_size = {train['batch_size']} does not divide into "
            f"{train['accumulate']} micro-batches (config.train.accumulate) on {devices} "
            f"devices (config.mesh). Valid: a multiple of {parts}."
        )
    rows = train["batch_size"] // max(train["accumulate"], 1)
    for path, block in resolve.blocks(config).items():
        if rows % block:
            raise ConfigError(
                f"{path}.block = {block} does not divide the {rows} examples of a micro-batch. "
                f"Valid: a divisor, e.g. {math.gcd(rows, block)}."
            )
    source = pathlib.Path(config["init_from"]["path"]).expanduser()
    if config["init_from"]["path"] and not source.exists():
        raise ConfigError(f"config.init_from.path = {str(source)!r}: there is no such run folder, checkpoint or file.")


def _check_teacher(config: Mapping) -> None:
    name = config["objective"]["name"]
    path = config["teacher"]["path"]
    if name in names.TAUGHT and not path:
        raise ConfigError(
            f"config.objective.name = {name!r} learns from a teacher: --config.teacher.path=RUN, the "
            "folder of a run whose moving average is to be distilled."
        )
    if path and name not in names.TAUGHT and not resolve.takes(names.OBJECTIVES[name], "teacher"):
        raise ConfigError(
            f"config.teacher.path = {path!r}, but config.objective.name = {name!r} has no use for a "
            f'teacher. Valid: "" here; a run to start from is config.init_from.path.'
        )
    if path and not pathlib.Path(path).expanduser().is_dir():
        raise ConfigError(f"config.teacher.path = {path!r}: there is no such run folder.")
    scale = config["teacher"]["scale"]
    pairs = config["teacher"]["pairs"]["number"]
    if scale != 1:
        if not path or name in names.TOLD_STRENGTH:
            raise ConfigError(
                f"config.teacher.scale = {scale}, but config.objective.name = {name!r} "
                f"{'guides its teacher itself' if path else 'has no teacher'}. Valid: 1."
            )
        if config["teacher"]["parameterization"]["name"] == "learned_variance":
            raise ConfigError(
                f"config.teacher.scale = {scale} guides what the teacher puts out, of which a learned "
                "variance is a part. Valid: 1."
            )
    if scale != 1 or name in names.TOLD_STRENGTH:
        resolve.required_null(config)  # says why there is no guidance without a condition
    if (name in names.PAIRED) != (pairs > 0):
        raise ConfigError(
            f"config.teacher.pairs.number = {pairs}, but config.objective.name = {name!r} "
            + ("learns from pairs. Valid: e.g. 10000." if pairs == 0 else "learns from none. Valid: 0.")
        )
    resolve.pair_sampler(config)
    if pairs and (config["data"]["augment"] or resolve.sizes(config)):
        raise ConfigError(
            f"config.teacher.pairs.number = {pairs}: pairs are neither augmented nor of several sizes. "
            "Valid: config.data.augment = () and config.data.buckets.area = 0."
        )
    _check_stages(config)


def _check_stages(config: Mapping) -> None:
    stage = resolve.stage(config)
    steps = config["train"]["steps"]
    if stage is None:
        return
    N = config["objective"]["N"]
    most = stage * N.bit_length()  # N, N / 2, .. 1
    if steps > most:
        raise ConfigError(
            f"config.train.steps = {steps}, but config.objective halves N = {N} to 1 in stages of "
            f"{stage} steps, which are {most}. Valid: at most that."
        )
    if config["ema"]["sigma_rel"]:
        raise ConfigError(
            f"config.ema.sigma_rel = {config['ema']['sigma_rel']} averages a run as a whole, and "
            f"config.objective.stage = {stage} begins anew with each stage. Valid: 0."
        )


def _check_rival(config: Mapping) -> None:
    name = config["objective"]["name"]
    rival = config["rival"]["objective"]
    updates = config["rival"]["updates"]
    wanted = names.SECOND.get(name, ("", ""))[0]
    if rival.get("name") != wanted:
        valid = f'{{"name": "{wanted}", ...}}, which it plays with' if wanted else '{"name": ""}: it has one player'
        raise ConfigError(
            f"config.rival.objective.name = {rival.get('name')!r}, but config.objective.name = {name!r}. "
            f"Valid: {valid}."
        )
    if not wanted:
        if updates != 1:
            raise ConfigError(
                f"config.rival.updates = {updates}, but config.objective.name = {name!r} has no rival. Valid: 1."
            )
        return
    resolve.rival(config), resolve.rival_optimizer(config)
    if config["train"]["log_every"] % updates:
        raise ConfigError(
            f"config.train.log_every = {config['train']['log_every']}, but the model acts at every "
            f"{updates}-th step alone (config.rival.updates). Valid: a multiple of {updates}."
        )


def _check_sampling(config: Mapping) -> None:
    scale = config["sample"]["guidance"]["scale"]
    guided = resolve.guidance(config, lambda x, t: None)  # checks its arguments
    name = config["objective"]["name"]
    walks = resolve.sampler(config)
    if (name in names.FLOW_MAPS) != walks.of_flow_maps:
        words = (
            "trains a flow map. Valid: flow_map, consistency or tcd"
            if name in names.FLOW_MAPS
            else "trains a denoiser, which samplers of flow maps do not take. Valid: e.g. heun or dpmpp_2m"
        )
        raise ConfigError(
            f"config.sample.sampler.name = {config['sample']['sampler']['name']!r}, but "
            f"config.objective.name = {name!r} {words}."
        )
    imitated = name in names.TOLD_STRENGTH
    if imitated:  # its w is the scale less one
        low, high = (1 + w for w in config["objective"].get("guidance", (2.0, 14.0)))
        if not low <= scale <= high:
            raise ConfigError(
                f"config.sample.guidance.scale = {scale}, but config.objective.guidance trains the "
                f"network for scales of {low:g} to {high:g}. Valid: one of them."
            )
    elif walks.of_flow_maps and scale != 1:
        raise ConfigError(
            f"config.sample.guidance.scale = {scale}, but a flow map is guided while it is trained, not "
            "when it is sampled. Valid: 1."
        )
    if isinstance(guided, Unpaired) and scale != 1 and not walks.reads_both:
        raise ConfigError(
            f"config.sample.guidance.name = {config['sample']['guidance']['name']!r} needs a sampler "
            'that reads x0 and eps as they are. Valid: {"name": "ddim"}.'
        )
    if scale != 1 and not imitated:
        resolve.required_null(config)
        if config["objective"].get("condition_dropout", 0.0) == 0:
            raise ConfigError(
                f"config.sample.guidance.scale = {scale}, but config.objective.condition_dropout = 0: "
                "the network never sees the null class. Valid: a scale of 1, or a dropout of e.g. 0.1."
            )
    solver = config["sample"]["sampler"]
    if solver["name"] == "ddpm" and solver.get("variance") == "learned":
        predicts = config["parameterization"]["name"]
        if predicts != "learned_variance":
            raise ConfigError(
                f'config.sample.sampler.variance = "learned", but config.parameterization.name = '
                f'{predicts!r} predicts none. Valid: "small" or "large".'
            )
    coupling = config["objective"].get("coupling", {}).get("name", "independent")
    if coupling != "independent" and walks.draws:
        raise ConfigError(
            f"config.sample.sampler = {plain(solver)!r} adds noise by the score, which a network trained "
            f"with config.objective.coupling.name = {coupling!r} does not know. Valid: a deterministic "
            "sampler, e.g. euler, heun or dpmpp_2m."
        )


def _check_evaluation(config: Mapping) -> None:
    settings = config["evaluate"]
    best = config["checkpoint"]["best"]
    if "inception" in settings["features"] and not pathlib.Path(settings["inception"]).expanduser().is_file():
        raise ConfigError(
            f'config.evaluate.features has "inception", but config.evaluate.inception = '
            f"{settings['inception']!r} is no file. Valid: a file of FID's Inception-v3; "
            "docs/evaluation.md says where to get it."
        )
    if best:
        figures = [f"fd_{name}{suffix}" for name in settings["features"] for suffix in ("", "_over_floor")]
        if best not in figures:
            raise unknown("config.checkpoint.best", best, figures, "figure")
        if settings["every"] == 0:
            raise ConfigError(
                f"config.checkpoint.best = {best!r}, but config.evaluate.every = 0: nothing is evaluated "
                "in the loop. Valid: the steps between two evaluations, e.g. 1000."
            )


def _check_latents(config: Mapping) -> None:
    data = config["data"]
    if not data["latents"]["dir"]:
        if data["latents"]["autoencoder"]:
            raise ConfigError(
                f"config.data.latents.autoencoder = {data['latents']['autoencoder']!r}, but "
                "config.data.latents.dir = '': there are no latents that it could have made. Write them "
                "by python -m experiments.encode."
            )
        return
    if data["augment"]:
        raise ConfigError(
            f"config.data.augment = {plain(data['augment'])!r} changes pictures, and "
            f"config.data.latents.dir = {data['latents']['dir']!r} holds latents. Valid: (); "
            "experiments.encode --flip keeps those of mirrored pictures."
        )
    if config["evaluate"]["every"] and not data["latents"]["autoencoder"]:
        raise ConfigError(
            f"config.evaluate.every = {config['evaluate']['every']}, but samples of latents are no "
            "pictures. Valid: 0, or config.data.latents.autoencoder = the folder of the autoencoder."
        )


def _check_text(config: Mapping) -> None:
    name = config["model"]["name"]
    objective = config["objective"]["name"]
    text = config["data"]["text"]
    mine = names.TRAINED_BY.get(name)
    if mine not in (None, objective) or (mine is None and objective in names.TRAINED_BY.values()):
        pairs = ", ".join(f"{network} with {own}" for network, own in names.TRAINED_BY.items())
        raise ConfigError(
            f"config.objective.name = {objective!r} does not train config.model.name = {name!r}. Valid: "
            f"{pairs}; the other objectives with the other networks."
        )
    field, _ = names.TOLD_TEXT.get(name, ("", ()))
    for other in text:
        if text[other] and other != field:
            raise ConfigError(
                f"config.data.text.{other} = {text[other]!r}, which config.model.name = {name!r} is not "
                f"told. Valid: '' here{f', and config.data.text.{field}' if field else ''}."
            )
    if (field or mine) and config["evaluate"]["every"]:
        raise ConfigError(
            f"config.evaluate.every = {config['evaluate']['every']}, but config.model.name = {name!r} "
            "makes no samples of classes that the loop could evaluate. Valid: 0."
        )
    if field and config["data"]["buckets"]["area"]:
        raise ConfigError(
            f"config.data.buckets.area = {config['data']['buckets']['area']}, but config.model.name = "
            f"{name!r} is told text, which comes with pictures of one size. Valid: 0."
        )
    told = resolve.null(config)
    if field == "dir" and told["text"].shape[-1] != config["model"]["text_width"]:
        raise ConfigError(
            f"config.model.text_width = {config['model']['text_width']}, but the captions in "
            f"{text['dir']} have {told['text'].shape[-1]} features. Valid: that."
        )
    if field == "tokenizer":
        tower = config["model"]["text"]
        ids = int(told["ids"].max()) + 1
        length = len(told["ids"])
        if tower["vocabulary"] < ids or tower["positions"] < length:
            raise ConfigError(
                f"config.model.text has vocabulary = {tower['vocabulary']} and positions = "
                f"{tower['positions']}, but {text['tokenizer']} has {ids} ids and texts of {length}. "
                "Valid: at least these."
            )


def _check_buckets(config: Mapping) -> None:
    sizes = resolve.sizes(config)
    data = config["data"]
    name = config["model"]["name"]
    if not sizes:
        return
    on = f"config.data.buckets.area = {data['buckets']['area']}"
    if data["latents"]["dir"]:
        raise ConfigError(
            f"{on}, but config.data.latents.dir = {data['latents']['dir']!r} holds latents of one size. "
            "Valid: an area of 0, or pictures."
        )
    if data["damaged"] == "skip":
        raise ConfigError(f'{on}, but config.data.damaged = "skip": a damaged picture has no size. Valid: "stop".')
    if name in names.ONE_SIZE:
        raise ConfigError(
            f"{on}, but config.model.name = {name!r} learns the positions of one size. Valid: an area of "
            f"0, or one of {', '.join(sorted(names.MODELS.keys() - {*names.ONE_SIZE}))}."
        )
    shape = data["shape"]
    if shape is None or len(shape) != 3 or tuple(shape[:2]) not in sizes:
        raise ConfigError(
            f"config.data.shape = {shape if shape is None else tuple(shape)}, but {on} needs the shape "
            "of the samples. Valid: (height, width, channels) of a size out of "
            f"{', '.join(f'{h} x {w}' for h, w in sizes)}."
        )
    for size in sizes:  # patches and halvings
        resolve.model(config, (*size, shape[-1]))


def _check_dataset(config: Mapping, spec: Any) -> None:
    if config["data"]["shape"] is not None and tuple(config["data"]["shape"]) != tuple(spec.shape):
        raise ConfigError(
            f"config.data.shape = {tuple(config['data']['shape'])}, but {config['data']['name']} holds "
            f"examples of shape {tuple(spec.shape)}. Valid: that, or None."
        )
    classes = config["model"].get("num_classes", 0)
    if classes not in (0, spec.num_classes):
        raise ConfigError(
            f"config.model.num_classes = {classes}, but {config['data']['name']} has {spec.num_classes} "
            f"classes. Valid: {spec.num_classes}, or 0 for an unconditional model."
        )
    if "classifier" in config["evaluate"]["features"] and not spec.num_classes:
        raise ConfigError(
            f'config.evaluate.features has "classifier", but {config["data"]["name"]} has no classes to '
            f"train one on. Valid: {', '.join(sorted(names.FEATURES.keys() - {'classifier'}))}."
        )
