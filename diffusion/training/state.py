"""Everything that a training run carries from one step to the next, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

HEALTHY = -1  # failed_at while every loss and gradient has been finite


class SecondPlayer(NamedTuple):
    """A network that is trained in turn with the run's own, such as a discriminator.

    Attributes:
        params: pytree of its parameters.
        opt_state: pytree of its optimizer's state.
    """

    params: Any
    opt_state: Any


class TrainState(NamedTuple):
    """The whole state of a run, which is saved, restored, sharded and donated as one.

    Steps are counted from 0: step k turns the state with `step == k` into the one with `step == k + 1`.

    Attributes:
        step: int32 []; the number of updates made so far, which is the number of the next step.
        params: pytree of the network's parameters.
        opt_state: pytree of the optimizer's state.
        ema: pytree of the shape of `params`, float32; the exponential moving average of the parameters.
        density: pytree; the state of the density of training times (empty if it does not adapt).
        failed_at: int32 []; -1 while healthy, else the first step whose loss or gradient was not finite. A failed
            state is frozen: later steps do not change it.
        frozen: {name: parameters} of networks that objectives read and no step changes, such as a teacher; None without
            any.
        second_players: {name: SecondPlayer} of the second players; None without any.
        unsaved: {name: parameters} of further frozen networks, such as an encoder of pictures, which no checkpoint
            keeps: a file or the run's seed gives them again. None without any.
        buffer: pytree; the samples that an objective keeps for several steps (`objectives.Buffer`). None without any.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    density: Any
    failed_at: jax.Array
    frozen: Any = None
    second_players: Any = None
    unsaved: Any = None
    buffer: Any = None


def create(
    params: Any,
    optimizer: Any,
    ema: Any,
    density: Any = None,
    frozen: Any = None,
    second_players: Any = None,
    unsaved: Any = None,
    buffer: Any = None,
) -> TrainState:
    """Returns the state of a run before its first step.

    Args:
        params: pytree of parameters.
        optimizer: an optax transformation (`init`, `update`).
        ema: an `ema.ExponentialMovingAverage` (`init`, `update`).
        density: a `timesteps.Density` whose state is carried, or None if there is no state to carry.
        frozen: {name: parameters} of networks that no step changes; None without any.
        second_players: {name: (parameters, optimizer)} of the second players; None without any.
        unsaved: {name: parameters} of further frozen networks, which no checkpoint keeps; None without any.
        buffer: an `objectives.Buffer` whose samples are carried, or None if there are none to carry.

    Returns:
        TrainState with step 0; the moving average starts as a copy of `params`.
    """
    players = {
        name: SecondPlayer(theirs, player_optimizer.init(theirs))
        for name, (theirs, player_optimizer) in (second_players or {}).items()
    }
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=ema.init(params),
        density=() if density is None else density.init(),
        failed_at=jnp.full([], HEALTHY, jnp.int32),
        frozen=frozen or None,
        second_players=players or None,
        unsaved=unsaved or None,
        buffer=None if buffer is None else buffer.init(),
    )
