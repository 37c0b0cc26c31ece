"""Training in stages: after each the student becomes the teacher, and the rest of the state restarts."""

from collections.abc import Callable
from typing import Any

import jax

from diffusion.training.ema import ExponentialMovingAverage
from diffusion.training.state import TrainState


def staged(step: Callable, stage: int, optimizer: Any, ema: ExponentialMovingAverage) -> Callable:
    """Returns a train step that begins each stage after the first with the student as its own teacher.

    At the steps stage, 2 stage, ... the frozen network "teacher" becomes the student's moving average, from which the
    student and its average start; the optimizer restarts. This is a part of the step, so that a resumed run equals one
    that was never interrupted.

    Args:
        step: a train step (TrainState, batch, key) -> (TrainState, metrics); see `make_train_step`.
        stage: the training steps of a stage, >= 1.
        optimizer: the optimizer of the step.
        ema: the moving average of the step.

    Returns:
        A step of the same form.

    Reference: Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", algorithm 2.
    """

    def promoted(state: TrainState) -> TrainState:
        params = jax.tree.map(lambda average, leaf: average.astype(leaf.dtype), state.ema, state.params)
        teacher = jax.tree.map(lambda average, leaf: average.astype(leaf.dtype), state.ema, state.frozen["teacher"])
        return state._replace(
            params=params, opt_state=optimizer.init(params), ema=ema.init(params), frozen={"teacher": teacher}
        )

    def staged_step(state: TrainState, batch: dict, key: jax.Array) -> tuple[TrainState, dict]:
        begins = (state.step > 0) & (state.step % stage == 0)
        return step(jax.lax.cond(begins, promoted, lambda state: state, state), batch, key)

    return staged_step
