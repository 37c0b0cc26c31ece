"""Samples from a trained network with the settings of its config; training and `diffusion sample` use this code."""

__all__ = [
    "SEEDS",
    "TRAJECTORIES",
    "Generator",
    "as_condition",
    "balanced_labels",
    "build_generator",
    "check_finite",
    "checked_images",
    "classes_of",
    "conditions_of",
    "generator",
    "keys",
    "measured_pictures",
    "on_trained_schedule",
    "seeds",
    "trained",
]

import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from diffusion import samplers, sampling
from diffusion.arrays import padding
from diffusion.data import pipeline
from diffusion.data.sources.streams import Stream
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.sampling import autoencoder_folders, run_denoiser, symbol_samples
from diffusion.io import npy, npz
from diffusion.models.layers import layout
from diffusion.objectives import Moves, Restores
from diffusion.package import public
from diffusion.recipe import ConfigError, data, guides
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import blamed_on, plain
from diffusion.sampling.caching.remembered_calls import EnclosedCall
from diffusion.sampling.watermarks import Watermark
from diffusion.training import sharding
from diffusion.training.step import HEADS, conditioned

TRAJECTORIES = 32  # trajectories from which a plan is chosen
SEEDS = 1_000_000  # samples that one value of config.sample.seed can number


class Generator(NamedTuple):
    """Compiled functions of (params, labels, seeds); conditions other than classes are a pytree in place of labels.

    Attributes:
        images: (params, labels `[N]`, seeds `[N]`, progress) -> uint8 `[N, ...]` for data of bytes, float32
            `[N, D]` for pytrees, and float32 `[N, ...]` for other data. N is any number; batches have the size in the
            config. Image i depends only on labels[i] and seeds[i]. `progress(done)` is called after each batch.
        trajectory: (params, labels `[B]`, seeds `[B]`) -> (x `[steps + 1, B, ...]`, x0 `[steps, B, ...]`), scaled to
            [-1, 1] like the network's input; None for symbols, and for a driver that does not take the plan's steps.
        nfe: the network evaluations of a sample; the branches of a guidance count once. None if the driver decides.
        work: () -> `[3]`, summed over all batches so far: the two counts of `caching.Work` or of the driver, and the
            number of samples that are not finite.
        skipped: (result of `work`) -> the share of the network's blocks that a cache has skipped; None without a cache.
    """

    images: Callable[..., np.ndarray]
    trajectory: Callable[[Any, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None
    nfe: int | None
    work: Callable[[], np.ndarray] = lambda: np.zeros(3, np.int64)
    skipped: Callable[[np.ndarray], float | None] = lambda work: None


def balanced_labels(number: int, num_classes: int) -> np.ndarray:
    """int32 `[number]` labels 0, 1, .., num_classes - 1, 0, 1, ..: class frequencies differ by at most one."""
    return (np.arange(number) % max(num_classes, 1)).astype(np.int32)


def conditions_of(recipe: Recipe, number: int) -> Any:
    """The conditions of `number` samples: all classes in turn, or the conditions of the data's first records.

    If the samples must agree with measured pictures of the data, each has the class of its picture.

    Returns:
        Classes int32 `[number]`, zeros for an unconditional run; or a pytree of arrays `[number, ...]`, in the form in
        which networks receive conditions.
    """
    if recipe.examples.by_class and (records := _measured_records(recipe)):
        return np.resize(np.array([record["label"] for record in records], np.int32), number)
    if not recipe.examples.by_record or recipe.receives_text:
        return balanced_labels(number, recipe.examples.num_classes)
    source = data.open_recipe(recipe)
    if isinstance(source, Stream):
        records = source.take(number)
    else:
        records = pipeline.fetch(source, np.arange(number) % len(source))
    return jax.tree.map(np.asarray, conditioned(pipeline.stacked_conditions(records)["condition"]))


def classes_of(recipe: Recipe, conditions: Any) -> np.ndarray:
    """The class in each condition, int32 `[number]`; zeros without classes."""
    if not recipe.examples.by_record:
        return conditions
    if recipe.examples.num_classes:
        return np.asarray(conditions["label"], np.int32)
    return np.zeros(run_denoiser.number_of(conditions), np.int32)


def seeds(config: Mapping, number: int) -> np.ndarray:
    """The seeds of the samples, uint32 `[number]`; different values of config.sample.seed have no seed in common."""
    return (config["sample"]["seed"] * SEEDS + np.arange(number)).astype(np.uint32)


def keys(seeds: ArrayLike) -> tuple[Array, Array]:
    """(keys `[N]` for the prior, keys `[N]` for `samplers.sample`); each key comes from the seed of its sample."""
    first, rest = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(seeds)
    return first, rest


def measured_pictures(recipe: Recipe) -> np.ndarray | None:
    """The measurements of the pictures in config.sample.measurement.pictures, `[K, ...]`; None if it names none.

    Raises:
        ConfigError: for pictures that cannot be read, or have another shape or type than the run's.
    """
    if recipe.sampling.measured is None:
        return None
    if records := _measured_records(recipe):
        pictures = np.stack([record["image"] for record in records])
    else:
        path = pathlib.Path(recipe.sampling.measured.pictures).expanduser()
        try:
            pictures = npz.load(path, ("images",))["images"] if path.suffix == ".npz" else np.array(npy.mapped(path))
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"config.sample.measurement.pictures = {str(path)!r}: {error}") from error
    if pictures.shape[1:] != recipe.examples.shape or pictures.dtype != np.uint8 or not len(pictures):
        raise ConfigError(
            f"config.sample.measurement.pictures = {recipe.sampling.measured.pictures!r} holds {pictures.dtype} "
            f"{list(pictures.shape)}. Valid: uint8 {['K', *recipe.examples.shape]}."
        )
    few = pictures[: recipe.config.sample.number]
    return guides.measure(recipe.sampling.measured, np.asarray(to_model(jnp.asarray(few))), recipe.config.seed)


def _measured_records(recipe: Recipe) -> Sequence[Any]:
    """The records whose pictures are measured, in the order of the samples; () if a file holds the pictures."""
    measured = recipe.sampling.measured
    if measured is None or measured.from_file:
        return ()
    try:
        source = data.source(recipe.config, measured.pictures)
    except ConfigError as error:
        raise ConfigError(f"config.sample.measurement.pictures = {measured.pictures!r}: {error}") from error
    return pipeline.fetch(source, np.arange(min(recipe.config.sample.number, len(source))))


def on_trained_schedule(recipe: Recipe, params: Any) -> Recipe:
    """The recipe with the schedule that its run has trained, from `params`; the same recipe if none was trained."""
    if recipe.schedule.trained is None:
        return recipe
    return recipe.with_schedule(recipe.schedule.trained.build(jax.tree.map(np.asarray, params[HEADS]["schedule"])))


def trained(recipe: Recipe, params: Any) -> Recipe:
    """The recipe for sampling a network with these parameters, which may determine its schedule and its plan."""
    recipe = on_trained_schedule(recipe, params)
    if recipe.sampling.chosen_plan is None:
        return recipe
    among, choose = recipe.sampling.chosen_plan
    cache = recipe.sampling.cache
    recipe = recipe.with_parts(cache=None)  # the plan is chosen without the errors of a cache
    conditions = jax.tree.map(jnp.asarray, conditions_of(recipe, TRAJECTORIES))
    first, rest = keys(np.arange(TRAJECTORIES, dtype=np.uint32))
    x = samplers.prior(recipe.schedule, first, recipe.examples.shape)
    denoise = run_denoiser.denoiser(recipe)(params, conditions)
    follow = lambda x: samplers.sample_trajectory(samplers.heun(), denoise, recipe.schedule, x, among, rest)[1].x
    return recipe.with_parts(plan=choose(denoise, jax.jit(follow)(x)), chosen_plan=None, cache=cache)


def as_condition(labels: Any) -> Any:
    """The conditions in the form in which networks receive them: classes int32 `[B]`, or a pytree of arrays."""
    return jax.tree.map(jnp.asarray, labels) if isinstance(labels, Mapping) else jnp.asarray(labels, jnp.int32)


def generator(recipe: Recipe, mesh: Mesh | None = None, watermark: Watermark | None = None) -> Generator:
    """The sampler, plan and guidance of a recipe as one function, which is compiled at its first call.

    If the examples are latents, the samples are decoded to pictures.

    Args:
        recipe: the recipe, for a shape of examples.
        mesh: the mesh over which parameters and samples are split; every process must then make the same calls, and
            receives the same images. None for the default device.
        watermark: the watermark of the initial noise or of the pictures; None for none.

    Raises:
        ConfigError: if the network of the run makes no samples without a prompt.
    """
    if isinstance(recipe.objective.reads, Restores):
        return _generator_of_symbols(recipe, recipe.objective.reads, mesh)
    if not recipe.makes_samples:
        raise ConfigError(
            f"config.model.name = {recipe.config.model.name!r} makes no samples of classes. To make pictures of "
            "prompts, use a text-to-image model: diffusion sample --model=FOLDER --prompt=..."
        )
    return build_generator(recipe, mesh, watermark)


def _batches_on(config: Mapping, mesh: Mesh | None) -> tuple[int, Callable[[Any], Any]]:
    """How samples are split over a mesh; every process has the rows of all samples.

    Returns:
        (the number of samples in a batch, a function from rows to the same rows on the devices of their samples).
    """
    batch_size = min(config["sample"]["batch_size"], config["sample"]["number"])
    if mesh is None:
        return batch_size, lambda rows: rows
    shards = sharding.batch_shards(mesh)
    batch_size = -(-batch_size // shards) * shards
    held = sharding.positions(batch_size, mesh)
    return batch_size, lambda rows: sharding.to_devices(jax.tree.map(lambda a: a[held], rows), mesh, batch_size)


def _generator_of_symbols(recipe: Recipe, reads: Restores, mesh: Mesh | None) -> Generator:
    """The `generator` of a run on symbols; its samples are int32 `[N, ...]`, -1 where the network returned NaN."""
    make = symbol_samples.sampled(recipe, reads)
    batch_size, batch = _batches_on(recipe.config, mesh)
    weights = guides.weights(recipe.sampling.guides)
    if mesh is not None:
        weights = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))

    def finish(params, weights, labels, seeds):
        with layout.over(mesh) if mesh is not None else contextlib.nullcontext():
            return make(params, weights, labels, keys(seeds))

    finish = jax.jit(finish, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))

    lost = 0  # the samples so far for which the network returned NaN

    def samples(params, labels, seeds, progress=lambda done: None):
        nonlocal lost
        x = sampling.in_batches(
            lambda rows: (finish(params, weights, *batch(rows)), None), (labels, seeds), batch_size, progress
        )[0]
        lost += int((x < 0).reshape(len(x), -1).any(1).sum())
        return x

    return Generator(samples, None, symbol_samples.evaluations(recipe), lambda: np.array([0, 0, lost]))


def _decoding(recipe: Recipe) -> tuple[Any, Callable[[Any, Any, Array], Array]]:
    """The decoder of samples: the autoencoder that trained with the model, a frozen autoencoder, or the identity.

    Returns:
        (the parameters of the frozen autoencoder, a function (the model's parameters, the autoencoder's parameters,
        x `[B, ...]`) -> examples).
    """
    autoencoder = recipe.companions.autoencoder
    if autoencoder is not None:
        return (), lambda params, decoder, x: autoencoder.decode(params, x)
    decoder, decode = autoencoder_folders.decoding(recipe.config)
    return decoder, lambda params, decoder, x: decode(decoder, x)


def _sampled(
    recipe: Recipe,
    network: Callable[..., Any],
    watermark: Watermark | None,
    drive: Callable[..., Any],
    params: Any,
    weights: dict[str, Any],
    labels: Any,
    y: Any,
    seeds: Array,
) -> Any:
    """Runs a driver on a batch, from the noise of its seeds along the plan of the run.

    Args:
        recipe: the recipe of the run.
        network: the denoiser, flow map or field, from `run_denoiser.build_for_sampler`.
        watermark: the watermark of the noise, or None.
        drive: a function of the named arguments of `samplers.sample`.
        params: the parameters of the run's network.
        weights: the parameters of the other runs that guides read.
        labels: the conditions of the batch.
        y: the measured pictures of the batch; None without any.
        seeds: the seeds, uint32 `[B]`.

    Raises:
        ConfigError: if a guide or the guidance evaluates the network where a cache cannot be used.
    """
    schedule, sampler = recipe.schedule, recipe.sampling.sampler
    first, rest = keys(seeds)
    if isinstance(recipe.objective.reads, Moves):
        x = recipe.objective.reads.prior.sample(first)
    else:
        x = samplers.prior(schedule, first, recipe.examples.shape)
    x = sampling.marked(watermark, "noise", x, first, schedule)
    if (real := run_denoiser.real_of(recipe, labels)) is not None:
        sampler = samplers.padded(sampler, real)
    read = (run_denoiser.GuidesRead(weights, y),) if recipe.sampling.guides else ()
    denoise = network(params, labels, *read)
    try:
        return drive(sampler=sampler, denoise=denoise, schedule=schedule, x=x, plan=recipe.sampling.plan, keys=rest)
    except EnclosedCall as error:
        with blamed_on(recipe.config, "sample.cache", "sample.guides", "sample.guidance.name"):
            raise error


def build_generator(recipe: Recipe, mesh: Mesh | None = None, watermark: Watermark | None = None) -> Generator:
    """The `generator` of any run that does not make symbols; its labels may also be the conditions of prompts."""
    config, driver, plan = recipe.config, recipe.sampling.driver, recipe.sampling.plan
    sampled = functools.partial(_sampled, recipe, run_denoiser.build_for_sampler(recipe), watermark)
    steered = isinstance(driver, guides.Steered)
    if steered and watermark is not None and watermark.carrier == "noise":
        raise ConfigError(
            f"config.sample.driver.name = {config.sample.driver.name!r} chooses its own noise, which cannot carry a "
            "watermark. Valid: the driver sample, or a watermark of pictures."
        )
    weights = guides.weights(recipe.sampling.guides)
    measured = measured_pictures(recipe)
    decoder, shown = _decoding(recipe)
    batch_size, batch = _batches_on(config, mesh)
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    if mesh is not None:
        decoder, weights = jax.device_put((decoder, weights), everywhere)
    compiled = functools.partial(jax.jit, out_shardings=everywhere)

    @compiled
    def finish(params, decoder, weights, labels, y, seeds):
        with layout.over(mesh) if mesh is not None else contextlib.nullcontext():
            reading: Any = driver
            if isinstance(driver, guides.Steered):
                reading = driver.reading(labels, guides.Rows(y, recipe.examples.shape))
            drive = functools.partial(sampling.samples, driver=reading)
            x, work = sampled(drive, params, weights, labels, y, seeds)
            if not (recipe.sampling.follows_plan or steered):
                work = None  # this driver's counts mean something else
            x = shown(params, decoder, x)
            return (to_uint8(x) if recipe.makes_bytes else x, sampling.finite(x)), work

    @compiled
    def watch(params, weights, labels, y, seeds):
        return sampled(samplers.sample_trajectory, params, weights, labels, y, seeds)[1]

    @compiled
    def show(params, decoder, steps):
        return jax.lax.map(lambda x: shown(params, decoder, x), steps)

    def pictures_of(seeds):
        """The measured picture of each sample; the i-th seed of config.sample.seed has picture i."""
        return None if measured is None else measured[np.asarray(seeds) % SEEDS % len(measured)]

    done: np.ndarray = np.zeros(3, np.int64)  # the sums of `Generator.work` so far

    def images(params, labels, seeds, progress=lambda done: None):
        nonlocal done
        if (real := run_denoiser.real_of(recipe, labels)) is not None:
            padding.check(real, jax.ShapeDtypeStruct((len(seeds), *recipe.examples.shape), np.float32))
        one_batch = lambda rows: finish(params, decoder, weights, *batch(rows))
        rows = (labels, pictures_of(seeds), seeds)
        (images, finite), work = sampling.in_batches(one_batch, rows, batch_size, progress)
        done = done + [*work, (~finite).sum()]
        return sampling.marked(watermark, "pictures", images)

    def trajectory(params, labels, seeds):
        steps = watch(params, weights, labels, pictures_of(seeds), seeds)
        return np.asarray(show(params, decoder, steps.x)), np.asarray(show(params, decoder, steps.x0))

    if not recipe.sampling.follows_plan:
        return Generator(images, None, None, lambda: done)
    sampler = recipe.sampling.sampler
    skipped = lambda work: sampling.skipped(work[:2], recipe.network, sampler, plan)
    return Generator(images, trajectory, sampler.nfe(plan.solved), lambda: done, skipped)


def check_finite(config: Mapping, number: int, infinite: int) -> None:
    """Warns of samples that are not finite, and names the settings that may cause them.

    Args:
        config: the config of the run.
        number: the number of samples.
        infinite: the number of those that are not finite, from `Generator.work`.

    Raises:
        ValueError: if no sample is finite.
    """
    sample = config["sample"]
    settings = (
        f"config.sample.sampler = {plain(sample['sampler'])}, config.sample.steps = {sample['steps']}, "
        f"config.sample.guidance = {plain(sample['guidance'])} and config.train.dtype = {config['train']['dtype']!r}"
    )
    advice = "more steps, another sampler, a smaller guidance scale, 'float32', or the weights of another step"
    sampling.check_finite(number, infinite, settings, advice)


def checked_images(make: Generator, config: Mapping, *arguments: Any) -> np.ndarray:
    """The result of `Generator.images`, after `check_finite` has looked at it.

    Args:
        make: the generator of the run.
        config: the config of the run.
        *arguments: the arguments of `Generator.images`.

    Raises:
        ValueError: if no sample is finite.
    """
    before = make.work()
    images = make.images(*arguments)
    check_finite(config, len(images), int((make.work() - before)[2]))
    return images


MOVED = (
    "build_for_sampler",
    "check_given_frames",
    "check_plain",
    "denoiser",
    "flow_map",
    "side_by_side",
    "tangent_field",
)
public.declare(__name__, elsewhere=dict.fromkeys(MOVED, "diffusion.experiments.sampling.run_denoiser"))
