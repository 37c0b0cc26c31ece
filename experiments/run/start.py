"""The starting point of a run: its latest sound checkpoint, the parameters of another run, or random parameters."""

import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion.data import pipeline
from diffusion.experiments.run import examples, tuned_base
from diffusion.experiments.run.players import ENCODER, FEATURES
from diffusion.experiments.run.program import Program
from diffusion.experiments.sampling import autoencoder_folders, encoder_features
from diffusion.io import opener
from diffusion.recipe import ConfigError, autoencoder, versions
from diffusion.recipe.values import built_in_python, plain
from diffusion.training import sharding, state, training_means, warm_start
from diffusion.training.checkpointing import checkpoints
from diffusion.training.sharding import leaf_name
from diffusion.training.step import HEADS


class Start(NamedTuple):
    """The point at which a run begins or resumes."""

    step: int  # number of updates so far
    examples: int  # number of examples that these updates used
    sums: dict[str, Any]  # sums of the training metrics since the last line, see `training_means`
    fingerprint: dict[str, Any]  # fingerprint of the data's source
    best: dict[str, Any] | None  # {"figure", "step", "value"} of the best checkpoint so far; None for none
    resumed: bool  # whether there was a checkpoint
    stream: dict[str, Any] | None = None  # position of the data's stream; None for data with random access
    order: int = pipeline.ORDER  # version of the order of records
    encoder: dict[str, str] | None = None  # {"path", "sha256"} of the frozen encoder's file; None without one
    base: dict[str, Any] | None = None  # {"path", "sha256", "leaves"} of the model that the run tunes; None without one


def first_state(
    config: ConfigDict, folder: pathlib.Path, program: Program, fingerprint: dict[str, Any]
) -> tuple[state.TrainState, Start]:
    """The state from which the run starts, on the devices. It is the first of these that exists:

    1. the latest sound checkpoint of the run folder, else
    2. the parameters of config.init_from, as far as they fit, else
    3. random parameters.

    Raises:
        ConfigError: if the data differ from those that the run was trained on, or weights do not fit.
        CheckpointError: if no checkpoint is sound, or the latest is of another architecture.
    """
    restored = checkpoints.restore_latest(folder, program.target)
    examples.require_same(config, restored[1].get("data") if restored else None, fingerprint)
    if restored:
        train_state, description = restored
        train_state, encoder = with_encoder(config, program, train_state, description.get("encoder"))
        train_state, base = tuned_base.restored(program, train_state, description.get("base"))
        return train_state, Start(
            int(train_state.step),
            description["examples"],
            description["interval"],
            fingerprint,
            description.get("best"),
            resumed=True,
            stream=description.get("stream"),
            order=description.get("order", 1),
            encoder=encoder,
            base=base,
        )
    begun = Start(0, 0, training_means.empty(), fingerprint, best=None, resumed=False)
    if program.tuned is not None:
        train_state, base = tuned_base.first(program)
        if config.init_from.path:
            train_state = _from_weights(config.init_from, train_state, program.average)
        return train_state, begun._replace(base=base)
    unsaved, encoder = _encoder(config, program)
    train_state = sharding.create(program.init, program.target, program.seed)
    train_state = train_state._replace(unsaved=unsaved) if encoder else train_state
    if config.perceptual.path:
        frozen = train_state.frozen
        features, _ = encoder_features.read_frozen("perceptual", config.perceptual.path, frozen[FEATURES])
        train_state = train_state._replace(frozen={**frozen, FEATURES: features})
    if config.autoencoder.path:
        train_state = _with_autoencoder(config.autoencoder.path, train_state, program.average)
    if config.init_from.path:
        train_state = _from_weights(config.init_from, train_state, program.average)
    if config.teacher.path:
        train_state = _with_teacher(config, train_state, program.teacher)
    return train_state, begun._replace(encoder=encoder)


def with_encoder(
    config: ConfigDict, program: Program, train_state: state.TrainState, before: dict[str, str] | None
) -> tuple[state.TrainState, dict[str, str] | None]:
    """A restored state with the frozen encoder, which its checkpoint does not hold.

    Args:
        config: the config of the run.
        program: the run's program.
        train_state: the state that `checkpoints.restore` returned. Checkpoints of an earlier version hold the encoder;
            the file must then hold the same one.
        before: {"path", "sha256"} of the encoder's file when the checkpoint was made; None if it is not known.

    Returns:
        (the state, {"path", "sha256"} of the file, or None without one).

    Raises:
        ConfigError: if the file is missing, or holds another encoder.
    """
    unsaved, encoder = _encoder(config, program)
    held = train_state.unsaved
    if before and encoder and before["sha256"] != encoder["sha256"]:
        why = f"its sha256 is {encoder['sha256'][:12]}, but it was {before['sha256'][:12]} from {before['path']}"
    elif held and not all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), held, unsaved))):
        why = "it differs from the encoder in the run's checkpoint"
    else:
        return train_state._replace(unsaved=unsaved), encoder
    raise ConfigError(
        f"config.encoder.path = {config.encoder.path!r} holds another encoder than the run has been trained with: "
        f"{why}. Valid: the same weights."
    )


def _encoder(config: ConfigDict, program: Program) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
    """The parameters of the frozen encoder on the devices, {"encoder": ...}, and its file, {"path", "sha256"}.

    Both are None without an encoder. Without config.encoder.path, the parameters are initial ones, and their file is
    {"path": "", "sha256"} in a run of one process, else None, since no process then has all parameters to hash.

    Raises:
        ConfigError: names the first leaf that the encoder lacks, or has in another shape.
    """
    target = program.target.unsaved
    if target is None or ENCODER not in target:
        return None, None
    if not config.encoder.path:
        params = sharding.create(lambda seed: program.init(seed).unsaved, target, program.seed)
        if jax.process_count() > 1:
            return params, None
        return params, {"path": "", "sha256": encoder_features.digest(jax.device_get(params[ENCODER]))}
    params, source = encoder_features.read_frozen("encoder", config.encoder.path, target[ENCODER])
    return {ENCODER: params}, {"path": str(config.encoder.path), "sha256": encoder_features.digest(source)}


def _with_autoencoder(path: str, train_state: state.TrainState, average) -> state.TrainState:
    """Copies weights into the autoencoder that trains with the model, and into the moving average.

    Raises:
        ConfigError: if the path does not exist, or for the first leaf that the autoencoder of the config lacks.
    """
    ours = autoencoder.weights(train_state.params)
    try:
        theirs = autoencoder_folders.load(path).params
        source = {leaf_name(key): leaf for key, leaf in jax.tree_util.tree_leaves_with_path(theirs)}
        taken, _, skipped = warm_start.warm_start(ours, source)
    except ValueError as error:
        raise ConfigError(f"config.autoencoder.path = {path!r}: {error}") from error
    if skipped:
        raise ConfigError(f"config.autoencoder.path = {path!r} holds another autoencoder: {skipped[0]}.")
    return _from_parameters(autoencoder.with_weights(train_state.params, taken), train_state, average)


def _from_weights(init_from: ConfigDict, train_state: state.TrainState, average) -> state.TrainState:
    """Copies the parameters of config.init_from, also into the moving average, and prints which ones it skips."""
    try:
        source = warm_start.read(init_from.path)
        params, taken, skipped = warm_start.warm_start(train_state.params, source, init_from.include)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.init_from: {error}") from error
    if jax.process_index() == 0:
        print(f"init_from {init_from.path}: took {len(taken)} leaves, skipped {len(skipped)}")
        print("".join(f"  skipped {line}\n" for line in skipped), end="", flush=True)
    return _from_parameters(params, train_state, average)


def _from_parameters(params: Any, train_state: state.TrainState, average) -> state.TrainState:
    """The state with other parameters, from which its moving average starts as well."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, train_state.ema)
    return train_state._replace(params=params, ema=jax.jit(average.init, out_shardings=shardings)(params))


def _with_teacher(config: ConfigDict, train_state: state.TrainState, module: Any = None) -> state.TrainState:
    """Copies the moving average of the run config.teacher.path into the teacher, which this run then stores itself.

    A second player without its own architecture starts from the same weights. A block-causal student may have a
    bidirectional teacher; `module` is the teacher's module.
    """
    path = pathlib.Path(config.teacher.path).expanduser()
    theirs = versions.read(opener.read_text(path / "config.json"))
    ours = {"schedule": config.schedule, "parameterization": config.teacher.parameterization, "model": config.model}
    if getattr(module, "causal", 0) != ours["model"].get("causal", 0):
        bidirectional = {"causal": 0} if "causal" in theirs["model"] else {}
        ours["model"] = {name: field for name, field in plain(config.model).items() if name != "causal"} | bidirectional
    for field, part in ours.items() if built_in_python(config) == built_in_python(theirs) else ():
        if plain(part) != plain(theirs[field]):
            subject = "config.teacher.parameterization is" if field == "parameterization" else "this run has"
            raise ConfigError(
                f"config.teacher.path = {config.teacher.path!r}: the teacher's config.{field} is "
                f"{plain(theirs[field])}, but {subject} {plain(part)}. Valid: a teacher that has the same."
            )
    # Networks that trained beside the teacher, such as projectors, are not part of it.
    source = {name: leaf for name, leaf in warm_start.read(path).items() if not name.startswith(f"{HEADS}/")}

    def taken(params):
        params, _, skipped = warm_start.warm_start(params, source)
        if skipped:
            raise ConfigError(f"config.teacher.path = {config.teacher.path!r} does not fit: {skipped[0]}.")
        return params

    frozen = dict(train_state.frozen or {})
    frozen |= {"teacher": taken(frozen["teacher"])} if "teacher" in frozen else {}
    players = train_state.second_players or {}
    if not config.second_player.network.get("name"):
        players = {name: player._replace(params=taken(player.params)) for name, player in players.items()}
    return train_state._replace(frozen=frozen or None, second_players=players or None)
