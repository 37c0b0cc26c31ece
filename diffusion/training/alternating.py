"""Training of several networks in turn, such as a generator and a critic, or a student and a score.

In this example the score acts at every step and the student at every fifth:

    init, step = alternating({
        "score": Player(score_objective, "fake", optimizer),
        "generator": Player(generator_objective, "model", optimizer, every=5),
    }, apply, schedule, averages={"target": Average("model", exponential_moving_average(0.99, warmup=False))})
    state = init({"model": ..., "fake": ..., "teacher": ...})
    state, metrics = jax.jit(step, donate_argnums=0)(state, batch, key)
"""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.arrays import random_keys
from diffusion.training.ema import ExponentialMovingAverage
from diffusion.training.state import HEALTHY, SecondPlayer, TrainState
from diffusion.training.step import HEADS, make_train_step

NOTHING = ExponentialMovingAverage(lambda params: (), lambda average, params, step: ())


class Player(NamedTuple):
    """One objective and the network that it trains.

    Attributes:
        objective: (networks, schedule, keys, batch, step) -> (losses [B], metrics); it may read every network, and only
            the network `trained` receives its gradient.
        trained: the name of the network that it trains; each network has one player, or none (a teacher, which does not
            change).
        optimizer: the player's optimizer, an optax transformation.
        every: the interval of its steps: the player acts at steps 0, every, 2 every, ...
        density: the density of training times that the objective samples; None where its state is not carried.
    """

    objective: Callable
    trained: str
    optimizer: Any
    every: int = 1
    density: Any = None


class Average(NamedTuple):
    """A network whose parameters are a moving average of another network's.

    Attributes:
        source: the name of the network that is averaged; the average moves at the steps at which that network's player
            acts.
        ema: the average's (init, update), see `ema.exponential_moving_average`; its update counts the player's own
            steps.
    """

    source: str
    ema: ExponentialMovingAverage


class AlternatingState(NamedTuple):
    """The whole state of a run, as one pytree.

    Attributes:
        step: int32 []; the number of steps made so far.
        networks: {name: parameters}, of trained networks, of frozen ones and of averages (float32) alike.
        opt_state: {player: state of its optimizer}.
        density: {player: state of its density}; empty for a player without a density.
        failed_at: int32 []; -1 while healthy, else the first step in which some player's loss or gradient was not
            finite. A failed state is frozen, that step's earlier players included.
    """

    step: jax.Array
    networks: dict[str, Any]
    opt_state: dict[str, Any]
    density: dict[str, Any]
    failed_at: jax.Array


class Alternating(NamedTuple):
    """The two pure functions of a training.

    Attributes:
        init: {name: parameters} of every network but the averages -> AlternatingState.
        step: (AlternatingState, batch, key) -> (AlternatingState, metrics).
    """

    init: Callable[[Mapping[str, Any]], Any]  # a training that wraps another has a larger state
    step: Callable[[Any, dict, jax.Array], tuple[Any, dict]]


def alternating(
    players: Mapping[str, Player],
    apply: Mapping[str, Callable[..., Any]],
    schedule: Any,
    averages: Mapping[str, Average] | None = None,
    accumulate: int = 1,
    shards: int = 1,
    axis: str | None = None,
    heads: Mapping[str, Callable[..., Any]] = types.MappingProxyType({}),
    follow: Mapping[str, Callable[[Any, Any], Any]] = types.MappingProxyType({}),
    base: str = "",
) -> Alternating:
    """Returns the train step in which players act in turn, each on the networks as the player before it left them.

    Each player's update is the update of `make_train_step`: with one player and the average of its network, the two
    steps are equal. Averages move after the last player. The first player draws from the run's key, each other player
    from a key of its own. If a loss or a gradient is not finite, nothing of the state changes but `failed_at`.

    Args:
        players: {name: Player}, in the order in which they act.
        apply: {network: (params, x_t, clock, condition) -> output}, for every network but the averages, which use the
            function of the network that they average.
        schedule: the noise schedule, a NoiseSchedule.
        averages: {network: Average}; objectives receive them under these names ("target" is usual).
        accumulate: see `make_train_step`.
        shards: see `make_train_step`.
        axis: see `make_train_step`.
        heads: the heads of the network "model", see `make_train_step`. The other players also see them, without a
            gradient.
        follow: the functions that these heads follow, see `make_train_step`.
        base: the name of the frozen network that every trained one is a part of: `apply` receives its parameters before
            theirs, and only its parameters for the other frozen networks, which have none; "" for none.

    Returns:
        Alternating. Metrics are the metrics of `make_train_step` as "player/name", NaN (counts 0) where the player
        rested, and "failed_at".

    Raises:
        ValueError: if a network has two players or no function to apply it, or an average is in `apply`; from `init`,
            if networks are missing or unknown.
    """
    averages = dict(averages or {})
    _check(players, apply, averages)
    apply = {**apply, **{name: apply[average.source] for name, average in averages.items()}}
    every = {player.trained: player.every for player in players.values()}

    def init(networks):
        given_networks = {*every, base} if base else set(apply) - set(averages)
        if set(networks) != given_networks:
            raise ValueError(
                f"alternating: the parameters must be those of {sorted(given_networks)}; got {sorted(networks)}."
            )
        return AlternatingState(
            step=jnp.zeros([], jnp.int32),
            networks={**networks, **{name: a.ema.init(networks[a.source]) for name, a in averages.items()}},
            opt_state={name: player.optimizer.init(networks[player.trained]) for name, player in players.items()},
            density={name: () if player.density is None else player.density.init() for name, player in players.items()},
            failed_at=jnp.full([], HEALTHY, jnp.int32),
        )

    def act(name, state, batch, key):
        """One player's update of the state, and its metrics."""
        player = players[name]
        base_params = (state.networks[base],) if base else ()

        def called(other, *inputs, **named):
            part = not base or other in every or other in averages  # what is no part of a base is the base itself
            params = (state.networks[other],) if part else ()
            return apply[other](*base_params, *params, *inputs, **named)

        others = {other: functools.partial(called, other) for other in apply if other != player.trained}

        trained_heads = heads if player.trained == "model" else {}
        if not trained_heads:
            parts = state.networks["model"][HEADS] if heads else {}
            others |= {name: functools.partial(head, parts[name]) for name, head in heads.items()}

        def objective(networks, *arguments):
            with_model = {head: networks[head] for head in trained_heads}
            return player.objective({**others, **with_model, player.trained: networks["model"]}, *arguments)

        update = make_train_step(
            objective,
            functools.partial(apply[player.trained], *base_params),
            schedule,
            player.optimizer,
            NOTHING,
            player.density,
            accumulate,
            shards,
            axis,
            heads=trained_heads,
            follow=follow if trained_heads else {},
        )
        params = state.networks[player.trained]
        opt_state = state.opt_state[name]
        before = TrainState(state.step, params, opt_state, (), state.density[name], state.failed_at)
        after, metrics = update(before, batch, key)
        state = state._replace(
            networks={**state.networks, player.trained: after.params},
            opt_state={**state.opt_state, name: after.opt_state},
            density={**state.density, name: after.density},
            failed_at=after.failed_at,
        )
        return state, metrics

    def step(state, batch, key):
        before, metrics = state, {}
        for number, (name, player) in enumerate(players.items()):
            player_key = key if number == 0 else random_keys.further(key, number)
            turn = lambda state, name=name, own=player_key: act(name, state, batch, own)
            if player.every == 1:
                state, player_metrics = turn(state)
            else:
                absent = jax.tree.map(_absent, jax.eval_shape(turn, state)[1])
                unchanged = lambda state, absent=absent: (state, absent)
                state, player_metrics = jax.lax.cond(state.step % player.every == 0, turn, unchanged, state)
            metrics.update(
                {f"{name}/{metric}": value for metric, value in player_metrics.items() if metric != "failed_at"}
            )

        networks = dict(state.networks)
        for name, (averaged, ema) in averages.items():
            moved = ema.update(networks[name], networks[averaged], state.step // every[averaged])
            acted = state.step % every[averaged] == 0
            networks[name] = jax.tree.map(
                lambda new, old, acted=acted: jnp.where(acted, new, old), moved, networks[name]
            )
        healthy = state.failed_at == HEALTHY
        updated = state._replace(networks=networks, step=state.step + 1)
        frozen = before._replace(failed_at=state.failed_at)
        state = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), updated, frozen)
        return state, {**metrics, "failed_at": state.failed_at}

    return Alternating(init, step)


def as_train_step(step: Callable[..., tuple[AlternatingState, dict]]) -> Callable:
    """Returns the step of `alternating` as a step of `TrainState`, so that a run may have several players.

    The network "model" is the run's own: its player has that name, "target" is its average, and its metrics have their
    plain names ("loss"). Every other player has the name of the network that it trains, and is a second player of the
    run.

    Args:
        step: the step of an `alternating`.

    Returns:
        (TrainState, batch, key) -> (TrainState, metrics).
    """

    def on_train_state(state: TrainState, batch: dict, key: jax.Array) -> tuple[TrainState, dict]:
        others = state.second_players
        networks = {"model": state.params, "target": state.ema, **(state.frozen or {}), **(state.unsaved or {})}
        networks |= {name: other.params for name, other in others.items()}
        opt_state = {"model": state.opt_state} | {name: other.opt_state for name, other in others.items()}
        density = {"model": state.density} | dict.fromkeys(others, ())
        after, metrics = step(AlternatingState(state.step, networks, opt_state, density, state.failed_at), batch, key)
        counted = [metrics.pop(name) for name in list(metrics) if name.endswith("/skipped")]  # all of one batch
        if counted:
            metrics["skipped"] = jnp.max(jnp.stack(counted))  # a player that rests counts none
        return TrainState(
            step=after.step,
            params=after.networks["model"],
            opt_state=after.opt_state["model"],
            ema=after.networks["target"],
            density=after.density["model"],
            failed_at=after.failed_at,
            frozen=state.frozen,
            second_players={name: SecondPlayer(after.networks[name], after.opt_state[name]) for name in others},
            unsaved=state.unsaved,
            buffer=state.buffer,
        ), {name.removeprefix("model/"): value for name, value in metrics.items()}

    return on_train_state


def _absent(metric: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.full(metric.shape, jnp.nan if jnp.issubdtype(metric.dtype, jnp.floating) else 0, metric.dtype)


def _check(players, apply, averages) -> None:
    trained = [player.trained for player in players.values()]
    if not players:
        raise ValueError("alternating: needs at least one player.")
    for network in trained:
        if trained.count(network) > 1:
            raise ValueError(
                f"alternating: {network!r} has {trained.count(network)} players. Join the objectives of one network "
                "(objectives.added), or give each player its own network."
            )
        if network not in apply:
            raise ValueError(
                f"alternating: there is no function to apply {network!r}. Give one; apply has {sorted(apply)}."
            )
    for name, player in players.items():
        if player.every < 1:
            raise ValueError(f"alternating: {name!r} acts every {player.every} steps; this must be at least 1.")
    for name, average in averages.items():
        if name in apply:
            raise ValueError(
                f"alternating: {name!r} is an average of {average.source!r}, so it needs no function of its own; "
                "leave it out of apply."
            )
        if average.source not in trained:
            raise ValueError(
                f"alternating: {name!r} averages {average.source!r}, which no player trains; the players "
                f"train {sorted(trained)}."
            )
