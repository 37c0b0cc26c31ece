"""Samples of a trained network, as its config describes them; training and `diffusion sample` share this code."""

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

from diffusion import guidance, parameterizations, samplers, sampling
from diffusion.arrays import padding, pytrees
from diffusion.data import pipeline
from diffusion.data.sources.streams import Stream
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.sampling import autoencoder_folders, symbol_samples
from diffusion.flows import flow_maps
from diffusion.io import npy, npz
from diffusion.models import facts
from diffusion.models.layers import conditions, layout
from diffusion.objectives import Jumps, Moves, Restores, projectors
from diffusion.parameterizations import Parameterization
from diffusion.recipe import ConfigError, data, guides, names
from diffusion.recipe.recipe import Recipe
from diffusion.sampling import editing
from diffusion.sampling.watermarks import Watermark
from diffusion.schedules import NoiseSchedule
from diffusion.training import sharding
from diffusion.training.step import HEADS, conditioned

TRAJECTORIES = 32  # number of trajectories from which a plan is chosen
SEEDS = 1_000_000  # number of samples with the same config.sample.seed


class Generator(NamedTuple):
    """Compiled functions of (params, labels, seeds); for conditions that are no classes, labels are a pytree.

    Attributes:
        images: (params, labels `[N]`, seeds `[N]`, progress) -> uint8 `[N, ...]` for data of bytes, float32
            `[N, D]` for pytrees, and float32 `[N, ...]` for other data. N is any number; the batches have the config's
            size. Image i depends on labels[i] and seeds[i] alone. `progress(done)` is called after each batch.
        trajectory: (params, labels `[B]`, seeds `[B]`) -> (x `[steps + 1, B, ...]`, x0 `[steps, B, ...]`), on the scale
            [-1, 1] of the network's world; None for symbols, and for a driver that does not take the plan's steps.
        nfe: network evaluations of a sample; the branches of a guidance count once. None if the driver decides.
        work: () -> `[2]`, the counts of `caching.Work`, or the numbers of the driver, summed over all batches that this
            generator has made.
        skipped: counts of `work` -> share of the network's blocks that a cache has skipped; None without a cache.
    """

    images: Callable[..., np.ndarray]
    trajectory: Callable[[Any, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None
    nfe: int | None
    work: Callable[[], np.ndarray] = lambda: np.zeros(2, np.int64)
    skipped: Callable[[np.ndarray], float | None] = lambda work: None


def balanced_labels(number: int, num_classes: int) -> np.ndarray:
    """int32 `[number]` labels 0, 1, .., num_classes - 1, 0, 1, ..: class frequencies differ by at most one."""
    return (np.arange(number) % max(num_classes, 1)).astype(np.int32)


def conditions_of(recipe: Recipe, number: int) -> Any:
    """The conditions of `number` samples: all classes in turn, or the conditions of the data's first records.

    A sample that agrees with a measured picture of the data has the class of that picture.

    Returns:
        Classes int32 `[number]`, zeros for an unconditional run; or a pytree of arrays `[number, ...]`, in the form in
        which networks receive conditions.
    """
    if recipe.examples.by_class and (records := _measured_records(recipe)):
        return np.resize(np.array([record["label"] for record in records], np.int32), number)
    if recipe.examples.by_class or recipe.examples.null is None or recipe.receives_text:
        return balanced_labels(number, recipe.examples.num_classes)
    source = data.open_recipe(recipe)
    if isinstance(source, Stream):
        records = source.take(number)
    else:
        records = pipeline.fetch(source, np.arange(number) % len(source))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(record["condition"] for record in records))
    return jax.tree.map(np.asarray, conditioned(stacked))


def classes_of(recipe: Recipe, conditions: Any) -> np.ndarray:
    """The class in each of the conditions, int32 `[number]`; zeros where they have none."""
    if recipe.examples.by_class or recipe.examples.null is None:
        return conditions
    if recipe.examples.num_classes:
        return np.asarray(conditions["label"], np.int32)
    return np.zeros(_number(conditions), np.int32)


def seeds(config: Mapping, number: int) -> np.ndarray:
    """uint32 `[number]` seeds, one for each sample; two values of config.sample.seed share none."""
    return (config["sample"]["seed"] * SEEDS + np.arange(number)).astype(np.uint32)


def keys(seeds: ArrayLike) -> tuple[Array, Array]:
    """(`[N]` keys for the prior, `[N]` keys for `samplers.sample`), each from the seed of its sample."""
    first, rest = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)), out_axes=1)(seeds)
    return first, rest


def denoiser(recipe: Recipe) -> Callable[..., Any]:
    """The guided denoiser of a run for a shape of examples, of (params, labels `[B]`): what `samplers.sample` takes.

    A third argument holds what its guides read: the weights of other runs, by the paths of their fields, and the
    measured pictures `[B, ...]`. Without it the weights are read here, and become constants of the program.

    Raises:
        ConfigError: if the run trains a flow map, which has no denoiser.
    """
    kinds = {Jumps: "a flow map", Moves: "a field on a manifold", Restores: "a predictor of symbols"}
    if trained := kinds.get(type(recipe.objective.reads), ""):
        raise ConfigError(
            f"config.objective.name = {recipe.config.objective.name!r} trains {trained}, but this needs a denoiser."
        )
    for guide in recipe.sampling.guides:
        for run in guide.runs:
            run.check(recipe)
    guided = (
        recipe.sampling.depths
        or recipe.sampling.conditions is not None
        or (recipe.examples.null is not None and recipe.scale != 1 and not recipe.objective.condition.strength)
    )

    def build(params: Any, labels: Array, read: GuidesRead | None = None) -> Any:
        weights, y = read or GuidesRead(guides.weights(recipe.sampling.guides), None)
        if y is None and any(guide.measured for guide in recipe.sampling.guides):
            raise ConfigError("config.sample.guides reads measured pictures, which only diffusion sample measures.")
        rows = guides.Rows(y, recipe.examples.shape)
        real = real_of(recipe, labels)
        network = lambda x, clock, condition, **more: recipe.network.apply(params, x, clock, condition, **more)
        return sampling.denoiser(
            network if real is None else padding.network(network, real),
            recipe.schedule,
            recipe.parameterization,
            (received_condition(recipe, labels),),
            recipe.sampling.guidance if guided else None,
            functools.partial(_branches, recipe, params),
            changes=[
                lambda denoise, by=guide: by.apply(denoise, weights, labels, rows) for guide in recipe.sampling.guides
            ],
            cache=recipe.sampling.cache,
            merge=recipe.sampling.merge,
        )

    return build


def _branches(
    recipe: Recipe,
    params: Any,
    network: Callable,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    conditions: tuple[Any],
) -> guidance.Branches:
    """The branches that a run's guidance combines; `conditions` has one entry, the condition."""
    (condition,) = conditions
    if recipe.sampling.depths:
        # `fits.check` refuses this guidance without an early prediction.
        assert recipe.objective.blocks.early is not None
        name, layer = recipe.objective.blocks.early
        head = recipe.objective.heads[name].apply
        early = lambda h, shape: projectors.untokens(head(params[HEADS][name], h, shape), shape)
        return guidance.depth_branches(network, schedule, parameterization, condition, layer, early)
    null = None if recipe.examples.null is None else recipe.examples.null_condition(_number(condition))
    if null is not None and real_of(recipe, condition) is not None:
        null = {**null, "real": condition["real"]}
    both = (condition, null)
    if recipe.sampling.conditions is not None:
        both = recipe.sampling.conditions(recipe.network, *both)
    if len(both) == 1:
        return guidance.separately(parameterizations.denoiser(network, schedule, parameterization, *both))
    return guidance.together(network, schedule, parameterization, both)


def side_by_side(
    recipe: Recipe, params: Any, sources: Array, targets: Array, until: float, layers: Sequence[int] | None = None
) -> Any:
    """The guided denoiser of `[2 B, ...]` examples of classes and of the edits to others; `editing.prompt_to_prompt`.

    Args:
        recipe: the recipe of the run.
        params: the parameters of its network.
        sources: classes of the pictures, `[B]`.
        targets: classes of their edits, `[B]`.
        until: the t below which each edit has its own maps of attention.
        layers: the layers that borrow the maps of the source before that; None for all.

    Raises:
        ConfigError: for a network or a guidance that does not support this, or a layer that the network lacks.
    """
    network = recipe.network
    if "borrow" not in facts.layer_masks(network) or not recipe.examples.by_class:
        valid = ", ".join(sorted(name for name, other in names.MODELS.items() if "borrow" in facts.layer_masks(other)))
        raise ConfigError(
            f"config.model.name = {recipe.config.model.name!r} has no layers that can use the attention maps of "
            f"another example, or it has no classes. Valid: one of {valid}, with classes."
        )
    if recipe.sampling.conditions is not None or recipe.sampling.guides:
        raise ConfigError(
            "config.sample.guidance, config.sample.guides: examples side by side support only classifier_free."
        )
    layers = range(network.depth) if layers is None else layers
    if outside := [layer for layer in layers if layer not in range(network.depth)]:
        raise ConfigError(f"layers = {tuple(layers)} has {outside[0]}. Valid: 0 .. {network.depth - 1}.")
    both = lambda first, second: editing.borrowing(first, second, network.depth, layers)
    null = recipe.examples.null_condition(len(sources))

    def make(apply: Callable) -> Any:
        edits = both(sources, targets)
        to = (apply, recipe.schedule, recipe.parameterization)
        if recipe.scale == 1:
            return sampling.denoiser(*to, (edits,))
        return sampling.denoiser(*to, (edits, both(null, null)), recipe.sampling.guidance)

    return editing.prompt_to_prompt(make, lambda *inputs: network.apply(params, *inputs), until)


class GuidesRead(NamedTuple):
    """The weights and pictures that the guides of a run read, see `denoiser`."""

    weights: dict[str, Any]
    y: Any


def measured_pictures(recipe: Recipe) -> np.ndarray | None:
    """The measurements of the pictures `config.sample.measurement.pictures`, `[K, ...]`; None without any.

    Raises:
        ConfigError: for pictures that are not there, or of another shape than the run's.
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
    """The records whose pictures are measured, in the order of the samples; () where a file holds the pictures."""
    measured = recipe.sampling.measured
    if measured is None or measured.pictures.endswith((".npz", ".npy")):
        return ()
    source = data.source(recipe.config, measured.pictures)
    return pipeline.fetch(source, np.arange(min(recipe.config.sample.number, len(source))))


def flow_map(recipe: Recipe, reads: Jumps) -> Callable[[Any, Array], flow_maps.FlowMap]:
    """The flow map of a run, by its objective, (params, labels `[B]`) -> (x_t, t, s) -> x_s."""

    def build(params: Any, labels: Array) -> flow_maps.FlowMap:
        network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
        return reads.flow_map(network, recipe.schedule, condition=received_condition(recipe, labels))

    return build


def received_condition(recipe: Recipe, labels: Any) -> Any:
    """The condition as the network of a run receives it: with the scale and the interval of guidance that are inputs.

    Args:
        recipe: the recipe of the run.
        labels: classes `[B]`, or conditions, a pytree of arrays `[B, ...]`.
    """
    condition = labels if recipe.examples.null is not None else None
    received = recipe.objective.condition
    if not received.strength:
        return condition
    chosen, interval = recipe.config.sample.guidance, None
    if received.interval:
        interval = jnp.asarray(chosen.interval or (0.0, recipe.schedule.t_max), jnp.float32)
        interval = jnp.tile(interval, (_number(labels), 1))
    return conditions.with_strength(condition, jnp.full(_number(labels), chosen.scale, jnp.float32), interval)


def tangent_field(recipe: Recipe, reads: Moves) -> Callable[[Any, Array], Any]:
    """The field of a run on a manifold, by its objective, (params, labels `[B]`) -> `manifolds.TangentField`."""

    def build(params: Any, labels: Array) -> Any:
        network = lambda x, clock, condition: recipe.network.apply(params, x, clock, condition)
        condition = labels if recipe.examples.null is not None else None
        return reads.field(network, recipe.schedule, condition=condition)

    return build


def build_for_sampler(recipe: Recipe) -> Callable[[Any, Array], Any]:
    """`flow_map`, `tangent_field` or `denoiser`: the one that the recipe's sampler takes."""
    reads = recipe.objective.reads
    if isinstance(reads, Moves):
        return tangent_field(recipe, reads)
    if isinstance(reads, Jumps) and flow_maps.FlowMap in recipe.sampling.sampler.takes:
        return flow_map(recipe, reads)
    return denoiser(recipe)


def check_plain(recipe: Recipe, condition: Any) -> None:
    """Refuses a guidance or a cache with which the recipe's denoiser is not a function of x and t alone.

    Args:
        recipe: the recipe of the run.
        condition: the condition of one example, as its network receives it.

    Raises:
        ConfigError: if the recipe has one; the message names both fields.
    """
    if isinstance(denoiser(recipe)(None, condition), (guidance.Memory, guidance.Unpaired)):
        sample = recipe.config.sample
        raise ConfigError(
            f"config.sample.guidance.name = {sample.guidance.name!r}, config.sample.cache.name = "
            f"{sample.cache.name!r}: this needs a plain denoiser. Valid: e.g. classifier_free, without a cache."
        )


def check_given_frames(recipe: Recipe, condition: Any) -> None:
    """Refuses a sampler, a guidance or a cache that cannot continue given frames; arguments as `check_plain`.

    Raises:
        ConfigError: naming the field.
    """
    if recipe.sampling.sampler.frames:
        raise ConfigError("config.sample.sampler: given frames already rest. Valid: any sampler except per_frame.")
    if not isinstance(recipe.objective.reads, Jumps):
        check_plain(recipe, condition)


def on_trained_schedule(recipe: Recipe, params: Any) -> Recipe:
    """The recipe under the schedule that its run has trained, from `params`; unchanged if none was trained."""
    if recipe.schedule.trained is None:
        return recipe
    return recipe.with_schedule(recipe.schedule.trained.build(jax.tree.map(np.asarray, params[HEADS]["schedule"])))


def trained(recipe: Recipe, params: Any) -> Recipe:
    """The recipe for samples of a network with these parameters, which may determine its schedule and its plan."""
    recipe = on_trained_schedule(recipe, params)
    if recipe.sampling.chosen_plan is None:
        return recipe
    among, choose = recipe.sampling.chosen_plan
    cache = recipe.sampling.cache
    recipe = recipe.with_parts(cache=None)  # a plan is chosen for the network itself
    conditions = jax.tree.map(jnp.asarray, conditions_of(recipe, TRAJECTORIES))
    first, rest = keys(np.arange(TRAJECTORIES, dtype=np.uint32))
    x = samplers.prior(recipe.schedule, first, recipe.examples.shape)
    denoise = denoiser(recipe)(params, conditions)
    follow = lambda x: samplers.sample_trajectory(samplers.heun(), denoise, recipe.schedule, x, among, rest)[1].x
    return recipe.with_parts(plan=choose(denoise, jax.jit(follow)(x)), chosen_plan=None, cache=cache)


def as_condition(labels: Any) -> Any:
    """Classes `[B]` as int32, or a pytree of conditions, as networks receive them."""
    return jax.tree.map(jnp.asarray, labels) if isinstance(labels, Mapping) else jnp.asarray(labels, jnp.int32)


def real_of(recipe: Recipe, condition: Any) -> Array | None:
    """The mask of padding of samples with these conditions, True where x is real; None without padding."""
    return pytrees.real_of(condition, recipe.examples.structure or recipe.examples.shape)


def _number(labels: Any) -> int:
    return jax.tree.leaves(labels)[0].shape[0]


def generator(recipe: Recipe, mesh: Mesh | None = None, watermark: Watermark | None = None) -> Generator:
    """Compiles sampler, plan and guidance of a recipe, for a shape of examples, at the first call.

    Where the examples are latents, the samples are decoded to pictures.

    Args:
        mesh: the mesh over which parameters and samples are split; every process then makes the same calls, and
            receives the same images. None for the default device.
        watermark: the watermark of the initial noise, or of the pictures; None for none.

    Raises:
        ConfigError: if the run makes no samples of classes.
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
    """(samples of a batch, rows -> the rows on the devices of their samples); every process has all rows."""
    batch_size = min(config["sample"]["batch_size"], config["sample"]["number"])
    if mesh is None:
        return batch_size, lambda rows: rows
    shards = sharding.batch_shards(mesh)
    batch_size = -(-batch_size // shards) * shards
    held = sharding.positions(batch_size, mesh)
    return batch_size, lambda rows: sharding.to_devices(jax.tree.map(lambda a: a[held], rows), mesh, batch_size)


def _generator_of_symbols(recipe: Recipe, reads: Restores, mesh: Mesh | None) -> Generator:
    """The `generator` of a run on symbols, whose samples are int32 `[N, ...]`."""
    make = symbol_samples.sampled(recipe, reads)
    batch_size, batch = _batches_on(recipe.config, mesh)

    def finish(params, labels, seeds):
        with layout.over(mesh) if mesh is not None else contextlib.nullcontext():
            return make(params, labels, keys(seeds))

    finish = jax.jit(finish, out_shardings=None if mesh is None else NamedSharding(mesh, PartitionSpec()))

    def samples(params, labels, seeds, progress=lambda done: None):
        return sampling.in_batches(
            lambda rows: (finish(params, *batch(rows)), None), (labels, seeds), batch_size, progress
        )[0]

    return Generator(samples, None, symbol_samples.evaluations(recipe))


def _decoding(recipe: Recipe) -> tuple[Any, Callable[[Any, Any, Array], Array]]:
    """The decoder of samples: the autoencoder that trained with the model, a frozen one, or the identity.

    Returns:
        (parameters of the frozen autoencoder, (model's parameters, these, x `[B, ...]`) -> examples).
    """
    autoencoder = recipe.companions.autoencoder
    if autoencoder is not None:
        return (), lambda params, decoder, x: autoencoder.decode(params, x)
    decoder, decode = autoencoder_folders.decoding(recipe.config)
    return decoder, lambda params, decoder, x: decode(decoder, x)


def build_generator(recipe: Recipe, mesh: Mesh | None = None, watermark: Watermark | None = None) -> Generator:
    """The `generator` of any run that makes pictures; its labels are conditions, of prompts too."""
    config = recipe.config
    schedule = recipe.schedule
    sampler = recipe.sampling.sampler
    plan = recipe.sampling.plan
    network = build_for_sampler(recipe)
    if isinstance(recipe.sampling.driver, guides.Steered) and watermark is not None and watermark.carrier == "noise":
        raise ConfigError(
            f"config.sample.driver.name = {config.sample.driver.name!r} chooses its own noise, which cannot carry a "
            "watermark. Valid: the driver sample, or a watermark of pictures."
        )
    reads = {"weights": guides.weights(recipe.sampling.guides)} if recipe.sampling.guides else {}
    pictures = measured_pictures(recipe)
    decoder, shown = _decoding(recipe)
    batch_size, batch = _batches_on(config, mesh)
    if mesh is not None:
        decoder, reads = jax.device_put((decoder, reads), NamedSharding(mesh, PartitionSpec()))

    def sampled(drive, params, reads, labels, seeds):
        first, rest = keys(seeds)
        labels, y = labels
        read = (GuidesRead(reads["weights"], y),) if reads else ()
        output = recipe.objective.reads
        if isinstance(output, Moves):
            x = output.prior.sample(first)
        else:
            x = samplers.prior(schedule, first, recipe.examples.shape)
        x = sampling.marked(watermark, "noise", x, first, schedule)
        real = real_of(recipe, labels)
        on_real = sampler if real is None else samplers.padded(sampler, real)
        return drive(
            sampler=on_real, denoise=network(params, labels, *read), schedule=schedule, x=x, plan=plan, keys=rest
        )

    def finish(params, decoder, reads, labels, seeds):
        with layout.over(mesh) if mesh is not None else contextlib.nullcontext():
            driver = recipe.sampling.driver
            if isinstance(driver, guides.Steered):
                driver = driver.reading(labels[0], guides.Rows(labels[1], recipe.examples.shape))
            drive = functools.partial(sampling.samples, driver=driver)
            x, work = sampled(drive, params, reads, labels, seeds)
            x = shown(params, decoder, x)
            return to_uint8(x) if recipe.makes_bytes else x, work

    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    finish = jax.jit(finish, out_shardings=everywhere)
    done: np.ndarray = np.zeros(2, np.int64)
    watch = jax.jit(lambda *arguments: sampled(samplers.sample_trajectory, *arguments)[1], out_shardings=everywhere)
    shown_steps = lambda params, decoder, steps: jax.lax.map(lambda x: shown(params, decoder, x), steps)
    show = jax.jit(shown_steps, out_shardings=everywhere)

    def with_pictures(labels, seeds):
        """The labels, and the measured picture of each sample: picture i for the i-th seed of config.sample.seed."""
        return labels, None if pictures is None else pictures[np.asarray(seeds) % SEEDS % len(pictures)]

    def images(params, labels, seeds, progress=lambda done: None):
        if (real := real_of(recipe, labels)) is not None:
            padding.check(real, jax.ShapeDtypeStruct((len(seeds), *recipe.examples.shape), np.float32))
        nonlocal done  # the sums of `Generator.work` so far
        one_batch = lambda rows: finish(params, decoder, reads, *batch(rows))
        images, work = sampling.in_batches(one_batch, (with_pictures(labels, seeds), seeds), batch_size, progress)
        done = done + work
        return sampling.marked(watermark, "pictures", images)

    def trajectory(params, labels, seeds):
        steps = watch(params, reads, with_pictures(labels, seeds), seeds)
        return np.asarray(show(params, decoder, steps.x)), np.asarray(show(params, decoder, steps.x0))

    skipped = lambda work: sampling.skipped(work, recipe.network, sampler, plan)
    if not recipe.sampling.follows_plan:
        return Generator(images, None, None, lambda: done)
    return Generator(images, trajectory, sampler.nfe(plan.solved), lambda: done, skipped)
