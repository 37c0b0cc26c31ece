"""Adjoint matching: a regression whose optimum is the reference model tilted by a differentiable reward."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.not_a_number import nan_unless
from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.inputs import condition_of_data, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective, Teacher
from diffusion.objectives.objective_facts import Beside
from diffusion.objectives.rewards import CaptionReward, Reward, metadata_of, reward_of_pictures, rewarded
from diffusion.objectives.rollouts import rollouts
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, predict
from diffusion.samplers.ddpm import ddpm
from diffusion.samplers.posterior import posterior_mean
from diffusion.timesteps import plan


def adjoint_matching(
    parameterization: Parameterization,
    teacher: Parameterization,
    weighting: Weighting,
    grid: Sequence[float],
    reward: Reward | CaptionReward,
    beta: float,
) -> Objective:
    """Regresses the difference of the model and the reference on the gradient of a reward, propagated back in time.

        loss = mean over steps of w(t) |x0 - x0_ref + (sigma^2 / alpha) a_t|^2,
        a_0 = -grad r(x_0) / beta,   a_t = (d mu_ref(x_t) / d x_t)^T a_s,   s < t the next time

    The trajectories x_T, ..., x_0 are samples of the model by ancestral sampling. Its noise is memoryless: x_0 does not
    depend on x_T, as tilting requires. mu_ref is the mean of the reference's step. No gradient flows through the
    trajectories. Where alpha(t) = 0, the target uses (sigma^2 / alpha) a at the next time s.

    Facts:
        loss: w(t) |x0 - x0_ref + (sigma^2 / alpha) a_t|^2, a the lean adjoint
        networks: model, teacher (the frozen reference)
        optimum: p_ref(x) exp(r(x) / beta), in the limit of small steps
        paper: Domingo-Enrich et al. 2024, "Adjoint Matching: Fine-tuning Flow and Diffusion Generative Models with
            Memoryless Stochastic Optimal Control", eq. 37 to 39; w = -d SNR / dt / 2 there

    Args:
        parameterization: parameterization of the network "model".
        teacher: parameterization of the network "teacher".
        weighting: (schedule, t) -> weight on the squared difference of x0.
        grid: `[N + 1]` times from t_max down to 0. In a config it is the grid of config.sample (grid, steps, shift).
        reward: (x_0 `[B, ...]`, condition of the data) -> rewards `[B]`, differentiable.
        beta: temperature, > 0.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", the first time, and "reward".

    Raises:
        ValueError: if beta is not positive; when called, if the grid does not lead from t_max to 0, and under the
            conditions of `rewards.rewarded`.
    """
    if not traced(beta) and not beta > 0:
        raise ValueError(f"adjoint_matching: beta = {beta} must be positive")
    steps = plan(np.asarray(grid))

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        condition, wanted = batch.get("condition"), condition_of_data(batch)
        fixed, model, reference = frozen(networks, "model"), player(networks, "model"), player(networks, "teacher")
        shape = batch["x"].shape[1:]
        way = rollouts(fixed, schedule, parameterization, grid, ddpm(), keys, shape, condition)
        t, s = (jnp.asarray(times, way.dtype) for times in (steps.t, steps.s))
        decoded_reward = reward_of_pictures(reward, networks, batch.get("metadata"))
        rewards = rewarded(decoded_reward, way[-1], wanted)
        first = -jax.grad(lambda x: decoded_reward(x, wanted).sum())(way[-1]) / beta

        def back(adjoint, i):
            """The adjoint at t, and the target of the model's x0 there."""

            def move(x):
                x0 = predict(reference, schedule, teacher, x, t[i], condition).x0
                return posterior_mean(schedule, t[i], s[i], x, x0), x0

            _, carried, x0 = jax.vjp(move, way[i], has_aux=True)
            (before,) = carried(adjoint)
            at_start = schedule.alpha(t[i]) <= 0
            time = jnp.where(at_start, s[i], t[i])
            shift = schedule.sigma(time) ** 2 / schedule.alpha(time) * jnp.where(at_start, adjoint, before)
            return before, x0 - shift

        number = len(steps.t)
        _, targets = jax.lax.scan(back, first, jnp.arange(number), reverse=True)
        targets = jax.lax.stop_gradient(targets)

        @jax.checkpoint
        def add_step(total, i):
            x0 = predict(model, schedule, parameterization, way[i], t[i], condition).x0
            weight = jnp.broadcast_to(weighting(schedule, t[i]), keys.shape)
            return total + weighted_mean_square(weight, x0 - targets[i]), None

        total, _ = jax.lax.scan(add_step, jnp.zeros(keys.shape, way.dtype), jnp.arange(number))
        losses = nan_unless(jnp.isfinite(rewards), total / number)  # its gradient may be finite
        return losses, {"t": jnp.full(keys.shape, steps.t[0], way.dtype), "reward": rewards}

    beside = Beside(pictures=True, metadata=metadata_of(reward))
    return Objective(loss, reads=Denoises(parameterization), teacher=Teacher(), beside=beside)
