"""The program of a recipe: its initial state and its step. A run and the plan of a run use the same program."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion.data import feature_cache
from diffusion.experiments.run import caption_metadata, players
from diffusion.experiments.run.networks import network_of
from diffusion.io import limits
from diffusion.models.budget import peak_memory
from diffusion.models.layers import fp8
from diffusion.models.layers.layout import MeshError
from diffusion.models.network_inputs import inputs
from diffusion.objectives.objective_facts import Head
from diffusion.recipe import ConfigError, picture_sizes
from diffusion.recipe.base import NULL, TunedNetwork
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import blamed_on, built_in_python
from diffusion.training import ema, parallel, sharding, state
from diffusion.training.alternating import Average, Player, alternating, as_train_step
from diffusion.training.stages import staged
from diffusion.training.step import HEADS, make_train_step, seeded


class Program(NamedTuple):
    """The functions and shapes of a run's training."""

    seed: np.uint32  # seed of the parameters and of every draw
    conditional: bool  # whether the batch's "label" is the condition
    average: ema.ExponentialMovingAverage  # the exponential moving average
    # TrainState -> {name: network} for objectives: "model", its average "target", a teacher, a second player.
    networks: Callable[[state.TrainState], dict[str, Callable]]
    init: Callable[..., state.TrainState]  # seed (and the base) -> TrainState; to be compiled by `sharding.create`
    target: state.TrainState  # the shapes of `init(seed)`, jax.ShapeDtypeStruct with shardings
    # Shapes of the batch on the devices: {name: jax.ShapeDtypeStruct [B, ...] with its sharding}. For networks that
    # receive text, the entry "condition" is a dict of such shapes.
    batch: dict[str, Any]
    micro_batches: int  # number of micro-batches of a step
    step: Any  # (TrainState, batch on the devices, seed) -> (TrainState, metrics); compiled, donates the state
    jitted: Any  # the same step under `jax.jit`, which can be traced on any mesh; `step` under "pmap" cannot
    tuned: TunedNetwork | None = None  # the text-to-image model that is tuned; `init` takes its weights
    teacher: Any = None  # the module of the teacher; None without one


def mesh_of(config: ConfigDict, devices: list[Any] | None = None) -> Mesh:
    """The mesh of config.mesh.

    Args:
        config: the config of the run.
        devices: the devices of the mesh; None for all devices.

    Raises:
        ConfigError: if the mesh does not fit the devices, or the batch does not divide over it.
    """
    try:
        mesh = sharding.make_mesh({axis: config.mesh[axis] for axis in sharding.AXES}, devices)
        sharding.check_batch_size(config.train.batch_size, mesh, config.train.accumulate or 1)
    except MeshError as error:
        raise ConfigError(f"config.mesh: {error}") from error
    return mesh


def build(recipe: Recipe, mesh: Mesh) -> Program:
    """Builds the program of a recipe on a mesh; nothing is computed here.

    Args:
        recipe: the recipe, which knows the shape of its examples.
        mesh: the mesh; for a plan, its devices need not exist.

    Raises:
        ConfigError: if the model does not divide over the mesh, or a function that the config names refuses the other
            parts; it has the message of that function.
        ValueError: for such a function in a recipe that was built in Python.
    """
    try:
        return _built(recipe, mesh)
    except MeshError as error:
        raise ConfigError(f"config.mesh: {error}") from error
    except ConfigError:
        raise
    except ValueError as error:
        if built_in_python(recipe.config):
            raise
        raise ConfigError(f"a step of this config cannot be built: {error}") from error


def check_memory(program: Program, what: str) -> None:
    """Refuses a program whose step needs more memory than the device has; the step is traced, but not compiled.

    Args:
        program: the program; only one for a single CPU is measured, since the operating system would end its process
            without a message. A mesh cuts the arrays, and an accelerator's compiler reports its own limit.
        what: the name of a step in the message.

    Raises:
        ConfigError: names the estimate.
    """
    (*devices,) = jax.tree.leaves(program.target)[0].sharding.device_set
    if len(devices) > 1 or devices[0].platform != "cpu":
        return
    trace = jax.make_jaxpr(program.jitted)(program.target, program.batch, program.seed).jaxpr
    advice = "choose smaller examples, e.g. shorter clips, or a smaller config.train.batch_size"
    try:
        peak_memory.check(what, peak_memory.peak(trace), advice)
    except limits.Refused as error:
        raise ConfigError(str(error)) from error


def _built(recipe: Recipe, mesh: Mesh) -> Program:
    """The program of a recipe, see `build`."""
    config = recipe.config
    if config.train.products == "fp8" and (reason := fp8.refusal(mesh.devices.flat[0])):
        raise ConfigError(f"config.train.products = 'fp8': {reason}. Valid here: dtype.")
    cast = players.build_players(recipe)
    objective = recipe.objective
    trained = players.trained_objective(objective, recipe.network)
    density = objective.density
    optimizer = recipe.training.optimizer
    average = recipe.training.average
    second = recipe.companions.second if cast.second else None
    tuned = recipe.companions.tuned
    stages = objective.teacher and objective.teacher.stages

    init = _first_state(recipe, cast)
    number = recipe.micro_batches(mesh, init)
    if number > 1:  # a micro-batch has examples of each device, and a block must lie within one micro-batch
        with blamed_on(config, "train.batch_size", "train.accumulate"):
            objective.check_rows(config.train.batch_size // number, sharding.batch_shards(mesh))
    seed = np.uint32(config.seed)
    unsplit = sharding.WHOLE[config.mesh.split]
    target = sharding.abstract(init, mesh, sharding.RULES, seed, whole=unsplit)

    def make(**engine):
        schedule = recipe.schedule
        engine |= {"accumulate": number, "base": players.BASE if tuned is not None else ""}
        if second:
            theirs = players.trained_objective(second.objective, cast.modules[cast.second])
            turns = {
                cast.second: Player(theirs, cast.second, second.optimizer),
                "model": Player(trained, "model", optimizer, second.updates, density),
            }
            averages = {"target": Average("model", average)}
            engine |= {"heads": cast.heads, "follow": cast.follow}
            step = as_train_step(alternating(turns, cast.apply, schedule, averages, **engine).step)
        else:
            frozen = {name: cast.apply[name] for name in cast.frozen}
            engine |= {"frozen": frozen, "heads": cast.heads, "follow": cast.follow, "buffer": objective.buffer}
            step = make_train_step(trained.loss, cast.apply["model"], schedule, optimizer, average, density, **engine)
        if stages:
            step = staged(step, stages.length, optimizer, average)
        return seeded(step)

    step = parallel.KINDS[config.mesh.kind](make, target, mesh)
    jitted = step if config.mesh.kind == "jit" else parallel.jit(make, target, mesh)
    batch = _batch(recipe, mesh)
    if config.mesh.kind == "jit":  # a mesh that the arrays do not fit is refused before any array is created
        for size in picture_sizes.sizes(config) or (None,):
            image = {"image": _entry(recipe, mesh, (*size, recipe.examples.shape[-1]), np.uint8)} if size else {}
            jax.eval_shape(step, target, batch | image, seed)
    conditional, instructor = recipe.examples.by_class, cast.modules.get("teacher")
    networks = _networks(cast, tuned)
    return Program(seed, conditional, average, networks, init, target, batch, number, step, jitted, tuned, instructor)


def _first_state(recipe: Recipe, cast: players.Players) -> Callable[..., state.TrainState]:
    """The function (seed, weights of the base if the run tunes one) -> TrainState, see `Program.init`."""
    objective, null = recipe.objective, recipe.examples.null
    optimizer, average = recipe.training.optimizer, recipe.training.average
    second, tuned = recipe.companions.second if cast.second else None, recipe.companions.tuned

    @functools.partial(jax.jit, inline=True)  # so that it is traced once for the shapes and for the program
    def init(seed, base=None):
        init_key, _ = jax.random.split(jax.random.key(seed))
        if tuned is not None:
            return _tuned(recipe, tuned, cast.second, init_key, _zeros(recipe, tuned) if base is None else base)
        initial = lambda network, example=recipe.example_shape: network_of(network).init(
            init_key, *inputs(network, example, null)
        )
        model = initial(cast.modules["model"], recipe.examples.shape)
        frozen = {name: initial(cast.modules[name]) for name in cast.frozen if name != players.ENCODER}
        unsaved = {name: initial(cast.modules[name]) for name in cast.frozen if name == players.ENCODER}
        others = {cast.second: (_second(recipe, cast, initial, init_key, frozen), second.optimizer)} if second else {}
        if objective.heads:
            model = {**model, HEADS: _heads(recipe, cast, init_key, model, unsaved.get(players.ENCODER))}
        return state.create(model, optimizer, average, objective.density, frozen, others, unsaved, objective.buffer)

    return init


def _networks(cast: players.Players, tuned: TunedNetwork | None) -> Callable[[state.TrainState], dict[str, Callable]]:
    """The function of the state, see `Program.networks`."""

    def networks(state):
        params = {"model": state.params, "target": state.ema, **(state.frozen or {}), **(state.unsaved or {})}
        if tuned is not None:
            base = params[players.BASE]
            model = lambda weights: functools.partial(cast.apply["model"], base, weights)
            plain = {name: functools.partial(cast.apply[name], base) for name in cast.frozen}
            others = {name: model(player.params) for name, player in (state.second_players or {}).items()}
            return {"model": model(state.params), "target": model(state.ema)} | plain | others
        params |= {name: player.params for name, player in (state.second_players or {}).items()}
        heads = {name: functools.partial(head, state.params[HEADS][name]) for name, head in cast.heads.items()}
        return heads | {
            name: functools.partial(cast.apply["model" if name == "target" else name], params[name]) for name in params
        }

    return networks


def _batch(recipe: Recipe, mesh: Mesh) -> dict[str, Any]:
    """The shapes of a batch on the devices, see `Program.batch`."""
    objective, companions, null = recipe.objective, recipe.companions, recipe.examples.null
    entry = functools.partial(_entry, recipe, mesh)
    if companions.teacher and companions.teacher.pairs:
        batch: dict[str, Any] = {name: entry(recipe.examples.shape, np.float32) for name in ("x", "noise")}
    else:
        numbers = np.float32 if objective.process is None else np.int32
        batch = {recipe.entry: entry(recipe.example_shape, numbers if recipe.entry == "x" else np.uint8)}
    batch["index"] = entry((), np.int32)
    if recipe.examples.by_class:
        batch["label"] = entry((), np.int32)
    if objective.examples.pairs:
        batch["rejected"] = batch[recipe.entry]
    if companions.encoder is not None and companions.encoder.cached:
        batch["features"] = entry(companions.encoder.features(), np.dtype(feature_cache.DTYPE))
    if recipe.examples.by_record:
        batch["condition"] = jax.tree.map(lambda leaf: entry(np.shape(leaf), leaf.dtype), null)
    if objective.beside.metadata:
        facts = caption_metadata.facts_of(recipe, caption_metadata.NULL)
        batch["metadata"] = {name: entry(leaf.shape, leaf.dtype) for name, leaf in facts.items()}
    if companions.tuned is not None and (objective.beside.prior or objective.beside.prompts):
        text = companions.tuned.text()
        condition = {name: entry(leaf.shape, np.dtype(leaf.dtype)) for name, leaf in text.items()}
        if objective.beside.prior:
            batch["prior"] = {"x": entry(recipe.examples.shape, np.float32), "condition": condition}
        if objective.beside.prompts:
            batch["prompts"] = dict.fromkeys(objective.beside.prompts, condition)
    return batch


def _entry(recipe: Recipe, mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """An entry of a batch on the devices, `[B, *shape]`."""
    rows = recipe.config.train.batch_size
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding.batch_sharding(mesh))


def _zeros(recipe: Recipe, tuned: TunedNetwork) -> dict[str, Any]:
    """Zeros in the shapes of the base's parameters, which are not read yet."""
    shapes = tuned.shapes(**players.reads_of_base(recipe.objective))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _tuned(recipe: Recipe, tuned: TunedNetwork, second: str, key: jax.Array, base: dict[str, Any]) -> state.TrainState:
    """The first state of a run that tunes a base; a second player has its own new weights beside the base."""
    weights = tuned.init(key, base)
    others = {}
    if recipe.companions.second is not None:
        others[second] = (tuned.init(jax.random.fold_in(key, 1), base), recipe.companions.second.optimizer)
    parts = tuned.kept_networks(**players.reads_of_base(recipe.objective))
    base_parts = {name: base[name] for name in (*parts, NULL)}
    optimizer, average = recipe.training.optimizer, recipe.training.average
    unsaved = {players.BASE: base_parts}
    objective = recipe.objective
    return state.create(weights, optimizer, average, objective.density, None, others, unsaved, objective.buffer)


def _second(
    recipe: Recipe, cast: players.Players, initial: Callable[[Any], Any], key: jax.Array, frozen: dict[str, Any]
) -> Any:
    """The initial parameters of the second player, whose input may be the teacher's features."""
    module = cast.modules[cast.second]
    player = recipe.objective.second
    if player is None or not (player.separate and player.features):
        return initial(module)
    received = inputs(cast.modules["teacher"], recipe.example_shape, recipe.examples.null)
    read = functools.partial(cast.apply["teacher"], features=player.features)
    _, features = jax.eval_shape(read, frozen["teacher"], *received)
    joined = lambda leaf: jnp.zeros((*leaf.shape[:-1], player.joined * leaf.shape[-1]), leaf.dtype)
    zeros = jax.tree.map(joined, features)
    return module.init(key, zeros, *received[1:])


def _heads(recipe: Recipe, cast: players.Players, key: jax.Array, model: Any, encoder_params: Any) -> dict[str, Any]:
    """The initial parameters of the heads, the small networks that train with the model.

    The sizes of a head follow from the features that it maps. A head without features depends only on the key.
    """
    encoder = recipe.companions.encoder
    received = inputs(recipe.network, recipe.examples.shape, recipe.examples.null)

    def width(layer: int | None, block: int | None = None) -> int:
        """The number of features of a layer; for the target 0, an example's values per token of the block."""
        if layer == 0 and block:
            _, (features,) = jax.eval_shape(
                functools.partial(recipe.network.apply, features=(block,)), model, *received
            )
            return math.prod(recipe.examples.shape) // math.prod(features.shape[1:-1])
        if layer is None:
            assert encoder is not None  # `fits.check` refuses a term of alignment without one
            if encoder.cached:
                return encoder.features()[-1]
            encoder_inputs = inputs(encoder, recipe.example_shape, recipe.examples.null)
            return jax.eval_shape(cast.apply[players.ENCODER], encoder_params, *encoder_inputs).shape[-1]
        if layer == 0:
            return recipe.network.latent_channels
        _, (features,) = jax.eval_shape(functools.partial(recipe.network.apply, features=(layer,)), model, *received)
        return features.shape[-1]

    def initial(key: jax.Array, head: Head) -> Any:
        sizes = (0, 0) if head.layer is None else (width(head.layer), width(head.target, head.layer))
        return head.init(key, *sizes)

    heads = recipe.objective.heads
    return {name: initial(jax.random.fold_in(key, i), head) for i, (name, head) in enumerate(heads.items())}
