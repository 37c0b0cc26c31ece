"""Where a run starts from: its latest sound checkpoint, the parameters of another run, or random ones."""

import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from diffusion.data import pipeline
from diffusion.experiments.config import ConfigError, versions
from diffusion.experiments.config.values import built_in_python, plain
from diffusion.experiments.run import examples
from diffusion.experiments.run.program import Program
from diffusion.training import sharding, state, training_means, warm_start
from diffusion.training.checkpointing import checkpoints


class Start(NamedTuple):
    """What a run knows when it begins or goes on."""

    step: int  # updates made
    examples: int  # that they took
    sums: dict[str, Any]  # of the training metrics since the last line, see `training_means`
    fingerprint: dict[str, Any]  # of the data's source
    best: dict[str, Any] | None  # {"figure", "step", "value"} of the best checkpoint so far; None for none
    resumed: bool  # whether there was a checkpoint
    stream: dict[str, Any] | None = None  # where the data's stream is; None for data with random access
    order: int = pipeline.ORDER  # version of the order of records


def first_state(
    config: ConfigDict, folder: pathlib.Path, program: Program, fingerprint: dict[str, Any]
) -> tuple[state.TrainState, Start]:
    """The state that the run starts from, on the devices. In this order:

    1. the latest sound checkpoint of the run folder, else
    2. the parameters of config.init_from, as far as they fit, else
    3. random parameters.

    Raises:
        ConfigError: if the data, by its fingerprint, is not what the run was trained on, or the weights do not fit.
        CheckpointError: if no checkpoint is sound, or the latest is of another architecture.
    """
    restored = checkpoints.restore_latest(folder, program.target)
    examples.require_same(config, restored[1].get("data") if restored else None, fingerprint)
    if restored:
        train_state, about = restored
        step = int(train_state.step)
        kept = (about.get("best"), True, about.get("stream"), about.get("order", 1))
        return train_state, Start(step, about["examples"], about["interval"], fingerprint, *kept)
    encoder = _encoder(config, program.target)
    train_state = sharding.create(program.init, program.target, program.seed)
    train_state = train_state._replace(frozen={**train_state.frozen, **encoder}) if encoder else train_state
    if config.init_from.path:
        train_state = _from_weights(config.init_from, train_state, program.average)
    if config.teacher.path:
        train_state = _with_teacher(config, train_state)
    return train_state, Start(0, 0, training_means.empty(), fingerprint, None, False)


def _encoder(config: ConfigDict, target: state.TrainState) -> dict[str, Any]:
    """{"encoder": its parameters, of the file config.encoder.path, on the devices}; {} without a file.

    Raises:
        ConfigError: naming the first leaf that the encoder does not have, or has in another shape.
    """
    if not config.encoder.path:
        return {}
    try:
        params, _, skipped = warm_start.warm_start(target.frozen["encoder"], warm_start.read(config.encoder.path))
    except FileNotFoundError as error:
        raise ConfigError(f"config.encoder.path = {config.encoder.path!r}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"config.encoder.path = {config.encoder.path!r} holds another encoder: {error}") from error
    if skipped:
        raise ConfigError(f"config.encoder.path = {config.encoder.path!r} holds another encoder: {skipped[0]}.")
    return {"encoder": params}


def _from_weights(init_from: ConfigDict, train_state: state.TrainState, average) -> state.TrainState:
    """Takes over the parameters of config.init_from, into the moving average too, and names what it leaves."""
    try:
        source = warm_start.read(init_from.path)
        params, taken, skipped = warm_start.warm_start(train_state.params, source, init_from.include)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.init_from: {error}") from error
    if jax.process_index() == 0:
        print(f"init_from {init_from.path}: took {len(taken)} leaves, skipped {len(skipped)}")
        print("".join(f"  skipped {line}\n" for line in skipped), end="", flush=True)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, train_state.ema)
    return train_state._replace(params=params, ema=jax.jit(average.init, out_shardings=shardings)(params))


def _with_teacher(config: ConfigDict, train_state: state.TrainState) -> state.TrainState:
    """Takes the moving average of the run config.teacher.path as the teacher, which this run then keeps itself.

    A second player starts from the same weights.
    """
    path = pathlib.Path(config.teacher.path).expanduser()
    theirs = versions.read((path / "config.json").read_text())
    ours = {"schedule": config.schedule, "parameterization": config.teacher.parameterization, "model": config.model}
    for field, part in ours.items() if built_in_python(config) == built_in_python(theirs) else ():
        if plain(part) != plain(theirs[field]):
            raise ConfigError(
                f"config.teacher.path = {config.teacher.path!r}: the teacher's config.{field} is "
                f"{plain(theirs[field])}, and this run has {plain(part)} for it."
            )
    source = warm_start.read(path)

    def taken(params):
        params, _, skipped = warm_start.warm_start(params, source)
        if skipped:
            raise ConfigError(f"config.teacher.path = {config.teacher.path!r} does not fit: {skipped[0]}.")
        return params

    frozen = dict(train_state.frozen or {})
    frozen |= {"teacher": taken(frozen["teacher"])} if "teacher" in frozen else {}
    players = train_state.second_players or {}
    players = {name: player._replace(params=taken(player.params)) for name, player in players.items()}
    return train_state._replace(frozen=frozen or None, second_players=players or None)
