"""Progressive adversarial distillation: a discriminator distinguishes the student's steps from the teacher's."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.flows.flow_maps import from_denoiser
from diffusion.objectives import discriminators
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import check_blocks, frozen, player, shared_blocks, teacher_features
from diffusion.objectives.objective import Denoises, Objective, Second, Teacher
from diffusion.objectives.objective_facts import Trained
from diffusion.objectives.progressive import Taught, check_stages, error_of_x0, stages_of, two_steps
from diffusion.objectives.weightings import Weighting, truncated_snr
from diffusion.parameterizations import Parameterization, Prediction, evaluate, predict
from diffusion.timesteps import clean_time


def progressive_adversarial(
    parameterization: Parameterization,
    teacher: Parameterization,
    N: int,
    stage: int,
    weighting: Weighting | None = None,
    teacher_scale: float = 1.0,
    null: Any = None,
    blocks: tuple[int, ...] = (),
) -> Objective:
    """`progressive_distillation` whose later stages fool a discriminator of the student's steps, the judge.

        first stage:  w(t) mean |x0(x_t, t) - x_target|^2, as `progressive_distillation`
        later stages: log(1 + exp(-D(x_hat_s))),    x_hat_s = one step of DDIM of the student, from x_t to s

    In the first half of a stage the judge also sees the start x_t of the step, so that the student follows the
    teacher's flow. In the second half it sees only x_hat_s: the student may leave the flow where its few steps cannot
    follow it, but must match the distribution. Each stage halves the number of steps. In the paper the first stage
    divides it by four, and the stages with one and two steps also judge noised samples.

    Facts:
        loss: that of progressive_distillation, then log(1 + exp(-D(x_hat_s)))
        networks: model, teacher, judge
        optimum: in the first stage, one DDIM step equals two of the teacher; then a game with `transition_judge`, with
            its equilibrium where student and teacher take the same steps
        paper: Lin et al. 2024, "SDXL-Lightning: Progressive Adversarial Diffusion Distillation", section 3

    Args:
        parameterization: the student's parameterization, defined at every t = i / N.
        teacher: parameterization of the network "teacher", which also defines the clock and input scale of the network
            "judge".
        N: number of the student's steps after the first halving, a power of 2.
        stage: training steps after which N halves.
        weighting: (schedule, t) -> weight on the squared error of x0 in the first stage; `truncated_snr()` if None.
        teacher_scale: guidance scale of the first teacher; 1 for no guidance.
        null: the null condition of one example, used if teacher_scale is not 1.
        blocks: indices, from 1, of the teacher's blocks whose features the judge receives; () if it receives x_s and
            x_t themselves.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "squared_error" and "adversarial", each `[B]`.

    Raises:
        ValueError: under the conditions of `progressive_distillation`, or for a block below 1.
    """
    _check("progressive_adversarial", N, stage, blocks)
    weighting = weighting or truncated_snr()

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        taught = two_steps(networks, schedule, teacher, keys, batch, step, N, stage, teacher_scale, null)
        condition = batch.get("condition")
        predicted = predict(player(networks, "model"), schedule, parameterization, taught.x_t, taught.t, condition)
        squared = error_of_x0(schedule, weighting, taught, predicted.x0)
        logits = _logits(networks, schedule, teacher, taught, condition, step, stage, blocks)
        fooled = discriminators.fooled(logits(_ended(schedule, predicted, taught)))
        metrics = {"t": taught.t, "squared_error": squared, "adversarial": fooled}
        return jnp.where(step < stage, squared, fooled), metrics

    return Objective(
        loss,
        reads=Denoises(parameterization),
        teacher=Teacher(scale=teacher_scale, stages=stages_of(N, stage)),
        second=Second("judge", by=transition_judge, separate=bool(blocks), features=blocks, joined=2 if blocks else 1),
        shares=("halved", N, stage, *shared_blocks(blocks)),
    )


def transition_judge(
    parameterization: Parameterization,
    teacher: Parameterization,
    N: int,
    stage: int,
    teacher_scale: float = 1.0,
    null: Any = None,
    blocks: tuple[int, ...] = (),
) -> Objective:
    """The judge of `progressive_adversarial`: distinguishes the end of two teacher steps from that of a student step.

        loss = log(1 + exp(-D(x_s))) + log(1 + exp(D(stop x_hat_s)))
        D(x_s) = mean d(x_s, s) (1 + d(x_t, t)) in the first half of a stage, mean d(x_s, s) in the second

    d is the judge's output, a picture of features; the product is the inner product of a projection discriminator. With
    blocks, D has a head for each of them, as in the paper, on the teacher's features h after this block:

        D_k(x_s) = head_k([h_k(x_s, s), h_k(x_t, t)]) in the first half, head_k([h_k(x_s, s), 0]) in the second

    The features are joined along the channels, and the losses are means over the heads. The paper has one head, on a
    U-Net's encoder that it trains too.

    Facts:
        loss: log(1 + exp(-D(x_s))) + log(1 + exp(D(x_hat_s)))
        networks: judge, model (the student), teacher
        optimum: the log-ratio of the densities of x_s and x_hat_s, given x_t in the first half of a stage
        paper: Lin et al. 2024, "SDXL-Lightning: Progressive Adversarial Diffusion Distillation", section 3; Miyato and
            Koyama 2018, "cGANs with Projection Discriminator", for the product

    Args:
        parameterization: parameterization of the network "model".
        teacher: parameterization of the network "teacher", which also defines the clock and input scale of the network
            "judge".
        N: number of the student's steps after the first halving, as in the student's objective.
        stage: training steps after which N halves.
        teacher_scale: guidance scale of the first teacher; 1 for no guidance.
        null: the null condition of one example, used if teacher_scale is not 1.
        blocks: indices of the teacher's blocks, as in the student's objective.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "real" and "fake" (logits), each `[B]`.

    Raises:
        ValueError: under the conditions of `progressive_distillation`, or for a block below 1.
    """
    _check("transition_judge", N, stage, blocks)

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        taught = two_steps(networks, schedule, teacher, keys, batch, step, N, stage, teacher_scale, null)
        condition = batch.get("condition")
        predicted = predict(frozen(networks, "model"), schedule, parameterization, taught.x_t, taught.t, condition)
        logits = _logits(networks, schedule, teacher, taught, condition, step, stage, blocks)
        real, fake = logits(taught.x_s), logits(_ended(schedule, predicted, taught))
        metrics = {"t": taught.t, "real": jnp.mean(real, axis=1), "fake": jnp.mean(fake, axis=1)}
        return discriminators.fooled(real) + discriminators.fooled(-fake), metrics

    return Objective(loss, reads=None, network=Trained("judge"), shares=("halved", N, stage, *shared_blocks(blocks)))


def _ended(schedule, predicted: Prediction, taught: Taught) -> Array:
    """The result x_hat_s of the student's DDIM step."""
    return from_denoiser(lambda x_t, t: predicted, schedule)(taught.x_t, taught.t, taught.s)


def _logits(
    networks, schedule, parameterization, taught: Taught, condition, step, stage: int, blocks: tuple[int, ...]
) -> Callable[[Array], Array]:
    """A function of x_s `[B, ...]`: the logits D(x_s), `[B, heads]`. What the judge sees of x_t is computed once."""
    sees_start = 2 * (step % stage) < stage
    # Where x_s is clean, the logarithm of sigma would not be finite.
    end = jnp.maximum(taught.s, clean_time(schedule))
    judge = player(networks, "judge")
    if not blocks:
        features = lambda x, t: evaluate(judge, schedule, parameterization, x, t, condition)[0]
        beside = jnp.where(sees_start, features(taught.x_t, taught.t), 0)
        return lambda x_s: jnp.mean(features(x_s, end) * (1 + beside), axis=tuple(range(1, x_s.ndim)))[:, None]

    features_at = lambda x, t: teacher_features(networks, schedule, parameterization, blocks, x, t, condition)
    starts = [jnp.where(sees_start, h, 0) for h in features_at(taught.x_t, taught.t)]

    def logits(x_s: Array) -> Array:
        joined = tuple(jnp.concatenate(pair, axis=-1) for pair in zip(features_at(x_s, end), starts))
        return judge(joined, end, condition)

    return logits


def _check(name: str, N: int, stage: int, blocks: tuple[int, ...]) -> None:
    check_stages(name, N, stage)
    check_blocks(name, blocks)
