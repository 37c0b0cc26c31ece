"""The parts that change a run's denoiser during sampling: guides in their order, second runs, and measured pictures."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import parameterizations
from diffusion.guidance import LogProbability
from diffusion.guidance.measurements import Measurement
from diffusion.io import limits, opener
from diffusion.models import facts
from diffusion.objectives import Denoises, rewards
from diffusion.parameterizations import Denoiser
from diffusion.recipe import kinds, names, steering_drivers, versions
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import annotation, call, takes
from diffusion.recipe.values import plain
from diffusion.training.checkpointing import checkpoints


class SecondRun(NamedTuple):
    """A trained run whose network a guide reads beside the run's own.

    Attributes:
        path: the path of the config's field.
        folder: the run folder.
        step: the step of its checkpoint.
        recipe: the parts of that run's recipe, and its config.
        reads: (recipe, params, condition) -> what the guide's argument receives.
    """

    path: str
    folder: pathlib.Path
    step: int
    recipe: Any
    reads: Callable[[Any, Any, Any], Any]

    def check(self, ours: Any) -> None:
        """Refuses a run of another process, of other classes, or of examples of another shape, where that is known.

        Raises:
            ConfigError: naming the field, both values and what is valid.
        """
        theirs = self.recipe.config
        named = f"{self.path} = {str(self.folder)!r}"
        if plain(theirs.schedule) != plain(ours.config.schedule):
            raise ConfigError(
                f"{named} has config.schedule = {plain(theirs.schedule)}. Valid: a run with the schedule "
                f"{plain(ours.config.schedule)}."
            )
        theirs_on, ours_on = (plain(config.objective).get("process") for config in (theirs, ours.config))
        if (self.recipe.objective.process is None) != (ours.objective.process is None) or theirs_on != ours_on:
            raise ConfigError(f"{named} has config.objective.process = {theirs_on}. Valid: a run with {ours_on}.")
        if self.recipe.schedule.trained is not None:
            raise ConfigError(f"{named} has a trained schedule. Valid: a run with a fixed schedule.")
        classes = self.recipe.examples.num_classes
        if classes not in (0, ours.examples.num_classes):
            valid = f"a run with {ours.examples.num_classes}, or none"
            raise ConfigError(f"{named} has {classes} classes. Valid: {valid}.")
        shapes = [tuple(recipe.examples.shape) for recipe in (self.recipe, ours) if recipe.examples.shape is not None]
        if len(set(shapes)) > 1:
            raise ConfigError(
                f"{named} was trained on examples of shape {shapes[0]}. Valid: a run on examples of shape {shapes[1]}."
            )


def denoiser_of(recipe: Any, params: Any, condition: Any) -> Denoiser:
    """The denoiser of a second run, given the condition if its data have one.

    Args:
        recipe: the parts of that run's recipe.
        params: parameters of its network.
        condition: the condition of B samples, leaves [B, ...].
    """
    network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
    its_own = condition if recipe.examples.null is not None else None
    return parameterizations.denoiser(network, recipe.schedule, recipe.parameterization, its_own)


class Guide(NamedTuple):
    """A function of the guided denoiser, or of the guided predictor of symbols, by its entry.

    Attributes:
        apply: (denoiser or predictor, weights by path, condition, y) -> the changed denoiser or predictor.
        runs: the second runs whose weights the guide reads.
        measured: whether the guide reads the measured pictures y.
        on_trial: a denoiser -> the changed denoiser, with stand-ins for everything that the guide reads.
    """

    apply: Callable[..., Any]
    runs: tuple[SecondRun, ...]
    measured: bool
    on_trial: Callable[[Denoiser], Any]


def guide_of(function: Any) -> Guide:
    """The guide of a function from the guided denoiser, or predictor, to another; a guide is returned unchanged.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(function, Guide):
        return function
    if not callable(function):
        raise ValueError(f"a guide is {function!r}. Valid: a function from the guided denoiser to another denoiser")
    return Guide(lambda denoise, weights, condition, y: function(denoise), (), False, function)


class Measured(NamedTuple):
    """Measurements of pictures, with which samples must agree.

    Attributes:
        build: a function from the shape of an example to the measurement.
        pictures: the pictures that are measured: a split of the run's data, or a .npz or .npy file.
        noise_std: the standard deviation of the measurement's noise.
    """

    build: Callable[[tuple[int, ...]], Measurement]
    pictures: str
    noise_std: float

    @property
    def from_file(self) -> bool:
        """Whether the pictures are in a separate file."""
        return self.pictures.endswith((".npz", ".npy"))


def measured(config: Mapping) -> Measured | None:
    """The measured pictures `config.sample.measurement`; None without an operator.

    Raises:
        ConfigError: for a run on latents, or an operator without pictures.
    """
    settings = config["sample"]["measurement"]
    path = "config.sample.measurement"
    if not settings["operator"].get("name"):
        return None
    if config["data"]["latents"]["dir"] or config["autoencoder"]["network"].get("name"):
        raise ConfigError(
            f"{path}.operator: an operator measures pictures, but this run is on latents. Valid: a run on pictures."
        )
    if not settings["pictures"]:
        raise ConfigError(f"{path}.pictures = ''. Valid: a split of the data, e.g. 'test', or a .npz or .npy file.")

    def build(shape):
        mask = lambda spec, at: kinds.build("mask", spec, at, shape=shape)
        return kinds.build("measurement", settings["operator"], f"{path}.operator", {"mask": mask})

    return Measured(build, settings["pictures"], settings["noise_std"])


def build_guides(parts: Any) -> tuple[Guide, ...]:
    """The functions that change the guided denoiser, `config.sample.guides`, in their order.

    Args:
        parts: the builder of the run's parts.

    Raises:
        ConfigError: for an entry that is wrong, or a second run that cannot be read.
    """
    entries = plain(parts.config["sample"]["guides"])
    return tuple(_guide(parts, entry, f"config.sample.guides[{i}]") for i, entry in enumerate(entries))


def _guide(parts: Any, entry: Any, path: str) -> Guide:
    """The guide that an entry names; a guide of a run on symbols takes its predictor as `predict`."""
    schedule, process, measured, shape = parts.schedule, parts.objective.process, parts.measured, parts.shape
    function = names.GUIDES.get(entry.get("name", "")) if isinstance(entry, dict) else None
    guided = "denoise" if process is None else "predict"
    if not takes(function, guided):
        valid = "e.g. symbol_classifier" if process is not None else "e.g. classifier or autoguidance"
        what = "a denoiser" if process is not None else "a predictor of symbols"
        raise ConfigError(f"{path}: {entry['name']} guides {what}, which this run does not train. Valid: {valid}.")
    read: dict[str, Any] = {}
    for argument in entry if function else ():
        reads = READS.get(annotation(function, argument))
        if reads is not None and argument != "denoise":
            read[argument] = _second_run(parts, entry[argument], f"{path}.{argument}", reads)
    needs = [argument for argument in ("measurement", "y", "log_likelihood") if function and takes(function, argument)]
    if needs and measured is None:
        raise ConfigError(
            f"{path}: {entry['name']} needs measured pictures, but config.sample.measurement.operator.name = ''. "
            f"Valid: {', '.join(names.MEASUREMENTS)}."
        )

    def build(denoise: Any, condition: Any, nested: Mapping[str, Callable[..., Any]], **readings: Any) -> Any:
        supplied = {guided: denoise, "schedule": schedule, "process": process, "condition": condition}
        return kinds.build("guide", entry, path, nested, **supplied, **readings)

    def apply(denoise: Any, weights: Mapping[str, Any], condition: Any, y: Any) -> Any:
        readings: dict[str, Any] = {}
        nested: dict[str, Callable[..., Any]] = {
            argument: lambda _, at, run=run: run.reads(run.recipe, weights[at], condition)
            for argument, run in read.items()
        }
        if needs and measured is not None:
            readings, likelihood = _readings(measured, y)
            nested["log_likelihood"] = lambda spec, at: likelihood(spec=spec, path=at)
            if "log_likelihood" in needs and "log_likelihood" not in entry:
                readings["log_likelihood"] = likelihood(spec=_usual(measured), path=f"{path}.log_likelihood")
        return build(denoise, condition, nested, **readings)

    def on_trial(denoise: Denoiser) -> Any:
        if not read:
            y = Rows(jnp.zeros((1, *(shape or (8, 8, 1)))), shape or (8, 8, 1)) if needs else None
            return apply(denoise, {}, None, y)
        return build(denoise, None, {argument: lambda _, at: stand_in for argument in read})

    on_trial(stand_in)  # checks the arguments before anything is read
    return Guide(apply, tuple(read.values()), bool(needs), on_trial)


def stand_in(x: Any, t: Any) -> parameterizations.Prediction:
    """A denoiser for trials."""
    return parameterizations.Prediction(x, x)


def _readings(measured: Measured, y: "Rows") -> tuple[dict[str, Any], Callable[..., Any]]:
    """The arguments that measured pictures provide, and a function (spec=, path=) -> the likelihood of an entry."""
    operator = measured.build(tuple(y.like))
    noise = {"noise_std": measured.noise_std} if measured.noise_std else {}
    likelihood = functools.partial(kinds.build, "likelihood", operator=operator.forward, y=y.rows, **noise)
    return {"measurement": operator, "y": y.rows, "noise_std": measured.noise_std}, likelihood


def _usual(measured: Measured) -> dict[str, str]:
    """The default entry of the likelihood, for a config without one."""
    return {"name": "gaussian_likelihood" if measured.noise_std else "negative_distance"}


class Steered(NamedTuple):
    """A driver of `steering_drivers`, which reads measured pictures, a reward, or a product of densities.

    Attributes:
        drive: (condition, y, **arguments of `samplers.sample`) -> x at the end of the plan, or (x, numbers about it).
        measured: the measured pictures that the driver reads; None if it reads none.
        numbers: the class of the two numbers that the driver returns for a batch, e.g. `steering_drivers.Weighed`.
    """

    drive: Callable[..., Any]
    measured: Measured | None
    numbers: type = steering_drivers.Weighed

    def reading(self, condition: Any, y: "Rows") -> Callable[..., Any]:
        """The driver for samples of these conditions and measured pictures."""
        return functools.partial(self.drive, condition, y)

    def on_trial(self, shape: tuple[int, ...] | None) -> tuple[Callable[..., Any], tuple[int, ...]]:
        """The driver for one sample without a condition, whose measured picture is zeros, and the sample's shape."""
        shape = tuple(shape or (8, 8, 1))
        zeros = jnp.zeros((1, *shape))
        rows = zeros if self.measured is None else self.measured.build(shape).forward(zeros)
        return self.reading(None, Rows(rows, shape)), shape


def steered(entry: Mapping, measured: Measured | None) -> Steered | None:
    """The driver of `config.sample.driver`, if it is one of `steering_drivers`; None for a driver that takes x alone.

    Raises:
        ConfigError: if the driver needs measured pictures or a reward, and the config has none.
    """
    path = "config.sample.driver"
    function = names.DRIVERS.get(entry.get("name", ""))
    if takes(function, "x"):
        return None
    needs = [argument for argument in ("measurement", "log_reward") if takes(function, argument)]
    if needs and measured is None and ("measurement" in needs or "log_reward" not in entry):
        other = "" if "measurement" in needs else f", or a reward, {path}.log_reward: {', '.join(names.REWARDS)}"
        raise ConfigError(
            f"{path}: {entry['name']} needs measured pictures, but config.sample.measurement.operator.name = ''. "
            f"Valid: {', '.join(names.MEASUREMENTS)}{other}."
        )

    def drive(condition: Any, y: Rows, **arguments: Any) -> Any:
        def reward_of(spec: Any, at: str) -> Callable[..., Any]:
            reward = kinds.build("reward", spec, at)
            if not callable(reward):
                raise ConfigError(f"{at}: this reward reads captions, which samples of classes lack.")
            return lambda x: rewards.rewarded(cast(rewards.Reward, reward), x, condition)

        readings: dict[str, Any] = {}
        if measured is not None:
            readings, likelihood = _readings(measured, y)
            if "log_reward" not in entry:
                readings["log_reward"] = likelihood(spec=_usual(measured), path=f"{path}.log_reward")
        driver = call(names.DRIVERS, entry, path, "driver", nested={"log_reward": reward_of}, **readings)
        try:
            return driver(**arguments)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error

    numbers = getattr(function, "numbers", steering_drivers.Weighed)
    return Steered(drive, measured if needs and "log_reward" not in entry else None, numbers)


class Rows(NamedTuple):
    """The measurements of a batch, one row for each sample, and the shape `like` of the unmeasured pictures."""

    rows: Any
    like: tuple[int, ...]


def _second_run(parts: Any, value: Any, path: str, reads: "Reads") -> SecondRun:
    """The run that a guide's argument names, a folder or {"run": FOLDER, "step": STEP}."""
    value = {"run": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("run"), str) or value.keys() - {"run", "step"}:
        raise ConfigError(
            f"{path} = {value!r}. Valid: the folder of a run, or {{'run': FOLDER, 'step': STEP}} for an earlier one of "
            "its checkpoints."
        )
    folder = pathlib.Path(value["run"]).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{path} = {str(folder)!r} holds no run. Valid: the folder of a run.")
    try:
        theirs = versions.read(opener.read_text(folder / "config.json"))
    except limits.Refused as error:
        raise ConfigError(f"{path} = {str(folder)!r}: {error}") from error
    recipe = parts.second_run(theirs)
    saved_steps = checkpoints.steps(folder)
    step = value.get("step", theirs.train.steps)
    if step not in saved_steps:
        why = f"it has no checkpoint of step {step}" if "step" in value else f"it has not reached its step {step}"
        valid = f"{{'run': ..., 'step': {saved_steps[-1]}}}" if saved_steps else "a run that has a checkpoint"
        raise ConfigError(f"{path} = {str(folder)!r}: {why}. Valid: {valid}.")
    reads.check(recipe, f"{path} = {str(folder)!r}")
    return SecondRun(path, folder, step, recipe, reads.read)


class Reads(NamedTuple):
    """How a guide's argument of a type reads a second run."""

    read: Callable[[Any, Any, Any], Any]  # (recipe, params, condition) -> the argument
    check: Callable[[Any, str], None]  # refuses a run whose objective does not fit


def _check_denoises(recipe: Any, named: str) -> None:
    if not isinstance(recipe.objective.reads, Denoises) or facts.text_inputs(recipe.network) is not None:
        raise ConfigError(
            f"{named}: config.objective.name = {recipe.config.objective.name!r} does not train a class-conditional "
            "denoiser. Valid: a run that does, e.g. flow_matching or denoising."
        )


def _check_judges(recipe: Any, named: str) -> None:
    if recipe.objective.network.judges is None:
        raise ConfigError(
            f"{named}: config.objective.name = {recipe.config.objective.name!r} does not train a classifier. Valid: a "
            "run that does, e.g. noisy_classification."
        )


def judge_of(recipe: Any, params: Any, condition: Any) -> LogProbability:
    """(x_t, t) -> log p(y | x_t), by the classifier that a second run trained.

    Args:
        recipe: the parts of that run's recipe.
        params: parameters of its network.
        condition: the classes y of B samples, leaves [B, ...].
    """
    network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
    return recipe.objective.network.judges(network, recipe.schedule, condition)


READS = {Denoiser: Reads(denoiser_of, _check_denoises), LogProbability: Reads(judge_of, _check_judges)}


def weights(guides: tuple[Guide, ...]) -> dict[str, Any]:
    """The moving averages of the second runs' parameters, by the paths of the config's fields."""
    return {run.path: checkpoints.load_ema(run.folder, run.step)[0] for guide in guides for run in guide.runs}


def measure(measured: Measured, pictures: np.ndarray, seed: int) -> np.ndarray:
    """The measurements y = A x_0 + noise_std z of pictures.

    Args:
        measured: the operator A and noise_std.
        pictures: the pictures x_0 `[K, ...]`, on the network's scale.
        seed: seed of z, which depends only on the seed and on the picture's number.
    """
    y = measured.build(pictures.shape[1:]).forward(jnp.asarray(pictures))
    keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(seed), k))(jnp.arange(len(y)))
    z = jax.vmap(lambda key: jax.random.normal(key, y.shape[1:], y.dtype))(keys)
    return np.asarray(y + measured.noise_std * z)
