"""The samples of a run in its folder, in the number and format of its recipe; continues when interrupted.

`sample_weights` makes the samples of a published model of classes in the same way.
"""

import contextlib
import functools
import json
import pathlib
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import diffusion
from diffusion import sampling
from diffusion.arrays import pytrees
from diffusion.discrete import SymbolSampler
from diffusion.experiments.evaluation import plots, sample_pictures
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import averages, batches_on_disk, generate, symbol_samples
from diffusion.io import files, json_files
from diffusion.io.content_credentials import Signer
from diffusion.io.leaf_names import checksum, leaves_of
from diffusion.models import quantised as storage
from diffusion.objectives import Denoises
from diffusion.recipe import ConfigError, as_config_errors, data, guides, steering_drivers
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import config_hash, plain
from diffusion.sampling.watermarks import Watermark
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import agreement, progress
from diffusion.training.step import conditioned


def sample(
    recipe: Recipe,
    folder: str | pathlib.Path,
    out: str | pathlib.Path | None = None,
    labels: Any = None,
    step: int | None = None,
    weights: str = "ema",
    average: float | None = None,
    watermark: Watermark | None = None,
    signer: Signer | None = None,
    quantised: str = "",
    infill: str = "",
) -> Any:
    """Makes config.sample.number samples of a run, and writes them with the pictures that show them.

    Args:
        recipe: the recipe of the run, for a shape of examples.
        folder: the run folder.
        out: the folder to write to; the run folder if None.
        labels: the classes, int `[number]`, or the conditions, a pytree `[number, ...]` in the records' form. None for
            all classes in turn, or the conditions of the first records.
        step: the step of the checkpoint; None for the latest.
        weights: "ema" for the moving average, or "params" for the raw parameters.
        average: the width, as a fraction of the training, of a moving average that is computed from all stored
            checkpoints; only for a run with config.ema.sigma_rel. None for the average of one checkpoint.
        watermark: the watermark of the samples; None for none.
        signer: the signer of content credentials for the PNG files; None for none.
        quantised: "int8" or "fp8", the type in which the network's kernels are stored; "" for full precision.
        infill: a text whose underscores the samples of a run on characters fill in; "" for none.

    Returns:
        The samples, uint8 `[N, ...]` for a run on bytes, else float32 `[N, ...]`; a pytree of arrays for pytrees.

    Raises:
        ConfigError: if the run makes no samples of classes, or `out` is the folder of another run.
        WorkdirError, CheckpointError: if there is no checkpoint, or nothing can be written.
    """
    if recipe.examples.shape is None:
        raise ConfigError("the recipe does not know the shape of the samples. Valid: sample(recipe.at(shape), folder).")
    if average is not None and weights != "ema":
        raise ConfigError(
            f"--average={average} is a moving average, and --weights={weights} names the raw parameters. Valid: one of "
            "the two flags."
        )
    workdir.require_no_other_run(out or folder, folder)
    description: dict[str, Any] = {"weights": weights}
    if average is not None:
        params, step, description = averages.post_hoc(folder, recipe.config.ema.get("sigma_rel", 0.0), average, step)
    else:
        load = checkpoints.load_ema if weights == "ema" else checkpoints.load_params
        params, step = load(folder, step)
    _warn_of_stage(recipe, step)
    if infill:
        recipe = symbol_samples.infilled(recipe, infill, data.open_recipe(recipe).spec.vocabulary)
        description = {**description, "infill": infill}
    leaves = checkpoints.read_about(folder, step)["leaves"]
    name = pathlib.Path(folder).resolve().name
    made_by = Weights(params, name, f"step {step}", {"step": step, **description}, leaves)
    names = data.class_names(recipe)
    return sample_weights(recipe, made_by, out or folder, labels, watermark, signer, quantised, names)


def _warn_of_stage(recipe: Recipe, step: int) -> None:
    """Warns of fewer sampling steps than those of the student at `step`, in a training that halves them in stages."""
    objective, asked = recipe.objective, recipe.config.sample.steps
    stages = objective.teacher and objective.teacher.stages
    if not stages or not isinstance(objective.reads, Denoises):
        return
    trained = stages.sampling_steps[min(max(step - 1, 0) // stages.length, len(stages.sampling_steps) - 1)]
    if asked < trained:
        end = stages.length * len(stages.sampling_steps)
        warnings.warn(
            f"the student of step {step} was trained for {trained} sampling steps, not for config.sample.steps = "
            f"{asked}. Use --config.sample.steps={trained}; the student of one step is that of step {end}.",
            stacklevel=3,
        )


class Weights(NamedTuple):
    """The parameters that samples are made with.

    Attributes:
        params: the parameters, as in `recipe.network.apply`.
        model: the name of the folder of the run or of the published model.
        version: the version of the weights in words, such as "step 400".
        description: the version of the weights, for samples.json.
        identity: a JSON value that identifies the content of the parameters.
    """

    params: Any
    model: str
    version: str
    description: dict[str, Any]
    identity: Any


def sample_weights(
    recipe: Recipe,
    weights: Weights,
    out: str | pathlib.Path,
    labels: Any = None,
    watermark: Watermark | None = None,
    signer: Signer | None = None,
    quantised: str = "",
    classes: Sequence[str] = (),
) -> Any:
    """Makes and writes samples with these parameters, as `sample` does for a run; errors as in `sample`.

    Args:
        recipe: the recipe, for a shape of examples.
        weights: the parameters.
        out: the folder to write to.
        classes: the names of the classes, by their numbers; () for the numbers.
        labels, watermark, signer, quantised: the conditions, the watermark, the signer and the type of the kernels, as
            in `sample`.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with batches_on_disk.held(out) if jax.process_index() == 0 else contextlib.nullcontext():
        config = recipe.config
        params, description = _stored(recipe, weights, watermark, quantised)
        number = config.sample.number
        by_records = labels is None  # the conditions come from the data's first records
        labels = generate.conditions_of(recipe, number) if by_records else jax.tree.map(np.asarray, conditioned(labels))
        seeds = generate.seeds(config, number)
        params, mesh = sharding.on_local_devices(params)
        recipe = generate.trained(recipe, params)
        make = generate.generator(recipe, mesh, watermark)
        began = time.perf_counter()
        key = batches_on_disk.key(config, weights.identity, json.dumps(description), labels, seeds)
        unfinished = out / f".samples-{key}"
        batch_size = min(config.sample.batch_size, number)
        share = (jax.process_index(), jax.process_count())
        make_images = functools.partial(
            batches_on_disk.images, make.images, params, labels, seeds, batch_size, unfinished, work=make.work
        )
        with progress.bar("sampling", number, recipe.unit(of_samples=True), speaks=share[0] == 0) as advance:
            images = make_images(advance, share)
        agreement.gather("samples made")  # waits until each process has made its share

        def finish():
            all_images = images if share[1] == 1 else make_images(lambda done: None)
            seconds = time.perf_counter() - began
            work = batches_on_disk.work(unfinished)
            try:
                counted = _counted(recipe, make, work)
            except ValueError as error:
                batches_on_disk.clear(out)
                raise ConfigError(str(error)) from error
            skipped = make.skipped(work)
            record = _record(recipe, make.nfe, skipped, description)
            record |= {"conditions": batches_on_disk.digest(labels)} | counted
            shown = _write(out, recipe, make, params, all_images, labels, by_records, seeds, record, classes)
            if signer is not None:
                _sign(shown, signer, record | {"model": weights.model, "weights": description}, params)
            evaluations = f"{make.nfe} network evaluations" if make.nfe else "as many evaluations as the driver needs"
            if skipped is not None:
                evaluations += f" with {100 * skipped:.1f} % of their blocks skipped,"
            print(
                f"{number} {'images' if recipe.makes_pictures else 'samples'} in {seconds:.1f} s "
                f"({number / seconds:.1f} a second, {evaluations} each) from {weights.version}: "
                f"{', '.join(map(str, shown))}"
            )

        agreement.first(finish)
    return pytrees.unpack(images, recipe.examples.structure) if recipe.examples.structure is not None else images


def _stored(recipe: Recipe, weights: Weights, watermark: Watermark | None, quantised: str) -> tuple[Any, dict]:
    """The parameters, stored in 8 bits if requested, and their description with the watermark and this type."""
    params, description = weights.params, dict(weights.description)
    if watermark is not None:
        _check_watermark(watermark, recipe)
        description["watermark"] = watermark.identity
    if quantised:
        params = storage.quantised(weights.params, quantised)
        description["quantised"] = quantised
        print(f"{quantised}: {storage.stored(weights.params, params)}")
    return params, description


def _counted(recipe: Recipe, make: generate.Generator, work: np.ndarray) -> dict[str, Any]:
    """The counts of all batches, for samples.json: the numbers of a driver, and the samples that are not finite.

    Raises:
        ValueError: if a number of the driver is not finite, or no sample is.
    """
    config, record = recipe.config, {}
    costs, infinite = work[:2], int(work[2])
    if make.nfe is None and costs.any():
        batch_size = min(config.sample.batch_size, config.sample.number)
        means = _means_of_driver(recipe, costs / -(-config.sample.number // batch_size))
        record[means.title] = means._asdict()
        print(means.sentence())
    generate.check_finite(config, config.sample.number, infinite)
    return record | ({"not_finite": infinite} if infinite else {})


def _sign(shown: Sequence[pathlib.Path], signer: Signer, made_by: Mapping[str, Any], params: Any) -> None:
    """Signs the PNG files among those that show the samples."""
    made_by = {**made_by, "checkpoint": checksum(params)}
    with as_config_errors():
        for path in (path for path in shown if path.suffix == ".png"):
            signer.sign(path, made_by, diffusion.__version__)


def _means_of_driver(recipe: Recipe, means: np.ndarray) -> Any:
    """The numbers of a driver of particles or trials, as means over the batches, which must be finite."""
    driver = recipe.sampling.driver
    numbers = (driver.numbers if isinstance(driver, guides.Steered) else steering_drivers.Weighed)(*means.tolist())
    if not np.isfinite(numbers).all():
        raise ConfigError(
            f"config.sample.driver: the numbers of the {numbers.title} are {numbers._asdict()}, {numbers.undefined}."
        )
    return numbers


def _check_watermark(watermark: Watermark, recipe: Recipe) -> None:
    """Refuses a watermark that the samples of a run cannot carry, before anything is compiled."""
    if isinstance(recipe.sampling.sampler, SymbolSampler):
        raise ConfigError(f"--watermark: {watermark.identity} is for numbers, but this run makes symbols.")
    if watermark.carrier == "pictures" and not (recipe.makes_pictures and recipe.makes_bytes):
        raise ConfigError(f"--watermark: {watermark.identity} is for pictures, but this run makes none.")
    if watermark.carrier == "pictures" and recipe.on_latents:
        return  # the decoder decides the size of the pictures
    draws = recipe.sampling.sampler.draws > 0 or (
        recipe.sampling.plan is not None and bool(np.any(recipe.sampling.plan.renoise))
    )
    try:
        watermark.check_readable(draws, False)
        watermark.read(np.zeros((1, *recipe.examples.shape)))
        if watermark.carrier == "pictures":
            sampling.marked(watermark, "pictures", np.zeros((1, *recipe.examples.shape), np.uint8))
        else:
            embed = functools.partial(sampling.marked, watermark, "noise")
            jax.eval_shape(embed, np.zeros((1, *recipe.examples.shape), np.float32), jax.random.key(0)[None])
    except ValueError as error:
        raise ConfigError(f"--watermark: {error}") from error


def _record(recipe, nfe, skipped, checkpoint) -> dict[str, Any]:
    """The settings of the samples, for samples.json."""
    return {
        "checkpoint": checkpoint,
        "sample": plain(recipe.config.sample),
        "nfe": nfe,
        "blocks_skipped": skipped,
        "config": config_hash(recipe.config),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "device": jax.devices()[0].device_kind,
        "command": workdir.command("diffusion sample"),
    }


def _write(out, recipe, make, params, images, labels, from_records, seeds, record, names) -> list[pathlib.Path]:
    """Writes samples.npz, samples.json and the figures, and removes the batches; returns the files to look at."""
    arrays = {"images": images, "labels": generate.classes_of(recipe, labels), "seeds": seeds}
    if recipe.examples.structure is not None:
        arrays |= leaves_of({"images": pytrees.unpack(images, recipe.examples.structure)})
        del arrays["images"]
    if recipe.examples.by_record:
        arrays |= leaves_of({"condition": labels})
    with files.atomic(out / "samples.npz") as file:
        np.savez(file, **arrays)  # compression would take 20 times as long, and save about 8 %
        (out / "samples.json").unlink(missing_ok=True)  # a kill must not leave new samples under earlier settings
    json_files.write(out / "samples.json", record)
    batches_on_disk.clear(out)
    classes = arrays["labels"]
    drawn = sample_pictures.draw(sample_pictures.Samples(recipe, images, labels, classes, from_records, out))
    if drawn is not None:
        return [out / "samples.npz", *drawn]
    plots.sample_grid(images, classes, out / "samples.png", classes=names)
    if make.trajectory is None:
        (out / "trajectory.png").unlink(missing_ok=True)  # it would show earlier samples
        print(f"no trajectory.png: the driver {recipe.config.sample.driver.name!r} does not show its steps")
        return [out / "samples.npz", out / "samples.png"]
    first = np.unique(classes, return_index=True)[1][:10]
    x, x0 = make.trajectory(params, jax.tree.map(lambda leaf: leaf[first], labels), seeds[first])
    plots.trajectory(x, x0, recipe.sampling.plan.grid, classes[first], out / "trajectory.png", classes=names)
    return [out / "samples.npz", out / "samples.png", out / "trajectory.png"]
